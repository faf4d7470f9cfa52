"""What a plan is expected to take, measured on the model that it has loaded.

Directions are timed by attack, on prompts of few, middling and many tokens and at low, middle and high blocks; decoding
on a batch of the size that the run would use; the judge on answers of people's labels, cut to the run's length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from asabench.core.attack_names import is_whole
from asabench.core.records import RESPONSE_SCHEMA, Cell, Prompt, Response, response_columns
from asabench.judging.labelled_pairs import LabelledPair, labelled_pairs
from asabench.runs.tables import part_bytes
from harness.attacks import Attack
from harness.engine.decoding import decode
from harness.engine.engine import HookedEngine
from harness.engine.sweep import (
    ROWS_ON_CPU,
    ROWS_ON_GPU,
    injection_of,
    kind,
    kv_bytes_per_position,
    row_bytes,
    rows_that_fit,
)
from harness.evaluation.judging_beside import judge_device, placed
from harness.evaluation.plan import Plan
from harness.judges.check import SHORT_SET, as_responses, fresh
from harness.judges.readings import read
from harness.model.subject import Subject

JUDGED = 24
"""Answers that the judge is timed on."""
STEPS = 4
"""Decoding steps that are timed."""
VERDICT_BYTES = 40
"""On disk, of a verdict and its reading (SmolLM2-135M, docs/results/dataset-build.md)."""


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """A part of a run: what it is, its cells, and the seconds that it is expected to take."""

    name: str
    cells: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan is expected to take.

    `memory_bytes` comes on top of the model's own `model_bytes`; both are None where another process holds them.
    `tokens`: of all answers at their longest. `parts`: `answers`, the directions of each attack, the judge. `measured`:
    False for an engine that was not run, whose parts are only those that can be told without it.
    """

    cells: int
    rows_per_batch: int
    tokens: int
    model_bytes: int
    memory_bytes: float
    disk_bytes: float
    parts: tuple[PartCost, ...]
    measured: bool = True

    @property
    def seconds(self) -> float:
        """Of the parts together, one after the other."""
        return sum(part.seconds for part in self.parts)


def estimate(plan: Plan, *, judged: bool = True) -> Cost:
    """What a plan takes, by part. judged: False leaves the judge out, which may be a server that does not run yet.

    For an engine in another process nothing is generated: its answers' time is left out, what is known is said.
    """
    subject, protocol = plan.subject, plan.protocol
    here = isinstance(plan.engine, HookedEngine)
    lengths = {prompt: len(subject.format(prompt, protocol)) for prompt in dict.fromkeys(c.prompt for c in plan.cells)}
    positions = max(lengths.values()) + protocol.max_new_tokens
    position_bytes = kv_bytes_per_position(subject)
    most = plan.max_rows or (ROWS_ON_GPU if subject.device.type == "cuda" else ROWS_ON_CPU)
    rows = min(most, len(plan.cells), rows_that_fit(subject, positions, position_bytes))
    answers = _answers(plan, rows) if here else 0.0
    parts = [PartCost(name="answers", cells=len(plan.cells), seconds=answers)] if here else []
    if subject.device.type != "meta":
        for name, attack in plan.attacks.items():
            if is_whole(name):
                continue  # it is fitted once, and proposes no direction a cell
            own = [cell for cell in plan.cells if cell.attack == name]
            seconds = _directions(subject, own, attack, lengths)
            parts.append(PartCost(name=f"directions of {name}", cells=len(own), seconds=seconds))
    if judged:
        parts.append(PartCost(name="judge", cells=len(plan.cells), seconds=_judging(plan)))
    return Cost(
        cells=len(plan.cells),
        rows_per_batch=rows,
        tokens=len(plan.cells) * protocol.max_new_tokens,
        model_bytes=sum(p.numel() * p.element_size() for p in subject.model.parameters()),
        memory_bytes=rows * row_bytes(subject, positions, position_bytes),
        disk_bytes=len(plan.cells) * (_answer_bytes(subject, plan) + VERDICT_BYTES),
        parts=tuple(parts),
        measured=here,
    )


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """So many of a list, evenly chosen, its first and its last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _answers(plan: Plan, rows: int) -> float:
    """Seconds of decoding, from a few steps on a full batch of cells that are spread over the run."""
    subject, protocol = plan.subject, plan.protocol
    # A row that is perturbed at every block costs what one at a single block does
    at_one = [cell for cell in plan.cells if kind(cell) == ""]
    cells = _spread(at_one, rows) if rows > 1 else at_one[:1]
    rows = len(cells)
    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    tokens = [subject.format(prompt, protocol) for prompt in prompts]
    place = {prompt: index for index, prompt in enumerate(prompts)}
    rows_of = torch.tensor([place[cell.prompt] for cell in cells])
    # Any directions: what a step costs does not depend on them
    directions = torch.randn(len(cells), subject.d_model, generator=torch.Generator().manual_seed(0))

    def seconds_for(steps: int) -> float:
        injection = injection_of(cells, directions, protocol)
        started = time.perf_counter()
        decode(subject, tokens, rows_of, injection, steps, stops=())
        return time.perf_counter() - started

    seconds_for(1)  # the first call pays for thread pools and page faults
    once = seconds_for(1)
    steps = min(STEPS, protocol.max_new_tokens - 1)
    per_step = max(seconds_for(1 + steps) - once, 0.0) / steps if steps else 0.0
    return len(plan.cells) / rows * (once + per_step * (protocol.max_new_tokens - 1))


def _directions(subject: Subject, cells: Sequence[Cell], attack: Attack, lengths: dict[Prompt, int]) -> float:
    """Seconds of an attack's directions: what it takes once, what a prompt takes, and what a cell takes beside that.

    Attacks that share a prompt's gradient share it here too, as in the run.
    """
    if not cells:
        return 0.0
    by_prompt: dict[Prompt, list[Cell]] = {}
    for cell in cells:
        by_prompt.setdefault(cell.prompt, []).append(cell)
    first, *others = _spread(sorted(by_prompt, key=lambda prompt: lengths[prompt]), 3)

    def timed(some: Sequence[Cell]) -> float:
        started = time.perf_counter()
        attack.directions(subject, some)
        return time.perf_counter() - started

    def middle(prompt: Prompt) -> Cell:
        own = by_prompt[prompt]
        return own[len(own) // 2]

    begun = timed([middle(first)])  # also what the attack does once: its texts, its kernels
    prompts = [first, *others]
    more = [cell for prompt in prompts for cell in _spread(by_prompt[prompt], 3)]
    if not others:
        return begun + timed(more) / len(more) * (len(cells) - 1)
    of_prompts = timed([middle(prompt) for prompt in others]) / len(others)  # a prompt and one cell
    of_cell = min(timed(more) / len(more), of_prompts)  # their prompts are known by now
    return max(begun - of_prompts, 0.0) + len(by_prompt) * (of_prompts - of_cell) + len(cells) * of_cell


def _judging(plan: Plan) -> float:
    """Seconds of the judge: what it takes to begin, and each answer."""
    judge = fresh(placed(plan.judge, judge_device(plan.engine)))
    tokenizer, most = plan.subject.tokenizer, plan.protocol.max_new_tokens

    def cut(pair: LabelledPair) -> LabelledPair:
        ids = tokenizer(pair.response, add_special_tokens=False)["input_ids"][:most]
        return replace(pair, response=str(tokenizer.decode(ids)))

    responses = as_responses([cut(pair) for pair in _spread(labelled_pairs(SHORT_SET), JUDGED + 1)])
    started = time.perf_counter()
    read(judge, responses[:1])
    begun = time.perf_counter()
    read(judge, responses[1:])
    return begun - started + (time.perf_counter() - begun) / len(responses[1:]) * len(plan.cells)


def _answer_bytes(subject: Subject, plan: Plan) -> float:
    """On disk, of an answer of full length: a part of a few hundred, of random tokens, as it would be written."""
    drawn = torch.Generator().manual_seed(0)
    responses = []
    for cell in _spread(plan.cells, 256):
        ids = torch.randint(subject.vocabulary_size, (plan.protocol.max_new_tokens,), generator=drawn).tolist()
        text = subject.text(ids)
        responses.append(Response(cell=cell, text=text, token_ids=tuple(ids), finish_reason="length"))
    return len(part_bytes([response_columns(response) for response in responses], RESPONSE_SCHEMA)) / len(responses)
