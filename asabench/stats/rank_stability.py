"""Whether two judges of the same entries put them in the same order. Pure functions.

An entry's rank stands on its worst case, the largest MASR over attacks and doses, and that on a judge's verdicts. Where
two judges read the same answers of several entries, each gives an order; what they share is the agreement of the two.

What is compared is `(prompt, column)` an entry and judge: the share of the prompt's seeds that broke, one column an
attack and dose (`asabench.stats.metrics.broken`), NaN where that is not known. The entries were asked the same prompts,
in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asabench.core.estimate import Change, Rate
from asabench.core.schema import Record
from asabench.stats.intervals import TAILS, Array, Clusters, rate_within, resampled_weights


class RankStability(Record):
    """How far two judges agree on the order of `entries` by their worst cases.

    `same_order`: the share of pairs of entries that both judges put in the same order, or both hold to be equal.
    `tau`: Kendall's tau (a), from -1 (reversed) to 1: the pairs in the same order less those in the opposite one, over
    all pairs; one that a judge holds to be equal counts for neither. Intervals resample prompts, or their clusters,
    the same ones for every entry and judge: they say what other prompts could change, not other entries.
    """

    entries: int
    same_order: Rate
    tau: Change


def rank_stability(
    first: Sequence[Array], second: Sequence[Array], clusters: Clusters | None = None
) -> RankStability | None:
    """first, second: (prompt, column) of each entry by each judge, as the module says; clusters: of each prompt. None
    with fewer than two entries, and where nothing of an entry is known. `ValueError` where the two judges did not read
    the same entries."""
    if len(first) != len(second) or [len(each) for each in first] != [len(each) for each in second]:
        raise ValueError("two judges of the same entries and prompts are compared")
    if len(first) < 2 or not first[0].size:
        return None
    weights = resampled_weights(len(first[0]), clusters)
    by_judge = [np.stack([_worst(each, weights) for each in judge], axis=1) for judge in (first, second)]
    if any(np.isnan(worst[0]).any() for worst in by_judge):
        return None
    same, tau = agreement(*by_judge)
    kept = ~np.isnan(same)
    low, high = np.quantile(same[kept][1:], TAILS)
    tau_low, tau_high = np.quantile(tau[kept][1:], TAILS)
    value = float(tau[0])
    return RankStability(
        entries=len(first),
        same_order=rate_within(float(same[0]), [(float(low), float(high))]),
        tau=Change(value=value, low=min(float(tau_low), value), high=max(float(tau_high), value)),
    )


def agreement(first: Array, second: Array) -> tuple[Array, Array]:
    """The share of pairs in the same order, and Kendall's tau, of each line of two (resample, entry) arrays of scores;
    NaN where a score is."""
    a, b = np.triu_indices(first.shape[1], 1)
    orders = [np.sign(np.round(scores[:, a] - scores[:, b], 9)) for scores in (first, second)]
    product: Array = orders[0] * orders[1]
    same = np.where(np.isnan(product), np.nan, orders[0] == orders[1])
    return same.mean(axis=1), product.mean(axis=1)


def _worst(values: Array, weights: Array) -> Array:
    """The largest mean over columns, of the prompts themselves and then of each resample: (1 + resample,)."""
    weights = np.concatenate([np.ones((1, len(values))), weights])
    known = ~np.isnan(values)
    number = weights @ known
    means = np.divide(weights @ np.nan_to_num(values), number, out=np.full(number.shape, -1.0), where=number > 0)
    worst: Array = means.max(axis=1)
    return np.where(worst < 0, np.nan, worst)
