"""Checks that run inside every evaluation, in seconds, before its first batch.

A published peer perturbs by zero and never notices. Here a run proves on its own model that the injection does
something, does nothing at dose 0, and that mixing layers in a batch changes no answer; or it stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from asabench.core.protocol import Protocol
from asabench.core.records import Cell
from harness.attacks import Attack
from harness.engine.decoding import Answer, Batch, decode
from harness.engine.sweep import injection_of, propose
from harness.model.subject import Subject
from harness.stream.injection import Injection, inject

NEW_TOKENS = 8


class SelfTestFailed(Exception):
    """The harness does not do on this model what it says; no number of this run would mean anything."""


def self_test(
    subject: Subject, cells: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]
) -> dict[str, str]:
    """Runs every check on one prompt and all layers of the run; returns what was found, by check.

    cells: those of the run. Raises `SelfTestFailed`. In bfloat16 and float16 two batch shapes may round to different
    tokens where the two best logits nearly tie: there a difference is reported with its gap; in float32 it fails.
    """
    steered = [cell for cell in cells if not cell.is_clean]
    if not steered:
        return {}
    prompt = min((cell.prompt for cell in steered), key=lambda p: len(subject.format(p, protocol)))
    strongest = max(steered, key=lambda cell: cell.dose)
    dose = strongest.dose or 1.0
    layers = sorted({cell.layer for cell in steered if cell.layer is not None})
    example = replace(strongest, prompt=prompt)
    clean = Cell(prompt=prompt)
    zeros = [replace(example, layer=layer, dose=0.0) for layer in layers]
    dosed = [replace(example, layer=layer, dose=dose) for layer in layers]
    mixed = [clean, *zeros, *dosed]
    directions = propose(subject, mixed, attacks)
    tokens = subject.format(prompt, protocol)

    def answers(wanted: Sequence[int]) -> list[Answer]:
        chosen = [mixed[index] for index in wanted]
        injection = injection_of(chosen, directions[list(wanted)], protocol)
        rows = torch.zeros(len(chosen), dtype=torch.long)
        return decode(subject, [tokens], rows, injection, NEW_TOKENS, measure_gap=True)

    together = answers(range(len(mixed)))
    found = {}
    found["dose 0 gives the clean answer"] = _same(
        subject, [together[0]] * len(zeros), together[1 : 1 + len(zeros)], [f"layer {layer}" for layer in layers]
    )
    logits, fired = _first_step(subject, tokens, mixed, directions, protocol)
    found["a dose changes the logits"] = _changed(logits, layers, dose)
    if any(fired.get(layer) != 1 for layer in layers):
        raise SelfTestFailed(f"a layer's hook did not fire once a forward: {fired}")
    found["each layer's hook fires once a forward"] = f"{len(layers)} layers"
    middle = 1 + len(zeros) + len(layers) // 2
    found["alone and in a mixed batch are the same"] = _same(
        subject, answers([middle]), [together[middle]], [f"layer {mixed[middle].layer}"]
    )
    _no_hook_left(subject, injection_of(dosed, directions[-len(dosed) :], protocol))
    found["no hook is left after an exception"] = f"{subject.n_layers} blocks"
    return found


@torch.no_grad()
def _first_step(
    subject: Subject, tokens: list[int], cells: Sequence[Cell], directions: Tensor, protocol: Protocol
) -> tuple[Tensor, Mapping[int, int]]:
    injection = injection_of(cells, directions, protocol)
    batch = Batch(subject, [tokens], torch.zeros(len(cells), dtype=torch.long), injection, 1)
    return batch.step().float(), batch.injecting.fired


def _changed(logits: Tensor, layers: Sequence[int], dose: float) -> str:
    """logits: (1 + 2 * layer, vocabulary): clean, dose 0, dosed."""
    change = (logits[-len(layers) :] - logits[0]).abs().amax(dim=-1)
    for layer, value in zip(layers, change.tolist(), strict=True):
        if not value > 0:
            raise SelfTestFailed(f"a perturbation of dose {dose:g} at layer {layer} changes no logit")
    return f"by {float(change.min()):.3g} to {float(change.max()):.3g} at dose {dose:g}"


def _same(subject: Subject, expected: Sequence[Answer], got: Sequence[Answer], names: Sequence[str]) -> str:
    different = [
        (name, min(a.gap or 0.0, b.gap or 0.0))
        for a, b, name in zip(expected, got, names, strict=True)
        if a.token_ids != b.token_ids
    ]
    if not different:
        return f"{len(names)} of {len(names)}"
    text = ", ".join(f"{name} (gap {gap:.2g})" for name, gap in different)
    if subject.dtype == "float32":
        raise SelfTestFailed(f"answers that must be the same differ at {text}")
    return f"{len(names) - len(different)} of {len(names)}; near ties in {subject.dtype} at {text}"


def _no_hook_left(subject: Subject, injection: Injection) -> None:
    def hooks() -> list[int]:
        return [len(block._forward_hooks) for block in subject.blocks]

    before = hooks()
    try:
        with inject(subject.blocks, injection):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    if hooks() != before:
        raise SelfTestFailed("hooks are left on the model after an exception")
