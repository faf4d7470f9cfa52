"""Names, folders and disks that are not as a command expects them: one line, and no traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from asabench.cli.terminal import one_line
from tests.command_line import ASABENCH, asabench, refused_in_one_line
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\ntwo\r\n  three", "one two three"),
        ("a\x1b[31mb\x00\ud800", "a\\x1b[31mb\\x00\\ud800"),
        ("mødel ✓", "mødel ✓"),
    ],
)
def test_a_message_is_one_line_without_control_characters(text: str, shown: str) -> None:
    assert one_line(text) == shown


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a" * 5000], ids=["break", "escape", "long"])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    for words in (
        ("report", name),
        ("compare", name, name),
        ("validate", name),
        ("verify", name),
        ("leaderboard", "build", "--rows", name, "--out", tmp_path / "site"),
        ("evaluate", "--model", name, "--out", tmp_path / "run"),
        ("evaluate", "--config", name),
    ):
        assert "\x1b" not in refused_in_one_line(*words)


def test_a_folder_that_may_not_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Those who run as root may read everything: the system's answer is given here
    def denied(*arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "row\n.json"))

    monkeypatch.setattr("asabench.runs.folder.read_run", denied)
    assert f"({tmp_path}/row .json: Permission denied)" in refused_in_one_line("report", tmp_path)


def test_a_working_directory_that_was_deleted(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; "$@"', "sh", *ASABENCH, "evaluate", "--model", "m"],
        cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "the working directory is not there any more" in done.stderr


def test_a_recipe_that_is_no_text(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for content in (b"[" * 5000, b"\xff\xfe", b"a: 2024-13-45"):
        recipe.write_bytes(content)
        assert "recipe" in refused_in_one_line("build", "--models", recipe, "--out", tmp_path / "out", "--dry-run")


def test_what_is_right_is_not_called_wrong() -> None:
    assert asabench("models").returncode == 0
