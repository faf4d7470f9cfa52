"""The worst case with an interval of its own: the largest MASR over attacks and doses is a maximum of noisy rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from asabench.core.estimate import Rate
from asabench.core.records import CLEAN
from asabench.core.row import AttackResult, worst_case
from asabench.stats.intervals import NOTHING_SCORED, Array, peak_interval, rate_within, readings
from asabench.stats.metrics import broken, clusters_of, outcomes


def worst_case_rate(table: pd.DataFrame, results: Sequence[AttackResult]) -> Rate:
    """The MASR of the worst case of these results with an interval for the largest true MASR among them.

    table: the verdicts that the results were made from. As for PASR (`intervals.peak_interval`): the lower end grants
    what the best of all attacks and doses could exceed its own MASR by, by chance, over the same resampled prompts. A
    prompt's seeds are averaged before. It is never narrower than the interval of that one attack and dose.
    """
    worst = worst_case(results)
    if worst is None:
        return NOTHING_SCORED
    assert worst.masr.value is not None
    assert worst.masr.low is not None
    assert worst.masr.high is not None
    scored = [(result.attack, result.dose) for result in results if result.masr.value is not None]
    prompts = sorted(table.loc[table["attack"] != CLEAN, "prompt_id"].unique())
    clusters = clusters_of(table, prompts)
    columns = [readings(broken(outcomes(table, attack, dose, prompts))) for attack, dose in scored]
    both = [_by_prompt([column[side] for column in columns]) for side in (0, -1)]
    lows = [peak_interval(reading, clusters=clusters)[0] for reading in both]
    return rate_within(worst.masr.value, [(min(*lows, worst.masr.low), worst.masr.high)])


def _by_prompt(columns: Sequence[Array]) -> Array:
    """The share of each prompt's seeds that broke, by attack and dose: (prompt, 1, column). columns: (prompt, seed)."""
    return np.stack([column.mean(axis=1) for column in columns], axis=1)[:, None, :]
