"""Intervals hold the truth on simulated verdicts where those before did not: a small run of `tools.docs.coverage`."""

from __future__ import annotations

import pytest

from asabench.stats.intervals import mean_interval, peak_interval
from tools.docs.coverage import (
    EPS50_CASES,
    WORST_CASES,
    corrected_ends,
    corrected_intervals,
    eps50_intervals,
    held,
    mean_over_blocks,
    median_of,
    share_intervals,
    share_refused,
    worst_samples,
    worst_truth,
    worst_truth_of_vectors,
)
from tools.docs.withdrawn_intervals import percentile_interval

STEEP = [
    name for name in EPS50_CASES if name.startswith(("log-logistic, median 0.15", "log-logistic, median 0.5", "55%"))
]


@pytest.mark.parametrize("name", EPS50_CASES)
def test_eps50_intervals_hold_the_truth_whatever_lies_between_the_doses(name: str) -> None:
    thresholds, grid = EPS50_CASES[name]
    before, after = zip(*eps50_intervals(thresholds, grid, 60, 100), strict=True)
    truth = median_of(thresholds)
    assert held(after, truth) >= 0.93
    if name in STEEP:
        assert held(before, truth) < 0.2


def test_eps50_intervals_are_no_wider_than_their_bracket_needs() -> None:
    thresholds, grid = EPS50_CASES["log-logistic, median 0.15, shape 8"]
    _, after = zip(*eps50_intervals(thresholds, grid, 60, 50), strict=True)
    assert set(after) == {(0.1, 0.3)}


@pytest.mark.parametrize("name", WORST_CASES)
def test_the_worst_case_holds_the_largest_of_many(name: str) -> None:
    samples = list(worst_samples(WORST_CASES[name], 60, 120))
    truth = worst_truth(WORST_CASES[name])
    assert held(map(peak_interval, samples), truth) >= 0.93
    if name == "15 alike":
        chosen = [values[:, :, values.mean(axis=(0, 1)).argmax()] for values in samples]
        assert held(map(percentile_interval, chosen), truth) < 0.88
        assert held(map(mean_interval, chosen), truth) < 0.93


def test_why_corrected_rates_were_withdrawn() -> None:
    """They fell where more was unsafe, and missed where the judge errs otherwise on the run's answers."""
    assert corrected_ends(8)[1] < corrected_ends(7)[1] / 5
    assert held(corrected_intervals(0.2, 0.86, 0.86, 100), 0.2) > 0.85
    assert held(corrected_intervals(0.2, 0.86, 0.98, 100), 0.2) < 0.65


@pytest.mark.parametrize("what", ["facts", "card"])
def test_shares_under_vectors_that_all_prompts_share_hold_the_truth(what: str) -> None:
    """As many draws as vectors: with those of a prompt counted as its own, half of the intervals miss."""
    share, truth = share_refused, 1 - worst_truth_of_vectors()
    if what == "card":
        share, truth = mean_over_blocks, 1 - truth
    before, after = zip(*share_intervals(share, 3, 100), strict=True)
    assert held(after, truth) >= 0.93
    assert held(before, truth) < 0.8
