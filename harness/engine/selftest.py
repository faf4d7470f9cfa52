"""Checks that run inside every evaluation, in seconds, before its first batch.

A published peer perturbs by zero and never notices. Here a run proves on its own model that the injection does
something, does nothing at dose 0, and that mixing layers in a batch changes no answer; or it stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks import Attack
from harness.engine.decoding import Answer, Batch, decode
from harness.engine.sweep import injection_for, injection_of, kind, propose
from harness.model.subject import Subject
from harness.stream.injection import Injection, capture, edit, inject

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
    found: dict[str, str] = {}
    for attack in {kind(cell): None for cell in cells if kind(cell)}:
        found |= _on_every_block(subject, [cell for cell in cells if cell.attack == attack], protocol, attacks)
    if (examples := examples_of(subject, cells, protocol)) is None:
        return found
    prompt, layers, dose = examples.prompt, examples.layers, examples.dose
    clean, zeros, dosed = examples.clean, examples.zeros, examples.dosed
    mixed = examples.mixed
    directions = propose(subject, mixed, attacks)
    tokens = subject.format(prompt, protocol)

    def answers(wanted: Sequence[int]) -> list[Answer]:
        chosen = [mixed[index] for index in wanted]
        injection = injection_of(chosen, directions[list(wanted)], protocol)
        rows = torch.zeros(len(chosen), dtype=torch.long)
        new_tokens = min(NEW_TOKENS, protocol.max_new_tokens)  # the run's prompts have room for no more
        return decode(subject, [tokens], rows, injection, new_tokens, stops=subject.stops(protocol), measure_gap=True)

    together = answers(range(len(mixed)))
    found["dose 0 gives the clean answer"] = same_answers(
        subject, [together[0]] * len(zeros), together[1 : 1 + len(zeros)], [f"layer {layer}" for layer in layers]
    )
    seen = _first_perturbed_step(subject, tokens, mixed, directions, protocol)
    found["a dose changes the logits"] = _changed(seen, layers, dose, subject.dtype)
    smallest = examples.smallest
    if smallest < dose:
        weakest = [clean, *zeros, *examples.weakest]
        weak = _first_perturbed_step(subject, tokens, weakest, directions, protocol)
        _require_change(weak, layers, smallest, subject.dtype)
    if any(fired != seen.step + 1 for fired in seen.fired.values()):
        raise SelfTestFailed(f"a layer's hook did not fire once a forward: {dict(seen.fired)}")
    found["each layer's hook fires once a forward"] = f"{len(layers)} layers"
    middle = 1 + len(zeros) + len(layers) // 2
    found["alone and in a mixed batch are the same"] = same_answers(
        subject, answers([middle]), [together[middle]], [f"layer {mixed[middle].layer}"]
    )
    _no_hook_left(subject, injection_of(dosed, directions[-len(dosed) :], protocol))
    found["no hook is left after an exception"] = f"{subject.n_layers} blocks"
    return found


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Cells that a self-test tries: one prompt, clean, and at every layer of the run at dose 0, at its largest dose and
    at its smallest above 0."""

    prompt: Prompt
    clean: Cell
    zeros: tuple[Cell, ...]
    dosed: tuple[Cell, ...]
    weakest: tuple[Cell, ...]
    layers: tuple[int, ...]
    dose: float
    smallest: float

    @property
    def mixed(self) -> list[Cell]:
        return [self.clean, *self.zeros, *self.dosed]


def examples_of(subject: Subject, cells: Sequence[Cell], protocol: Protocol) -> Examples | None:
    """The cells to try for a run of these cells; None where none is perturbed at one block. The shortest prompt takes
    least time."""
    steered = [cell for cell in cells if cell.layer is not None]
    if not steered:
        return None
    prompt = min((cell.prompt for cell in steered), key=lambda p: len(subject.format(p, protocol)))
    strongest = max(steered, key=lambda cell: cell.dose)
    dose = strongest.dose or 1.0
    smallest = min((cell.dose for cell in steered if cell.dose > 0), default=dose)
    layers = tuple(sorted({cell.layer for cell in steered if cell.layer is not None}))

    def at(dose: float) -> tuple[Cell, ...]:
        return tuple(replace(strongest, prompt=prompt, layer=layer, dose=dose) for layer in layers)

    return Examples(
        prompt=prompt,
        clean=Cell(prompt=prompt),
        zeros=at(0.0),
        dosed=at(dose),
        weakest=at(smallest),
        layers=layers,
        dose=dose,
        smallest=smallest,
    )


def _on_every_block(
    subject: Subject, cells: Sequence[Cell], protocol: Protocol, attacks: Mapping[str, Attack]
) -> dict[str, str]:
    """The checks of an attack that acts on every block: cells of it are tried on the run's shortest prompts.

    It changes logits, at every block what it says it does, and an answer does not depend on what is beside it; without
    a dose, where it has doses, the answer is the clean one.
    """
    name = cells[0].attack
    lengths = {cell.prompt: len(subject.format(cell.prompt, protocol)) for cell in cells}
    prompts = sorted(lengths, key=lambda prompt: lengths[prompt])[:2]
    strongest = max((cell for cell in cells if cell.prompt == prompts[0]), key=lambda cell: cell.dose)
    tried = [replace(strongest, prompt=prompt) for prompt in prompts]
    new_tokens = min(NEW_TOKENS, protocol.max_new_tokens)
    tokens = [subject.format(prompt, protocol) for prompt in prompts]

    def answers(own: Sequence[Cell], injection: Injection) -> list[Answer]:
        ids = [tokens[prompts.index(cell.prompt)] for cell in own]
        rows = torch.arange(len(own))
        return decode(subject, ids, rows, injection, new_tokens, stops=subject.stops(protocol), measure_gap=True)

    injection, _ = injection_for(subject, tried, attacks, protocol)
    together = answers(tried, injection)
    alone = [answers([cell], injection.of_rows(torch.tensor([row])))[0] for row, cell in enumerate(tried)]
    names = [f"prompt {number}" for number in range(len(tried))]
    found = {f"{name}: alone and in a batch are the same": same_answers(subject, alone, together, names)}
    nothing = Injection.nothing(len(tried), subject.d_model)
    if injection.rewrite is None and strongest.dose > 0:
        zero = answers(tried, replace(injection, dose=torch.zeros(len(tried))))
        found[f"{name}: dose 0 gives the clean answer"] = same_answers(subject, answers(tried, nothing), zero, names)
    if injection.rewrite is not None or strongest.dose > 0:
        found[f"{name}: changes the logits"] = _changes(subject, tokens, name, injection, nothing)
    _no_hook_left(subject, injection)
    return found


@torch.no_grad()
def _changes(
    subject: Subject, tokens: Sequence[Sequence[int]], name: str, injection: Injection, nothing: Injection
) -> str:
    """By how much the first step's logits differ from clean ones; of an ablation, what is left of the direction too."""
    rows = torch.arange(len(tokens))
    clean = Batch(subject, tokens, rows, nothing, 1).step().float()
    batch = Batch(subject, tokens, rows, injection, 1)
    outputs: dict[int, Tensor] = {}

    def record(layer: int, block_input: Tensor, block_output: Tensor) -> None:
        outputs[layer] = block_output

    changed = batch.step(edit(subject.blocks, {at: partial(record, at) for at in range(subject.n_layers)})).float()
    effect = (changed - clean).abs().amax(dim=-1)
    if not bool(torch.isfinite(effect).all()):
        raise SelfTestFailed(f"{name} gives logits that are not finite numbers, in {subject.dtype}")
    if not bool((effect > 0).all()):
        raise SelfTestFailed(f"{name} changes no logit")
    text = f"by {float(effect.min()):.3g} or more"
    rewrite = injection.rewrite
    if rewrite is None or rewrite.act != "ablate":
        return text
    left = max(float(_share(output, rewrite.direction)) for output in outputs.values())
    allowed = 64 * torch.finfo(next(iter(outputs.values())).dtype).eps
    if left > allowed:
        raise SelfTestFailed(f"{name} leaves {left:.2g} of a hidden state's length along the direction")
    return f"{text}; at most {left:.1g} of a hidden state's length is left along the direction"


def _share(hidden: Tensor, direction: Tensor) -> Tensor:
    """The largest share of a hidden state's length along its row's direction. hidden: (row, position, d_model)."""
    hidden, unit = hidden.float(), (direction / direction.norm(dim=-1, keepdim=True)).to(hidden.device)[:, None]
    return ((hidden * unit).sum(-1).abs() / hidden.norm(dim=-1).clamp_min(1e-6)).max()


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The first perturbed step of a batch of clean, dose-0 and dosed rows. `logits`: (row, vocabulary), float32.
    `moved`: (row,), whether the perturbation changed a number of the row's hidden state. `fired`: by layer."""

    step: int
    logits: Tensor
    moved: Tensor
    fired: Mapping[int, int]


@torch.no_grad()
def _first_perturbed_step(
    subject: Subject, tokens: list[int], cells: Sequence[Cell], directions: Tensor, protocol: Protocol
) -> _Seen:
    """Every row reads the clean row's tokens, so that only the perturbation can make them differ."""
    injection = injection_of(cells, directions, protocol)
    step = 0 if injection.steps is None else min(injection.steps)
    batch = Batch(subject, [tokens], torch.zeros(len(cells), dtype=torch.long), injection, step + 1)
    for _ in range(step):
        batch.append(batch.step()[:1].argmax(dim=-1).expand(len(cells)))
    perturbed: dict[int, Tensor] = {}

    def record(layer: int, block_input: Tensor, block_output: Tensor) -> None:
        perturbed[layer] = block_output[:, -1]

    layers = list(injection.layers)
    # Hooks run in the order in which they were made: the outer ones see what the perturbation is given
    with capture(subject.blocks, layers) as given:
        watching = edit(subject.blocks, {layer: partial(record, layer) for layer in layers})
        logits = batch.step(watching).float()
    moved = torch.zeros(len(cells), dtype=torch.bool)
    for layer in layers:
        moved |= (perturbed[layer] != given.outputs[layer][:, -1]).any(dim=-1).cpu()
    return _Seen(step=step, logits=logits, moved=moved, fired=batch.injecting.fired)


def _changed(seen: _Seen, layers: Sequence[int], dose: float, dtype: str) -> str:
    """What the dosed rows' logits differ by from the clean row's: more than those of the dose-0 rows, which rounding
    alone sets apart. Rows: clean, one a layer at dose 0, one a layer with a dose."""
    _require_change(seen, layers, dose, dtype)
    change = (seen.logits[1:] - seen.logits[0]).abs().amax(dim=-1)
    spread, effects = float(change[: len(layers)].max()), change[-len(layers) :]
    finite = torch.isfinite(effects)
    if not bool(finite.any()):
        raise SelfTestFailed(
            f"a perturbation of dose {dose:g} gives logits that are not finite numbers at every layer, in {dtype}"
        )
    for layer, value in zip(layers, effects.tolist(), strict=True):
        if value <= spread:
            raise SelfTestFailed(
                f"a perturbation of dose {dose:g} at layer {layer} changes no logit by more than {spread:.3g}, which "
                "rounding does at dose 0 too"
            )
    lost = [layer for layer, kept in zip(layers, finite.tolist(), strict=True) if not kept]
    text = f"by {float(effects[finite].min()):.3g} to {float(effects[finite].max()):.3g} at dose {dose:g}"
    return text + (f"; not finite at layers {', '.join(map(str, lost))}" if lost else "")


def _require_change(seen: _Seen, layers: Sequence[int], dose: float, dtype: str) -> None:
    for layer, moved in zip(layers, seen.moved[-len(layers) :].tolist(), strict=True):
        if not moved:
            raise SelfTestFailed(
                f"a perturbation of dose {dose:g} at layer {layer} changes no number of the hidden state in {dtype}, "
                "so it changes no logit; leave a dose out that rounds to 0"
            )


def same_answers(subject: Subject, expected: Sequence[Answer], got: Sequence[Answer], names: Sequence[str]) -> str:
    """That answers have the same tokens, in words; `SelfTestFailed` in float32 where they do not. The smaller gap of a
    pair tells how near it came to being the same."""
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
