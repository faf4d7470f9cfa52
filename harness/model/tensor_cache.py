"""Tensors computed from a model, kept while it lives and stays as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from harness.model.subject import Subject

Key = TypeVar("Key", bound=Hashable)

PROBE_TOKENS = 8


class ModelCache(Generic[Key]):
    """By model, a table of tensors. Not an `lru_cache` on the model: that would keep dead models in memory, and would
    serve what was computed before a model was trained in place or an adapter was switched."""

    def __init__(self) -> None:
        self._tables: WeakKeyDictionary[nn.Module, tuple[bytes, dict[Key, Tensor]]] = WeakKeyDictionary()

    def of(self, subject: Subject) -> dict[Key, Tensor]:
        """The table of a model, to read and to fill; empty when the model answers differently than it used to.

        Costs a forward over a few tokens: it notices any change, whereas version counters of weights miss writes
        through `.data` and adapters switched on or off.
        """
        now = fingerprint(subject)
        known = self._tables.get(subject.model)
        if known is None or known[0] != now:
            known = self._tables[subject.model] = (now, {})
        return known[1]


@torch.no_grad()
def fingerprint(subject: Subject) -> bytes:
    """A hash of the logits, bit for bit, after a few fixed tokens."""
    ids = torch.arange(PROBE_TOKENS, device=subject.device)[None] % (subject.vocabulary_size - 1) + 1
    logits = subject.forward(ids, torch.ones_like(ids), last=1)[:, -1]
    return hashlib.sha256(logits.float().cpu().numpy().tobytes()).digest()
