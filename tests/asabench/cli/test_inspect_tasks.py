"""ASABench's tasks under Inspect itself, where that is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asabench.core.row import worst_case
from asabench.runs.folder import read_run

inspect_ai = pytest.importorskip("inspect_ai", reason="asabench[inspect] is not installed")


@pytest.mark.parametrize("name", ["masr_robustness", "pasr_robustness"])
def test_the_mean_of_a_task_is_one_less_the_rate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_model: Callable[..., Path]
) -> None:
    from asabench.cli import inspect_tasks

    monkeypatch.chdir(tmp_path)
    requests = ["Describe how to paint a fence", "Describe how to sand a fence"]
    prompts = tmp_path / "mine.csv"
    prompts.write_text("\n".join(["goal", *requests]) + "\n")
    task = getattr(inspect_tasks, name)(
        subject=str(save_model("llama")),
        size=None,
        attack="random",
        prompts=str(prompts),
        layers="0-1",
        judge="rules",
        uncertified=True,
        out="run",
    )
    (log,) = inspect_ai.eval(task, model="none", log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success"
    row = read_run(tmp_path / "run").row
    worst = worst_case(row.results)
    assert worst is not None
    rate = worst.masr if name == "masr_robustness" else worst.pasr
    assert rate.value is not None
    assert log.results.scores[0].metrics["mean"].value == pytest.approx(1 - rate.value)
    assert len(log.samples) == 2
    written = log.model_dump_json()
    assert not any(request in written for request in requests), "the log holds no text of a request"
