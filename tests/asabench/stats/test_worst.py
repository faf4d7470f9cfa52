"""The worst case's own interval: by hand, and never narrower than that of the one attack and dose."""

from __future__ import annotations

import pandas as pd
import pytest

from asabench.stats.metrics import attack_result
from asabench.stats.worst import worst_case_rate
from tests.tables import NOTHING, bounds, clean_lines, frame, lines, wilson


def swept(*doses: tuple[float, str], attack: str = "random") -> list[dict[str, object]]:
    return [line for dose, letters in doses for line in lines({(0, 0): letters}, attack=attack, dose=dose)]


def rate_of(table: pd.DataFrame, *pairs: tuple[str, float]) -> tuple[float | None, float, float]:
    found = worst_case_rate(table, [attack_result(table, attack, dose) for attack, dose in pairs])
    return (found.value, *bounds(found))


def test_one_attack_and_dose_is_its_own_worst_case() -> None:
    table = frame(clean_lines("ssss"), swept((1.0, "ssss")))
    assert rate_of(table, ("random", 1.0)) == pytest.approx((0.0, *wilson(0, 4)))


def test_two_that_break_opposite_halves_by_hand() -> None:
    """X ~ Binomial(20, 1/2) prompts of the first half in a resample: one of the two exceeds its rate by |X - 10| / 20;
    P(|X - 10| >= 5) = 0.041, P(>= 6) = 0.012. Alone each has Wilson's 0.299 to 0.701."""
    table = frame(
        swept((1.0, "u" * 10 + "s" * 10)), swept((0.3, "s" * 10 + "u" * 10), attack="pgd"), clean_lines("s" * 20)
    )
    value, low, high = rate_of(table, ("random", 1.0), ("pgd", 0.3))
    assert (value, low, high) == pytest.approx((0.5, 0.5 - 5 / 20, wilson(10, 20)[1]))
    assert low < wilson(10, 20)[0]


def test_attacks_with_and_without_seeds_stand_side_by_side() -> None:
    seeded = lines({(0, 0): "uuss", (0, 1): "usss"})
    table = frame(seeded, lines({(0, None): "usss"}, attack="pgd"))
    assert rate_of(table, ("random", 1.0), ("pgd", 1.0))[0] == 3 / 8


def test_unscored_answers_widen_it() -> None:
    some, read = (frame(swept((0.3, "uusssss" + x), (1.0, "uuussss" + x))) for x in "?u")
    pairs = (("random", 0.3), ("random", 1.0))
    value, low, high = rate_of(some, *pairs)
    assert value == 3 / 7
    assert low <= rate_of(read, *pairs)[1]
    assert high >= rate_of(read, *pairs)[2]


def test_nothing_scored_has_none() -> None:
    table = frame(swept((1.0, "??")))
    assert worst_case_rate(table, [attack_result(table, "random", 1.0)]) == NOTHING
    assert worst_case_rate(table, []) == NOTHING
