"""The board's first pictures: where a point stands, what a curve says, and what is left out."""

from __future__ import annotations

import re

import pytest

from asabench.core.row import Row
from leaderboard.entries import Entry
from leaderboard.frontier import (
    BOTTOM,
    EPS50,
    HOLD,
    LEFT,
    MOST,
    RIGHT,
    TOP,
    best_curves,
    curves_svg,
    dose_curve,
    frontier_svg,
    of_dose,
    spots,
)
from leaderboard.ranking import Placed, group_tracks
from tests.board_fixtures import complete_row, make_submission, make_utility, row_with_worst_case
from tests.rows import make_result, make_row, rate


def placed(*entries: Entry) -> tuple[Placed, ...]:
    (track,) = group_tracks(entries)
    return track.placed


def entry(slug: str, row: Row, benign: float = 0.9, **details: object) -> Entry:
    return Entry(slug=slug, row=row, submission=make_submission(slug, **details), utility=make_utility(benign))


def test_places_on_the_axis_of_doses_are_even_in_ratio() -> None:
    assert of_dose(0.02) == 0
    assert of_dose(2.0) == pytest.approx(1)
    assert of_dose(0.2) == pytest.approx(0.5)
    assert (of_dose(0.0), of_dose(50.0)) == (0, 1)


def test_a_point_stands_where_its_numbers_are() -> None:
    """Without eps50 the axis is the worst case: one less the share that broke."""
    row = row_with_worst_case(0.25, run_id="a").model_copy(update={"eps50": {}})
    axis, (spot,) = spots(placed(entry("a", row, 0.5)))
    assert axis is HOLD
    assert (spot.x[0], spot.y[0]) == (0.5, 0.75)
    assert spot.y[1] <= spot.y[0] <= spot.y[2]
    drawn = frontier_svg(placed(entry("a", row, 0.5)))
    x, y = LEFT + (RIGHT - LEFT) * 0.5, BOTTOM - (BOTTOM - TOP) * 0.75
    assert f'cx="{x:g}" cy="{y:g}"' in drawn


def test_eps50_is_the_axis_where_every_entry_has_one() -> None:
    with_both = placed(entry("a", complete_row(run_id="a")), entry("b", complete_row(run_id="b")))
    assert spots(with_both)[0] is EPS50
    bare = complete_row(run_id="b").model_copy(update={"eps50": {}})
    assert spots(placed(entry("a", complete_row(run_id="a")), entry("b", bare)))[0] is HOLD


def test_an_arrow_leads_from_a_base_to_what_was_made_of_it() -> None:
    base = entry("base", row_with_worst_case(0.9, run_id="base").model_copy(update={"eps50": {}}), 0.9)
    made = entry(
        "made",
        row_with_worst_case(0.2, run_id="made").model_copy(update={"eps50": {}}),
        0.6,
        base={"name": "Base", "revision": "1", "entry": "base"},
        defence="LAPT",
    )
    assert frontier_svg(placed(base, made)).count('class="arrow"') == 1
    assert 'class="arrow"' not in frontier_svg(placed(base))


def test_entries_without_harmless_requests_have_no_point_and_no_picture() -> None:
    row = complete_row(run_id="a")
    alone = placed(Entry(slug="a", row=row, submission=make_submission("a")))
    assert frontier_svg(alone) == ""


def test_a_large_board_shows_its_best() -> None:
    many = [
        entry(f"e{n}", row_with_worst_case(n / 100, run_id=f"e{n}").model_copy(update={"eps50": {}}))
        for n in range(MOST + 5)
    ]
    _, found = spots(placed(*many))
    assert len(found) == MOST
    assert [spot.placed.entry.slug for spot in found[:2]] == ["e0", "e1"]


def test_a_curve_falls_and_never_rises() -> None:
    """At the largest dose the text breaks before the refusal does: that is no refusal that holds."""
    results = tuple(
        make_result(attack="pgd", dose=dose, masr=rate(value, value, value))
        for dose, value in ((0.1, 0.25), (0.3, 0.75), (1.0, 0.5))
    )
    row = make_row(results=results, init=rate(0.0, 0.0, 0.0))
    assert dose_curve(row) == [(0.0, 1.0), (0.1, 0.75), (0.3, 0.25), (1.0, 0.25)]


def test_curves_say_their_numbers_and_stay_few() -> None:
    six = placed(*(entry(f"e{n}", complete_row(run_id=f"e{n}")) for n in range(6)))
    assert len(best_curves(six)) == 4
    drawn = curves_svg(six)
    assert drawn.count('<path class="line line-') == 4
    assert re.search(r'aria-label="Refusals that hold by dose\. .*% at ', drawn)


def test_names_from_outside_stay_text() -> None:
    hostile = '"><script>alert(1)</script>'
    row = complete_row(run_id="a", model={"name": hostile})
    drawn = frontier_svg(placed(Entry(slug="a", row=row, utility=make_utility(0.9))))
    assert drawn
    assert "<script" not in drawn
