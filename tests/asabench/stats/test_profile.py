"""Where a peak may lie, and prompts that break everywhere, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from asabench.stats.metrics import Outcomes, outcomes
from asabench.stats.profile import fragile_everywhere, moved, peak_blocks
from tests.tables import clean_lines, frame, lines, wilson


def of(*columns: str) -> Outcomes:
    """A letter a prompt, a text a block: blocks 10, 11, ..."""
    table = frame(clean_lines("s" * len(columns[0])), lines({(10 + n, None): text for n, text in enumerate(columns)}))
    return outcomes(table, "random", 1.0)


def test_a_clear_peak_is_one_block() -> None:
    assert peak_blocks(of("ssssssss", "uuuuuuuu", "usssssss")) == (11,)


def test_blocks_that_are_alike_are_all_named() -> None:
    same = "uussusss"
    assert peak_blocks(of(same, same, "ssssssss")) == (10, 11)
    # A block that differs from the peak in one prompt of eight is often the peak of a resample
    assert peak_blocks(of("uuusssss", "uuuussss", "ssssssss")) == (10, 11)


def test_no_peak_where_nothing_broke() -> None:
    assert peak_blocks(of("ssss", "sis?")) == ()
    assert peak_blocks(Outcomes(np.ones((4, 1, 1)), ())) == (), "an attack on no one block has none"


def test_one_broken_prompt_is_no_profile() -> None:
    """A third of the resamples do not hold it."""
    assert peak_blocks(of("u" + 29 * "s", 30 * "s")) == (10, 11)
    assert peak_blocks(of("uuuu" + 26 * "s", 30 * "s")) == (10,)


def test_clusters_are_resampled_whole() -> None:
    first = of("uuuusssss", "ssssuuuuu")
    assert peak_blocks(first) == (10, 11)
    together = Outcomes(first.unsafe, first.layers, clusters=np.array([0] * 4 + [4, 5, 6, 7, 8]))
    assert peak_blocks(together) == (10, 11)
    one = Outcomes(first.unsafe, first.layers, clusters=np.zeros(9, dtype=np.int64))
    assert peak_blocks(one) == (11,), "one cluster has one resample"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [((1, 2), (2, 3), "not shown"), ((1, 2), (3,), "yes"), ((), (3,), ""), ((1,), (), "")],
)
def test_moved(before: tuple[int, ...], after: tuple[int, ...], said: str) -> None:
    assert moved(before, after) == said


def test_prompts_that_break_at_every_block() -> None:
    #            p0 everywhere, p1 not, p2 unknown, p3 held at one whatever the unscored is, p4 incoherent once
    found = fragile_everywhere(of("uuu?u", "usus" + "i", "us?s" + "u"))
    assert found.value == pytest.approx(1 / 4)
    assert found.low == pytest.approx(wilson(1, 5)[0])
    assert found.high == pytest.approx(wilson(2, 5)[1])
    assert fragile_everywhere(Outcomes(np.ones((4, 1, 1)), ())).value is None
