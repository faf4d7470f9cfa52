"""Greedy decoding of a batch in which every row may be perturbed at a block of its own.

Why not `generate()`: here rows share one prefill per prompt, finished rows leave the batch, and a step copies no
cache. The tokens are those of `generate()` at batch 1 (tests hold this for every family).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from asabench.core.records import FinishReason
from harness.model.kv_cache import expand, growing_cache, keep_rows
from harness.model.padding import left_padded
from harness.model.subject import Subject
from harness.stream.injection import Injecting, Injection, inject

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""(token ids so far (1, position), logits (1, vocabulary)) -> logits, as transformers defines it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The tokens of one row, the stop token included if there was one. `gap` is the smallest difference between the
    two best logits over the steps: how near the row came to another answer (None when not measured). A row whose
    logits were not finite numbers at some step has no answer: `not-finite`, without tokens."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    gap: float | None = None


class Batch:
    """The state of a decoding batch: its cache, its mask, and the tokens to feed next.

    prompt_ids: token ids per prompt. prompt_of_row: (row,) index into them. The constructor runs each prompt once, up
    to but without its last token: injection starts at that token, so the cache before it is the same for all rows. A
    rewrite starts at the first token: then each row has a run of its own.
    """

    def __init__(
        self,
        subject: Subject,
        prompt_ids: Sequence[Sequence[int]],
        prompt_of_row: Tensor,
        injection: Injection,
        max_new_tokens: int,
    ) -> None:
        self.subject, self.injecting = subject, Injecting(injection)
        device = subject.device
        if injection.rewrite is not None:
            prompt_ids = [prompt_ids[prompt] for prompt in prompt_of_row.tolist()]
            prompt_of_row = torch.arange(len(prompt_ids))
        ids, mask = left_padded(prompt_ids)
        longest = ids.shape[1]
        ids, mask, prompt_of_row = ids.to(device), mask.to(device), prompt_of_row.to(device)
        capacity = longest + max_new_tokens
        self.cache = growing_cache(subject.n_layers, capacity)
        if longest > 1:
            prefill = growing_cache(subject.n_layers, longest - 1)
            with nullcontext() if injection.rewrite is None else inject(subject.blocks, injection):
                subject.forward(ids[:, :-1], mask[:, :-1], cache=prefill, last=1)
            self.cache = expand(prefill, prompt_of_row, capacity)
        self.mask = torch.ones(len(prompt_of_row), capacity, dtype=torch.long, device=device)
        self.mask[:, :longest] = mask[prompt_of_row]
        self.length = longest
        self.steps = 0
        self.next_tokens = ids[prompt_of_row, -1]

    def step(self, watching: AbstractContextManager[object] | None = None) -> Tensor:
        """Feeds `next_tokens`, perturbed, and returns the logits (row, vocabulary) of the tokens after them. watching:
        opened around the forward, after the perturbation: its hooks see perturbed blocks."""
        self.injecting.step = self.steps
        self.steps += 1
        with inject(self.subject.blocks, self.injecting), watching or nullcontext():
            logits = self.subject.forward(self.next_tokens[:, None], self.mask[:, : self.length], cache=self.cache)
        return logits[:, -1]

    def append(self, tokens: Tensor) -> None:
        """tokens: (row,), what to feed in the next step."""
        self.next_tokens = tokens
        self.length += 1

    def keep(self, rows: Tensor) -> None:
        """Drops every row but `rows` (ascending indices)."""
        self.injecting.keep(rows)
        keep_rows(self.cache, rows)
        self.mask, self.next_tokens = self.mask[rows], self.next_tokens[rows]


@torch.no_grad()
def decode(
    subject: Subject,
    prompt_ids: Sequence[Sequence[int]],
    prompt_of_row: Tensor,
    injection: Injection,
    max_new_tokens: int,
    *,
    stops: Collection[int] | None = None,
    processors: Sequence[LogitsProcessor] = (),
    measure_gap: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Greedy answers, one a row.

    prompt_ids: token ids per prompt. prompt_of_row: (row,). injection: as many rows. stops: the tokens that end an
    answer; the subject's own in the chat format if None.
    on_step: called after every step with the number of rows that it advanced.
    """
    n_rows = len(prompt_of_row)
    batch = Batch(subject, prompt_ids, prompt_of_row, injection, max_new_tokens)
    ends = torch.tensor(
        sorted(subject.stop_tokens if stops is None else stops), dtype=torch.long, device=subject.device
    )
    generated = torch.zeros(n_rows, max_new_tokens, dtype=torch.long)
    lengths = torch.full((n_rows,), max_new_tokens)
    stopped = torch.zeros(n_rows, dtype=torch.bool)
    finite = torch.ones(n_rows, dtype=torch.bool)
    gaps = torch.full((n_rows,), torch.inf)
    rows = torch.arange(n_rows)  # which answers the batch still works on
    for step in range(max_new_tokens):
        logits = batch.step()
        for processor in processors:
            logits = _process(processor, logits, rows, prompt_ids, prompt_of_row, generated[:, :step])
        if measure_gap:
            best = logits.float().topk(2, dim=-1).values
            gap = torch.where(stopped[rows], torch.inf, (best[:, 0] - best[:, 1]).cpu())
            gaps[rows] = torch.minimum(gaps[rows], gap)
        tokens = logits.argmax(dim=-1)
        alive = ~stopped[rows]
        generated[rows, step] = tokens.cpu()
        if on_step is not None:
            on_step(int(alive.sum()))
        # The best logit tells: NaN counts as the largest, and where none is finite it is infinite itself
        broken = ~torch.isfinite(logits.gather(-1, tokens[:, None]).squeeze(-1)).cpu() & alive
        finite[rows[broken]] = False
        ended = (torch.isin(tokens, ends).cpu() | broken) & alive
        lengths[rows[ended]] = step + 1
        stopped[rows[ended]] = True
        going_on = (~stopped[rows]).nonzero().squeeze(1)
        if not len(going_on):
            break
        batch.append(tokens)
        # Leaving costs a copy of the cache, so rows leave together: when they are an eighth of the batch
        if (len(rows) - len(going_on)) * 8 >= len(rows):
            batch.keep(going_on.to(subject.device))
            rows = rows[going_on]
    return [
        Answer(
            token_ids=tuple(generated[row, : lengths[row]].tolist()) if finite[row] else (),
            finish_reason="not-finite" if not finite[row] else "stop" if stopped[row] else "length",
            gap=float(gaps[row]) if measure_gap else None,
        )
        for row in range(n_rows)
    ]


def _process(
    processor: LogitsProcessor,
    logits: Tensor,
    rows: Tensor,
    prompt_ids: Sequence[Sequence[int]],
    prompt_of_row: Tensor,
    generated: Tensor,
) -> Tensor:
    """A logits processor row by row, on ids without padding: padding would count as text that was already said."""
    results = []
    for index, row in enumerate(rows.tolist()):
        prompt = torch.tensor(prompt_ids[int(prompt_of_row[row])], dtype=torch.long)
        so_far = torch.cat([prompt, generated[row]]).to(logits.device)
        results.append(processor(so_far[None], logits[index : index + 1]))
    return torch.cat(results)
