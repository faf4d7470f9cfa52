"""What a submission's digests are compared with: prompt sets, labelled pairs and protocols that are published."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from asabench.core.prompts import PROMPT_SETS, PromptSet, load_prompts
from asabench.core.protocol import PRESETS, SIZES, Protocol
from asabench.judging.labelled_pairs import PAIR_SETS, labelled_pairs, pairs_digest


class PairSet(NamedTuple):
    digest: str
    n: int
    n_unsafe: int


@lru_cache
def pair_set(name: str) -> PairSet | None:
    """The labelled pairs of that name; None where there are none. `UserError` where they are not installed."""
    if name not in PAIR_SETS:
        return None
    pairs = labelled_pairs(name)
    return PairSet(pairs_digest(pairs), len(pairs), sum(pair.unsafe for pair in pairs))


@lru_cache
def prompt_set(name: str) -> PromptSet | None:
    """The prompt set of that name, whole; None where there is none. `UserError` where it is not installed."""
    return load_prompts(name) if name in PROMPT_SETS else None


def published_goals(digests: Sequence[str]) -> bool:
    """Whether goals with these digests, in order, are the first ones of a published prompt set that is at hand."""
    sets = [prompt_set(name) for name in PROMPT_SETS]
    return any(
        [prompt.digest for prompt in known.prompts[: len(digests)]] == list(digests)
        for known in sets
        if known is not None
    )


def protocol_gaps(protocol: Protocol) -> list[str]:
    """How a protocol falls short of the published one of its name at its standard size, in words; more doses and
    seeds are no gap."""
    published = PRESETS.get(protocol.name)
    if published is None:
        return [f"protocol {protocol.name!r} is not published"]
    standard = SIZES[protocol.name]["standard"]
    gaps = [
        f"{name} is {getattr(protocol, name)}, published: {getattr(published, name)}"
        for name in Protocol.model_fields
        if name not in ("doses", "seeds") and getattr(protocol, name) != getattr(published, name)
    ]
    for name in ("doses", "seeds"):
        needed = getattr(standard, name) or getattr(published, name)
        if lacking := [value for value in needed if value not in getattr(protocol, name)]:
            gaps.append(f"{name} {', '.join(f'{value:g}' for value in lacking)} are not there")
    return gaps
