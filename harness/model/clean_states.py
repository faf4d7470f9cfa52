"""What the blocks put out in a clean forward, so that a perturbed forward over the same tokens starts where it differs.

Up to the perturbed block a perturbed forward is the clean one, and so is what a backward would add: half of the work on
average. Whatever is teacher-forced (gradients' own loss, NLL, KL, the landscape) starts at the perturbed block instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from harness.model.kv_cache import expand, growing_cache
from harness.model.subject import Subject
from harness.stream.injection import block_input, hidden_state


class CleanStates:
    """The clean outputs of some blocks, (row, position, d_model) each."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = blocks
        self._states: dict[int, Tensor] = {}
        self._rest: dict[int, tuple[Any, ...] | None] = {}
        """By block, what it puts out beside the hidden state; None: nothing, its output is a bare tensor."""

    @contextmanager
    def recording(self, layers: Collection[int]) -> Iterator[None]:
        """While open, a forward's outputs of `layers` are kept."""
        results: dict[int, Any] = {}

        def recorded(layer: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            results[layer] = forward(*args, **kwargs)
            return results[layer]

        below = range(max(layers, default=-1) + 1)
        with _stand_ins(self._blocks, {at: partial(recorded, at, self._blocks[at].forward) for at in below}):
            yield
        self._rest = {at: own[1:] if isinstance(own, tuple) else None for at, own in results.items()}
        self._states = {at: hidden_state(results[at]) for at in layers}

    @contextmanager
    def starting_at(self, layer: int, rows: Tensor, positions: slice) -> Iterator[None]:
        """While open, block `layer` puts out its clean states of `rows`; those below it pass on what comes to them.

        rows: (row,) indices into the rows of the recorded forward. positions: which of its positions are read again.
        """
        states = self._states[layer]
        states = states[rows.to(states.device), positions]

        def result(at: int, hidden: Tensor) -> Any:
            rest = self._rest[at]
            return hidden if rest is None else (hidden, *rest)

        def passing_on(at: int, *args: Any, **kwargs: Any) -> Any:
            return result(at, block_input(args, kwargs))

        def replayed(*args: Any, **kwargs: Any) -> Any:
            return result(layer, states)

        with _stand_ins(self._blocks, {at: partial(passing_on, at) for at in range(layer)} | {layer: replayed}):
            yield


@contextmanager
def _stand_ins(blocks: Sequence[nn.Module], forwards: Mapping[int, Callable[..., Any]]) -> Iterator[None]:
    """While open, these blocks compute by other functions; their hooks run as ever."""
    with ExitStack() as stack:
        for layer, forward in forwards.items():
            block = blocks[layer]
            # accelerate, where it spreads a model over devices, has put a function of its own there
            before = block.__dict__.get("forward")
            restore = partial(setattr, block, "forward", before) if before else partial(delattr, block, "forward")
            block.forward = forward
            stack.callback(restore)
        yield


_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def starts_at_blocks(subject: Subject) -> bool:
    """Whether a forward may start at any block of this model; tried at every block over a few tokens, once a model.

    A family whose blocks share more than the residual stream (keys and values of a lower block, say) does not give its
    clean answer then, and is run whole.
    """
    if subject.model not in _tried:
        _tried[subject.model] = _tries(subject)
    return _tried[subject.model]


@torch.no_grad()
def _tries(subject: Subject) -> bool:
    ids = torch.arange(8, device=subject.device)[None] % (subject.vocabulary_size - 1) + 1
    mask = torch.ones_like(ids)
    before = growing_cache(subject.n_layers, 4)
    subject.forward(ids[:, :4], mask[:, :4], cache=before)
    row = torch.zeros(1, dtype=torch.long, device=subject.device)

    def read() -> Tensor:
        cache = expand(before, row, 8)
        logits = subject.forward(ids[:, 4:], mask, cache=cache)
        return logits.float().log_softmax(-1)

    states = CleanStates(subject.blocks)
    with states.recording(range(subject.n_layers)):
        clean = read()
    likely = clean > -12  # far down the tail, half precision rounds by more than it means
    rounding = 0.05 if subject.dtype in ("float32", "float64") else 0.5
    for layer in range(subject.n_layers):
        try:
            with states.starting_at(layer, row, slice(None)):
                again = read()
        except Exception:  # whatever it is that the family misses: the whole model does without
            return False
        if not torch.allclose(again[likely], clean[likely], rtol=0, atol=rounding):
            return False
    return True
