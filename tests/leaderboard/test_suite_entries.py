"""Entries of `--attack auto` on the board: a track of their own, ranked by the area under the robustness curve."""

from __future__ import annotations

from asabench.core.row import Eps50, PromptRadius, Row, SuiteResult
from asabench.submission.tracks import missing
from leaderboard.entries import Entry
from leaderboard.pages import Differences, render_entry, render_index
from leaderboard.ranking import group_tracks, place, rank
from tests.rows import NO_RATE, make_result, make_row, rate

DOSES = (0.1, 0.2, 0.4)


def searched(area: float, **changes: object) -> Row:
    suite = SuiteResult(
        id="auto-1",
        doses=DOSES,
        held=(rate(1.0, 0.9, 1.0), rate(area, area - 0.05, area + 0.05), rate(0.0, 0.0, 0.1)),
        area=rate(area, area - 0.05, area + 0.05),
        radii=(PromptRadius(prompt_id="a", dose=0.2, attack="pgd", layer=2), PromptRadius(prompt_id="b")),
        answers=50,
        grid_answers=1000,
        forwards=2500,
    )
    result = make_result(attack="auto", dose=0.4, masr=rate(1.0, 0.9, 1.0), pasr=NO_RATE, peak_layer=None, lasr={})
    eps50 = Eps50(value=0.3, low=0.2, high=0.4, first=0.0, last=0.4, below=0.2, above=0.4, doses=(0.0, *DOSES))
    row = make_row().model_copy(
        update={
            "results": (result,),
            "eps50": {"auto": eps50},
            "suite": suite,
            "worst": result.masr,
            **{name: getattr(result, name) for name in ("attack", "dose", "masr", "pasr", "peak_layer", "lasr")},
        }
    )
    return row.model_copy(update=changes)


def test_searches_stand_apart_from_grids() -> None:
    entries = [Entry(slug="grid", row=make_row()), Entry(slug="search", row=searched(0.5))]
    tracks = group_tracks(entries)
    assert sorted(track.suite or "" for track in tracks) == ["", "auto-1"]
    assert len({track.key for track in tracks}) == 2
    assert any("suite auto-1" in track.name for track in tracks)


def test_the_larger_area_ranks_first_although_both_are_broken_at_the_largest_dose() -> None:
    entries = [Entry(slug=slug, row=searched(area)) for slug, area in (("weak", 0.2), ("strong", 0.8))]
    placed = [place(entry, {}) for entry in entries]
    ranked = rank([each.__class__(**{**vars(each), "flags": (), "reasons": ()}) for each in placed])
    assert [(each.entry.slug, each.rank) for each in ranked] == [("strong", 1), ("weak", 2)]


def test_a_search_needs_its_end_and_not_the_four_attacks() -> None:
    lacks = missing(searched(0.5), None)
    assert not any("attacks" in lack for lack in lacks)
    open_ = searched(0.5)
    assert open_.suite is not None
    lacks = missing(open_.model_copy(update={"suite": open_.suite.model_copy(update={"open_lines": 3})}), None)
    assert any("3 places are open" in lack for lack in lacks)


def test_the_page_has_the_curve_and_what_broke_the_prompts() -> None:
    (track,) = group_tracks([Entry(slug="search", row=searched(0.5))])
    page = render_entry(track, track.placed[0], Differences(why_none="there is none"), (), None)
    assert "Smallest dose that breaks each prompt" in page
    assert "50 answers were looked at of the 1000" in page
    assert "LASR by layer" not in page
    assert "suite auto-1" in render_index([track], [], {track.key: ()})
