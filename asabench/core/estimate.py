"""What was measured, with its 95% interval: one shape in every table and file."""

from __future__ import annotations

from asabench.core.schema import Record


class Estimate(Record):
    """A value and the ends of its interval; all None where nothing was scored."""

    value: float | None
    low: float | None
    high: float | None


class Rate(Estimate):
    """A share between 0 and 1."""


class Kappa(Estimate):
    """Cohen's kappa, between -1 and 1; None where it is not defined."""


class Change(Estimate):
    """One rate less another, paired, between -1 and 1; or another difference of two means."""
