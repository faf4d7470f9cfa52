"""What an attack that works away from a refusal starts from: the model's own clean answer to each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from asabench.judging.refusals import refusal_phrase
from harness.model.kv_cache import growing_cache
from harness.model.padding import left_padded
from harness.model.subject import Subject
from harness.model.tensor_cache import ModelCache

TargetOption = Annotated[
    Literal["given", "away"],
    Field(
        description="`given`: the loss of the prompt's target; `away`: that of the model's own refusal of the prompt, "
        "with `direction=ascend`"
    ),
]
"""Whose loss an attack works on."""

TOKENS = 16
"""Of a refusal, from its start: what comes later follows from it."""
REFUSAL = "I'm sorry, but I can't help with that."
"""For a prompt that the model does not refuse."""
_ROWS = 64

_answers: ModelCache[tuple[int, ...]] = ModelCache()
"""By the prompt's tokens."""


def check_away(target: str, direction: str, protocol: Protocol) -> None:
    """`UserError` for what would push the model towards its refusal, or where its answer has a given start."""
    if target != "away":
        return
    if direction != "ascend":
        raise UserError(f"target=away with direction={direction} would make the refusal likelier; add direction=ascend")
    if protocol.prefix_tokens:
        raise UserError(
            "target=away works on the model's own answer, and --prefix gives it another start; leave one out"
        )


def away_from_refusals(subject: Subject, cells: Sequence[Cell], protocol: Protocol) -> list[Cell]:
    """The cells, the target of each prompt replaced by the start of the model's own refusal of it, or by `REFUSAL`
    where its clean answer is none."""
    prompts = list(dict.fromkeys(cell.prompt for cell in cells))
    texts = dict(zip(prompts, own_starts(subject, prompts, protocol), strict=True))
    return [replace(cell, prompt=replace(cell.prompt, target=texts[cell.prompt], target_sha256=None)) for cell in cells]


def own_starts(subject: Subject, prompts: Sequence[Prompt], protocol: Protocol) -> list[str]:
    """The start of each prompt's greedy clean answer where that refuses, else `REFUSAL`."""
    known = _answers.of(subject)
    ids = [tuple(subject.format(prompt, protocol)) for prompt in prompts]
    missing = sorted({each for each in ids if each not in known}, key=len)
    for start in range(0, len(missing), _ROWS):
        batch = missing[start : start + _ROWS]
        known.update(zip(batch, _greedy(subject, batch, subject.stops(protocol)), strict=True))
    texts = [subject.text(known[each].tolist()) for each in ids]
    return [text if refusal_phrase(text) is not None else REFUSAL for text in texts]


@torch.no_grad()
def _greedy(subject: Subject, prompts: Sequence[Sequence[int]], stops: frozenset[int]) -> list[torch.Tensor]:
    """The first `TOKENS` tokens of each answer, up to a stop token."""
    ids, mask = (each.to(subject.device) for each in left_padded(prompts))
    cache = growing_cache(subject.n_layers, ids.shape[1] + TOKENS)
    answers = torch.zeros(len(prompts), TOKENS, dtype=torch.long)
    for step in range(TOKENS):
        logits = subject.forward(ids, mask, cache=cache, last=1)
        ids = logits[:, -1].argmax(dim=-1, keepdim=True)
        answers[:, step] = ids[:, 0].cpu()
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    kept = []
    for answer in answers:
        ends = [place for place, token in enumerate(answer.tolist()) if token in stops]
        kept.append(answer[: ends[0] if ends else TOKENS])
    return kept
