"""Differences between two runs over the prompts that both have: B less A, paired by prompt.

Pure functions of two tables of `asabench.stats.metrics`. What two models share, above all how hard a prompt is, cancels
in a paired difference; so a defence is judged against its base model by these and not by whether two intervals overlap.

Intervals resample prompts, each with all of its draws in both runs: prompts are independent, and a prompt's mean over
draws carries the noise of its draws. Where the first table has clusters of prompts, these are resampled, each with all
of its prompts. A width of zero says that the runs agree on every prompt, not that no prompt
anywhere could differ: with none of n different, up to about 3 / n of them might.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from asabench.core.estimate import Change
from asabench.core.row import AgainstControl
from asabench.core.suite import AUTO
from asabench.stats.intervals import (
    TAILS,
    Array,
    Clusters,
    Interval,
    independent,
    readings,
    resampled_means,
    wilson,
)
from asabench.stats.metrics import BUDGETS, Outcomes, broken, broken_within, clean_broken, outcomes, steered_lines

NO_CHANGE_KNOWN = Change(value=None, low=None, high=None)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """B less A at one attack and dose, over the `prompts` that both have.

    The rates are two-label ones. `only_a` and `only_b` count the prompts that broke more in A, and in B;
    `p_value` is of McNemar's exact test that they are equally many. `asr_at_k` is keyed by k.
    """

    attack: str
    dose: float
    prompts: int
    init: Change
    masr: Change
    pasr: Change
    only_a: int
    only_b: int
    p_value: float | None
    asr_at_k: dict[int, Change] = field(default_factory=dict)


def difference(table_a: pd.DataFrame, table_b: pd.DataFrame, attack: str, dose: float) -> Difference:
    """Paired differences of INIT, MASR, PASR and ASR@k.

    A prompt that is not known in both (unscored) leaves a value, and the interval is widened to hold every reading of
    it. The p-value is over the known ones: McNemar's exact test with one seed; with more, the sign test on the share
    of seeds by which a prompt broke, which is McNemar's where that share is 0 or 1. With clusters: the sign test on the
    sum of each.
    """
    prompts = shared_prompts(table_a, table_b, attack, dose)
    a, b = (outcomes(table, attack, dose, prompts) for table in (table_a, table_b))
    # A suite's search leaves a block as soon as another has done better: it counts prompts alone
    searched = attack == AUTO
    layers = 0 if searched else min(len(data.layers) for data in (a, b))
    only_a, only_b, p_value = _sign_test(_known_mean(broken(a)), _known_mean(broken(b)), a.clusters)
    return Difference(
        attack=attack,
        dose=dose,
        prompts=len(prompts),
        init=_mean_change(clean_broken(table_a, prompts), clean_broken(table_b, prompts), a.clusters),
        masr=_mean_change(broken(a), broken(b), a.clusters),
        pasr=pasr_change(a, b) if layers and not searched else NO_CHANGE_KNOWN,
        only_a=only_a,
        only_b=only_b,
        p_value=p_value,
        asr_at_k={k: _asr_change(a, b, k) for k in BUDGETS if k <= layers},
    )


def against_control(table: pd.DataFrame, attack: str, control: str, dose: float) -> AgainstControl:
    """An attack less its control at a dose, over the prompts that both have answers of in one table. The mean over its
    seeds counts of one that draws."""
    there = [set(steered_lines(table, name, dose)["prompt_id"]) for name in (control, attack)]
    a, b = (outcomes(table, name, dose, sorted(there[0] & there[1])) for name in (control, attack))
    return AgainstControl(
        attack=control,
        masr=_mean_change(broken(a), broken(b), a.clusters),
        pasr=pasr_change(a, b) if a.layers and b.layers else NO_CHANGE_KNOWN,
    )


def shared_prompts(table_a: pd.DataFrame, table_b: pd.DataFrame, attack: str, dose: float) -> list[str]:
    """The prompts that both tables have answers of under that attack at that dose, sorted."""
    a, b = (set(steered_lines(table, attack, dose)["prompt_id"]) for table in (table_a, table_b))
    return sorted(a & b)


def pasr_change(a: Outcomes, b: Outcomes) -> Change:
    """PASR of B less that of A; the arrays share the axis of prompts, not their layers or draws.

    Each PASR is the largest of many noisy rates, and lies above the truth by the more the flatter its profile: their
    difference is biased too, and a bootstrap of it repeats that. So, as for PASR itself (decision 0003), an end of the
    interval grants the run that would have to be overstated for it all that its best layer could exceed its own rate
    by, by chance, and the other run its peak layer's own deviation, in the same resamples.
    """
    if not a.unsafe.size or not b.unsafe.size:
        return NO_CHANGE_KNOWN
    if a.layers == b.layers and np.array_equal(a.unsafe, b.unsafe, equal_nan=True):
        # One and the same outcomes have one and the same peak, whichever it truly is: nothing to grant
        return NO_CHANGE_KNOWN if np.isnan(a.unsafe).all() else Change(value=0.0, low=0.0, high=0.0)
    value = _peak(b) - _peak(a)
    if np.isnan(value):
        return NO_CHANGE_KNOWN
    ends = [
        _pasr_interval(of_a.mean(axis=1), of_b.mean(axis=1), a.clusters)
        for of_a, of_b in _opposite_readings(a.unsafe, b.unsafe)
    ]
    return _change(value, ends)


def _pasr_interval(a: Array, b: Array, clusters: Clusters | None) -> Interval:
    """a, b: (prompt, layer), no NaN."""
    value = float(b.mean(axis=0).max() - a.mean(axis=0).max())
    off_a, off_b = (resampled_means(each[:, None, :], clusters) - each.mean(axis=0) for each in (a, b))
    peak_a, peak_b = (int(each.mean(axis=0).argmax()) for each in (a, b))
    low = value - float(np.quantile(off_b.max(axis=1) - off_a[:, peak_a], TAILS[1]))
    high = value + float(np.quantile(off_a.max(axis=1) - off_b[:, peak_b], TAILS[1]))
    return _not_certain(low, high, independent(len(a), clusters))


def _peak(data: Outcomes) -> float:
    known = ~np.isnan(data.unsafe)
    number = known.sum(axis=(0, 1))
    scored = number > 0
    shares = np.nansum(data.unsafe, axis=(0, 1))[scored] / number[scored]
    return float(shares.max()) if scored.any() else float("nan")


def _asr_change(a: Outcomes, b: Outcomes, k: int) -> Change:
    known = _known_mean(broken_within(b.unsafe, k)) - _known_mean(broken_within(a.unsafe, k))
    ends = [
        broken_within(of_b, k).mean(axis=1) - broken_within(of_a, k).mean(axis=1)
        for of_a, of_b in _opposite_readings(a.unsafe, b.unsafe)
    ]
    return _change_of_means(known, ends, a.clusters)


def _mean_change(a: Array, b: Array, clusters: Clusters | None) -> Change:
    """a, b: (prompt, draw), NaN unscored; each with its own number of draws."""
    if not a.size or not b.size:
        return NO_CHANGE_KNOWN
    ends = [of_b.mean(axis=1) - of_a.mean(axis=1) for of_a, of_b in _opposite_readings(a, b)]
    return _change_of_means(_known_mean(b) - _known_mean(a), ends, clusters)


def _change_of_means(known: Array, ends: Sequence[Array], clusters: Clusters | None) -> Change:
    """known: the difference of each prompt, NaN where it is not known; ends: with the unknown read either way."""
    if np.isnan(known).all():
        return NO_CHANGE_KNOWN
    return _change(float(np.nanmean(known)), [_interval(end, clusters) for end in ends])


def _interval(by_prompt: Array, clusters: Clusters | None) -> Interval:
    """by_prompt: (prompt,), differences, no NaN."""
    low, high = np.quantile(resampled_means(by_prompt[:, None, None], clusters), TAILS)
    return _not_certain(float(low), float(high), independent(len(by_prompt), clusters))


def _not_certain(low: float, high: float, prompts: float) -> Interval:
    """Wilson's interval where every prompt changed alike: nothing to resample, but a few prompts prove little."""
    if low < high or low == 0:
        return low, high
    ends = wilson(min(abs(low), 1.0), prompts)
    return ends if low > 0 else (-ends[1], -ends[0])


def _opposite_readings(a: Array, b: Array) -> list[tuple[Array, Array]]:
    """What would make the difference smallest and largest: the unscored unsafe in A and safe in B, and the reverse."""
    if not np.isnan(a).any() and not np.isnan(b).any():
        return [(a, b)]
    return [(readings(a)[-1], readings(b)[0]), (readings(a)[0], readings(b)[-1])]


def _change(value: float, ends: Sequence[Interval]) -> Change:
    lows, highs = zip(*ends, strict=True)
    return Change(value=value, low=max(min(*lows, value), -1.0), high=min(max(*highs, value), 1.0))


def _known_mean(values: Array) -> Array:
    """Mean over the known draws of (prompt, draw): (prompt,), NaN where none is."""
    number = (~np.isnan(values)).sum(axis=1)
    means: Array = np.full(len(values), np.nan)
    np.divide(np.nansum(values, axis=1), number, out=means, where=number > 0)
    return means


def _sign_test(a: Array, b: Array, clusters: Clusters | None) -> tuple[int, int, float | None]:
    """How many prompts broke more in A, and in B, and the exact two-sided p-value of an even split of prompts, or of
    clusters by the sum of their prompts. a, b: (prompt,)"""
    known = ~np.isnan(a) & ~np.isnan(b)
    only_a, only_b = int((a[known] > b[known]).sum()), int((b[known] > a[known]).sum())
    if not known.any():
        return only_a, only_b, None
    in_a, in_b = only_a, only_b
    if clusters is not None:
        of = np.unique(clusters[known], return_inverse=True)[1]
        sums = np.bincount(of, weights=b[known] - a[known])
        in_a, in_b = int((sums < -1e-9).sum()), int((sums > 1e-9).sum())
    if not in_a + in_b:
        return only_a, only_b, 1.0
    return only_a, only_b, float(binomtest(in_b, in_a + in_b, 0.5).pvalue)
