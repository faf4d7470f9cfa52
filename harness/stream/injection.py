"""Reading and perturbing the residual stream: the only forward hooks in the project.

`inject` perturbs the outputs of decoder blocks, each row of a batch at a block of its own; `capture` records what goes
into and comes out of blocks. Both are context managers that leave no hook behind, whatever happens inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.stream.perturbation import normalise, perturb, standardise

NO_LAYER = -1
"""The layer of a row that is not perturbed (the clean answer)."""

Statistics = Literal["current-step", "clean-prompt-input"]


@dataclass(eq=False)
class Injection:
    """What to do to each row of a batch.

    layer: (row,) block to perturb, or NO_LAYER. unit: (row, d_model) standardised directions. dose: (row,).
    statistics: whose mean and std equation (1) takes. `current-step`: the block's output at each perturbed position.
    `clean-prompt-input`: the block's input at the last position of the first forward; that vector is kept and added at
    every later step (preset gu2025).
    positions: (row, position) bool, which positions of the forward are perturbed; None means the last one.

    steps: the generation steps (forwards, from 0) that are perturbed; None means all of them.
    layer_at: the multi-token setting: by step, the block at which all perturbed rows are perturbed, instead of `layer`.

    `step` is the step under way, set by whoever runs the forwards. `fired` counts, per layer, how often its hook ran:
    a self-test reads it.
    """

    layer: Tensor
    unit: Tensor
    dose: Tensor
    statistics: Statistics = "current-step"
    positions: Tensor | None = None
    steps: frozenset[int] | None = None
    layer_at: Mapping[int, int] = field(default_factory=dict)
    step: int = 0
    fired: Counter[int] = field(default_factory=Counter)
    _kept_delta: dict[int, Tensor] = field(default_factory=dict)
    _rows: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def from_directions(
        cls, layer: Tensor, direction: Tensor, dose: Tensor, statistics: Statistics = "current-step"
    ) -> Injection:
        """From raw directions (row, d_model), as an attack proposes them. Computed in float32."""
        return cls(layer, standardise(direction.float()), dose.float(), statistics)

    def __post_init__(self) -> None:
        self._index()

    def _index(self) -> None:
        self._rows = {
            int(layer): (self.layer == layer).nonzero().squeeze(1) for layer in self.layer.unique() if layer != NO_LAYER
        }

    @property
    def layers(self) -> Sequence[int]:
        return sorted(set(self.layer_at.values()) if self.layer_at else self._rows)

    def _rows_at(self, layer: int) -> Tensor | None:
        """The rows that block `layer` perturbs in this step."""
        if not self.layer_at:
            return self._rows.get(layer)
        return (self.layer != NO_LAYER).nonzero().squeeze(1) if self.layer_at.get(self.step) == layer else None

    def keep(self, rows: Tensor) -> None:
        """Drops every row but `rows` (row indices, in order): finished rows have left the batch."""
        self._kept_delta = {
            layer: delta[torch.isin(self._rows[layer], rows.to(self._rows[layer].device)).to(delta.device)]
            for layer, delta in self._kept_delta.items()
            if layer in self._rows
        }
        self.layer, self.unit, self.dose = (t[rows.to(t.device)] for t in (self.layer, self.unit, self.dose))
        if self.positions is not None:
            self.positions = self.positions[rows.to(self.positions.device)]
        self._index()

    def apply(self, layer: int, block_input: Tensor, block_output: Tensor) -> Tensor:
        """The perturbed output of block `layer`: (row, position, d_model), a new tensor."""
        self.fired[layer] += 1
        device = block_output.device
        rows = self._rows_at(layer)
        if rows is None or not len(rows):
            return block_output
        if self.statistics == "clean-prompt-input" and layer not in self._kept_delta:
            # Also when this step is not perturbed: it is the step whose statistics later ones take
            self._kept_delta[layer] = normalise(self.unit[rows].to(device), block_input[rows.to(device), -1])
        if self.steps is not None and self.step not in self.steps:
            return block_output
        unit, dose = self.unit[rows].to(device), self.dose[rows].to(device)[:, None]
        rows = rows.to(device)
        result = block_output.clone()
        if self.positions is not None:
            hidden = block_output[rows]
            perturbed = perturb(hidden, normalise(unit[:, None], hidden), dose[:, None])
            result[rows] = torch.where(self.positions[rows].to(device)[..., None], perturbed, hidden)
            return result
        hidden = block_output[rows, -1]
        delta = normalise(unit, hidden) if self.statistics == "current-step" else self._kept_delta[layer]
        result[rows, -1] = perturb(hidden, delta, dose)
        return result


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
            hidden = change(block_input(args, kwargs), hidden_state(output))
            return None if hidden is None else _with_hidden_state(output, hidden)

        return hook

    with ExitStack() as stack:
        for layer, change in edits.items():
            stack.callback(blocks[layer].register_forward_hook(hook_of(change), with_kwargs=True).remove)
        yield


@contextmanager
def inject(blocks: Sequence[nn.Module], injection: Injection) -> Iterator[Injection]:
    """While open, every forward through `blocks` is perturbed as `injection` says, out of place."""
    with edit(blocks, {layer: partial(injection.apply, layer) for layer in injection.layers}):
        yield injection


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
