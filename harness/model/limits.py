"""What a model has room for: one check of prompts and answers before anything is generated.

Beyond these limits a model fails in the middle of a run, or answers in a way that depends on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asabench.core.errors import UserError
from harness.model.architecture import text_configuration

_SUMMED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class PositionLimit:
    """At most so many positions, and why."""

    positions: int
    reason: str


def position_limit(config: Any) -> PositionLimit | None:
    """The positions that a model's text configuration allows; None where it names no limit (ALiBi has none).

    Rotary embeddings of the types `dynamic` and `longrope` change for the whole batch as soon as its longest row passes
    the length that they were made for, so that is their limit.
    """
    limits = []
    for kind, made_for in _changing_rotations(config):
        limits.append(
            PositionLimit(
                positions=made_for,
                reason=f" before its rotary embeddings ({kind}) change for every row of a batch",
            )
        )
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and most > 0:
        limits.append(PositionLimit(positions=most, reason=""))
    return min(limits, key=lambda limit: limit.positions, default=None)


def _changing_rotations(config: Any) -> Iterator[tuple[str, int]]:
    """(type, length that it was made for) of each rotary scaling that changes with the length of a batch."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(given, Mapping):
        return
    # One for all blocks, or one for each kind of block
    for each in (given, *(part for part in given.values() if isinstance(part, Mapping))):
        kind = str(each.get("rope_type", each.get("type", "")))
        made_for = (
            each.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or getattr(config, "max_position_embeddings", None)
        )
        if ("dynamic" in kind or kind == "longrope") and isinstance(made_for, int):
            yield kind, made_for


def check_fits(
    model: Any, prompts: Mapping[str, Sequence[int]], name: str, *, new_tokens: int, targets: Mapping[str, int] = {}
) -> None:
    """`UserError` unless every prompt, and the answer to it, fits into the model.

    prompts: token ids by the prompt's id. new_tokens: of the longest answer; the last of them is never read. targets:
    by the prompt's id, the tokens of a text that is read after it instead, where that is longer.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    limit = position_limit(text_configuration(model))
    for prompt, ids in prompts.items():
        if ids and (largest := max(ids)) >= rows:
            raise UserError(
                f"the prompt {prompt} holds the token {largest}, and {name} has embeddings for {rows} tokens only; "
                "its tokenizer is not this model's, or was extended without it"
            )
        needed = len(ids) + max(new_tokens - 1, targets.get(prompt, 0))
        if limit is not None and needed > limit.positions:
            raise UserError(
                f"the prompt {prompt} has {len(ids)} tokens and needs {needed} positions with its answer, and {name} "
                f"has {limit.positions}{limit.reason}; shorten the prompt, or let answers have fewer tokens"
            )


def check_finite_weights(model: Any, name: str, dtype: str) -> None:
    """`UserError` where a weight is NaN or infinite, be it one that few prompts reach: attention over keys that are not
    numbers can give numbers, of another model."""
    for key, parameter in model.named_parameters():
        if parameter.dtype in _SUMMED and not bool(parameter.detach().sum(dtype=torch.float64).isfinite()):
            wider = "" if dtype == "float32" else f", in {dtype}; another --dtype may hold them"
            raise UserError(
                f"the weights of {name} are not all finite numbers: {key} holds NaN or infinity{wider}; download it "
                "again, or save it again"
            )


def check_finite(tensors: Mapping[str, Tensor], name: str, dtype: str) -> None:
    """`UserError` where a tensor holds NaN or infinity. tensors: by what they are, for the line."""
    for what, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            wider = "" if dtype == "float32" else "; another --dtype may hold them"
            raise UserError(
                f"{what} of {name} are not finite numbers (NaN or infinity) on a few plain tokens in {dtype}{wider}; "
                "check its weights"
            )
