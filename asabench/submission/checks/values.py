"""What a date, a revision and a rate may be, whichever file they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from asabench.core.estimate import Rate
from asabench.submission.findings import Finding, shown

PINNED = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{16,64}|[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.+!-]*")
"""A revision that cannot change: a hub commit, the digest of a local folder, a package's version."""
PINNED_WORDS = "a hub commit (40 hex digits), sha256:... of a local folder, or package==version"
MOST_AHEAD = timedelta(days=2)
MOST_LAYERS = 1_000
EDIT = "put it right in that file"
"""What helps where a file may be edited by hand."""


def date_findings(file: str, created: str) -> Iterator[Finding]:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        moment = None
    allowed = "a moment with its time zone, such as 2026-01-31T12:00:00+00:00"
    if moment is None or moment.tzinfo is None:
        yield Finding(file, "created", shown(created), allowed)
    elif moment > datetime.now(UTC) + MOST_AHEAD:
        yield Finding(file, "created", f"{shown(created)}, which is to come", allowed)


def rate_findings(file: str, field: str, rate: Rate) -> Iterator[Finding]:
    ends = (rate.low, rate.value, rate.high)
    if all(end is None for end in ends):
        return
    known = [end for end in ends if end is not None]
    if len(known) < 3 or not 0 <= known[0] <= known[1] <= known[2] <= 1:
        yield Finding(
            file, field, f"{rate.value} in [{rate.low}, {rate.high}]", "0 to 1, the interval around the value"
        )


def listed(values: Sequence[object]) -> str:
    return shown(list(values))
