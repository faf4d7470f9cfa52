"""Workflows run pinned actions, a release is what its tag says, and the pull request's check picks what it validates:
shell steps are run over small folders."""

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
    """The shell commands of a step, as for pull request 7."""
    jobs = yaml.safe_load((WORKFLOWS / workflow).read_text(encoding="utf-8"))["jobs"].values()
    (commands,) = [step["run"] for job in jobs for step in job.get("steps", ()) if step.get("name") == name]
    assert isinstance(commands, str)
    return commands.replace("${{ github.event.number }}", "7")


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
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "GITHUB_BASE_REF": "main"},
        capture_output=True,
    )
    assert (checkout / "result" / "number").read_text() == "7\n"
    asked = checkout.parent / "asked"
    return done.returncode, asked.read_text().splitlines() if asked.is_file() else []


@pytest.mark.parametrize("status", [0, 1, 3])
def test_what_was_added_or_changed_is_validated(checkout: Path, status: int) -> None:
    write(checkout / "submissions" / "new" / "row.json")
    (checkout / "submissions" / "kept" / "row.json").unlink()
    write(checkout / "submissions" / "kept" / "manifest.json")
    write(checkout / "docs" / "page.md")
    folders = "submissions/kept submissions/new"
    code, asked = validated(checkout, status)
    assert asked == [f"validate {folders}", f"validate --markdown {folders}"], "the comment is written in any case"
    assert (code == 0) is (status == 0)


def test_submissions_are_checked_without_their_prompts() -> None:
    """Digests ship: where they are checked, no package with the text is installed."""
    for path in WORKFLOWS.glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        assert "asabench validate" not in text or "pyrit" not in text, path.name


def test_an_entry_that_is_taken_out_is_not_looked_for(checkout: Path) -> None:
    git(checkout, "rm", "-q", "submissions/old/row.json")
    assert not (checkout / "submissions" / "old").exists()
    (checkout / "submissions" / "README.md").write_text("more")
    assert validated(checkout, 1) == (0, [])
    assert "No submission" in (checkout / "result" / "comment.md").read_text()


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
