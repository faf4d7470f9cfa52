"""Records, and what is wrong with one in words."""

from __future__ import annotations

import json

import pytest
from pydantic import Field, ValidationError, field_validator

from asabench.core.estimate import Change, Kappa, Rate
from asabench.core.schema import Record, first_problem


class Plant(Record):
    name: str
    leaves: tuple[int, ...] = ()
    height: float = Field(1.0, gt=0)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name == "weed":
            raise ValueError("weeds are not kept")
        return name


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"name": "oak", "height": -1}, "height", "height: Input should be greater than 0"),
        ({"name": "oak", "leaves": [1, "x"], "height": -1}, "leaves.1", "leaves.1: Input should be a valid integer"),
        ({"name": "oak", "roots": 3}, "roots", "roots: Extra inputs are not permitted"),
        ({"name": "weed"}, "name", "name: weeds are not kept"),
        ([], "", "the file: Input should be a valid dictionary or instance of Plant"),
    ],
)
def test_the_first_problem(given: object, field: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Plant.model_validate(given)
    problem = first_problem(caught.value)
    assert problem.field == field
    assert str(problem).startswith(said)


def test_the_value_that_was_given_comes_along() -> None:
    with pytest.raises(ValidationError) as caught:
        Plant.model_validate({"name": "oak", "height": -2.5})
    assert first_problem(caught.value).given == -2.5


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Plant(name="oak").name = "elm"  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Rate, Kappa, Change])
def test_estimates_stand_in_files_as_they_always_did(kind: type[Rate]) -> None:
    held = kind(value=0.5, low=0.25, high=None)
    assert held.model_dump_json() == '{"value":0.5,"low":0.25,"high":null}'
    assert kind.model_validate_json(held.model_dump_json()) == held
    with pytest.raises(ValidationError):
        kind.model_validate(json.loads('{"value": 0.5, "low": 0.25}'))
