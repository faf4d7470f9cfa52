"""Workflows run pinned actions, a release is what its tag says, a pull request is checked whole, and its comment takes
no number and no Markdown from it: shell steps are run over small folders."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"


def step(workflow: str, name: str) -> str:
    """The shell commands of a step."""
    jobs = yaml.safe_load((WORKFLOWS / workflow).read_text(encoding="utf-8"))["jobs"].values()
    (commands,) = [step["run"] for job in jobs for step in job.get("steps", ()) if step.get("name") == name]
    assert isinstance(commands, str)
    return commands


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run_step(commands: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PATH": f"{cwd.parent}/bin:{os.environ['PATH']}", **environment}
    return subprocess.run(["bash", "-e", "-c", commands], cwd=cwd, env=given, capture_output=True, text=True)


@pytest.mark.parametrize(("status", "who"), [(0, ""), (1, "--maintainer"), (3, "")])
def test_a_pull_request_is_checked_whole_whatever_it_changes(tmp_path: Path, status: int, who: str) -> None:
    """The tree, not a diff: how it ends is how the check ended."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    command(tmp_path / "bin", "asabench", f'echo "$@" > {tmp_path}/asked; exit {status}')
    done = run_step(
        step("validate-submission.yml", "Validate the entries as they stand"),
        checkout,
        RUNNER_TEMP=str(tmp_path / "temp"),
        MAINTAINER=who,
    )
    assert done.returncode == status
    asked = (tmp_path / "asked").read_text().strip()
    before = f"{checkout}/../base/submissions"
    assert asked == f"validate {checkout}/submissions --whole --before {before} --report report.json {who}".strip()
    assert (tmp_path / "temp" / "result").is_dir()
    record = yaml.safe_load((WORKFLOWS / "validate-submission.yml").read_text(encoding="utf-8"))
    assert record[True] == {"pull_request": None}, "no filter of paths"


def test_what_is_published_was_checked_whole() -> None:
    text = (WORKFLOWS / "leaderboard.yml").read_text(encoding="utf-8")
    assert text.index("asabench validate submissions --whole\n") < text.index("asabench leaderboard build")


@pytest.mark.parametrize(("found", "asked"), [("7", True), ("", False)])
def test_the_comment_goes_where_the_event_says(tmp_path: Path, found: str, asked: bool) -> None:
    """Neither number nor Markdown is taken from what the pull request's run left."""
    where = tmp_path / "where"
    where.mkdir()
    command(tmp_path / "bin", "python", "echo made of the report")
    command(tmp_path / "bin", "gh", f'echo "$@" >> {tmp_path}/asked; [ "$1" = pr ] || echo "{found}"')
    hostile = 'someone:x"; touch broken; "'
    done = run_step(
        step("comment-submission.yml", "Comment"),
        where,
        REPOSITORY="owner/name",
        HEAD=hostile,
        HEAD_SHA="0" * 40,
        RESULT=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "asked").read_text().splitlines()
    assert f"-f head={hostile}" in lines[0]
    assert any(line.startswith("pr comment 7 --repo owner/name --body-file body.md") for line in lines) is asked
    assert (where / "body.md").read_text() == "made of the report\n"
    assert not list(tmp_path.rglob("broken"))


def test_submissions_are_checked_without_their_prompts() -> None:
    """Digests ship: where they are checked, no package with the text is installed."""
    for path in WORKFLOWS.glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert "asabench validate" not in text or "pyrit" not in text, path.name


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_no_step_writes_a_strangers_words_into_its_commands(path: Path) -> None:
    """An expression inside `run` is put into the script before the shell sees it; what events hold comes by `env`."""
    for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
        for each in job.get("steps", ()):
            assert not re.search(r"\$\{\{\s*(github\.event|github\.head_ref|inputs)", each.get("run", "")), each


def test_every_action_is_pinned_to_a_commit_and_says_its_version() -> None:
    """A tag can be moved to other code, a commit cannot. What is in this repository needs no pin."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(WORKFLOWS.iterdir())}
    used = [
        (name, line.strip())
        for name, text in texts.items()
        for line in text.splitlines()
        if re.match(r"\s*(- )?uses:", line)
    ]
    assert len(used) == sum(count_uses(yaml.safe_load(text)) for text in texts.values()), "however it is written"
    pinned = r"(- )?uses: ([\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/[\w-]+\.yml)"
    assert [place for place in used if not re.fullmatch(pinned, place[1])] == []
    versions = {line.split("uses: ")[1] for _, line in used}
    names = [version.split("@")[0] for version in versions]
    assert sorted(names) == sorted(set(names)), "one version of an action in all workflows"


def count_uses(node: object) -> int:
    if isinstance(node, dict):
        return ("uses" in node) + sum(count_uses(value) for value in node.values())
    return sum(count_uses(value) for value in node) if isinstance(node, list) else 0


def test_only_the_job_that_publishes_may_sign() -> None:
    """Tests and builds run code of many packages, so that no token of theirs may do anything but read."""
    release = yaml.safe_load((WORKFLOWS / "release.yml").read_text(encoding="utf-8"))
    assert release["permissions"] == {"contents": "read"}
    assert [name for name, job in release["jobs"].items() if "permissions" in job] == ["publish"]
    assert [step for step in release["jobs"]["publish"]["steps"] if "run" in step] == []
    needed = release["jobs"]
    assert (needed["publish"]["needs"], needed["build"]["needs"]) == ("build", "tests")


CHECKS = "The tag is the version, and the package names this repository"


@pytest.mark.parametrize(
    ("tag", "repository", "passes"),
    [
        ("v1.2.0", "owner/name", True),
        ("v1.2.1", "owner/name", False),
        ("v1.2.0", "somebody/else", False),
        ("v1.3.0", "owner/name", False),  # built, and not in the changelog
    ],
)
def test_a_release_is_what_its_tag_says(tmp_path: Path, tag: str, repository: str, passes: bool) -> None:
    (tmp_path / "dist").mkdir()
    for version in ("1.2.0", "1.3.0"):
        (tmp_path / "dist" / f"asabench-{version}.tar.gz").touch()
        (tmp_path / "dist" / f"asabench-{version}-py3-none-any.whl").touch()
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.org/owner/name"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.0] - 2026-01-31\n\n## [1.3.0]\n")
    done = subprocess.run(
        ["bash", "-e", "-c", step("release.yml", CHECKS)],
        cwd=tmp_path,
        env={
            **os.environ,
            "GITHUB_REF_NAME": tag,
            "GITHUB_SERVER_URL": "https://example.org",
            "GITHUB_REPOSITORY": repository,
        },
        capture_output=True,
    )
    assert (done.returncode == 0) is passes
