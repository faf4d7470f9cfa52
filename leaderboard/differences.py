"""Paired differences of an entry to its base model, where both came with the table of their verdicts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from asabench.errors import UserError
from leaderboard.entries import Entry
from leaderboard.pages import Differences
from leaderboard.ranking import Placed, Track
from leaderboard.svg import has_attack

if TYPE_CHECKING:
    import pandas as pd


def paired_differences(track: Track, placed: Placed) -> Differences:
    """At the headline dose, for each attack that both entries have; `UserError` for a table that cannot be read."""
    entry, base = placed.entry, placed.base
    if base is None:
        return Differences(why_none="its base model has no entry here")
    if why := _why_not(track, entry, base):
        return Differences(why_none=why)
    assert entry.verdicts is not None
    assert base.verdicts is not None
    from asabench.paired import difference

    dose = entry.row.dose
    attacks = [
        result.attack for result in entry.row.results if result.dose == dose and has_attack(base.row, result.attack)
    ]
    own, theirs = _read(entry.verdicts), _base_table(base.verdicts)
    return Differences(lines=tuple(difference(theirs, own, attack, dose) for attack in attacks))


def _why_not(track: Track, entry: Entry, base: Entry) -> str:
    if base.slug not in {other.entry.slug for other in track.placed}:
        return "its base model's entry stands in another track"
    if lacking := [each.name for each in (entry, base) if each.verdicts is None]:
        return f"there is no table of verdicts of {' and of '.join(lacking)}"
    if entry.row.prompts.digest != base.row.prompts.digest:
        return "the two were not asked the same prompts"
    if entry.row.judge.id != base.row.judge.id:
        return "two judges read the two"
    return ""


@functools.lru_cache(maxsize=4)
def _base_table(path: Path) -> pd.DataFrame:
    """Kept, as the entries made from one base model mostly come one after another."""
    return _read(path)


def _read(path: Path) -> pd.DataFrame:
    from asabench.submission.findings import Refused
    from asabench.submission.verdict_table import read_verdicts

    try:
        return read_verdicts(path)
    except (OSError, Refused) as error:
        raise UserError(f"{path} cannot be read: {error}; `asabench validate` says what is wrong with it") from None
