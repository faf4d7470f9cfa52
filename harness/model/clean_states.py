"""What the blocks put out in a clean forward, so that a perturbed forward over the same tokens starts where it differs.

Up to the perturbed block a perturbed forward is the clean one, and so is what a backward would add: half of the work on
average. Whatever is teacher-forced (gradients' own loss, NLL, KL, the landscape) starts at the perturbed block instead:
all rows of a forward at one block (`starting_at`), or each row at a block of its own (`entering`).
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
    def entering(self, starts: Tensor, rows: Tensor, positions: slice) -> Iterator[None]:
        """While open, row i of a forward enters at the output of block `starts[i]`, its clean state there; blocks up to
        that one do not compute it.

        starts: (row,) recorded blocks, ascending; -1 computes the row whole. rows: (row,) indices into the rows of the
        recorded forward. positions: as in `starting_at`. A cache of the forward holds in each block only the rows that
        the block computes, the first `entered(starts, block)`, and one where it computes none.
        """

        def result(at: int, hidden: Tensor) -> Any:
            rest = self._rest.get(at)
            return hidden if rest is None else (hidden, *rest)

        def entered_at(at: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            hidden = block_input(args, kwargs)
            computed, here = entered(starts, at), entered(starts, at + 1)
            if computed == len(hidden):
                return forward(*args, **kwargs)
            if not here:
                return result(at, hidden)
            own, others = hidden[:0], None
            if computed:
                args, kwargs = _first_rows((args, kwargs), computed, len(hidden))
                output = forward(*args, **kwargs)
                own, others = hidden_state(output), output[1:] if isinstance(output, tuple) else None
            if here == computed:
                new = own[:0]
            else:
                states = self._states[at]
                new = states[rows[computed:here].to(states.device), positions]
            device = new.device if here > computed else own.device
            whole = torch.cat([own.to(device), new.to(device), hidden[here:].to(device)])
            return result(at, whole) if others is None else (whole, *others)

        forwards = {at: partial(entered_at, at, block.forward) for at, block in enumerate(self._blocks)}
        with _stand_ins(self._blocks, forwards):
            yield


def entered(starts: Tensor, block: int) -> int:
    """How many rows a block computes: those that start below it. starts: (row,), ascending."""
    return int((starts < block).sum())


def _first_rows(given: Any, count: int, rows: int) -> Any:
    """What a block is called with, of the first `count` of its `rows` rows. Vectors are of positions; `ValueError` for
    a tensor whose first dimension is neither one nor the rows: in a batch of that size it could not be told from them.
    """
    if isinstance(given, Tensor):
        if given.dim() < 2 or given.shape[0] == 1 != rows:
            return given
        if given.shape[0] != rows:
            raise ValueError(f"a block is called with a tensor of shape {tuple(given.shape)} for {rows} rows")
        return given[:count]
    if type(given) in (tuple, list):
        return type(given)(_first_rows(each, count, rows) for each in given)
    if type(given) is dict:
        return {name: _first_rows(each, count, rows) for name, each in given.items()}
    return given


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
_tried_rows: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def enters_at_blocks(subject: Subject) -> bool:
    """Whether the rows of a forward may enter at blocks of their own; tried on three rows, once a model."""
    if not starts_at_blocks(subject):
        return False
    if subject.model not in _tried_rows:
        _tried_rows[subject.model] = _tries_rows(subject)
    return _tried_rows[subject.model]


@torch.no_grad()
def _tries_rows(subject: Subject) -> bool:
    """Three prompts, padded to one length, with a cache behind them: each must have the logits that it has whole."""
    lengths = (5, 3, 4)
    ids = torch.zeros(3, 9, dtype=torch.long, device=subject.device)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, -length - 4 :] = torch.arange(length + 4) * (row + 1) % (subject.vocabulary_size - 1) + 1
        mask[row, -length - 4 :] = 1
    states = CleanStates(subject.blocks)
    with states.recording(range(subject.n_layers)):
        cache = growing_cache(subject.n_layers, 9)
        whole = subject.forward(ids, mask, cache=cache)[:, -4:].float().log_softmax(-1)
    starts = torch.tensor([-1, (subject.n_layers - 1) // 2, subject.n_layers - 1])
    past = growing_cache(subject.n_layers, 9)
    for block, (source, layer) in enumerate(zip(cache.layers, past.layers, strict=True)):
        if source.is_initialized:
            first = torch.arange(max(entered(starts, block), 1))
            layer.fill(source.keys[:, :, :5], source.values[:, :, :5], first)
    try:
        with states.entering(starts, torch.arange(3), slice(-4, None)):
            again = subject.forward(ids[:, -4:], mask, cache=past).float().log_softmax(-1)
    except Exception:  # whatever it is that the family misses
        return False
    likely = whole > -12
    rounding = 0.05 if subject.dtype in ("float32", "float64") else 0.5
    return torch.allclose(again[likely], whole[likely], rtol=0, atol=rounding)


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
