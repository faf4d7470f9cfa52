"""Intervals and rates as they were before rows of schema version 3, for the "before" of `tools.docs.coverage`.

Nothing else uses them; docs/decisions/0011-intervals-that-cover.md says why they were withdrawn.
"""

from __future__ import annotations

import numpy as np

from asabench.core.estimate import Rate
from asabench.stats.intervals import TAILS, Array, Interval, Share, rate_within, resampled_means, wilson
from asabench.stats.metrics import broken_within

EXACT = 1e9


def percentile_interval(values: Array) -> Interval:
    """values: (prompt, draw). Percentiles of a bootstrap; Wilson's interval only where all values were alike."""
    if values.min() == values.max():
        return wilson(float(values.mean()), len(values))
    low, high = np.quantile(resampled_means(values[:, :, None]), TAILS)
    return float(low), float(high)


def eps50_interval(doses: Array, broken: Array) -> Interval:
    """Percentiles of the linear crossing over resampled prompts, as though the response were linear between doses.

    doses: (dose,) from 0 on; broken: (prompt, dose).
    """
    found = np.sort(_crossings(doses, resampled_means(broken[:, None, :])))
    low, high = (float(found[round(tail * (len(found) - 1))]) for tail in TAILS)
    if low < high:
        return low, high
    bands = np.array([wilson(float(share), len(broken)) for share in broken.mean(axis=0)])
    lower, upper = _crossings(doses, bands.T)
    return float(upper), float(lower)


def _crossings(doses: Array, curves: Array) -> Array:
    """curves: (curve, dose) -> (curve,)."""
    reached = curves >= 0.5
    at = reached.argmax(axis=1)
    before, lines = np.maximum(at - 1, 0), np.arange(len(curves))
    rise = curves[lines, at] - curves[lines, before]
    share = np.divide(0.5 - curves[lines, before], rise, out=np.zeros(len(curves)), where=rise > 0)
    between = doses[before] + share * (doses[at] - doses[before])
    return np.where(~reached.any(axis=1), np.inf, np.where(at == 0, -np.inf, between))


def corrected_rate(rate: Rate, sensitivity: Rate, specificity: Rate) -> Rate:
    """Rogan and Gladen's estimate of the true share, with draws of all three from Beta distributions."""
    of_sensitivity = _draws(sensitivity, ("low", "high"), seed=0)
    of_specificity = _draws(specificity, ("low", "high"), seed=1)
    lows, highs = _draws(rate, ("low",), seed=2), _draws(rate, ("high",), seed=2)
    value, low = _value_and_end(lows, of_sensitivity, of_specificity, TAILS[0])
    _, high = _value_and_end(highs, of_sensitivity, of_specificity, TAILS[1])
    never_wrong = np.ones_like(lows)
    if high == 0:
        _, high = _value_and_end(highs, of_sensitivity, never_wrong, TAILS[1])
    if low == 1:
        _, low = _value_and_end(lows, never_wrong, of_specificity, TAILS[0])
    return rate_within(value, [(low, high)])


def _value_and_end(rate: Array, sensitivity: Array, specificity: Array, tail: float) -> Interval:
    skill = sensitivity + specificity - 1
    by_chance = np.full(skill.shape, 0.0 if tail < 0.5 else 1.0)
    shares = np.clip(np.divide(rate + specificity - 1, skill, out=by_chance, where=skill > 0), 0.0, 1.0)
    return float(shares[0]), float(np.quantile(shares[1:], tail))


def _draws(rate: Rate, ends: tuple[str, ...], seed: int) -> Array:
    assert rate.value is not None
    square = 1.959963984540054**2
    found = [float(getattr(rate, end)) for end in ends]
    behind = [square * end * (1 - end) / (rate.value - end) ** 2 for end in found if end != rate.value]
    return Share(rate.value, min(behind, default=EXACT)).draws(seed)


def asr_at_k_over_cells(unsafe: Array, k: int) -> float:
    """ASR@k over all (seed, layer) cells of a prompt alike: more seeds lower it. unsafe: (prompt, seed, layer)."""
    return float(broken_within(unsafe.reshape(len(unsafe), -1), k).mean())
