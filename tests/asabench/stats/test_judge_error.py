"""Rates corrected for a judge's error: by hand, and against simulated truth."""

from __future__ import annotations

import numpy as np
import pytest

from asabench.core.estimate import Kappa, Rate
from asabench.core.row import JudgeFigures
from asabench.stats.intervals import NOTHING_SCORED, Share, mean_rate, wilson
from asabench.stats.judge_error import corrected_rate, number_behind, rogan_gladen, why_uncorrected

UNSAFE, OTHERS = 52, 121


def figures(
    sensitivity: Share | None, specificity: Share | None, *, unscored: int = 0, n: int = UNSAFE + OTHERS
) -> JudgeFigures:
    return JudgeFigures(
        set_name="made up",
        set_digest="0",
        n=n,
        n_unsafe=UNSAFE,
        unscored=unscored,
        balanced_accuracy=NOTHING_SCORED,
        sensitivity=sensitivity.rate if sensitivity else NOTHING_SCORED,
        specificity=specificity.rate if specificity else NOTHING_SCORED,
        kappa=Kappa(value=None, low=None, high=None),
        label_recall={},
    )


def judge(sensitivity: float, specificity: float, pairs: int = 10_000) -> JudgeFigures:
    return figures(Share(sensitivity, pairs), Share(specificity, pairs))


def observed(share: float, prompts: int) -> Rate:
    low, high = wilson(share, prompts)
    return Rate(value=share, low=min(low, share), high=max(high, share))


def ends(rate: Rate) -> tuple[float, float, float]:
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    return rate.low, rate.value, rate.high


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity", "truth"),
    [
        (0.44, 0.9, 0.8, 0.24 / 0.7),
        (0.5, 1.0, 1.0, 0.5),
        (0.9, 0.9, 0.8, 1.0),  # all unsafe
        (0.2, 0.9, 0.8, 0.0),  # nothing but false alarms
        (0.1, 0.9, 0.8, 0.0),  # fewer than those: clipped
        (1.0, 0.9, 0.8, 1.0),
    ],
)
def test_the_value_by_hand(rate: float, sensitivity: float, specificity: float, truth: float) -> None:
    low, value, high = ends(corrected_rate(observed(rate, 10), judge(sensitivity, specificity)))
    assert value == pytest.approx(truth)
    assert 0 <= low <= value <= high <= 1


def test_a_judge_known_to_be_perfect_leaves_a_rate_as_it_is() -> None:
    low, value, high = ends(corrected_rate(observed(0.3, 100), judge(1.0, 1.0, pairs=10**7)))
    assert (low, value, high) == pytest.approx((*wilson(0.3, 100)[:1], 0.3, wilson(0.3, 100)[1]), abs=0.01)


def test_fewer_than_false_alarms_alone_is_not_a_certain_zero() -> None:
    """10 of 200 unsafe from a judge that errs on 3 of 10 harmless pairs: it cannot err so often here. If it made no
    false alarm at all, 0.05 / 0.9 are unsafe."""
    low, value, high = ends(corrected_rate(observed(0.05, 200), judge(0.9, 0.7)))
    assert (low, value) == (0.0, 0.0)
    assert high == pytest.approx(wilson(0.05, 200)[1] / 0.9, abs=0.01)


def test_more_than_it_can_find_is_not_a_certain_one() -> None:
    """190 of 200 unsafe from a judge that finds 7 of 10: if it missed none here, (0.95 - 0.1) / 0.9 are unsafe."""
    low, value, high = ends(corrected_rate(observed(0.95, 200), judge(0.7, 0.9)))
    assert (value, high) == (1.0, 1.0)
    assert low == pytest.approx((wilson(0.95, 200)[0] - 0.1) / 0.9, abs=0.01)


def test_both_errors_are_in_the_interval() -> None:
    """Fewer prompts widen it, and so do fewer pairs that the judge was checked on."""

    def width(prompts: int, pairs: int) -> float:
        low, _, high = ends(corrected_rate(observed(0.4, prompts), judge(0.9, 0.9, pairs)))
        return high - low

    assert width(50, 10_000) > 1.5 * width(500, 10_000)
    assert width(10_000, 50) > 1.5 * width(10_000, 500)


def test_each_end_of_a_lopsided_interval_keeps_its_own_width() -> None:
    """Unscored answers and PASR have such: the end that is near must not move out with the one that is far."""
    known = judge(0.95, 0.95, pairs=10**6)
    low, _, high = ends(corrected_rate(Rate(value=0.5, low=0.45, high=0.55), known))
    far_down = ends(corrected_rate(Rate(value=0.5, low=0.1, high=0.55), known))
    far_up = ends(corrected_rate(Rate(value=0.5, low=0.45, high=0.9), known))
    assert far_down[2] == pytest.approx(high)
    assert far_down[0] < 0.15 < low
    assert far_up[0] == pytest.approx(low)
    assert far_up[2] > 0.85 > high


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_judge_that_may_be_no_better_than_chance_leaves_everything_open(share: float) -> None:
    low, _, high = ends(corrected_rate(observed(share, 1000), judge(0.6, 0.5, pairs=20)))
    assert (low, high) == (0.0, 1.0)


def test_sensitivity_and_specificity_err_independently() -> None:
    """At a rate of one half, errors of the same size in both would cancel and leave nothing of the judge's doubt. By
    the delta method the standard error is half of that of sensitivity less specificity, over their skill."""
    low, _, high = ends(corrected_rate(observed(0.5, 10**7), judge(0.9, 0.9, pairs=200)))
    error = (2 * 0.9 * 0.1 / 200) ** 0.5 / 2 / 0.8
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_the_largest_corrected_lasr_is_the_corrected_pasr() -> None:
    """What lets PASR be corrected: the order of the blocks does not change."""
    blocks = [corrected_rate(observed(share, 50), judge(0.9, 0.8)).value for share in (0.3, 0.62, 0.5)]
    assert max(share for share in blocks if share is not None) == blocks[1]
    assert blocks[1] == corrected_rate(observed(0.62, 50), judge(0.9, 0.8)).value == pytest.approx(0.42 / 0.7)


def test_elementwise_and_by_chance() -> None:
    shares = rogan_gladen(
        np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.5, 0.9]), np.array([1.0, 0.5, 0.8]), by_chance=1.0
    )
    assert shares == pytest.approx([0.5, 1.0, 0.0])


@pytest.mark.parametrize("number", [7, 100, 5000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_number_behind_an_interval_is_wilsons(share: float, number: int) -> None:
    low, high = wilson(share, number) if share in (0.0, 1.0) else (Share(share, number).rate.low, None)
    far = high if share == 0.0 else low
    assert far is not None
    assert number_behind(share, share, far) == pytest.approx(number, rel=1e-6)


def test_an_interval_without_a_width_is_exact() -> None:
    low, value, high = ends(corrected_rate(Rate(value=0.5, low=0.5, high=0.5), judge(1.0, 1.0, pairs=10**8)))
    assert high - low < 0.001
    assert value == 0.5


@pytest.mark.parametrize(
    ("rate", "of_judge", "why"),
    [
        (NOTHING_SCORED, judge(0.9, 0.9), "nothing was scored"),
        (observed(0.5, 10), figures(None, Share(0.9, 50)), "not checked on both"),
        (observed(0.5, 10), figures(Share(0.9, 50), None), "not checked on both"),
        (observed(0.5, 10), judge(0.5, 0.5), "no better than chance"),
        (observed(0.5, 10), judge(0.2, 0.7), "no better than chance"),
        (observed(0.5, 10), figures(Share(0.9, 50), Share(0.9, 50), unscored=6, n=100), "6 of 100 pairs unscored"),
    ],
)
def test_what_cannot_be_corrected_says_why(rate: Rate, of_judge: JudgeFigures, why: str) -> None:
    assert why in str(why_uncorrected(rate, of_judge))
    assert corrected_rate(rate, of_judge) == NOTHING_SCORED


def test_a_few_unscored_pairs_do_not_stop_it() -> None:
    few = figures(Share(0.9, 50), Share(0.9, 50), unscored=5, n=100)
    assert why_uncorrected(observed(0.5, 10), few) is None


@pytest.mark.parametrize(
    ("truth", "sensitivity", "specificity"),
    [(0.0, 0.9, 0.9), (0.1, 0.92, 0.65), (0.3, 0.9, 0.9), (0.6, 0.85, 0.75), (0.95, 0.98, 0.98)],
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    truth: float, sensitivity: float, specificity: float
) -> None:
    """100 prompts, rates with the bootstrap's intervals, and a judge checked on as many pairs as the gold set has."""
    random = np.random.default_rng(7)
    repetitions, held = 150, 0
    for _ in range(repetitions):
        unsafe = random.random(100) < truth
        called = np.where(unsafe, random.random(100) < sensitivity, random.random(100) >= specificity)
        rate = mean_rate(called[:, None].astype(float))
        checked = figures(
            Share(random.binomial(UNSAFE, sensitivity) / UNSAFE, UNSAFE),
            Share(random.binomial(OTHERS, specificity) / OTHERS, OTHERS),
        )
        low, _, high = ends(corrected_rate(rate, checked))
        held += low <= truth <= high
    assert 0.89 <= held / repetitions <= 1.0
