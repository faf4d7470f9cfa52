"""`asabench evaluate --config`: the same choices on the command line, in a file and in Python are the same run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import asabench
from asabench.cli.app import app
from asabench.core.errors import UserError
from asabench.runs.choices import read_config
from asabench.runs.folder import Run, read_run

CHOSEN = ("--limit", "2", "--doses", "0.3,1", "--seeds", "0,1", "--layers", "0,2-3", "--max-new-tokens", "4")
FILE: dict[str, Any] = {"limit": 2, "doses": [0.3, 1], "seeds": "0,1", "layers": "0,2-3", "max_new_tokens": 4}
JUDGED = {"judge": "rules", "uncertified": True}


@pytest.fixture
def model(save_model: Callable[..., Path]) -> Path:
    return save_model("gpt2")


def evaluated(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def file(folder: Path, **content: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def answers(run: Run) -> pd.DataFrame:
    return run.responses().sort_values("cell_id", ignore_index=True)


def test_command_line_file_and_python_make_the_same_run(model: Path, tmp_path: Path) -> None:
    evaluated("--model", model, *CHOSEN, "--judge", "rules", "--uncertified", "--out", tmp_path / "line")
    evaluated("--config", file(tmp_path, model=str(model), **FILE, **JUDGED, out=str(tmp_path / "file")))
    asabench.evaluate(
        str(model),
        limit=2,
        doses=(0.3, 1.0),
        seeds=[0, 1],
        layers=[0, 2, 3],
        max_new_tokens=4,
        judge="rules",
        uncertified=True,
        out=tmp_path / "python",
    )
    first, *others = (read_run(tmp_path / name) for name in ("line", "file", "python"))
    assert len(first.responses()) == 2 * (1 + 2 * 2 * 3)
    for other in others:
        assert other.id == first.id == other.settings.id == other.row.run_id
        assert other.manifest["settings"] == first.manifest["settings"]
        pd.testing.assert_frame_equal(answers(other), answers(first))


def test_a_file_s_choices_are_python_s_arguments(model: Path, tmp_path: Path) -> None:
    path = file(tmp_path, model=str(model), **FILE, **JUDGED, out=str(tmp_path / "run"))
    assert asabench.evaluate(**read_config(path)).row.layers == (0, 2, 3)


@pytest.mark.parametrize(
    ("options", "prompts", "layers", "max_new_tokens"),
    [
        ((), 3, (0,), 4),
        (("--limit", "2"), 2, (0,), 4),
        # All layers are the default too: what stands on the command line wins, whatever it says
        (("--layers", "all", "--max-new-tokens", "5"), 3, (0, 1, 2, 3), 5),
    ],
    ids=str,
)
def test_options_beside_a_file_win(
    options: tuple[str, ...], prompts: int, layers: tuple[int, ...], max_new_tokens: int, model: Path, tmp_path: Path
) -> None:
    path = file(tmp_path, limit=3, layers=0, max_new_tokens=4, model="not-this-one", **JUDGED)
    evaluated("--config", path, "--model", model, *options, "--out", tmp_path / "run")
    settings = read_run(tmp_path / "run").settings
    assert (settings.prompt_count, settings.layers) == (prompts, layers)
    assert settings.protocol.max_new_tokens == max_new_tokens
    assert settings.model == model.name


def test_a_dry_run_takes_a_file_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = evaluated("--config", file(tmp_path, model=str(model), **FILE, **JUDGED), "--dry-run")
    assert "26 answers" in output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "with --model, or in the --config file as `model: smollm2-135m`"),
        ({"model": "m", "layer": 5}, "unknown choice 'layer'; allowed: model, prompts, prompt_column, limit, "),
        ({"model": "m", "dry_run": True}, "unknown choice 'dry_run'; allowed: model,"),
        ({"model": "m", "limit": "four"}, "limit 'four' cannot be read; give a whole number"),
        ({"model": "no-such-model"}, "smollm2-135m"),
    ],
    ids=str,
)
def test_files_that_cannot_be_used(
    content: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert words in refused("--config", file(tmp_path, **content), "--judge", "rules")
    assert not (tmp_path / "runs").exists()


def test_a_choice_in_a_file_is_checked_like_an_option(model: Path, tmp_path: Path) -> None:
    path = file(tmp_path, model=str(model), layers=[0, 4], **JUDGED)
    assert "layer 4 is out of range: the model has 4 blocks" in refused("--config", path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "give a YAML file" in refused("--config", tmp_path / "nothing.yaml")
