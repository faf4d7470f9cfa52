"""Rates with their intervals over prompts. Why these intervals: decision 0003; why clusters: decision 0010.

`clusters`, wherever it is taken, is the cluster of each prompt, (prompt,): near-duplicates are answered alike, so they
count and are drawn together. None: each prompt is a cluster of its own.

Draws (seeds) of a prompt are draws of its own, unless `shared`: then draw s of every prompt is one and the same noise
vector, and there are as many draws of noise as seeds, however many prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from asabench.core.estimate import Rate

RESAMPLES = 2000
DRAWS = 20_000
CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_QUANTILE = NormalDist().inv_cdf(TAILS[1])
NOTHING_SCORED = Rate(value=None, low=None, high=None)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Clusters = NDArray[np.int64]
Interval = tuple[float, float]


def mean_rate(
    values: Array, counted: Mask | None = None, clusters: Clusters | None = None, *, shared: bool = False
) -> Rate:
    """Mean of (prompt, draw) or (prompt, draw, layer) values in 0..1 with the interval of `mean_interval`.

    NaN (unscored) leaves the value, and widens the interval to what it would be if all of them were 0 or were 1. What
    is not counted leaves both.
    """
    kept = values if counted is None else values[counted]
    if not kept.size or np.isnan(kept).all():
        return NOTHING_SCORED
    intervals = [mean_interval(reading, counted, clusters, shared=shared) for reading in readings(values)]
    return rate_within(float(np.nanmean(kept)), intervals)


def layer_mean_rate(values: Array, clusters: Clusters | None = None, *, shared: bool = False) -> Rate:
    """The mean of (prompt, seed, layer) values, with the interval of `mean_interval`.

    A prompt's layers are averaged first: they are the same few for every prompt, no draw of anything. NaN (unscored)
    leaves the value, and widens the interval to what it would be if all of them were 0 or were 1.
    """
    if not values.size or np.isnan(values).all():
        return NOTHING_SCORED
    intervals = [mean_interval(each.mean(axis=2), clusters=clusters, shared=shared) for each in readings(values)]
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


def mean_interval(
    values: Array, counted: Mask | None = None, clusters: Clusters | None = None, *, shared: bool = False
) -> Interval:
    """values: (prompt, draw) or (prompt, draw, layer), no NaN. Wilson's interval of their mean, at `effective_number`
    of prompts.

    counted: which of the values the mean is over, in the same shape; at least one.
    """
    if counted is None:
        counted = np.ones(values.shape, dtype=bool)
    some = counted.reshape(len(counted), -1).any(axis=1)
    values, counted, clusters = values[some], counted[some], None if clusters is None else clusters[some]
    return wilson(float(values[counted].mean()), effective_number(values, counted, clusters, shared=shared))


def effective_number(values: Array, counted: Mask, clusters: Clusters | None = None, *, shared: bool = False) -> float:
    """How many prompts, each broken or not, would leave the mean of these values as uncertain: (prompt, draw), no NaN.
    A third axis, layers, tells more draws of a prompt; noise that is shared is drawn along the second alone.

    That is p (1 - p) over the variance of the mean. The variance is what a resampling of prompts, and of draws within
    them, would give. z^2 prompts are added to those measured, half of them 0 and half 1 in all of their draws, as
    Wilson's interval does in effect: without them, prompts that came out alike would be certain. With one draw of
    broken or not it is the number of prompts; several draws add to it the more, the less a prompt's draws agree.

    Prompts of a cluster are resampled together: their deviations add up before they are squared, and it is the number
    of clusters, by `independent`, to which the z^2 are added.

    Shared draws differ all together: the variance between their means is added, at Student's quantile for so few.
    """
    of_draws = _means_of_draws(values, counted) if shared else np.empty(0)
    values, counted = values.reshape(len(values), -1), counted.reshape(len(counted), -1)
    prompts, number = independent(len(values), clusters), int(counted.sum())
    off = np.where(counted, values - values[counted].mean(), 0.0)
    draws = counted.sum(axis=1, keepdims=True)
    within = np.where(counted, off - off.sum(axis=1, keepdims=True) / draws, 0.0)
    scale = prompts / number**2
    between, drawn = scale * float((_sums(off.sum(axis=1), clusters) ** 2).sum()), scale * float((within**2).sum())
    added = _QUANTILE**2
    share = float(values[counted].mean())
    middle = (prompts * share + added / 2) / (prompts + added)
    variance = (prompts * (between + drawn + (share - middle) ** 2) + added / 2 * (middle**2 + (1 - middle) ** 2)) / (
        prompts + added
    )
    variance_of_mean = variance / prompts
    if (seeds := len(of_draws)) > 1:
        few = float(student.ppf(TAILS[1], seeds - 1)) / _QUANTILE
        variance_of_mean += few**2 * float(of_draws.var(ddof=1)) / seeds
    return middle * (1 - middle) / variance_of_mean


def _means_of_draws(values: Array, counted: Mask) -> Array:
    """The mean of each draw, over all prompts and layers of which any is counted: (draw,)."""
    others = (0, *range(2, values.ndim))
    number = counted.sum(axis=others)
    drawn = number > 0
    means: Array = np.where(counted, values, 0.0).sum(axis=others)[drawn] / number[drawn]
    return means


def independent(prompts: int, clusters: Clusters | None) -> float:
    """How many independent prompts would say as much, if those of a cluster are all answered alike: n**2 over the sum
    of the squared sizes (Kish's effective size); n without clusters."""
    if clusters is None or not prompts:
        return prompts
    sizes = np.unique(clusters, return_counts=True)[1]
    return float(prompts**2 / (sizes**2).sum())


def _sums(by_prompt: Array, clusters: Clusters | None) -> Array:
    """The sum of each cluster: (cluster,); of each prompt, without clusters."""
    if (places := numbered(clusters)) is None:
        return by_prompt
    return np.bincount(places, weights=by_prompt).astype(np.float64)


def peak_interval(values: Array, clusters: Clusters | None = None, *, shared: bool = False) -> Interval:
    """values: (prompt, draw, column), no NaN. The interval of the largest true column mean.

    The largest of many noisy means lies above the mean of the column that is truly the largest, and a bootstrap of the
    maximum repeats that. So the lower end grants what the best column could exceed its own mean by, by chance (a
    bootstrap of max (resampled mean - mean)); the upper end is that of the column with the largest mean.
    """
    means = values.mean(axis=(0, 1))
    low, high = mean_interval(values[:, :, means.argmax()], clusters=clusters, shared=shared)
    excess = (resampled_means(values, clusters, shared=shared) - means).max(axis=1)
    return max(min(float(means.max() - np.quantile(excess, TAILS[1])), low), 0.0), high


def wilson(share: float, number: float) -> Interval:
    """Wilson's score interval of that share of a number of prompts, which need not be whole."""
    low = wilson_low(share, number, TAILS[0]) if share > 0 else 0.0
    high = 1 - wilson_low(1 - share, number, TAILS[0]) if share < 1 else 1.0
    return low, high


def wilson_low(share: float, number: float, tail: float) -> float:
    """The lower end of Wilson's score interval that leaves `tail` below it."""
    quantile = NormalDist().inv_cdf(1 - tail)
    square = quantile**2 / number
    spread = quantile * (share * (1 - share) / number + square / (4 * number)) ** 0.5
    return max((share + square / 2 - spread) / (1 + square), 0.0)


def resampled_means(values: Array, clusters: Clusters | None = None, *, shared: bool = False) -> Array:
    """Means over the resamples of (prompt, draw, column) values: (RESAMPLES, column)."""
    prompts, draws, columns = values.shape
    places = numbered(clusters)
    weights = _weights(prompts, draws, RESAMPLES, shared and draws > 1, places)
    drawn = prompts * draws if places is None else weights.sum(axis=1, keepdims=True)
    return weights @ values.reshape(-1, columns) / drawn


def resampled_weights(prompts: int, clusters: Clusters | None = None) -> Array:
    """How often each prompt is in each resample: (RESAMPLES, prompt), the same for every call."""
    return _weights(prompts, 1, RESAMPLES, False, numbered(clusters))


def numbered(clusters: Clusters | None) -> tuple[int, ...] | None:
    """The clusters numbered in the order in which they appear, whatever they are called; None where each prompt is its
    own."""
    if clusters is None:
        return None
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    if len(first) == len(clusters):
        return None
    return tuple(np.argsort(np.argsort(first))[inverse].tolist())


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
        return rate_within(self.value, [wilson(self.value, number)])

    def draws(self, seed: int) -> Array:
        """The share itself, then DRAWS values that it may have in truth; the same for equal arguments."""
        hits, misses = self.value * self.number, (1 - self.value) * self.number
        return np.append(self.value, np.random.default_rng(seed).beta(hits + 0.5, misses + 0.5, size=DRAWS))


# A few: the conditional and coherent rates have numbers of prompts of their own
@lru_cache(maxsize=4)
def _weights(
    prompts: int, draws: int, resamples: int, shared: bool = False, places: tuple[int, ...] | None = None
) -> Array:
    """How often each (prompt, draw) is in each resample: (resample, prompt * draw). The same for every call. places:
    the cluster of each prompt, from 0; as many clusters are drawn as there are, each with all of its prompts."""
    random = np.random.default_rng(0)
    number = prompts if places is None else max(places) + 1
    counts = random.multinomial(number, np.full(number, 1 / number), size=resamples)
    if places is not None:
        counts = counts[:, list(places)]
    if draws == 1:
        return counts.astype(float)
    if shared:
        of_draws = random.multinomial(draws, np.full(draws, 1 / draws), size=resamples)
        return (counts[:, :, None] * of_draws[:, None, :]).reshape(resamples, -1).astype(float)
    per_draw = random.multinomial(counts * draws, np.full(draws, 1 / draws))
    return per_draw.reshape(resamples, prompts * draws).astype(float)
