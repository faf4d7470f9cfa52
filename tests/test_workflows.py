"""The pull request's check picks what it validates: its shell step, run over a small repository."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"


def step(workflow: str, name: str) -> str:
    """The shell commands of a step, as for pull request 7 onto main."""
    jobs = yaml.safe_load((WORKFLOWS / workflow).read_text(encoding="utf-8"))["jobs"].values()
    (commands,) = [step["run"] for job in jobs for step in job["steps"] if step.get("name") == name]
    assert isinstance(commands, str)
    return commands.replace("${{ github.base_ref }}", "main").replace("${{ github.event.number }}", "7")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A pull request's checkout: the main branch has the entries old and kept and a readme."""
    git(tmp_path, "init", "-q", "-b", "main", "upstream")
    for name in ("old", "kept"):
        write(tmp_path / "upstream" / "submissions" / name / "row.json")
    write(tmp_path / "upstream" / "submissions" / "README.md")
    git(tmp_path / "upstream", "add", ".")
    git(tmp_path / "upstream", "commit", "-qm", "main")
    git(tmp_path, "clone", "-q", "upstream", "checkout")
    return tmp_path / "checkout"


def git(folder: Path, *words: str) -> None:
    given = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *given, *words], cwd=folder, check=True, capture_output=True)


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def validated(checkout: Path, status: int) -> tuple[int, list[str]]:
    """Runs the step with an `asabench` that notes its arguments; its exit code and what was asked of asabench."""
    commands = checkout.parent / "bin"
    commands.mkdir()
    asabench = commands / "asabench"
    asabench.write_text(f'#!/bin/sh\necho "$@" >> {checkout.parent}/asked\nexit {status}\n')
    asabench.chmod(0o755)
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "change")
    done = subprocess.run(
        ["bash", "-e", "-c", step("validate-submission.yml", "Validate what was added or changed")],
        cwd=checkout,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
    )
    assert (checkout / "result" / "number").read_text() == "7\n"
    asked = checkout.parent / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.is_file() else []


@pytest.mark.parametrize("status", [0, 1])
def test_what_was_added_or_changed_is_validated(checkout: Path, status: int) -> None:
    write(checkout / "submissions" / "new" / "row.json")
    (checkout / "submissions" / "kept" / "row.json").unlink()
    write(checkout / "submissions" / "kept" / "manifest.json")
    write(checkout / "docs" / "page.md")
    folders = "submissions/kept submissions/new"
    code, asked = validated(checkout, status)
    assert asked == [f"validate {folders}", f"validate --markdown {folders}"], "the comment is written in any case"
    assert (code == 0) is (status == 0)


def test_an_entry_that_is_taken_out_is_not_looked_for(checkout: Path) -> None:
    git(checkout, "rm", "-q", "submissions/old/row.json")
    assert not (checkout / "submissions" / "old").exists()
    (checkout / "submissions" / "README.md").write_text("more")
    assert validated(checkout, 1) == (0, [])
    assert "No submission" in (checkout / "result" / "comment.md").read_text()
