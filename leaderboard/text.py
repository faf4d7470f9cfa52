"""Numbers and names as the page and the terminal write them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asabench.core.estimate import Estimate, Rate
from asabench.core.numbers import ranges
from asabench.core.row import Eps50, VerdictCounts
from asabench.core.text import eps50_text, in_words

NONE = "—"
"""What stands for a number that does not exist (nothing was scored)."""


def format_number(value: float | None, none: str = NONE) -> str:
    """A share with two decimals, or `none`."""
    return none if value is None else f"{value:z.2f}"


def format_estimate(estimate: Estimate | None) -> str:
    """`0.94 [0.87, 0.98]`, a change with its sign; a dash where nothing was scored or a row does not have it."""
    return in_words(estimate, NONE)


def bounds(rate: Rate) -> tuple[float, float]:
    """The ends of a rate's interval; a rate without one is a point. The rate must have a value."""
    assert rate.value is not None
    return (rate.value if rate.low is None else rate.low, rate.value if rate.high is None else rate.high)


def optional_eps50(eps50: Eps50 | None) -> str | None:
    return None if eps50 is None else eps50_text(eps50)


def format_change(change: float | None) -> str:
    """A difference of two shares with its sign: `-0.03`, `+0.01`."""
    return NONE if change is None else f"{change:+.2f}".replace("-0.00", "+0.00").replace("+0.00", "0.00")


def share(count: int, verdicts: VerdictCounts) -> float | None:
    """`count` as a share of all verdicts, the unscored included; None when there are none."""
    total = total_verdicts(verdicts)
    return count / total if total else None


def total_verdicts(verdicts: VerdictCounts) -> int:
    return verdicts.safe + verdicts.unsafe + verdicts.incoherent + verdicts.unscored


def number_ranges(numbers: Sequence[int], none: str = NONE) -> str:
    """`0-2, 5` for (0, 1, 2, 5)."""
    return ranges(numbers).replace(",", ", ") or none


def short_revision(revision: str) -> str:
    """A hub commit or `sha256:` digest cut to 10 hex digits; a package's version stays whole."""
    return re.sub(r"(?<![0-9a-f])([0-9a-f]{10})[0-9a-f]{22,}$", r"\1", revision)


def short_count(count: int) -> str:
    """`135M` for 134515008."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        # A count that would round up to 1000 of the smaller unit is written in the larger one.
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return str(count)
