"""How likely a model finds each of several continuations of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asabench.core.errors import UserError
from harness.engine.sweep import kv_bytes_per_position, rows_that_fit
from harness.model.kv_cache import expand, growing_cache
from harness.model.padding import left_padded
from harness.model.subject import Subject
from harness.progress import progress_line

MAX_ROWS = 256

Item = tuple[str, Sequence[str]]
"""A text, and its continuations."""


def log_likelihoods(subject: Subject, items: Sequence[Item], *, progress: bool = False) -> list[list[float]]:
    """Log-likelihood in nats of each continuation after its text, summed over the continuation's tokens.

    Each text is read once, and its continuations go on from its cache. Raises `UserError` for one without tokens.
    """
    encoded = [_encoded(subject, *item) for item in items]
    position_bytes = kv_bytes_per_position(subject)
    # Texts of like length side by side: little padding
    queue = sorted(range(len(items)), key=lambda index: len(encoded[index][0]))
    found: dict[int, list[float]] = {}
    with progress_line(0, len(items), 1, progress) as line:
        while queue:
            widest = max(len(encoded[index][1]) for index in queue)
            longest = max(len(context) + max(map(len, own)) for context, own in encoded)
            rows = min(MAX_ROWS, rows_that_fit(subject, longest, position_bytes))
            batch, queue = queue[: max(1, rows // widest)], queue[max(1, rows // widest) :]
            scores = _batch(subject, [encoded[index] for index in batch])
            found |= dict(zip(batch, scores, strict=True))
            line.finish(len(batch))
    return [found[index] for index in range(len(items))]


Encoded = tuple[list[int], list[list[int]]]


def _encoded(subject: Subject, text: str, continuations: Sequence[str]) -> Encoded:
    """Token ids of the text, and of each continuation as it stands after the text.

    A tokenizer may join the end of the text with what follows; then both are tokenised by themselves.
    """
    context = list(subject.tokenizer(text)["input_ids"])
    own = []
    for continuation in continuations:
        whole = list(subject.tokenizer(text + continuation)["input_ids"])
        joined = whole[: len(context)] != context or len(whole) == len(context)
        ids = (
            subject.tokenizer(continuation, add_special_tokens=False)["input_ids"] if joined else whole[len(context) :]
        )
        own.append(list(ids))
    if not context or not all(own):
        raise UserError(f"a question or a choice has no tokens for {subject.name}; give every one some text")
    return context, own


@torch.no_grad()
def _batch(subject: Subject, encoded: Sequence[Encoded]) -> list[list[float]]:
    contexts = [context for context, _ in encoded]
    own = [continuation for _, continuations in encoded for continuation in continuations]
    text_of = torch.tensor([text for text, (_, continuations) in enumerate(encoded) for _ in continuations])
    ids, mask = left_padded(contexts)
    longest = max(map(len, own))
    cache = growing_cache(subject.n_layers, ids.shape[1])
    first = subject.forward(ids.to(subject.device), mask.to(subject.device), cache=cache, last=1)[:, -1]
    # The last token of a continuation predicts nothing that is scored
    after = torch.zeros(len(own), longest, dtype=torch.long)
    counted = torch.zeros_like(after)
    for row, continuation in enumerate(own):
        after[row, : len(continuation)] = torch.tensor(continuation)
        counted[row, : len(continuation)] = 1
    logits = first[text_of.to(first.device), None]
    if longest > 1:
        seen = torch.cat([mask[text_of], counted[:, :-1]], dim=1)
        more = subject.forward(
            after[:, :-1].to(subject.device),
            seen.to(subject.device),
            cache=expand(cache, text_of, ids.shape[1] + longest),
        )
        logits = torch.cat([logits, more], dim=1)
    scores = _log_likelihood(logits.float(), after.to(logits.device), counted.to(logits.device)).tolist()
    rows = iter(scores)
    return [[next(rows) for _ in continuations] for _, continuations in encoded]


def _log_likelihood(logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """logits: (row, position, vocabulary), each before its token. Sum of log-probabilities where counted: (row,)."""
    chosen = logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    return (chosen * counted).sum(-1)
