"""Submissions under attacks that do not come with ASABench, some of which are called as ours begin."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from asabench.cli.app import app
from asabench.core.errors import UserError
from asabench.runs.command import command_words
from asabench.runs.folder import read_run
from asabench.submission.cells import seeds_of
from asabench.submission.validate import validate_folder
from harness.evaluation.evaluate import evaluate
from harness.rerun import rerun
from tests.asabench.submission.test_submission import REVISION_OF_RUN, Knowing, submit
from tests.conftest import tiny_subject

RESTARTS = "tests.plugins:PgdRestarts:note=a%2Fb:steps=3"
SEARCH = "tests.plugins:RandomisedSearch"
CHOICES: dict[str, Any] = dict(
    prompts="quickstart", limit=3, layers=(0, 2), doses=(0.5,), seeds=(0, 1), max_new_tokens=4, target="Sure, here is"
)


def pinned() -> Any:
    subject = tiny_subject("llama")
    return type(subject)(**{**vars(subject), "revision": REVISION_OF_RUN})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest submission: `PgdRestarts` draws by seed, as `pgd` does not; `RandomisedSearch` draws nothing."""
    path = tmp_path_factory.mktemp("runs")
    attacks = ["random", "gradient:direction=descend", "tests.plugins:PgdRestarts:steps=3:note=a%2Fb", SEARCH]
    evaluate(pinned(), attack=attacks, judge=Knowing(), out=path / "run", **CHOICES)
    submit(path / "run", path / "submissions")
    (found,) = (path / "submissions").iterdir()
    return found


def test_it_is_valid(folder: Path) -> None:
    found = validate_folder(folder)
    assert found.findings == ()
    assert found.row is not None
    assert [result.attack for result in found.row.results] == ["random", "gradient-descend", RESTARTS, SEARCH]


def test_what_they_state_is_in_the_run_s_manifest(folder: Path) -> None:
    held = read_run(folder.parents[1] / "run").manifest["attacks"]
    assert held[SEARCH] == {"family": "search", "uses_seed": False, "needs_targets": True}
    assert held["random"] == {"family": "random", "uses_seed": True, "needs_targets": False}


def test_its_command_runs_the_same_attacks(folder: Path, tmp_path: Path) -> None:
    submission = validate_folder(folder).submission
    assert submission is not None
    words = command_words(submission.reproduce[0])
    attack = words[words.index("--attack") + 1]
    assert shlex.quote(attack) == attack, "nothing in it is the shell's"
    again = evaluate(pinned(), attack=attack.split(","), judge=Knowing(), out=tmp_path / "again", **CHOICES)
    assert again.row.run_id == json.loads((folder / "row.json").read_text())["run_id"]


@pytest.mark.parametrize(
    "name", ["pgd_restarts", "randomised_search", "gradient-free", "mean_difference2", "pgd:Attack"]
)
@pytest.mark.parametrize("drawn", [(0, 1), (None,)])
def test_the_table_says_whether_others_draw(name: str, drawn: Sequence[int | None]) -> None:
    table = pd.DataFrame({"attack": [name] * len(drawn), "layer": 0, "seed": pd.array(list(drawn), dtype="Int64")})
    assert seeds_of(name, table, (0, 1)) == tuple(drawn)


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("random", (0, 1)), ("pgd", (None,)), ("pgd:steps=3", (None,)), ("gradient-ascend:at=reference", (None,))],
)
def test_of_ours_it_is_known(name: str, seeds: Sequence[int | None]) -> None:
    table = pd.DataFrame({"attack": [name], "layer": 0, "seed": pd.array([7], dtype="Int64")})
    assert seeds_of(name, table, (0, 1)) == seeds


def test_nobodys_code_is_started_unasked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = validate_folder(folder)
    choices: dict[str, Any] = dict(model=pinned(), judge=Knowing())
    with monkeypatch.context() as patch:
        patch.setattr("harness.plugins.importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
        for allowed in ((), (SEARCH,)):
            with pytest.raises(UserError, match=r"PgdRestarts.* does not come with ASABench; .*--attack") as caught:
                rerun(checked, 3, attack=allowed, **choices)
            assert "\n" not in str(caught.value)
    done = rerun(checked, 1000, attack=(RESTARTS, SEARCH), **choices)
    assert done.ok
    assert done.same_labels == len(done.cells) == 3 * (1 + 2 * (2 + 1 + 2 + 1))


def test_validate_takes_the_attacks_that_may_run(folder: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(folder), "--attack", SEARCH])
    assert isinstance(done.exception, UserError)
    assert "--rerun" in str(done.exception)
