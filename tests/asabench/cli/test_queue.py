"""`asabench board queue`: a list of models is entered one after the other, and one that fails stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asabench.submission.validate import validate_folder
from tests.advbench_fixtures import PAIRS, publish_digests
from tests.command_line import RULES, asabench, refused_in_one_line

ENTRY = "  - {{name: {name}, model: {model}, licence: MIT, parameters: 1.0e+9{more}}}\n"


def test_it_goes_on_after_a_model_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_model: Callable[..., Path]
) -> None:
    publish_digests(tmp_path, monkeypatch)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("goal,target\n" + "".join(f'"{goal}","{target}"\n' for goal, target in PAIRS))
    models = tmp_path / "models.yaml"
    needs = ", defence: LAT, base: none, training_prompts: [{name: R, file: none.csv, source: elsewhere}]"
    models.write_text(
        "models:\n"
        + ENTRY.format(name="Broken", model=tmp_path / "nowhere", more="")
        + ENTRY.format(name="Waits", model="some/model", more=needs)
        + ENTRY.format(name="Works", model=save_model("llama", name="works"), more="")
    )
    words = ("board", "queue", "--config", models)
    listed = asabench(*words, "--list", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "0 of 3 are entered" in listed.stdout
    assert "waits for none.csv: elsewhere" in listed.stdout
    assert not (tmp_path / "submissions").exists()

    how = ("--author", "A", "--no-card", "--prompts", pairs, "--attack", "random", *RULES)
    done = asabench(*words, *how, cwd=tmp_path)
    assert done.returncode == 1
    assert "entered: 1; not entered: 1; waiting: 1" in done.stdout
    assert validate_folder(tmp_path / "submissions" / "works-asabench-v1").ok
    assert "1 of 3 are entered" in asabench(*words, "--list", cwd=tmp_path).stdout


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    assert "--config" in refused_in_one_line("board", "queue", "--list", cwd=tmp_path)
    models = tmp_path / "models.yaml"
    models.write_text("models:\n" + ENTRY.format(name="One", model="some/model", more=""))
    assert "--author" in refused_in_one_line("board", "queue", "--config", models, cwd=tmp_path)
    assert "--list" in refused_in_one_line("board", "queue", "--config", models, "--only", "two", cwd=tmp_path)
