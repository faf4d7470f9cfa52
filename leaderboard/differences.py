"""Paired differences of an entry to its base model, where both came with the table of their verdicts."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asabench.core.errors import UserError
from asabench.core.files import read_record
from asabench.core.records import CLEAN
from leaderboard.charts.svg import worst_by_attack
from leaderboard.pages import Differences
from leaderboard.ranking import Placed, Track

if TYPE_CHECKING:
    import pandas as pd

    from asabench.stats.paired import Difference


MANY = 24
"""From so many pairs on, processes of their own are worth their start."""


class _Pair(NamedTuple):
    """What a difference is computed from: two tables, and the attacks, each with its dose."""

    entry: Path
    base: Path
    at: tuple[tuple[str, float], ...]


def paired_differences(tracks: Sequence[Track]) -> dict[str, Differences]:
    """By slug, for every entry that was made from a base model: for each attack and dose that both have, the entry's
    worst case first, then the worst case of each other attack. `UserError` for a table that cannot be read."""
    found: dict[str, Differences] = {}
    pairs: dict[str, _Pair] = {}
    for track in tracks:
        for placed in track.placed:
            slug = placed.entry.slug
            pair = _pair(track, placed)
            if isinstance(pair, str):
                found[slug] = Differences(why_none=pair)
            else:
                pairs[slug] = pair
    # In the order of the base models, each of which is then read once
    slugs = sorted(pairs, key=lambda slug: (pairs[slug].base, slug))
    lines: Iterable[tuple[Difference, ...]]
    if len(slugs) < MANY:
        lines = [_lines(pairs[slug]) for slug in slugs]
    else:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            lines = list(pool.map(_lines, [pairs[slug] for slug in slugs], chunksize=8))
    return found | {slug: Differences(lines=each) for slug, each in zip(slugs, lines, strict=True)}


def _pair(track: Track, placed: Placed) -> _Pair | str:
    """The two tables, or in words why there is no pair of them."""
    entry, base = placed.entry, placed.base
    if base is None:
        return "its base model has no entry here"
    if base.slug not in {other.entry.slug for other in track.placed}:
        return "its base model's entry stands in another track"
    if entry.verdicts is None or base.verdicts is None:
        return (
            f"there is no table of verdicts of {' and of '.join(e.name for e in (entry, base) if e.verdicts is None)}"
        )
    if entry.row.prompts.digest != base.row.prompts.digest:
        return "the two were not asked the same prompts"
    if entry.row.judge.id != base.row.judge.id:
        return "two judges read the two"
    both = {(result.attack, result.dose) for result in base.row.results}
    at = tuple((each.attack, each.dose) for each in worst_by_attack(entry.row) if (each.attack, each.dose) in both)
    return _Pair(entry.verdicts, base.verdicts, at)


def _lines(pair: _Pair) -> tuple[Difference, ...]:
    from asabench.stats.paired import difference

    own, theirs = read_table(pair.entry), _base_table(pair.base)
    return tuple(
        difference(_lines_at(theirs, attack, dose), _lines_at(own, attack, dose), attack, dose)
        for attack, dose in pair.at
    )


@functools.lru_cache(maxsize=2)
def _base_table(path: Path) -> pd.DataFrame:
    """Kept, as the entries made from one base model mostly come one after another."""
    return read_table(path)


def _lines_at(table: pd.DataFrame, attack: str, dose: float) -> pd.DataFrame:
    """What a difference at that attack and dose needs of a table: its lines and the clean ones. Cut out once, because
    each difference goes over its table many times."""
    attacks = table["attack"].to_numpy()
    lines = table[((attacks == attack) & (table["dose"].to_numpy() == dose)) | (attacks == CLEAN)]
    # Texts as Python's own: they are compared one by one
    return lines.astype({"prompt_id": object, "attack": object, "label": object})


def read_table(path: Path) -> pd.DataFrame:
    """What rates are computed from; `UserError` for a table that cannot be read."""
    from asabench.stats.radius import rates_table
    from asabench.submission.findings import Refused
    from asabench.submission.manifest import RunManifest
    from asabench.submission.schema import MANIFEST_FILE
    from asabench.submission.verdict_table import METRIC_COLUMNS, read_verdicts

    try:
        table = read_verdicts(path, METRIC_COLUMNS)
    except (OSError, Refused) as error:
        raise UserError(f"{path} cannot be read: {error}; `asabench validate` says what is wrong with it") from None
    manifest = path.with_name(MANIFEST_FILE)
    if not manifest.is_file():
        return table
    made = read_record(RunManifest, manifest, "a submission's manifest", "`asabench submit` writes one")
    return rates_table(made.clustered(table), made.settings.suite)
