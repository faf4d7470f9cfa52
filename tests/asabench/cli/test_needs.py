"""A command that runs a model says what to install where that is missing, before it does anything."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asabench.cli.app import app
from asabench.core.errors import UserError

WITH_A_MODEL = {
    "evaluate": ["--model", "m"],
    "probe": ["--model", "m"],
    "utility": ["m", "--out", "utility.json"],
    "defend": ["--recipe", "lapt", "--model", "m", "--out", "new"],
    "interpolate": ["a", "b", "--out", "new"],
    "build": ["--models", "m", "--out", "new"],
    "card": ["m", "--base", "b", "--out", "new"],
    "judge": ["run", "--judge", "embedded"],
    "judge-check": ["embedded"],
}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package look as if it were not installed."""

    def hide(package: str) -> None:
        find: Callable[..., ModuleSpec | None] = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
        )

    return hide


@pytest.mark.parametrize("command", WITH_A_MODEL)
def test_it_says_what_is_missing(
    command: str, without: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    without("torch")
    done = CliRunner().invoke(app, [command, *WITH_A_MODEL[command]])
    assert isinstance(done.exception, UserError), done.output
    assert str(done.exception) == "this command needs torch; run `pip install 'asabench[eval]'`"
    assert not list(tmp_path.iterdir())


def test_other_judges_need_no_model(without: Callable[[str], None]) -> None:
    without("torch")
    done = CliRunner().invoke(app, ["judge-check", "rules", "--set", "nothing"])
    assert isinstance(done.exception, UserError)
    assert "nothing" in str(done.exception), "it went on to read its options"
