"""The harmless requests that come with ASABench: two sets, and what names them in reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

from asabench.core.records import sha256_hex

BENIGN = "benign-test"
OVER_REFUSAL = "over-refusal"

OWN_SETS: Mapping[str, str] = {BENIGN: "benign_test_requests.txt", OVER_REFUSAL: "over_refusal_requests.txt"}
"""Plainly harmless requests that no recipe of ASABench trains on, and safe requests that look unsafe."""


@lru_cache
def own_requests(name: str) -> tuple[str, ...] | None:
    """The texts of a set that comes with ASABench, in order; None where there is none of that name."""
    if name not in OWN_SETS:
        return None
    text = (files("asabench") / "data" / OWN_SETS[name]).read_text(encoding="utf-8")
    return tuple(line for line in text.split("\n") if line)


def requests_digest(texts: Sequence[str]) -> str:
    """What names requests in a report: 16 hex digits of the SHA-256 of their texts in order."""
    return sha256_hex("\n".join(texts))[:16]
