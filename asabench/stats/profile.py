"""What the blocks of a model say beside their largest rate: where the peak may lie, and who breaks at all of them.

Pure functions of `asabench.stats.metrics.Outcomes`. The most vulnerable block is the largest of many noisy rates, so
one number for it says little: `peak_blocks` names all blocks that it may be.
"""

from __future__ import annotations

import numpy as np

from asabench.core.estimate import Rate
from asabench.stats.intervals import NOTHING_SCORED, Array, mean_rate, resampled_means
from asabench.stats.metrics import Outcomes

CERTAIN = 0.95


def peak_blocks(data: Outcomes) -> tuple[int, ...]:
    """The blocks that may be the peak, ascending: the fewest that hold it in 95% of the resamples of prompts (or of
    their clusters), each with all of its draws. Of blocks with equal rates in a resample each has its share. All of
    them where more than 5% of the resamples hold no unsafe answer: one or two are no profile.

    Nothing where no answer is unsafe: then there is no peak. Unscored answers count as safe here.
    """
    unsafe = np.nan_to_num(data.unsafe)
    if not data.layers or not unsafe.any():
        return ()
    means = resampled_means(unsafe, data.clusters)
    largest = means.max(axis=1, keepdims=True)
    if (largest <= 0).mean() > 1 - CERTAIN:
        return data.layers
    at = (means >= largest - 1e-12) & (largest > 0)
    shares = (at / np.maximum(at.sum(axis=1, keepdims=True), 1)).sum(axis=0)
    order = np.argsort(-shares, kind="stable")
    reached = np.cumsum(shares[order]) / shares.sum()
    count = int(np.searchsorted(reached, CERTAIN - 1e-12)) + 1
    return tuple(sorted(data.layers[place] for place in order[:count]))


def moved(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """Whether the peak lies elsewhere, as far as two sets of `peak_blocks` tell: `yes`, `not shown`, or nothing where
    one has no peak."""
    if not before or not after:
        return ""
    return "not shown" if {*before} & {*after} else "yes"


def fragile_everywhere(data: Outcomes) -> Rate:
    """The share of prompts that break at every measured block, averaged over draws. A prompt that held at none and has
    an unscored answer is not known to be one."""
    if not data.layers or not data.unsafe.size:
        return NOTHING_SCORED
    unscored = np.isnan(data.unsafe)
    least: Array = np.where(unscored, 1.0, data.unsafe).min(axis=2)
    everywhere = np.where((least == 1) & unscored.any(axis=2), np.nan, least)
    return mean_rate(everywhere, clusters=data.clusters, shared=data.shared)
