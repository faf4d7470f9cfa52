"""The board's pages as HTML: Jinja2 templates over entries that are already placed. Pure functions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment

from asabench.core.attack_names import REQUIRED_ATTACKS
from asabench.core.links import REPOSITORY, link
from asabench.core.records import SHARES
from asabench.core.row import MEASURES, worst_case
from asabench.core.text import eps50_text, interval_text, where
from asabench.runs.command import command_words, evaluate_words, on_lines, preparation
from asabench.submission.evidence import level, power_words
from asabench.submission.tracks import is_certified
from leaderboard.charts.card_svg import loss_svg, refusals_svg
from leaderboard.charts.svg import dose_svg, lasr_svg, mix_svg, series, worst_by_attack
from leaderboard.citing import PAPER_BIBTEX, bibtex
from leaderboard.downloads import MARK
from leaderboard.entries import Entry, created
from leaderboard.frontier import best_curves, curves_svg, frontier_svg
from leaderboard.ranking import Placed, Track, eps50_ordered, smallest_eps50
from leaderboard.reported import Reported
from leaderboard.templating import page_environment
from leaderboard.terms import COLUMNS, GROUPS, TERMS, column_rules, tab_rules
from leaderboard.text import (
    NONE,
    format_change,
    format_estimate,
    format_number,
    number_ranges,
    share,
    short_count,
    total_verdicts,
)

if TYPE_CHECKING:
    from asabench.card.records import LayerShare
    from asabench.stats.paired import Difference
    from asabench.stats.rank_stability import RankStability

SCRIPTS = ("board.js", "compare.js")


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Paired differences of an entry to its base model; without any, `why_none` says why."""

    lines: tuple[Difference, ...] = ()
    why_none: str = ""


@dataclass(frozen=True, kw_only=True)
class JudgesAgree:
    """Two judges of the same ranked entries of a track, by slug, and how far they agree on their order."""

    judges: tuple[str, str]
    slugs: tuple[str, ...]
    found: RankStability


@functools.cache
def _environment() -> Environment:
    filters = {
        "estimate": format_estimate,
        "change": format_change,
        "eps50": eps50_text,
        "smallest_eps50": smallest_eps50,
        "eps50_ordered": eps50_ordered,
        "worst_of": lambda row, attack: worst_case(row.results, attack),
        "where": where,
        "is_certified": is_certified,
        "interval": interval_text,
        "number": format_number,
        "ranges": number_ranges,
        "short_count": short_count,
        "total": total_verdicts,
        "lasr_svg": lasr_svg,
        "dose_svg": dose_svg,
        "mix_svg": mix_svg,
        "loss_svg": loss_svg,
        "refusals_svg": refusals_svg,
        "frontier_svg": frontier_svg,
        "curves_svg": curves_svg,
        "best_curves": best_curves,
        "evidence_level": level,
        "power_words": power_words,
    }
    names = {
        "share": share,
        "link": link,
        "REPOSITORY": REPOSITORY,
        "NONE": NONE,
        "MARK": MARK,
        "TERMS": TERMS,
        "GROUPS": GROUPS,
        "COLUMNS": COLUMNS,
        "ATTACKS": REQUIRED_ATTACKS,
        "MEASURES": MEASURES,
        "SHARES": SHARES,
    }
    return page_environment(filters, names)


def source(name: str) -> str:
    """One of our own files among the templates, as it is."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def render_style(tracks: Sequence[Track]) -> str:
    return source("style.css") + tab_rules(len(tracks) + 1) + column_rules()


def by_experiment(reported: Sequence[Reported]) -> dict[str, list[Reported]]:
    """The lines of each experiment, in the order in which the experiments first come."""
    groups: dict[str, list[Reported]] = {}
    for line in reported:
        groups.setdefault(line.experiment, []).append(line)
    return groups


def opened(tracks: Sequence[Track]) -> int:
    """The place of the track that is shown first: that with most entries in ranks."""
    ranked = [sum(placed.rank is not None for placed in track.placed) for track in tracks]
    return max(range(len(tracks)), key=lambda place: (ranked[place], tracks[place].ranks, -place))


def render_index(
    tracks: Sequence[Track],
    reported: Sequence[Reported],
    agree: Mapping[str, Sequence[JudgesAgree]],
    url: str | None = None,
) -> str:
    """The tables of all tracks, a tab each. agree: by a track's key, how far two judges agree on the order of its
    entries."""
    rows = [placed.entry.row for track in tracks for placed in track.placed]
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            tracks=tracks,
            reported_groups=by_experiment(reported),
            agree=agree,
            opened=opened(tracks),
            url=url,
            n_rows=len(rows),
            newest=max(rows, key=created).created,
        )
        .lstrip()
    )


def render_entry(
    track: Track, placed: Placed, differences: Differences, shares: Sequence[LayerShare], url: str | None
) -> str:
    """The page of one entry. A base model of the same track is drawn beside it: other rates do not compare."""
    row, base = placed.entry.row, placed.base
    same_track = base is not None and base.slug in {other.entry.slug for other in track.placed}
    return (
        _environment()
        .get_template("entry.html.j2")
        .render(
            track=track,
            placed=placed,
            smallest=smallest_eps50(row),
            headline_results=worst_by_attack(row),
            attacks=list(dict.fromkeys(result.attack for result in series(row))),
            base_row=base.row if base is not None and same_track else None,
            base_utility=None if base is None else base.utility,
            differences=differences,
            shares=shares,
            commands=[on_lines(words) for words in _commands(placed.entry)],
            preparation=preparation(row),
            citation=bibtex(placed.entry, url),
            paper_citation=PAPER_BIBTEX,
        )
        .lstrip()
    )


def _commands(entry: Entry) -> list[list[str]]:
    """The submission's own, which say more than its row: one a run."""
    given = () if entry.submission is None else entry.submission.reproduce
    return [command_words(command) for command in given] or [evaluate_words(entry.row)]


def render_compare() -> str:
    """The page that compares entries; what it compares comes from scripts beside it."""
    return _environment().get_template("compare.html.j2").render().lstrip()
