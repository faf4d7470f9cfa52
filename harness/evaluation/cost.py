"""What a plan is expected to take, measured on the model that it has loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from asabench.core.errors import UserError
from harness.engine.decoding import decode
from harness.engine.engine import HookedEngine
from harness.engine.sweep import (
    ROWS_ON_CPU,
    ROWS_ON_GPU,
    injection_for,
    kind,
    kv_bytes_per_position,
    row_bytes,
    rows_that_fit,
)
from harness.evaluation.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan is expected to take. `memory_bytes` comes on top of the model's own `model_bytes`."""

    cells: int
    rows_per_batch: int
    model_bytes: int
    memory_bytes: float
    seconds: float


def estimate(plan: Plan) -> Cost:
    """Cells, memory and time of a plan, from a few decoding steps on a batch of the size that the run would use.
    `UserError` for an engine that does not run the model in this process."""
    subject, steps = plan.subject, 4
    if not isinstance(plan.engine, HookedEngine):
        raise UserError(
            "--dry-run measures the model in this process, and --engine or --workers asks for another; leave one out"
        )
    lengths = [len(subject.format(prompt, plan.protocol)) for prompt in plan.prompts.prompts]
    positions = max(lengths) + plan.protocol.max_new_tokens
    position_bytes = kv_bytes_per_position(subject)
    most = plan.max_rows or (ROWS_ON_GPU if subject.device.type == "cuda" else ROWS_ON_CPU)
    rows = min(most, len(plan.cells), rows_that_fit(subject, positions, position_bytes))
    # Of one kind, as a batch is; the first are at one block, or at every one where there are no others
    first = min(map(kind, plan.cells))
    own = [cell for cell in plan.cells if kind(cell) == first]
    cells = own[:rows]
    rows = len(cells)
    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    tokens = [subject.format(prompt, plan.protocol) for prompt in prompts]
    rows_of = torch.tensor([prompts.index(cell.prompt) for cell in cells])
    started = time.perf_counter()
    injection, _ = injection_for(subject, cells, plan.attacks, plan.protocol)
    proposing = time.perf_counter() - started

    def seconds_for(steps: int) -> float:
        started = time.perf_counter()
        decode(subject, tokens, rows_of, injection, steps, stops=subject.stops(plan.protocol))
        return time.perf_counter() - started

    seconds_for(1)  # the first call pays for thread pools and page faults
    once = seconds_for(1)
    per_step = max(seconds_for(1 + steps) - once, 0.0) / steps
    batches = len(plan.cells) / rows
    return Cost(
        cells=len(plan.cells),
        rows_per_batch=rows,
        model_bytes=sum(p.numel() * p.element_size() for p in subject.model.parameters()),
        memory_bytes=rows * row_bytes(subject, positions, position_bytes),
        seconds=batches * (proposing + once + per_step * (plan.protocol.max_new_tokens - 1)),
    )
