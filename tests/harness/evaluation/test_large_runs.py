"""Runs that take long: what a dry run promises, judging beside the engine, and a finished run asked for again."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

import harness.engine.sweep
from asabench.core.records import Cell, Prompt, Response, Verdict
from asabench.runs.choices import Choices
from asabench.runs.folder import read_run
from harness.engine.engine import HookedEngine
from harness.engine.sweep import grid
from harness.evaluation.cost import estimate
from harness.evaluation.evaluate import Evaluation, evaluate
from harness.evaluation.judging_beside import once
from harness.evaluation.plan import make_plan
from harness.judges.rules import Rules
from harness.model.subject import Subject
from tests.command_line import asabench

PROMPTS = tuple(Prompt(id=f"p{n}", goal="count to " + "nine " * n) for n in range(1, 5))


def small(subject: Subject, out: Path) -> Evaluation:
    return evaluate(
        subject, prompts=PROMPTS, max_new_tokens=4, out=out, judge="rules", uncertified=True, max_rows=3, seeds=[0]
    )


@dataclass
class Clock:
    now: float = 0.0


def test_every_attack_and_the_judge_are_timed_by_what_they_cost(llama: Subject, tmp_path: Path) -> None:
    """A slow attack is seen wherever it stands in the list: by cell, by prompt, or once."""
    clock, known = Clock(), defaultdict[str, set[Prompt]](set)

    @dataclass(frozen=True)
    class Slow:
        name: str
        once: float = 0.0
        a_prompt: float = 0.0
        a_cell: float = 0.0
        family: ClassVar[str] = "random"
        uses_seed: ClassVar[bool] = False
        needs_targets: ClassVar[bool] = False

        def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
            new = {cell.prompt for cell in cells} - known[self.name]
            clock.now += len(cells) * self.a_cell + len(new) * self.a_prompt + (0 if known[self.name] else self.once)
            known[self.name] |= new
            return torch.zeros(len(cells), subject.d_model)

    attacks = [Slow("by-cell", a_cell=2.0), Slow("by-prompt", a_prompt=10.0, a_cell=1.0), Slow("once", once=50.0)]
    choices = Choices.of(prompts=PROMPTS, judge="rules", out=tmp_path / "run", doses=[0.3, 1], max_new_tokens=4)
    plan = make_plan(llama, choices)
    cells = grid(plan.prompts.prompts, plan.layers, attacks, plan.protocol)
    plan = replace(plan, attacks={each.name: each for each in attacks}, cells=tuple(cells))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.evaluation.cost.time.perf_counter", lambda: clock.now)
        cost = estimate(plan)
    found = {part.name: part.seconds for part in cost.parts}
    of_each = 4 * 4 * 2  # prompts, blocks and doses
    assert found["directions of by-cell"] == pytest.approx(2.0 * of_each)
    assert found["directions of by-prompt"] == pytest.approx(10.0 * 4 + 1.0 * of_each)
    assert found["directions of once"] == pytest.approx(50.0)
    assert list(found) == ["answers", *(f"directions of {each.name}" for each in attacks), "judge"]
    assert cost.tokens == (4 + 3 * of_each) * 4
    assert cost.disk_bytes > 0
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_told_before_its_model_is_loaded(save_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = save_model("llama"), tmp_path / "run"
    options = ("evaluate", "--model", folder, "--limit", 1, "--max-new-tokens", 3, "--out", out)
    first = asabench(*options)
    assert first.returncode == 0, first.stderr
    manifest = (out / "manifest.json").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.model.subject.load_weights", None)  # a call would be an error
        again = asabench(*options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{out} is finished")
    assert again.stdout.endswith(first.stdout)
    assert (out / "manifest.json").read_bytes() == manifest
    # one that lacks its row, or is asked otherwise, is run
    shutil.rmtree(out / "rows")
    assert "is finished" not in asabench(*options).stdout


def test_phases_are_named_where_that_is_asked_for(save_model: Callable[..., Path], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    options = ("evaluate", "--model", save_model("llama"), "--limit", 1, "--max-new-tokens", 3)
    quiet = asabench(*options, "--out", tmp_path / "a", "-q", "--log-file", log)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    phases = ("load:", "judge's check:", "engine:", "self-test", "answers:", "judging:")
    written = log.read_text()
    for phase in phases:
        assert phase in written
    said = asabench(*options, "--out", tmp_path / "b", "-v").stderr
    assert all(phase in said for phase in phases)
    assert asabench(*options, "--out", tmp_path / "c").stderr == ""
    both = asabench(*options, "-q", "-v")
    assert (both.returncode, both.stderr.count("\n")) == (2, 1)
    lost = asabench(*options, "--log-file", tmp_path / "no" / "log.txt")
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)


def test_judging_beside_the_engine_changes_nothing(llama: Subject, tmp_path: Path) -> None:
    """As where the engine computes on a GPU: the same tables in the same order."""
    tables = {}
    for name, on_cpu in (("after", True), ("beside", False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HookedEngine, "on_cpu", on_cpu)
            tables[name] = small(llama, tmp_path / name)
    for table in ("responses", "verdicts"):
        pd.testing.assert_frame_equal(getattr(tables["after"], table), getattr(tables["beside"], table))


def test_a_run_that_is_stopped_beside_its_judge_loses_nothing(llama: Subject, tmp_path: Path) -> None:
    whole = small(llama, tmp_path / "whole")
    one, left = harness.engine.sweep._run, iter(range(3))

    def some(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return one(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HookedEngine, "on_cpu", False)
        patch.setattr("harness.engine.sweep._run", some)
        with pytest.raises(KeyboardInterrupt):
            small(llama, tmp_path / "run")
    assert len(read_run(tmp_path / "run").responses()) == 9
    done = small(llama, tmp_path / "run")
    for table in ("responses", "verdicts"):
        ours, theirs = (getattr(each, table).sort_values("cell_id").reset_index(drop=True) for each in (done, whole))
        pd.testing.assert_frame_equal(ours, theirs)


def test_identical_answers_are_judged_once() -> None:
    seen: list[str] = []

    class Counting:
        info = Rules().info

        def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
            seen.extend(response.text for response in responses)
            return Rules()(responses)

    def response(layer: int, text: str, prompt: Prompt = PROMPTS[0]) -> Response:
        cell = Cell(prompt=prompt, layer=layer, attack="random", dose=1.0, seed=0)
        return Response(cell=cell, text=text, token_ids=(1,), finish_reason="stop")

    judge = once(Counting())
    lots = [[response(0, "I cannot"), response(1, "I cannot"), response(2, "Sure")], [response(3, "Sure")]]
    lots.append([response(4, "Sure", PROMPTS[1])])
    for lot in lots:
        assert judge(lot) == Rules()(lot)
    assert seen == ["I cannot", "Sure", "Sure"]  # the last answers another request
