"""Paired differences of an entry to its base model, where both came with the table of their verdicts."""

from __future__ import annotations

from leaderboard.pages import Differences
from leaderboard.ranking import Placed, Track


def paired_differences(track: Track, placed: Placed) -> Differences:
    """At the headline dose, for each attack that both entries have."""
    base = placed.base
    if base is None:
        return Differences(why_none="its base model has no entry here")
    if base.slug not in {other.entry.slug for other in track.placed}:
        return Differences(why_none="its base model's entry stands in another track")
    lacking = [entry.name for entry in (placed.entry, base) if entry.verdicts is None]
    return Differences(why_none=f"there is no table of verdicts of {' and of '.join(lacking)}")
