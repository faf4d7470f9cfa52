"""Reading and perturbing the residual stream: the only forward hooks in the project.

`inject` perturbs the outputs of decoder blocks, each row of a batch at a block of its own; `capture` records what goes
into and comes out of blocks. Both are context managers that leave no hook behind, whatever happens inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.stream.perturbation import normalise, perturb, standardise
from harness.stream.rewrite import Rewrite

NO_LAYER = -1
"""The layer of a row that is not perturbed (the clean answer)."""

Statistics = Literal["current-step", "clean-prompt-input"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Injection:
    """What to do to each row of a batch.

    layer: (row,) block to perturb, or NO_LAYER. unit: (row, d_model) standardised directions. dose: (row,). Where unit
    is (row, block, d_model), a row is perturbed at every block at once, with a direction of each, if it is at all.
    statistics: whose mean and std equation (1) takes. `current-step`: the block's output at each perturbed position.
    `clean-prompt-input`: the block's input at the last position of the first forward; that vector is kept and added at
    every later step (preset gu2025).
    positions: (row, position) bool, which positions of the forward are perturbed; None means the last one.

    steps: the generation steps (forwards, from 0) that are perturbed; None means all of them.
    layer_at: the multi-token setting: by step, the block at which all perturbed rows are perturbed, instead of `layer`.
    rewrite: what is done to the whole stream of every row instead, in every forward, at every position.
    """

    layer: Tensor
    unit: Tensor
    dose: Tensor
    statistics: Statistics = "current-step"
    positions: Tensor | None = None
    steps: frozenset[int] | None = None
    layer_at: Mapping[int, int] = field(default_factory=dict)
    rewrite: Rewrite | None = None

    @classmethod
    def from_directions(cls, *, layer: Tensor, direction: Tensor, dose: Tensor, **how: Any) -> Injection:
        """From raw directions (row, d_model), or (row, block, d_model), as an attack proposes them. Computed in
        float32. how: further fields."""
        return cls(layer=layer, unit=standardise(direction.float()), dose=dose.float(), **how)

    @classmethod
    def nothing(cls, rows: int, d_model: int) -> Injection:
        """Of rows that are all clean."""
        return cls(layer=torch.full((rows,), NO_LAYER), unit=torch.zeros(rows, d_model), dose=torch.zeros(rows))

    @cached_property
    def rows(self) -> Mapping[int, Tensor]:
        """By block, the indices of the rows that it perturbs, in some step or in all."""
        if self.layer_at:
            steered = (self.layer != NO_LAYER).nonzero().squeeze(1)
            return dict.fromkeys(sorted(set(self.layer_at.values())), steered)
        if self.unit.dim() == 3:
            steered = (self.layer != NO_LAYER).nonzero().squeeze(1)
            return dict.fromkeys(range(self.unit.shape[1]), steered)
        layers = sorted({int(layer) for layer in self.layer.unique()} - {NO_LAYER})
        return {layer: (self.layer == layer).nonzero().squeeze(1) for layer in layers}

    @property
    def layers(self) -> Sequence[int]:
        return list(self.rows)

    def unit_of(self, rows: Tensor, layer: int) -> Tensor:
        """The standardised directions of some rows at a block: (row, d_model)."""
        return self.unit[rows] if self.unit.dim() == 2 else self.unit[rows, layer]

    def of_rows(self, rows: Tensor) -> Injection:
        """That of some rows only. rows: their indices, in order."""
        chosen = {name: getattr(self, name) for name in ("layer", "unit", "dose", "positions")}
        some: dict[str, Any] = {name: each[rows.to(each.device)] for name, each in chosen.items() if each is not None}
        if self.rewrite is not None:
            some["rewrite"] = self.rewrite.of_rows(rows)
        return replace(self, **some)


class Injecting:
    """An injection under way: what it keeps from one forward to the next.

    `step` is the step under way, set by whoever runs the forwards. `fired` counts, per layer, how often its hook ran:
    a self-test reads it.
    """

    def __init__(self, injection: Injection) -> None:
        self.injection = injection
        self.step = 0
        self.fired: Counter[int] = Counter()
        self._kept_delta: dict[int, Tensor] = {}

    def keep(self, rows: Tensor) -> None:
        """Drops every row but `rows` (row indices, in order): finished rows have left the batch."""
        before = self.injection
        self.injection = before.of_rows(rows)
        self._kept_delta = {
            layer: delta[torch.isin(at, rows.to(at.device)).to(delta.device)]
            for layer, delta in self._kept_delta.items()
            if (at := before.rows.get(layer)) is not None
        }

    def apply(self, layer: int, block_input: Tensor, block_output: Tensor) -> Tensor:
        """The perturbed output of block `layer`: (row, position, d_model), a new tensor."""
        self.fired[layer] += 1
        plan, device = self.injection, block_output.device
        rows = plan.rows.get(layer)
        another = bool(plan.layer_at) and plan.layer_at.get(self.step) != layer
        if rows is None or not len(rows) or another:
            return block_output
        if plan.statistics == "clean-prompt-input" and layer not in self._kept_delta:
            # Also when this step is not perturbed: it is the step whose statistics later ones take
            self._kept_delta[layer] = normalise(plan.unit_of(rows, layer).to(device), block_input[rows.to(device), -1])
        if plan.steps is not None and self.step not in plan.steps:
            return block_output
        unit, dose = plan.unit_of(rows, layer).to(device), plan.dose[rows].to(device)[:, None]
        rows = rows.to(device)
        result = block_output.clone()
        if plan.positions is not None:
            hidden = block_output[rows]
            perturbed = perturb(hidden, normalise(unit[:, None], hidden), dose[:, None])
            result[rows] = torch.where(plan.positions[rows].to(device)[..., None], perturbed, hidden)
            return result
        hidden = block_output[rows, -1]
        delta = normalise(unit, hidden) if plan.statistics == "current-step" else self._kept_delta[layer]
        result[rows, -1] = perturb(hidden, delta, dose)
        return result

    def rewrite(self, layer: int, block_input: Tensor, block_output: Tensor) -> Tensor:
        """The rewritten output of block `layer`: (row, position, d_model), a new tensor."""
        self.fired[layer] += 1
        return self.rewritten(block_output)

    def rewritten(self, hidden: Tensor) -> Tensor:
        """Hidden states (row, position, d_model) of all rows as the rewrite leaves them."""
        assert self.injection.rewrite is not None
        return self.injection.rewrite(hidden)


def hidden_state(block_result: Any) -> Tensor:
    """The hidden state (row, position, d_model) in what a block takes or returns: a tensor, or first of a tuple."""
    return block_result[0] if isinstance(block_result, tuple) else block_result


def _with_hidden_state(block_result: Any, hidden: Tensor) -> Any:
    return (hidden, *block_result[1:]) if isinstance(block_result, tuple) else hidden


def block_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden state (row, position, d_model) that a block is called with."""
    return args[0] if args else kwargs["hidden_states"]


Edit = Callable[[Tensor, Tensor], "Tensor | None"]
"""Given a block's input and output hidden states, its new output; None leaves it as it is."""


@contextmanager
def edit(blocks: Sequence[nn.Module], edits: Mapping[int, Edit]) -> Iterator[None]:
    """While open, the output of each block in `edits` passes through its function. The hooks go when it closes."""

    def hook_of(change: Edit) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            after = hidden_state(output)
            before = block_input(args, kwargs)
            if isinstance(after, Tensor):  # a block on another device is called with what lies on the last one's
                before = before.to(after.device)
            hidden = change(before, after)
            return None if hidden is None else _with_hidden_state(output, hidden)

        return hook

    with ExitStack() as stack:
        for layer, change in edits.items():
            stack.callback(blocks[layer].register_forward_hook(hook_of(change), with_kwargs=True).remove)
        yield


@contextmanager
def edit_input(block: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the hidden state that a block is called with passes through the function first."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def inject(blocks: Sequence[nn.Module], injection: Injection | Injecting) -> Iterator[Injecting]:
    """While open, every forward through `blocks` is perturbed as the injection says, out of place. One that is under
    way goes on; else this is its first step, and every forward inside counts as that."""
    state = Injecting(injection) if isinstance(injection, Injection) else injection
    with ExitStack() as stack:
        if (rewrite := state.injection.rewrite) is not None:
            edits = {layer: partial(state.rewrite, layer) for layer in rewrite.blocks_of(len(blocks))}
            stack.enter_context(edit(blocks, edits))
            if rewrite.from_the_start:
                stack.enter_context(edit_input(blocks[0], state.rewritten))
        stack.enter_context(edit(blocks, {layer: partial(state.apply, layer) for layer in state.injection.layers}))
        yield state


@dataclass
class Captured:
    """What `capture` saw in the last forward, by layer: (row, position, d_model) each."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def capture(blocks: Sequence[nn.Module], layers: Sequence[int]) -> Iterator[Captured]:
    """While open, records the inputs and outputs of the blocks in `layers`. Opened inside `inject`, it sees the
    perturbed outputs; opened around it, the unperturbed ones (hooks run in the order in which they were made)."""
    seen = Captured()

    def record(layer: int, block_input: Tensor, block_output: Tensor) -> None:
        seen.inputs[layer] = block_input
        seen.outputs[layer] = block_output

    with edit(blocks, {layer: partial(record, layer) for layer in layers}):
        yield seen
