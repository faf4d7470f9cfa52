"""LASR of an entry at the blocks that its training perturbed, and at the others, beside its base model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leaderboard.differences import read_table
from leaderboard.ranking import Placed, Track

if TYPE_CHECKING:
    from asabench.card.records import LayerShare


def block_shares(track: Track, placed: Placed) -> tuple[LayerShare, ...]:
    """One an attack and dose. Nothing where the entry's card names no such blocks, or where they are all of those
    measured, or none. The base counts where it stands in the same track, was asked the same prompts and was attacked at
    the same blocks. `UserError` for a table that cannot be read."""
    entry, base = placed.entry, placed.base
    if entry.row.suite is not None:
        return ()  # a search says of most blocks that another did better
    if entry.card is None or entry.verdicts is None or not entry.card.generalisation.trained_layers:
        return ()
    from asabench.card.layers import layer_shares

    table, of_base, attacked = read_table(entry.verdicts), None, set()
    if (
        base is not None
        and base.verdicts is not None
        and base.slug in {other.entry.slug for other in track.placed}
        and base.row.prompts.digest == entry.row.prompts.digest
        and base.row.layers == entry.row.layers
    ):
        of_base = read_table(base.verdicts)
        attacked = {(result.attack, result.dose) for result in base.row.results}
    trained = entry.card.generalisation.trained_layers
    return tuple(
        share
        for pair in ((result.attack, result.dose) for result in entry.row.results)
        for share in layer_shares(
            table, of_base if pair in attacked else None, [pair], trained, shared=entry.shared_noise
        )
    )
