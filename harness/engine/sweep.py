"""Cells to responses, in large batches that mix layers, doses, seeds and prompts."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor

from asabench.core.attack_names import has_blocks, is_joint, is_whole
from asabench.core.errors import UserError
from asabench.core.grid import cells_of
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt, Response
from harness.attacks import Attack, WholeAttack
from harness.engine.decoding import decode
from harness.engine.generation_config import active_processors
from harness.model import architecture
from harness.model.kv_cache import bytes_per_position, growing_cache
from harness.model.limits import check_fits
from harness.model.memory import is_out_of_memory
from harness.model.placement import rows_that_fit as rows_in_memory
from harness.model.subject import Subject
from harness.stream.injection import NO_LAYER, Injection

ROWS_ON_CPU = 256
"""Enough for matrix products to run at full speed; more would only save results more rarely."""
ROWS_ON_GPU = 1024


def grid(prompts: Sequence[Prompt], layers: Sequence[int], attacks: Sequence[Attack], protocol: Protocol) -> list[Cell]:
    """All cells of a run (`asabench.core.grid.cells_of`)."""
    return list(cells_of(prompts, layers, {attack.name: attack.uses_seed for attack in attacks}, protocol))


def sweep(
    subject: Subject,
    cells: Sequence[Cell],
    protocol: Protocol,
    attacks: Mapping[str, Attack],
    *,
    max_rows: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[list[Response]]:
    """Answers every cell; yields the responses of a batch as soon as it ends.

    attacks: by the name in `Cell.attack`. max_rows: rows of a batch at most; fewer are taken where memory is short.
    on_step: called after each decoding step with the number of rows it advanced.
    """
    processors = active_processors(subject) if protocol.generation_config == "model" else []
    tokens = {cell.prompt: subject.format(cell.prompt, protocol) for cell in cells}
    named = {prompt.id: ids for prompt, ids in tokens.items()}
    check_fits(subject.model, named, subject.name, new_tokens=protocol.max_new_tokens)
    # Prompts of like length side by side: little padding. Then layers: attacks that pass through the model start at the
    # lowest one of a batch
    queue = sorted(cells, key=lambda cell: (kind(cell), len(tokens[cell.prompt]), cell.prompt.id, cell.layer or 0))
    limit = max_rows or (ROWS_ON_GPU if subject.device.type == "cuda" else ROWS_ON_CPU)
    position_bytes = kv_bytes_per_position(subject)
    while queue:
        longest = len(tokens[queue[min(limit, len(queue)) - 1].prompt])
        fitting = rows_that_fit(subject, longest + protocol.max_new_tokens, position_bytes)
        size = min(limit, fitting, _of_one_kind(queue))
        batch, queue = queue[:size], queue[size:]
        try:
            responses = _run(subject, batch, tokens, protocol, attacks, processors, on_step)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            responses = None
        if responses is None:  # outside the except clause: inside it the traceback would keep the batch's memory
            if size == 1:
                raise UserError(
                    f"not enough memory for one answer of {longest} + {protocol.max_new_tokens} tokens on "
                    f"{subject.device}; use a smaller dtype, fewer --max-new-tokens, or another --device"
                )
            limit, queue = size // 2, batch + queue
            gc.collect()
            if subject.device.type == "cuda":
                torch.cuda.empty_cache()
            continue
        yield responses


def _run(
    subject: Subject,
    cells: Sequence[Cell],
    tokens: Mapping[Prompt, list[int]],
    protocol: Protocol,
    attacks: Mapping[str, Attack],
    processors: Sequence[Callable[[Tensor, Tensor], Tensor]],
    on_step: Callable[[int], None] | None,
) -> list[Response]:
    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    place = {prompt: index for index, prompt in enumerate(prompts)}
    injection, directions = injection_for(subject, cells, attacks, protocol)
    answers = decode(
        subject,
        [tokens[prompt] for prompt in prompts],
        torch.tensor([place[cell.prompt] for cell in cells]),
        injection,
        protocol.max_new_tokens,
        stops=subject.stops(protocol),
        processors=processors,
        on_step=on_step,
    )
    return [
        Response(
            cell=cell,
            text=subject.judged_text(cell.prompt, tokens[cell.prompt], answer.token_ids, protocol),
            token_ids=answer.token_ids,
            finish_reason=answer.finish_reason,
            direction_sha256=None if cell.is_clean else hashlib.sha256(direction.numpy().tobytes()).hexdigest(),
        )
        for cell, answer, direction in zip(cells, answers, directions, strict=True)
    ]


def kind(cell: Cell) -> str:
    """What cells of one batch have in common: "" for clean answers and all that are perturbed at one block; the attack,
    of those that act on every block."""
    return "" if has_blocks(cell.attack) else cell.attack


def _of_one_kind(queue: Sequence[Cell]) -> int:
    """How many of the first cells are of one kind."""
    first = kind(queue[0])
    return sum(1 for _ in takewhile(lambda cell: kind(cell) == first, queue))


def injection_for(
    subject: Subject, cells: Sequence[Cell], attacks: Mapping[str, Attack], protocol: Protocol
) -> tuple[Injection, Tensor]:
    """The injection of a batch whose rows are `cells`, of one kind, and the raw directions that it is made of."""
    if is_whole(cells[0].attack):
        attack = attacks[cells[0].attack]
        assert isinstance(attack, WholeAttack)
        rewrite = attack.rewrite(subject, cells)
        injection = replace(Injection.nothing(len(cells), subject.d_model), rewrite=rewrite)
        return injection, rewrite.direction
    directions = propose(subject, cells, attacks)
    return injection_of(cells, directions, protocol), directions


def propose(subject: Subject, cells: Sequence[Cell], attacks: Mapping[str, Attack]) -> Tensor:
    """Raw directions (cell, d_model), float32 on the CPU: each attack's for its cells, zeros for clean cells. Where the
    cells are of an attack on every block: (cell, block, d_model)."""
    if is_joint(cells[0].attack):
        return attacks[cells[0].attack].directions(subject, cells)
    directions = torch.zeros(len(cells), subject.d_model)
    for name, attack in attacks.items():
        if own := [index for index, cell in enumerate(cells) if cell.attack == name]:
            directions[own] = attack.directions(subject, [cells[index] for index in own])
    return directions


def injection_of(cells: Sequence[Cell], directions: Tensor, protocol: Protocol) -> Injection:
    """The injection of a batch whose rows are `cells`. directions: raw, (cell, d_model), or (cell, block, d_model) for
    an attack on every block."""
    layer = torch.tensor([NO_LAYER if cell.is_clean else cell.layer or 0 for cell in cells])
    dose = torch.tensor([cell.dose for cell in cells])
    listed = (0,) if protocol.steps == "first" else protocol.steps
    steps = None if isinstance(listed, str) else frozenset(listed)
    layer_at = {}
    if protocol.step_layers is not None:
        assert isinstance(protocol.steps, tuple), "checked when the protocol was resolved"
        layer_at = dict(zip(protocol.steps, protocol.step_layers, strict=True))
    return Injection.from_directions(
        layer=layer, direction=directions, dose=dose, statistics=protocol.statistics, steps=steps, layer_at=layer_at
    )


@torch.no_grad()
def kv_bytes_per_position(subject: Subject) -> float:
    """Bytes of cache that a row takes per position, measured on two tokens; as the configuration has it, of a model
    whose weights are left on disk."""
    if subject.device.type == "meta":
        return float(architecture.stated_cache_values(subject.model) * subject.model.dtype.itemsize)
    ids = torch.zeros(1, 2, dtype=torch.long, device=subject.device)
    cache = growing_cache(subject.n_layers, 2)
    subject.forward(ids, torch.ones_like(ids), cache=cache)
    return bytes_per_position(cache)


def row_bytes(subject: Subject, positions: int, position_bytes: float) -> float:
    """Memory that one row of a batch takes: its cache, and what a step computes for it."""
    logits = subject.vocabulary_size * 4 * 3  # in the model's dtype, in float32, and a copy while they are processed
    activations = subject.d_model * 4 * 32
    return positions * position_bytes + logits + activations


def rows_that_fit(subject: Subject, positions: int, position_bytes: float) -> int:
    """Rows of `positions` tokens that two thirds of the free memory hold; at least one."""
    return rows_in_memory(
        subject.blocks, lambda share: row_bytes(subject, positions, position_bytes * share), part=2 / 3
    )
