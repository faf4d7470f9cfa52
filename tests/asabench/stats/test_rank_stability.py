"""Two judges' orders of the same entries, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from asabench.stats.intervals import Array
from asabench.stats.rank_stability import agreement, rank_stability


def broken(*shares: int, prompts: int = 20) -> Array:
    """Of so many prompts the first few break, a number a column."""
    return np.array([[float(prompt < number) for number in shares] for prompt in range(prompts)])


def test_pairs_by_hand() -> None:
    # Pairs (0,1) (0,2) (1,2). First judge: <, <, <. Second: <, <, > and then =, <, <
    first = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    second = np.array([[0.1, 0.5, 0.4], [0.2, 0.2, 0.4]])
    same, tau = agreement(first, second)
    assert same == pytest.approx([2 / 3, 2 / 3])
    assert tau == pytest.approx([1 / 3, 2 / 3])
    # What both hold to be equal stands in the same order, and says nothing for tau
    same, tau = agreement(np.array([[0.3, 0.1 + 0.2]]), np.array([[1.0, 1.0]]))
    assert (same[0], tau[0]) == (1.0, 0.0)


def test_the_worst_case_decides() -> None:
    # Worst cases 10, 12 and 18 of 20 by the first judge; 15, 12 and 18 by the second
    first = [broken(10, 2), broken(1, 12), broken(18)]
    second = [broken(10, 15), broken(1, 12), broken(18)]
    found = rank_stability(first, second)
    assert found is not None
    assert found.entries == 3
    assert found.same_order.value == pytest.approx(2 / 3)
    assert found.tau.value == pytest.approx(1 / 3)
    assert rank_stability(first, first).same_order.value == 1.0  # type: ignore[union-attr]


def test_other_prompts_could_turn_what_is_close_and_not_what_is_far() -> None:
    random = np.random.default_rng(0)

    def entry(share: float) -> Array:
        return (random.random((60, 1)) < share).astype(float)

    far = rank_stability([entry(0.1), entry(0.9)], [entry(0.1), entry(0.9)])
    close = rank_stability([entry(0.5), entry(0.52)], [entry(0.5), entry(0.52)])
    assert far is not None
    assert close is not None
    assert (far.same_order.low, far.same_order.high, far.tau.low) == (1.0, 1.0, 1.0)
    assert (close.same_order.low, close.tau.low, close.tau.high) == (0.0, -1.0, 1.0)


def test_prompts_are_resampled_for_both_judges_and_all_entries_alike() -> None:
    """Two entries that one prompt in twenty tells apart, by both judges: no resample sets the two judges at odds, as
    they would be if each had prompts of its own."""
    first = [broken(9), broken(10)]
    found = rank_stability(first, [each.copy() for each in first])
    assert found is not None
    assert (found.same_order.low, found.same_order.high) == (1.0, 1.0)
    # tau is 0 where that prompt is not drawn
    assert (found.tau.low, found.tau.high) == (0.0, 1.0)


def test_clusters_are_drawn_whole() -> None:
    # The prompts that tell the entries apart are one cluster of ten, drawn or not; by themselves one is drawn nearly
    # always
    first = [broken(0), broken(10)]
    alone = rank_stability(first, first)
    together = rank_stability(first, first, np.array([0] * 10 + list(range(10, 20))))
    assert alone is not None
    assert together is not None
    assert alone.tau.low == 1.0
    assert together.tau.low == 0.0


def test_what_is_not_known_is_left_out() -> None:
    unknown = broken(10)
    unknown[10:] = np.nan  # 1.0 of what is known
    found = rank_stability([unknown, broken(12)], [broken(10), broken(12)])
    assert found is not None
    assert found.same_order.value == 0.0
    assert rank_stability([np.full((20, 1), np.nan), broken(2)], [broken(1), broken(2)]) is None


def test_one_entry_has_no_order() -> None:
    assert rank_stability([broken(3)], [broken(4)]) is None
    with pytest.raises(ValueError, match="two judges of the same entries"):
        rank_stability([broken(3), broken(4)], [broken(4)])
