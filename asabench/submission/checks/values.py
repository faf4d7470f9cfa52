"""What a date, a revision and a rate may be, whichever file they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from asabench.core.estimate import Rate
from asabench.core.models import PACKAGED_MODELS
from asabench.submission.findings import Finding, shown

_PINNED = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{16,64}")
_PACKAGE = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})==[0-9]+(?:\.[0-9]+){0,3}")
_PACKAGES = frozenset(model.distribution for model in PACKAGED_MODELS.values())
PINNED_WORDS = (
    "a hub commit (40 hex digits), sha256:... of a local folder, or a version of a package that ASABench knows "
    f"({', '.join(sorted(_PACKAGES))})"
)
OLDEST = datetime(2025, 6, 1, tzinfo=UTC)
"""The month of the paper whose method this is (arXiv:2506.16078): nothing was measured by it before."""
MOST_AHEAD = timedelta(days=1)
MOST_LAYERS = 1_000


def is_pinned(revision: str) -> bool:
    """Whether a revision cannot change: a hub commit, the digest of a local folder, or the version of a package that
    models are known to come in."""
    package = _PACKAGE.fullmatch(revision)
    return _PINNED.fullmatch(revision) is not None or (package is not None and package[1] in _PACKAGES)


def date_findings(file: str, created: str, field: str = "created") -> Iterator[Finding]:
    """A date is between the method's first month and tomorrow."""
    try:
        moment = datetime.fromisoformat(created)
        moment = moment if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        moment = None
    allowed = "a moment with its time zone, such as 2026-01-31T12:00:00+00:00"
    if moment is None or moment.tzinfo is None:
        yield Finding(file, field, shown(created), allowed)
    elif moment > datetime.now(UTC) + MOST_AHEAD:
        yield Finding(file, field, f"{shown(created)}, which is to come", allowed)
    elif moment < OLDEST:
        yield Finding(file, field, shown(created), f"{OLDEST:%B %Y} or later, when the method was published")


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
