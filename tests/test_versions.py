"""The lists of `make test-versions` are the ends of the ranges in pyproject.toml, and its tests are there."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RANGES = [Requirement(each) for each in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["eval"]]
TORCH = "torch"  # the one of requirements.txt in both lists: its builds are gigabytes


def pins(name: str) -> dict[str, Version]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    assert len(found) == len([line for line in text.splitlines() if not line.startswith("#")])
    return {canonicalize_name(package): Version(version) for package, version in found}


@pytest.mark.parametrize("name", ["requirements-lowest.txt", "requirements-newest.txt", "requirements.txt"])
def test_what_is_tested_is_in_the_ranges(name: str) -> None:
    pinned = pins(name)
    for wanted in RANGES:
        assert pinned[canonicalize_name(wanted.name)] in wanted.specifier, wanted
    assert pinned[TORCH] == pins("requirements.txt")[TORCH]


def test_the_lowest_are_the_lower_bounds() -> None:
    """A bound that is raised or lowered without its list would be tested by nobody."""
    pinned = pins("requirements-lowest.txt")
    for wanted in RANGES:
        (bound,) = [Version(each.version) for each in wanted.specifier if each.operator == ">="]
        lowest = pinned[canonicalize_name(wanted.name)]
        assert lowest.release[: len(bound.release)] == bound.release or wanted.name == TORCH, wanted


def test_the_tests_of_the_versions_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (named,) = re.findall(r"^VERSION_TESTS := (.*)$", makefile, re.MULTILINE)
    for name in named.split():
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), name
