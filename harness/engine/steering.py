"""The injection for an engine that lays the tokens of many requests in one row; pure of any engine.

Such engines (vLLM) put what they read of every request in one tensor (token, d_model), whole prompts beside single new
tokens, and read some of it twice when they run out of memory. One rule covers all of that: token `p` of a request is
perturbed exactly when `p >= prompt length - 1`, with the length of its own prompt (docs/protocol.md; equations (1) and
(2) in `harness.stream.perturbation`).
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.stream.injection import Statistics
from harness.stream.perturbation import normalise, perturb, standardise


@dataclass(frozen=True, kw_only=True)
class Dosed:
    """What is injected into one request. number: of its cell, within a call of the engine. direction: (d_model,) raw,
    float32 on the CPU."""

    number: int
    layer: int
    dose: float
    direction: Tensor


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where a request stands in a step: its tokens `first` to `first + count` are the rows from `row` on. `request`
    names it, `prompt_length` is that of its prompt. dosed: None for a clean answer. number: of its cell."""

    request: str
    row: int
    first: int
    count: int
    prompt_length: int
    number: int
    dosed: Dosed | None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What all cells of a run share: the fields of `asabench.core.protocol.Protocol` of these names, resolved.

    steps: the perturbed ones, None for all. layer_at: the block of each perturbed step, instead of the cell's.
    """

    statistics: Statistics = "current-step"
    steps: frozenset[int] | None = None
    layer_at: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Row:
    row: int
    step: int
    request: str
    dosed: Dosed


class Steering:
    """The injection under way on one worker. `perturbed` counts the perturbed rows by cell; `moved` holds the cells in
    which a perturbation changed a number of a hidden state; `not_finite` those whose logits were not finite."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.perturbed: Counter[int] = Counter()
        self.moved: set[int] = set()
        self.not_finite: set[int] = set()
        self._rows: dict[int, list[_Row]] = {}
        self._numbers: list[int] = []
        self._units: dict[str, Tensor] = {}
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._stacked: dict[int, tuple[tuple[str, ...], Tensor, Tensor]] = {}

    def forget(self, requests: Collection[str]) -> None:
        """Drops what was kept of requests that ended."""
        for request in requests:
            self._units.pop(request, None)
        if self._kept and requests:
            ended = set(requests)
            self._kept = {key: delta for key, delta in self._kept.items() if key[0] not in ended}

    def begin(self, spans: Sequence[Span]) -> None:
        """Says what the next forward reads."""
        self._rows, self._numbers = {}, [span.number for span in spans]
        for span in spans:
            dosed = span.dosed
            if dosed is None:
                continue
            for position in range(max(span.first, span.prompt_length - 1), span.first + span.count):
                step = position - (span.prompt_length - 1)
                layer = dosed.layer
                if self.rule.layer_at:
                    if (at := self.rule.layer_at.get(step)) is None:
                        continue
                    layer = at
                elif not self._acts(step) and not self._keeps(step):
                    continue
                row = _Row(row=span.row + position - span.first, step=step, request=span.request, dosed=dosed)
                self._rows.setdefault(layer, []).append(row)

    def end(self) -> None:
        """The forward is over: what runs outside of steps (warming up) is never perturbed."""
        self._rows = {}

    def _acts(self, step: int) -> bool:
        return self.rule.steps is None or step in self.rule.steps

    def _keeps(self, step: int) -> bool:
        """Whether a step's statistics are those that later ones take."""
        return self.rule.statistics == "clean-prompt-input" and step == 0

    def apply(self, layer: int, stream_in: Tensor, stream: Tensor) -> tuple[Tensor, Tensor] | None:
        """Which rows of the step change, and their new hidden states: (row,), (row, d_model); None for no row.

        stream_in, stream: (token, d_model), what goes into and comes out of block `layer`.
        """
        rows = self._rows.get(layer)
        if not rows:
            return None
        if self.rule.statistics == "clean-prompt-input":
            for each in rows:
                if each.step == 0:
                    unit = self._unit(each).to(stream.device)
                    self._kept[each.request, layer] = normalise(unit, stream_in[each.row])
        rows = [each for each in rows if self._acts(each.step)]
        if not rows:
            return None
        at = torch.tensor([each.row for each in rows], device=stream.device)
        unit, dose = self._stack(layer, rows, stream.device)
        hidden = stream[at]
        if self.rule.statistics == "current-step":
            delta = normalise(unit, hidden)
        else:
            delta = torch.stack([self._kept[each.request, layer] for each in rows])
        changed = perturb(hidden, delta, dose)
        moved = (changed != hidden).any(dim=-1)
        self.perturbed.update(each.dosed.number for each in rows)
        if any(each.dosed.number not in self.moved for each in rows):
            self.moved.update(each.dosed.number for each, has in zip(rows, moved.tolist(), strict=True) if has)
        return at, changed

    def _unit(self, row: _Row) -> Tensor:
        if row.request not in self._units:
            self._units[row.request] = standardise(row.dosed.direction.float())
        return self._units[row.request]

    def _stack(self, layer: int, rows: Sequence[_Row], device: torch.device) -> tuple[Tensor, Tensor]:
        """Standardised directions (row, d_model) and doses (row, 1); made anew only when other requests are read."""
        requests = tuple(each.request for each in rows)
        known = self._stacked.get(layer)
        if known is None or known[0] != requests:
            unit = torch.stack([self._unit(each) for each in rows]).to(device)
            dose = torch.tensor([[each.dosed.dose] for each in rows], dtype=torch.float32, device=device)
            known = self._stacked[layer] = (requests, unit, dose)
        return known[1], known[2]

    def see_logits(self, logits: Tensor) -> None:
        """Notes the cells whose best logit is not a finite number. logits: (request of the step, vocabulary)."""
        broken = ~torch.isfinite(logits.max(dim=-1).values)
        if bool(broken.any()):
            self.not_finite.update(self._numbers[index] for index in broken.nonzero().squeeze(1).tolist())


def find_blocks(model: nn.Module, count: int) -> list[nn.Module]:
    """The decoder blocks of an engine's model: its outermost list of so many modules. `ValueError` without one."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ValueError(f"no list of {count} decoder blocks was found in {type(model).__name__}")


Change = Callable[[int, Tensor, Tensor], "tuple[Tensor, Tensor] | None"]
"""Given a block's number and the streams (token, d_model) into and out of it: the rows that change, and to what."""


def hook_blocks(blocks: Sequence[nn.Module], change: Change) -> list[Any]:
    """Lets `change` edit the residual stream that each block puts out; the handles of the hooks.

    Where a block returns (hidden, residual), the stream is their sum. A changed row is put out as (new stream, 0), so
    that the next block adds up exactly what was computed here.
    """
    return [
        block.register_forward_hook(_hook(layer, inspect.signature(block.forward), change), with_kwargs=True)
        for layer, block in enumerate(blocks)
    ]


def _hook(layer: int, signature: inspect.Signature, change: Change) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden, residual, rest = _parts(output)
        stream = _flat(hidden if residual is None else hidden + residual)
        changed = change(layer, _flat(_stream_in(signature, args, kwargs)), stream)
        if changed is None:
            return None
        rows, values = changed
        new = _put(hidden, rows, values)
        if residual is None:
            return (new, *rest) if isinstance(output, tuple) else new
        return (new, _put(residual, rows, torch.zeros_like(values)), *rest)

    return hook


def _parts(output: Any) -> tuple[Tensor, Tensor | None, tuple[Any, ...]]:
    """A block's hidden states, its residual where it puts one out beside them, and the rest."""
    if isinstance(output, Tensor):
        return output, None, ()
    hidden, *rest = output
    if rest and isinstance(rest[0], Tensor) and rest[0].shape == hidden.shape:
        return hidden, rest[0], tuple(rest[1:])
    return hidden, None, tuple(rest)


def _stream_in(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    given = signature.bind(*args, **kwargs).arguments
    hidden, residual = given["hidden_states"], given.get("residual")
    total: Tensor = hidden if residual is None else hidden + residual
    return total


def _flat(hidden: Tensor) -> Tensor:
    """(token, d_model); some put a dimension of one batch before it."""
    return hidden.reshape(-1, hidden.shape[-1])


def _put(hidden: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    return _flat(hidden).index_copy(0, rows, values.to(hidden.dtype)).reshape(hidden.shape)
