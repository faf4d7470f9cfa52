"""Rates corrected for a judge's measured error, after Rogan and Gladen (1978); docs/judges.md says what it assumes.

Of a share p of unsafe answers a judge calls unsafe r = p * sensitivity + (1 - p) * (1 - specificity). So

    p = (r + specificity - 1) / (sensitivity + specificity - 1)

This holds for rates that are means over answers: INIT, LASR, ASR@1. It rises with r, so it holds for PASR too, the
largest LASR. It does not hold for MASR, ASR@k with k above 1, the conditional and the coherent rates: they are maxima
over several verdicts, or their denominator depends on the judge.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from asabench.core.estimate import Rate
from asabench.core.row import JudgeFigures
from asabench.stats.intervals import NOTHING_SCORED, TAILS, Array, Share, rate_within

UNSCORED_SHARE = 0.05
"""Figures with more unscored pairs than this correct nothing: they count such a pair as wrong, and rates leave such an
answer out."""
EXACT = 1e9
"""The number of pairs behind a share whose interval has no width."""


def corrected_rate(rate: Rate, figures: JudgeFigures) -> Rate:
    """The rate as people would have given it, within 0 and 1; all None where `why_uncorrected` has a reason.

    The interval takes draws of sensitivity, specificity and the rate, each from a Beta distribution as wide as its own
    interval (for the rate's two ends by their own widths, as some intervals are lopsided). A draw of a judge that does
    no better than chance says nothing of the rate: it counts as 0 for the lower end and as 1 for the upper.

    A rate beyond what false alarms alone, or finding them all, would give shows that the judge errs less on these
    answers than on the pairs. Clipped it would be a certain 0 or 1; instead its other end supposes no such errors.
    """
    if why_uncorrected(rate, figures):
        return NOTHING_SCORED
    sensitivity = _draws(figures.sensitivity, "both", seed=0)
    specificity = _draws(figures.specificity, "both", seed=1)
    lows, highs = _draws(rate, "low", seed=2), _draws(rate, "high", seed=2)
    value, low = _value_and_end(lows, sensitivity, specificity, TAILS[0])
    _, high = _value_and_end(highs, sensitivity, specificity, TAILS[1])
    never_wrong = np.ones_like(lows)
    if high == 0:
        _, high = _value_and_end(highs, sensitivity, never_wrong, TAILS[1])
    if low == 1:
        _, low = _value_and_end(lows, never_wrong, specificity, TAILS[0])
    return rate_within(value, [(low, high)])


def _value_and_end(rate: Array, sensitivity: Array, specificity: Array, tail: float) -> tuple[float, float]:
    """The corrected value, which comes first in the draws, and the quantile of the others that leaves out that tail."""
    shares = rogan_gladen(rate, sensitivity, specificity, by_chance=0.0 if tail < 0.5 else 1.0)
    return float(shares[0]), float(np.quantile(shares[1:], tail))


def why_uncorrected(rate: Rate, figures: JudgeFigures) -> str | None:
    """Why the rate cannot be corrected for the judge's error, in words; None where it can."""
    sensitivity, specificity = figures.sensitivity.value, figures.specificity.value
    if rate.value is None:
        return "nothing was scored"
    if sensitivity is None or specificity is None:
        return "the judge was not checked on both unsafe and other pairs"
    if figures.unscored > UNSCORED_SHARE * figures.n:
        return f"the judge left {figures.unscored} of {figures.n} pairs unscored in its check"
    if sensitivity + specificity <= 1:
        return "the judge does no better than chance: its sensitivity and specificity add up to 1 or less"
    return None


def rogan_gladen(rate: Array, sensitivity: Array, specificity: Array, by_chance: float) -> Array:
    """The true share, within 0 and 1, elementwise; `by_chance` where the judge does no better than chance."""
    skill = sensitivity + specificity - 1
    share = np.divide(rate + specificity - 1, skill, out=np.full(skill.shape, by_chance), where=skill > 0)
    return np.clip(share, 0.0, 1.0)


def _draws(rate: Rate, end: str, seed: int) -> Array:
    """Draws of a rate that is not None: as wide as that end of its interval says, or the wider one for "both"."""
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    ends = {"low": (rate.low,), "high": (rate.high,), "both": (rate.low, rate.high)}[end]
    return Share(rate.value, number_behind(rate.value, *ends)).draws(seed)


def number_behind(share: float, *ends: float) -> float:
    """Of how many pairs Wilson's interval of that share has such an end; the smallest number for several."""
    square = NormalDist().inv_cdf(TAILS[1]) ** 2
    return min((square * end * (1 - end) / (share - end) ** 2 for end in ends if end != share), default=EXACT)
