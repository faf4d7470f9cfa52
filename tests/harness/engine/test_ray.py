"""Workers under a real Ray on this machine: the answers of one process, also when a worker is killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

import harness.engine.ray_engine as ray_engine
from asabench.core.errors import UserError
from asabench.core.records import Prompt, Response
from asabench.runs.choices import Choices
from asabench.runs.folder import Run
from harness.evaluation.cost import estimate
from harness.evaluation.evaluate import Evaluation, evaluate
from harness.evaluation.plan import make_plan
from harness.model.subject import Subject

PROMPTS = [Prompt(id=f"p{n}", goal="count to " + "nine " * (n % 4), suffix="!" * (n + 1)) for n in range(8)]


@pytest.fixture
def model(save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return str(save_model("llama"))


@pytest.fixture(autouse=True)
def _no_cluster_is_left() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


def small(model: str, out: Path, **choices: Any) -> Evaluation:
    asked: dict[str, Any] = {
        "prompts": PROMPTS,
        "attack": "random,gradient:direction=descend",
        "target": "Sure, here is",
        "layers": "0,2",
        "max_new_tokens": 4,
        "judge": "rules",
        "uncertified": True,
        "max_rows": 5,
    }
    return evaluate(model, **{**asked, "out": out, **choices})


def answers(run: Evaluation) -> pd.DataFrame:
    return run.responses.sort_values("cell_id", ignore_index=True)


def workers() -> list[psutil.Process]:
    """Those that answer, among the processes that this one's Ray has started."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if any("MapWorker" in part for part in process.cmdline()[:1])]


def test_a_killed_worker_loses_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = small(model, tmp_path / "one")
    killed: list[int] = []
    append = Run.append_responses

    def append_and_kill(self: Run, responses: Sequence[Response]) -> None:
        append(self, responses)
        if not killed and (running := workers()):
            killed.append(running[0].pid)
            os.kill(running[0].pid, signal.SIGKILL)

    monkeypatch.setattr(Run, "append_responses", append_and_kill)
    got = small(model, tmp_path / "many", workers=2)
    assert killed, "no worker was killed, so nothing was tried"
    pd.testing.assert_frame_equal(answers(got), answers(expected))
    assert got.row.masr == expected.row.masr
    manifest = got.path / "manifest.json"
    assert '"workers": "2 under ray' in manifest.read_text()
    assert '"device": "its workers' in manifest.read_text()
    assert "dose 0 gives the clean answer" in manifest.read_text()
    with pytest.raises(UserError, match=r"2 workers of 1 GPUs need 2, and the cluster has 0"):
        small(model, tmp_path / "gpus", workers=2, gpus_per_worker=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 0}, "--workers 0 is too few; give 1 or more"),
        ({"workers": 2, "gpus_per_worker": -1.0}, "--gpus-per-worker -1 is below 0"),
        ({"gpus_per_worker": 1.0}, "--gpus-per-worker is for several workers; give --workers N too"),
        ({"ray": "auto"}, "--ray is for several workers; give --workers N too"),
        (
            {"workers": 2, "defence": "tests.inference_defences:HalvedLastBlock"},
            "acts inside the model of the engine hf",
        ),
    ],
)
def test_what_cannot_be(model: str, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        small(model, tmp_path / "run", **options)


def test_a_cluster_that_is_not_there(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Ray at 127\.0\.0\.1:9 is not reached \(.*\); check --ray, or use --shard"):
        small(model, tmp_path / "run", workers=2, ray="127.0.0.1:9")


def test_a_model_in_memory(llama: Subject, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a model in memory is for the engine hf in this process"):
        evaluate(llama, prompts=PROMPTS, judge="rules", uncertified=True, out=tmp_path, workers=2)


def test_an_environment_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--workers needs Ray.*pip install 'asabench\[ray\]'"):
        ray_engine.check_ray()


def test_a_dry_run_says_what_it_can_of_workers(model: str, tmp_path: Path) -> None:
    """The model is not loaded here: nothing of it is timed, and cells, memory and disk are told all the same."""
    choices = Choices.of(prompts=PROMPTS, judge="rules", uncertified=True, out=tmp_path / "run", workers=2)
    cost, here = estimate(make_plan(model, choices)), estimate(make_plan(model, replace(choices, workers=None)))
    assert (cost.cells, cost.tokens, cost.model_bytes) == (here.cells, here.tokens, here.model_bytes)
    assert cost.memory_bytes == here.memory_bytes
    assert not cost.measured
    assert [part.name for part in cost.parts] == ["judge"]
    assert cost.disk_bytes > 0
