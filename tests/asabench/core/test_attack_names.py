"""Names of attacks: specifications, recorded names, families."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from asabench.core.attack_names import (
    BUILT_IN,
    OTHER,
    REQUIRED_ATTACKS,
    built_in,
    family_of,
    names_without_targets,
    read_spec,
    recorded_name,
    spec_of,
    split_specs,
)
from asabench.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("random", "random", {}),
        ("pgd:steps=4:seed=1", "pgd", {"steps": "4", "seed": "1"}),
        ("mean_difference:harmful=/data/50%25.txt", "mean_difference", {"harmful": "/data/50%25.txt"}),
        ("axis:axis=3", "axis", {"axis": "3"}),
        ("lab.attacks:Axis", "lab.attacks:Axis", {}),
        ("lab.attacks:Axis.Inner:axis=3:a=b=c", "lab.attacks:Axis.Inner", {"axis": "3", "a": "b=c"}),
        ("lab:Axis:file=/data/v.pt", "lab:Axis", {"file": "/data/v.pt"}),
        ("lab:Axis:file=%2Fdata%2Fa%3Ab%2Cc", "lab:Axis", {"file": "/data/a:b,c"}),
        ("lab:Axis:text=", "lab:Axis", {"text": ""}),
    ],
)
def test_specifications(text: str, name: str, options: Mapping[str, str]) -> None:
    found = read_spec(text)
    assert (found.name, found.options) == (name, options)
    assert found.is_path == (":" in name)


@pytest.mark.parametrize(
    "text", ["random:", "random:colour", "lab:Axis:axis", "lab:Axis:=3", "pgd:a b=1", "pgd:seed=1:x"]
)
def test_specifications_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="name:option=value") as caught:
        read_spec(text)
    assert "\n" not in str(caught.value)


def test_an_option_twice() -> None:
    with pytest.raises(UserError, match=r"'steps'.*twice"):
        read_spec("pgd:steps=1:steps=2")


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({}, "lab.attacks:Axis"),
        ({"b": "2", "axis": "3"}, "lab.attacks:Axis:axis=3:b=2"),
        ({"file": "/data/ä ~:,%.pt"}, "lab.attacks:Axis:file=%2Fdata%2F%C3%A4%20%7E%3A%2C%25.pt"),
    ],
)
def test_anybodys_attack_is_asked_for_by_its_recorded_name(options: Mapping[str, str], recorded: str) -> None:
    assert recorded_name("lab.attacks:Axis", options) == recorded
    assert spec_of(recorded) == recorded
    assert len(split_specs(recorded)) == 1
    again = read_spec(recorded)
    assert (again.name, again.options) == ("lab.attacks:Axis", options)


@pytest.mark.parametrize("path", ["läb:Axis", "1lab:Axis", "lab:" + "A" * 200, "lab:A\n", "lab:Axis<b>", "-lab:Axis"])
def test_paths_that_no_table_may_hold(path: str) -> None:
    with pytest.raises(UserError, match="cannot be recorded") as caught:
        recorded_name(path, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recorded", "family", "spec"),
    [
        ("random", "random", "random"),
        ("gradient-ascend", "gradient", "gradient:direction=ascend"),
        ("gradient-descend:at=reference", "gradient", "gradient:direction=descend:at=reference"),
        ("pgd", "pgd", "pgd"),
        ("pgd:steps=4", "pgd", "pgd:steps=4"),
        ("mean_difference:texts=0123abcd", "mean_difference", "mean_difference:texts=0123abcd"),
        # Names that only begin as ours do
        ("pgd_restarts", OTHER, "pgd_restarts"),
        ("randomised_search", OTHER, "randomised_search"),
        ("gradient-free", OTHER, "gradient-free"),
        ("pgd_restarts:Attack", OTHER, "pgd_restarts:Attack"),
        # A module that is called as one of ours is
        ("pgd:Restarts", OTHER, "pgd:Restarts"),
        ("random:Search:steps=3", OTHER, "random:Search:steps=3"),
    ],
)
def test_recorded_names(recorded: str, family: str, spec: str) -> None:
    assert family_of(recorded) == family
    assert (built_in(recorded) is None) == (family == OTHER)
    assert spec_of(recorded) == spec


def test_the_table() -> None:
    assert all(built_in(name) is not None for name in REQUIRED_ATTACKS)
    assert names_without_targets() == ["random", "mean_difference", "ablation", "random_ablation"]
    recorded = [name for own, known in BUILT_IN.items() for name in (own, *known.variants)]
    assert len(recorded) == len(set(recorded)), "a recorded name is of one attack"
