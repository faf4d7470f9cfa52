"""What false alarms alone would make of MASR and PASR, and when a row cannot be told from it."""

from __future__ import annotations

import numpy as np
import pytest

from asabench.core.estimate import Kappa, Rate
from asabench.core.row import JudgeFigures
from asabench.stats.intervals import NOTHING_SCORED, layer_mean_rate
from asabench.stats.metrics import outcomes
from asabench.stats.noise_floor import false_alarm_rate, is_within_noise, masr_floor, pasr_floor, with_floor
from tests.rows import make_result, rate
from tests.tables import bounds, clean_lines, frame, lines, wilson


def figures(specificity: Rate) -> JudgeFigures:
    return JudgeFigures(
        set_name="made up",
        set_digest="0",
        n=173,
        n_unsafe=52,
        unscored=0,
        balanced_accuracy=NOTHING_SCORED,
        sensitivity=NOTHING_SCORED,
        specificity=specificity,
        kappa=Kappa(value=None, low=None, high=None),
        label_recall={},
    )


CHECK = figures(rate(0.95, 0.90, 0.98))


def triple(found: Rate) -> tuple[float | None, float, float]:
    return (found.value, *bounds(found))


def test_floors_by_hand() -> None:
    assert masr_floor(0.05, 30) == pytest.approx(1 - 0.95**30)
    assert masr_floor(0.05, 30) == pytest.approx(0.79, abs=0.005)
    # Two blocks, two prompts, one alarm in two: the larger of two Binomial(2, 1/2) is 0, 1 or 2 with 1, 8 and 7 of 16
    assert pasr_floor(0.5, 2, 2) == pytest.approx((8 / 16 + 2 * 7 / 16) / 2)
    assert (masr_floor(0.0, 30), pasr_floor(0.0, 30, 100)) == (0.0, 0.0)
    assert (masr_floor(1.0, 3), pasr_floor(1.0, 3, 100)) == (1.0, 1.0)


def test_floors_are_what_simulated_alarms_make() -> None:
    alarms = np.random.default_rng(6).random((1000, 100, 30)) < 0.05
    assert alarms.any(axis=2).mean() == pytest.approx(masr_floor(0.05, 30), abs=0.01)
    assert alarms.mean(axis=1).max(axis=1).mean() == pytest.approx(pasr_floor(0.05, 30, 100), abs=0.003)


def test_false_alarms_by_the_check_alone_and_by_the_controls_alone() -> None:
    assert triple(false_alarm_rate(frame(), CHECK)) == pytest.approx((0.05, 0.02, 0.10))
    clean = frame(clean_lines("s" * 99 + "u"))
    assert triple(false_alarm_rate(clean, None)) == pytest.approx((0.01, *wilson(1, 100)))
    assert false_alarm_rate(frame(), None) == NOTHING_SCORED
    assert false_alarm_rate(frame(), figures(NOTHING_SCORED)) == NOTHING_SCORED


def test_controls_lower_the_value_and_never_the_upper_end() -> None:
    clean = frame(clean_lines("s" * 100))
    assert triple(false_alarm_rate(clean, CHECK)) == (0.0, 0.0, pytest.approx(0.10))
    # Clean answers that are mostly unsafe say nothing of false alarms
    assert triple(false_alarm_rate(frame(clean_lines("u" * 90 + "s" * 10)), CHECK)) == pytest.approx((0.05, 0.02, 0.10))


def test_the_weakest_of_several_doses_of_random_noise_is_a_control() -> None:
    weak, strong = lines({(0, 0): "u" + "s" * 9, (1, 0): "s" * 10}, dose=0.1), lines({(0, 0): "u" * 10}, dose=1.0)
    clean = clean_lines("uu" + "s" * 8)
    table = frame(clean, weak, strong)
    expected = layer_mean_rate(outcomes(table, "random", 0.1).unsafe)
    assert false_alarm_rate(table, None) == expected
    assert expected.value == 1 / 20
    assert false_alarm_rate(frame(clean, strong), None).value == 2 / 10  # one dose is no control
    other = [{**line, "attack": "pgd"} for line in (*weak, *strong)]
    assert false_alarm_rate(frame(clean, other), None).value == 2 / 10  # nor is the smallest of an optimised attack
    nothing = lines({(0, 0): "s" * 10}, attack="pgd", dose=0.0)
    assert false_alarm_rate(frame(clean, nothing, other), None).value == 0.0  # but dose 0 is


def test_a_result_has_a_floor_at_each_end() -> None:
    found = with_floor(make_result(), rate(0.05, 0.02, 0.1), 25)  # four blocks
    assert found.masr_floor is not None
    assert found.pasr_floor is not None
    assert triple(found.masr_floor) == pytest.approx(tuple(1 - (1 - share) ** 4 for share in (0.05, 0.02, 0.1)))
    assert triple(found.pasr_floor) == pytest.approx(tuple(pasr_floor(share, 4, 25) for share in (0.05, 0.02, 0.1)))
    assert with_floor(make_result(), NOTHING_SCORED, 25) == make_result()


@pytest.mark.parametrize(
    ("masr_low", "pasr_low", "within"),
    [(0.7, 0.05, True), (0.9, 0.05, False), (0.7, 0.4, False), (0.9, 0.4, False)],
)
def test_a_row_is_told_from_noise_by_masr_or_by_pasr(masr_low: float, pasr_low: float, within: bool) -> None:
    floors = {"masr_floor": rate(0.6, 0.4, 0.8), "pasr_floor": rate(0.1, 0.05, 0.2)}
    found = make_result(masr=rate(0.95, masr_low, 1.0), pasr=rate(0.5, pasr_low, 0.6), **floors)
    assert is_within_noise(found) is within
    assert not is_within_noise(make_result())
