"""`training.json` as every part of ASABench reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.models import PACKAGED_ADAPTERS
from asabench.core.training_record import TRAINING_FILE, TrainingRecord, read_training
from tests.conftest import ROOT


def written(folder: Path, record: object) -> Path:
    path = folder / TRAINING_FILE
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def test_what_is_read_of_a_training(tmp_path: Path) -> None:
    content = {
        "recipe": {"name": "lat", "layers": 4, "bound": 0.4},
        "base": {"name": "small", "revision": "sha256:ab", "dtype": "float32"},
        "layers": [1, 2],
        "harmful_goals": ["aa", "bb"],
        "losses": [{"loss": 2.5}],
    }
    record = read_training(written(tmp_path, content))
    assert record.recipe == content["recipe"]
    assert record.layers == (1, 2)
    assert record.base is not None
    assert record.base.revision == "sha256:ab"
    assert record.harmful_goals == ("aa", "bb")
    assert record.trained == record


def test_nothing_said_is_not_nothing_trained(tmp_path: Path) -> None:
    assert read_training(written(tmp_path, {})).harmful_goals is None
    assert read_training(written(tmp_path, {"harmful_goals": []})).harmful_goals == ()


def test_a_mixture_of_a_mixture_names_the_training(tmp_path: Path) -> None:
    lapt = {"recipe": {"name": "lapt"}, "layers": [3]}
    mixture = {"recipe": {"name": "interpolation"}, "tuned_training": lapt}
    content = {
        "recipe": {"name": "interpolation"},
        "lambda": 0.5,
        "scores": [{"lambda": 0.0, "score": 0.9}, {"lambda": 0.5, "score": 0.8}],
        "tuned_training": mixture,
    }
    record = read_training(written(tmp_path, content))
    assert (record.lam, [(each.lam, each.score) for each in record.scores]) == (0.5, [(0.0, 0.9), (0.5, 0.8)])
    assert record.trained == TrainingRecord(recipe={"name": "lapt"}, layers=(3,))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "the file: Invalid JSON"),
        ([], "the file: Input should be an object"),
        ({"harmful_goals": 3}, "harmful_goals: Input should be a valid array"),
        ({"base": {"name": "small"}}, "base.revision: Field required"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: object, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_training(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record of a training"):
        read_training(tmp_path / TRAINING_FILE)


@pytest.mark.parametrize("name", PACKAGED_ADAPTERS)
def test_the_records_that_come_with_asabench_are_read(name: str) -> None:
    record = read_training(ROOT / "asabench" / "data" / "adapters" / name / TRAINING_FILE)
    assert record.recipe["name"] in ("refusal", "lat")
    assert record.base is not None
    assert record.harmful_goals is not None
    assert len(record.harmful_goals) == 200
