"""Rates with their intervals, by a bootstrap that resamples clusters of prompts. Why these intervals: decision 0003;
why clusters: decision 0010.

`clusters`, wherever it is taken, is the cluster of each prompt, (prompt,): near-duplicates are answered alike, so they
are drawn together. None: each prompt is a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from asabench.core.estimate import Rate

RESAMPLES = 2000
DRAWS = 20_000
CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
NOTHING_SCORED = Rate(value=None, low=None, high=None)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Clusters = NDArray[np.int64]
Interval = tuple[float, float]


def mean_rate(values: Array, counted: Mask | None = None, clusters: Clusters | None = None) -> Rate:
    """Mean of (prompt, draw) values in 0..1 with an interval that resamples prompts, and draws within them.

    NaN (unscored) leaves the value, and widens the interval to what it would be if all of them were 0 or were 1. What
    is not counted leaves both.
    """
    kept = values if counted is None else values[counted]
    if not kept.size or np.isnan(kept).all():
        return NOTHING_SCORED
    intervals = [mean_interval(reading, counted, clusters) for reading in readings(values)]
    return rate_within(float(np.nanmean(kept)), intervals)


def layer_mean_rate(values: Array, clusters: Clusters | None = None) -> Rate:
    """The mean of (prompt, seed, layer) values, with an interval that resamples prompts, and seeds within them.

    A prompt's layers are averaged first: they are the same few for every prompt, no draw of anything. NaN (unscored)
    leaves the value, and widens the interval to what it would be if all of them were 0 or were 1.
    """
    if not values.size or np.isnan(values).all():
        return NOTHING_SCORED
    intervals = [mean_interval(each.mean(axis=2), clusters=clusters) for each in readings(values)]
    return rate_within(float(np.nanmean(values)), intervals)


def readings(values: Array) -> list[Array]:
    """The values with every NaN read as 0, and read as 1."""
    return [np.nan_to_num(values, nan=0.0), np.nan_to_num(values, nan=1.0)] if np.isnan(values).any() else [values]


def rate_within(value: float, intervals: Iterable[Interval]) -> Rate:
    """The value with the interval that holds it and all of the intervals."""
    lows, highs = zip(*intervals, strict=True)
    return Rate(value=value, low=min(*lows, value), high=max(*highs, value))


def widened(rate: Rate, other: Rate) -> Rate:
    """`rate` with an interval that holds that of `other` too."""
    known = [(each.low, each.high) for each in (rate, other) if each.low is not None and each.high is not None]
    return rate if rate.value is None else rate_within(rate.value, known)


def mean_interval(values: Array, counted: Mask | None = None, clusters: Clusters | None = None) -> Interval:
    """values: (prompt, draw), no NaN. Percentile bootstrap; Wilson where every cluster is alike and it has no width.

    counted: which of the values the mean is over, in the same shape; at least one.
    """
    if counted is None:
        counted = np.ones(values.shape, dtype=bool)
    some = counted.any(axis=1)
    values, counted, clusters = values[some], counted[some], None if clusters is None else clusters[some]
    kept = values[counted]
    if kept.min() == kept.max():
        return wilson(float(kept[0]), independent(len(values), clusters))
    means = resampled_means(values[:, :, None], None if counted.all() else counted[:, :, None], clusters)
    # NaN: a resample in which nothing is counted
    low, high = np.nanquantile(means, TAILS)
    if clusters is not None and high - low < 1e-9:
        # Prompts differ, and every cluster is the same mixture of them
        return wilson(float(kept.mean()), independent(len(values), clusters))
    return float(low), float(high)


def peak_interval(values: Array, clusters: Clusters | None = None) -> Interval:
    """values: (prompt, draw, layer), no NaN. The interval of the largest layer mean; see `metrics.pasr_rate`."""
    means = values.mean(axis=(0, 1))
    low, high = mean_interval(values[:, :, means.argmax()], clusters=clusters)
    excess = (resampled_means(values, clusters=clusters) - means).max(axis=1)
    return max(min(float(means.max() - np.quantile(excess, TAILS[1])), low), 0.0), high


def independent(prompts: int, clusters: Clusters | None) -> int:
    """How many independent prompts would say as much, if those of a cluster are all answered alike: n**2 over the sum
    of the squared sizes (Kish's effective size), at least 1; n without clusters."""
    if clusters is None or not prompts:
        return prompts
    sizes = np.unique(clusters, return_counts=True)[1]
    return max(int(prompts**2 / (sizes**2).sum() + 1e-9), 1)


def wilson(share: float, number: int) -> Interval:
    """Wilson's score interval of that share of a number of prompts."""
    ends = binomtest(round(share * number), number).proportion_ci(CONFIDENCE, method="wilson")
    return float(ends.low), float(ends.high)


def wilson_low(share: float, number: int, tail: float) -> float:
    """The lower end of Wilson's score interval that leaves `tail` below it."""
    quantile = NormalDist().inv_cdf(1 - tail)
    square = quantile**2 / number
    spread = quantile * (share * (1 - share) / number + square / (4 * number)) ** 0.5
    return max((share + square / 2 - spread) / (1 + square), 0.0)


def resampled_means(values: Array, counted: Mask | None = None, clusters: Clusters | None = None) -> Array:
    """Means over the resamples of (prompt, draw, column) values: (RESAMPLES, column).

    counted: which values a mean is over, in the same shape; NaN for a resample that has none.
    """
    prompts, draws, columns = values.shape
    places = _places(clusters)
    weights = _weights(prompts, draws, RESAMPLES, places)
    if counted is None:
        number_drawn = prompts * draws if places is None else weights.sum(axis=1, keepdims=True)
        return weights @ values.reshape(-1, columns) / number_drawn
    number = weights @ counted.reshape(-1, columns).astype(float)
    total = weights @ np.where(counted, values, 0.0).reshape(-1, columns)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


@dataclass(frozen=True)
class Share:
    """A share, and the number of independent pairs that would be as uncertain."""

    value: float
    number: float

    @property
    def rate(self) -> Rate:
        """With Wilson's interval."""
        # Of independent pairs the number comes out whole but for rounding
        number = max(int(self.number + 1e-6), 1)
        low = wilson_low(self.value, number, TAILS[0])
        high = 1 - wilson_low(1 - self.value, number, TAILS[0])
        return rate_within(self.value, [(low, high)])

    def draws(self, seed: int) -> Array:
        """The share itself, then DRAWS values that it may have in truth; the same for equal arguments."""
        hits, misses = self.value * self.number, (1 - self.value) * self.number
        return np.append(self.value, np.random.default_rng(seed).beta(hits + 0.5, misses + 0.5, size=DRAWS))


def _places(clusters: Clusters | None) -> tuple[int, ...] | None:
    """The clusters numbered in the order in which they appear, whatever they are called; None where each prompt is its
    own."""
    if clusters is None:
        return None
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    if len(first) == len(clusters):
        return None
    return tuple(np.argsort(np.argsort(first))[inverse].tolist())


# A few: the conditional and coherent rates have numbers of prompts of their own
@lru_cache(maxsize=4)
def _weights(prompts: int, draws: int, resamples: int, places: tuple[int, ...] | None = None) -> Array:
    """How often each (prompt, draw) is in each resample: (resample, prompt * draw). The same for every call. places:
    the cluster of each prompt, from 0; as many clusters are drawn as there are, each with all of its prompts."""
    random = np.random.default_rng(0)
    number = prompts if places is None else max(places) + 1
    counts = random.multinomial(number, np.full(number, 1 / number), size=resamples)
    if places is not None:
        counts = counts[:, list(places)]
    if draws == 1:
        return counts.astype(float)
    per_draw = random.multinomial(counts * draws, np.full(draws, 1 / draws))
    return per_draw.reshape(resamples, prompts * draws).astype(float)
