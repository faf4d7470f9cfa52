"""docs/architecture.md is the map of the house as it stands."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable

import pytest

from tests.conftest import ROOT

MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HOPS = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", MAP)))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
WINGS = ("asabench", "harness", "leaderboard")


def names(body: Iterable[ast.stmt], prefix: str = "") -> set[str]:
    """Functions, classes and what is in classes, with dots between."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found |= {prefix + node.name}
            if isinstance(node, ast.ClassDef):
                found |= names(node.body, f"{prefix}{node.name}.")
    return found


def test_the_way_has_hops() -> None:
    assert len(HOPS) > 20


@pytest.mark.parametrize(("file", "name"), HOPS)
def test_every_hop_is_there(file: str, name: str) -> None:
    assert name in names(ast.parse((ROOT / file).read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("wing", WINGS)
def test_the_map_has_every_room_and_no_other(wing: str) -> None:
    drawn = MAP[re.search(rf"^{wing}/ ", MAP, flags=re.M).start() :]  # type: ignore[union-attr]
    rooms = re.match(rf"{wing}/.*\n((?:  .*\n)*)", drawn)
    assert rooms is not None
    there = {path.parent.name for path in (ROOT / wing).glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/", rooms[1], flags=re.M)) == there


@pytest.mark.parametrize(
    "contract",
    [
        "Results are read without torch: only the command line knows what runs models and what draws",
        "Inside the harness imports point one way",
    ],
)
def test_the_floors_are_those_that_are_held(contract: str) -> None:
    layers = next(each["layers"] for each in CONTRACTS if each["name"] == contract)
    assert "```\n" + "\n".join(layers) + "\n```\n" in MAP


def test_only_the_lazy_face_is_excepted() -> None:
    excepted = {line for contract in CONTRACTS for line in contract.get("ignore_imports", ())}
    assert excepted <= {"asabench -> asabench.**", "asabench -> harness.**"}
