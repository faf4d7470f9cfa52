"""Texts of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (text, position) on the CPU: texts end at the last position, 0 stands before them.

    On the left, so that what comes next (a generated token, a target) is at the same position for all.
    """
    longest = max(map(len, texts), default=0)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, longest - len(text) :] = torch.tensor(text, dtype=torch.long)
        mask[row, longest - len(text) :] = 1
    return ids, mask


def right_padded(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (text, position) on the CPU: texts begin at the first position, 0 stands after them."""
    longest = max(map(len, texts), default=0)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        mask[row, : len(text)] = 1
    return ids, mask
