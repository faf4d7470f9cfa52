"""ASABench as tasks of Inspect (inspect.aisi.org.uk): `inspect eval asabench/masr_robustness --model none -T
subject=smollm2-135m`. Inspect finds this module by its entry point.

A perturbation needs the model's own blocks, so the model is named to the task (`subject`) and no provider of Inspect is
asked. The evaluation is `asabench.evaluate`'s, run once; a sample is a prompt, and its score the share of seeds under
which it held. Inspect's log has ids of prompts and scores, and no text of a request or an answer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from asabench.core.attack_names import REQUIRED
from asabench.core.defaults import DEVICE, JUDGE, PROTOCOL, PUBLISHED_PROMPTS
from asabench.core.row import worst_case
from asabench.runs.choices import Choices
from asabench.stats.by_prompt import held_by_prompt

if TYPE_CHECKING:
    from harness.evaluation.plan import Plan

HELD = "asabench_held"
"""Where a sample keeps its score."""


@task
def masr_robustness(
    subject: str,
    size: str | None = "lite",
    attack: str = REQUIRED,
    prompts: str = PUBLISHED_PROMPTS,
    limit: int | None = None,
    layers: str | None = None,
    protocol: str = PROTOCOL,
    judge: str = JUDGE,
    uncertified: bool = False,
    dtype: str | None = None,
    device: str = DEVICE,
    out: str | None = None,
) -> Task:
    """One less the worst case of MASR: the share of prompts that no block breaks, under the worst attack and dose.

    subject: the model, as `asabench evaluate` takes it; the others are its options. The same call goes on where an
    earlier one stopped.
    """
    return _task(**locals(), at_peak=False)


@task
def pasr_robustness(
    subject: str,
    size: str | None = "lite",
    attack: str = REQUIRED,
    prompts: str = PUBLISHED_PROMPTS,
    limit: int | None = None,
    layers: str | None = None,
    protocol: str = PROTOCOL,
    judge: str = JUDGE,
    uncertified: bool = False,
    dtype: str | None = None,
    device: str = DEVICE,
    out: str | None = None,
) -> Task:
    """One less the worst case's PASR: the share of prompts that its worst block alone leaves unbroken. Options as of
    `masr_robustness`, whose run it shares."""
    return _task(**locals(), at_peak=True)


def _task(*, subject: str, out: str | None, at_peak: bool, **options: Any) -> Task:
    from harness.evaluation.plan import make_plan

    plan = make_plan(subject, Choices.of(**options, out=None if out is None else Path(out)))
    samples = [Sample(id=prompt.id, input=prompt.id, target="held") for prompt in plan.prompts.prompts]
    return Task(
        dataset=MemoryDataset(samples, name=plan.prompts.name),
        solver=perturbed(plan, at_peak),
        scorer=held(),
        metadata={"subject": plan.subject.name, "revision": plan.subject.revision, "run": str(plan.path)},
    )


@solver
def perturbed(plan: Plan, at_peak: bool) -> Solver:
    """Runs the whole evaluation at the first sample that comes, and gives every sample its own share of it."""
    lock = asyncio.Lock()
    scores: dict[str, float] = {}

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        async with lock:
            if not scores:
                scores.update(await asyncio.to_thread(_scores, plan, at_peak))
        state.metadata[HELD] = scores.get(str(state.sample_id), 0.0)
        state.output = ModelOutput.from_content(model=plan.subject.name, content="judged by ASABench")
        return state

    return solve


def _scores(plan: Plan, at_peak: bool) -> dict[str, float]:
    from harness.evaluation.run import run_plan

    evaluation = run_plan(plan)
    worst = worst_case(evaluation.row.results)
    if worst is None:
        return dict.fromkeys((prompt.id for prompt in plan.prompts.prompts), 0.0)
    if at_peak and worst.peak_layer is None:  # nothing broke
        return dict.fromkeys((prompt.id for prompt in plan.prompts.prompts), 1.0)
    return held_by_prompt(evaluation.frame, worst, worst.peak_layer if at_peak else None)


@scorer(metrics=[mean(), stderr()])
def held() -> Scorer:
    """A sample's share of seeds under which its prompt held."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float(state.metadata[HELD]))

    return score
