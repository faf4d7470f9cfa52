"""Defences that train a model: one recipe a file, one loop for all (`training`), one command (`defend`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from asabench.core.defaults import PRESET
from asabench.core.errors import UserError
from asabench.core.schema import first_problem
from harness.defences import (
    cat,
    circuit_breakers,
    combine,
    deep_refusal,
    lapt,
    lat,
    refusal,
    repnoise,
    t_vaccine,
    tar,
    unlearn,
    vaccine,
)
from harness.defences.examples import Example, HarmfulData
from harness.defences.training import Pools, Recipe, Settings
from harness.model.subject import Subject


class Defence(Recipe, Protocol):
    """A recipe that also says what it trains on."""

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]: ...

    def pools(self, harmful: Sequence[Example], benign: Sequence[Example]) -> Pools: ...

    def model_dump(self) -> dict[str, Any]: ...


class Entry(NamedTuple):
    make: Callable[..., Defence]
    presets: Mapping[str, tuple[Settings, dict[str, Any]]]


RECIPES: dict[str, Entry] = {
    "refusal": Entry(refusal.Refusal, refusal.PRESETS),
    "lapt": Entry(lapt.Lapt, lapt.PRESETS),
    "lat": Entry(lat.Lat, lat.PRESETS),
    "circuit-breakers": Entry(circuit_breakers.CircuitBreakers, circuit_breakers.PRESETS),
    "repnoise": Entry(repnoise.RepNoise, repnoise.PRESETS),
    "vaccine": Entry(vaccine.Vaccine, vaccine.PRESETS),
    "t-vaccine": Entry(t_vaccine.TVaccine, t_vaccine.PRESETS),
    "tar": Entry(tar.Tar, tar.PRESETS),
    "cat": Entry(cat.Cat, cat.PRESETS),
    "deep-refusal": Entry(deep_refusal.DeepRefusal, deep_refusal.PRESETS),
    "unlearn": Entry(unlearn.Unlearn, unlearn.PRESETS),
    "combine": Entry(combine.Combine, combine.PRESETS),
}


def make_recipe(spec: str, preset: str = PRESET, changes: Mapping[str, Any] | None = None) -> tuple[Defence, Settings]:
    """A recipe from `name[:option=value...]` and how to train it: the preset's settings with `changes`.

    A change of None keeps the preset's value. Raises `UserError` for unknown names, options and values.
    """
    name, *rest = spec.split(":")
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}; allowed: {', '.join(RECIPES)}")
    presets = RECIPES[name].presets
    if preset not in presets:
        raise UserError(f"the recipe {name} has no preset {preset!r}; allowed: {', '.join(presets)}")
    settings, options = presets[preset]
    options = dict(options)
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"the option {part!r} of recipe {spec!r} cannot be read; write name:option=value")
        options[key] = value
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    if "steps" in given or "epochs" in given:
        given = {"steps": None, "epochs": None} | given
    if given.get("steps") and given.get("epochs"):
        raise UserError("both --steps and --epochs were given; give one of them")
    try:
        return RECIPES[name].make(**options), Settings(**(settings.model_dump() | given))
    except ValidationError as error:
        problem = first_problem(error)
        allowed = ", ".join(RECIPES[name].make.model_fields) or "none"  # type: ignore[attr-defined]
        raise UserError(
            f"recipe {spec!r}: {problem}, and {problem.given!r} was given; its options: {allowed}"
        ) from None
