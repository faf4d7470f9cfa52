"""`asabench enter`: a model becomes an entry in one command, beside its base, which goes on where it stopped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from asabench.core.prompts import load_prompts
from asabench.core.row import Row
from asabench.dataset.eval_results import Published
from asabench.runs.folder import read_run
from asabench.submission.validate import validate_folder
from tests.advbench_fixtures import PAIRS, publish_digests
from tests.command_line import RULES, asabench, refused_in_one_line

DETAILS = ("--name", "Mine", "--author", "A. Author", "--license", "MIT", "--no-card")


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the pairs that are taken for the published ones."""
    publish_digests(tmp_path, monkeypatch)
    file = tmp_path / "pairs.csv"
    lines = [f'"{goal}","{target}"' for goal, target in PAIRS]
    file.write_text("\n".join(["goal,target", *lines]) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def models(save_model: Callable[..., Path]) -> tuple[Path, Path]:
    return save_model("llama", name="defended"), save_model("gpt2", name="base")


def enter(model: Path, prompts: Path, place: Path, *more: object) -> subprocess.CompletedProcess[str]:
    done = asabench(
        *("enter", model, *DETAILS, "--prompts", prompts, "--attack", "random,mean_difference", *RULES, *more),
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_published_pairs_in_a_file_are_the_published_set(prompts: Path) -> None:
    loaded = load_prompts(str(prompts))
    assert loaded.name == "advbench"
    assert [prompt.id for prompt in loaded.prompts] == ["advbench-000", "advbench-001", "advbench-002"]
    assert [prompt.target for prompt in loaded.prompts] == [target for _, target in PAIRS]
    prompts.write_text("goal,target\nPaint a fence: now,Another start\n")
    assert load_prompts(str(prompts)).name == "pairs.csv"


def test_a_model_and_its_base_become_entries(models: tuple[Path, Path], prompts: Path, place: Path) -> None:
    model, base = models
    done = enter(model, prompts, place, "--base", base, "--defence", "LAPT", "--training-data", "recipes=7")
    own = validate_folder(place / "submissions" / "mine-asabench-v1")
    assert own.ok
    assert own.submission is not None
    assert own.submission.base is not None
    assert own.submission.base.entry == "base-asabench-v1"
    assert validate_folder(place / "submissions" / "base-asabench-v1").ok
    assert own.utility is not None
    # What it takes first, the row beside its base's last
    assert done.stdout.startswith("step 1")
    assert done.stdout.index("cells:") < done.stdout.index("step 2") < done.stdout.index("worst case, MASR")
    last = done.stdout[done.stdout.index("worst case, MASR") :]
    assert "mine-asabench-v1" in last
    assert "base-asabench-v1" in last
    assert not (place / "submissions" / "mine-asabench-v1" / "card.json").exists()

    # Asked again, nothing is generated or measured again, and the base is an entry already
    run = place / "runs" / "enter" / "mine-asabench-v1"
    parts = {path: path.stat().st_mtime_ns for path in [*run.rglob("*.parquet"), *run.rglob("utility.json")]}
    again = enter(model, prompts, place, "--base", base, "--defence", "LAPT", "--training-data", "recipes=7")
    assert parts == {path: path.stat().st_mtime_ns for path in parts}
    assert "is the entry base-asabench-v1" in again.stdout
    assert "step 3" not in again.stdout


def test_it_goes_on_after_a_kill(models: tuple[Path, Path], prompts: Path, place: Path) -> None:
    model, _ = models
    enter(model, prompts, place)
    run = place / "runs" / "enter" / "mine-asabench-v1" / "run"
    whole = read_run(run).responses()
    kept = sorted((run / "responses").glob("*.parquet"))
    for part in (*kept[1:], *(run / "verdicts").glob("*.parquet"), run.parent / "utility.json", run / "row.json"):
        part.unlink()
    shutil.rmtree(place / "submissions")
    enter(model, prompts, place)
    columns = ["cell_id", "text"]
    again = read_run(run).responses()
    assert (
        again[columns].sort_values("cell_id").values.tolist() == whole[columns].sort_values("cell_id").values.tolist()
    )
    assert validate_folder(place / "submissions" / "mine-asabench-v1").ok


def test_a_branch_with_the_entry_alone(models: tuple[Path, Path], prompts: Path, place: Path) -> None:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=place, check=True, capture_output=True, text=True).stdout

    environment = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "PATH": os.pathsep.join(
            path for path in os.environ["PATH"].split(os.pathsep) if not (Path(path) / "gh").exists()
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        git("init", "--quiet", "--initial-branch", "main")
        git("commit", "--allow-empty", "--quiet", "--message", "start")
        (place / "unrelated.txt").write_text("not of the entry")
        git("add", "unrelated.txt")
        done = enter(models[0], prompts, place, "--open-pr")
        assert "entry/mine-asabench-v1" in done.stdout
        changed = git("diff", "--name-only", "main", "entry/mine-asabench-v1").split()
        assert changed
        assert all(path.startswith("submissions/mine-asabench-v1/") for path in changed)
        enter(models[0], prompts, place, "--open-pr")  # nothing is left to commit, and that is no fault


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--defence", "LAPT"), "name it with --base"),
        (("--open-pr",), "in no git repository"),
        (("--size", "tiny"), "has no size 'tiny'"),
        (("--base", "no-such-model", "--training-data", "recipes=7"), "no-such-model"),
        (("--base", "no-such-model"), "says what it was trained on"),
    ],
)
def test_what_cannot_be_entered_is_said_before_anything_runs(
    more: tuple[str, ...], said: str, models: tuple[Path, Path], prompts: Path, place: Path
) -> None:
    text = refused_in_one_line(
        *("enter", models[0], *DETAILS, "--prompts", prompts, "--attack", "random", *RULES, *more), cwd=place
    )
    assert said in text
    assert not list(place.rglob("*.parquet"))


def test_a_dry_run_writes_nothing(models: tuple[Path, Path], prompts: Path, place: Path) -> None:
    done = enter(models[0], prompts, place, "--dry-run")
    assert re.search(r"cells: +\d+", done.stdout)
    assert not list(place.iterdir())


def test_details_reach_the_entry(models: tuple[Path, Path], prompts: Path, place: Path) -> None:
    enter(models[0], prompts, place, "--link", "https://example.org/paper", "--description", "A test.")
    text = (place / "submissions" / "mine-asabench-v1" / "submission.yaml").read_text(encoding="utf-8")
    held = yaml.safe_load(text)
    assert (held["link"], held["description"], held["authors"]) == (
        "https://example.org/paper",
        "A test.",
        ["A. Author"],
    )


def test_results_go_to_the_hub_where_that_is_asked(
    models: tuple[Path, Path], prompts: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the client does with them is tested against a server, in tests/asabench/dataset/test_hub.py."""
    asked = []

    def publish(row: Row, repo: str, dataset: str, *, page: str | None = None) -> Published:
        asked.append((row.run_id, repo, dataset, page))
        return Published(repo=repo, url="https://hub/owner/model/discussions/1")

    monkeypatch.setattr("asabench.dataset.eval_results.publish_results", publish)
    enter(models[0], prompts, place)
    run = place / "runs" / "enter" / "mine-asabench-v1" / "run"
    words = ("submit", run, "--name", "Again", "--author", "A", "--licence", "MIT", "--out", place / "again")
    done = asabench(*words, "--hub", "owner/model", "--link", "https://example.org/paper", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "hub: https://hub/owner/model/discussions/1" in done.stdout
    assert asked == [(read_run(run).row.run_id, "owner/model", "Carol0110/ASABench", "https://example.org/paper")]
