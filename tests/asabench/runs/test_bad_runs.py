"""A run folder that was copied in part or written into: said in a line, and never counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.files import parse_json
from asabench.core.records import Cell, Prompt, Response, Verdict
from asabench.runs.folder import Run, open_run, read_run
from tests.asabench.runs.test_folder import PROMPTS
from tests.run_settings import run_settings


def verdict(run: Run, label: str | None, cell_id: str = "") -> None:
    cell = Cell(prompt=Prompt(id="a", goal="paint a fence"))
    response = Response(cell=cell, text="-", token_ids=(), finish_reason="stop")
    run.append_responses([response])
    run.append_verdicts([replace(Verdict(cell_id=cell_id or cell.id, judge="j", label=None), label=label)])  # type: ignore[arg-type]


def opened(path: Path, label: str | None, cell_id: str = "") -> Run:
    with open_run(path, run_settings(), {"version": "0.1"}, PROMPTS) as run:
        verdict(run, label, cell_id)
    return read_run(path)


def test_a_label_that_no_judge_may_give(tmp_path: Path) -> None:
    assert list(opened(tmp_path / "good", "safe").judged("j")["label"]) == ["safe"]
    assert opened(tmp_path / "unscored", None).verdicts()["label"].isna().all()
    with pytest.raises(UserError, match="holds the label 'maybe'; allowed: safe, unsafe, incoherent"):
        opened(tmp_path / "bad", "maybe").verdicts()


def test_verdicts_on_answers_that_are_not_there(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", "safe", cell_id="feed")
    with pytest.raises(UserError, match=r"1 verdicts on answers that .*/responses does not hold \(feed\)"):
        run.judged("j")
    assert run.judged("another").shape[0] == 1


def test_a_manifest_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json('{"a":' * 100_000)
    assert parse_json('{"a": [1]}') == {"a": [1]}
