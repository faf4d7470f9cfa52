"""What a submission's digests are compared with: prompt sets, labelled pairs and protocols that are published.

All of it comes with ASABench, digests where the text does not: a check needs no other package and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from asabench.core import advbench
from asabench.core.prompts import PROMPT_SETS, load_prompts
from asabench.core.protocol import PRESETS, PROMPT_SET, SIZES, Protocol, published_digests
from asabench.judging.known_sets import pair_set as pair_set


class KnownPrompt(NamedTuple):
    """`sha256` is of the goal's UTF-8 bytes."""

    id: str
    sha256: str


@lru_cache
def prompt_set(name: str) -> tuple[KnownPrompt, ...] | None:
    """The prompt set of that name, whole; None where there is none."""
    if name == PROMPT_SET:
        return tuple(KnownPrompt(advbench.prompt_id(n), known.goal) for n, known in enumerate(advbench.digests()))
    if name not in PROMPT_SETS:
        return None
    return tuple(KnownPrompt(prompt.id, prompt.digest) for prompt in load_prompts(name).prompts)


def published_goals(digests: Sequence[str]) -> bool:
    """Whether goals with these digests, in order, are the first ones of a published prompt set."""
    sets = [prompt_set(name) for name in PROMPT_SETS]
    return any(
        [prompt.sha256 for prompt in known[: len(digests)]] == list(digests) for known in sets if known is not None
    )


def _in_words(name: str, protocol: Protocol) -> str:
    value = getattr(protocol, name)
    if name in ("target", "targets"):
        own = "each prompt's own" if name == "target" else "no list"
        return own if value is None else repr(value) if isinstance(value, str) else value.spec
    return str(value)


def protocol_gaps(protocol: Protocol) -> list[str]:
    """How a protocol falls short of the published one of its name at its standard size, in words, unless it is that of
    another size that ranks; more doses and seeds are no gap."""
    published = PRESETS.get(protocol.name)
    if published is None:
        return [f"protocol {protocol.name!r} is not published"]
    if protocol.digest in published_digests(protocol.name).values():
        return []
    standard = SIZES[protocol.name]["standard"]
    lengths = {size.max_new_tokens for size in SIZES[protocol.name].values()}
    gaps = [
        f"{name} is {_in_words(name, protocol)}, published: {_in_words(name, published)}"
        for name in Protocol.model_fields
        if name not in ("doses", "seeds")
        and getattr(protocol, name) != getattr(published, name)
        and (name != "max_new_tokens" or protocol.max_new_tokens not in lengths)
    ]
    for name in ("doses", "seeds"):
        needed = getattr(standard, name) or getattr(published, name)
        if lacking := [value for value in needed if value not in getattr(protocol, name)]:
            gaps.append(f"{name} {', '.join(f'{value:g}' for value in lacking)} are not there")
    return gaps
