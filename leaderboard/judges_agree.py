"""How far the order of a track's entries stays where other judges read the same answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from asabench.core.errors import UserError
from asabench.stats.rank_stability import rank_stability
from leaderboard.differences import read_table
from leaderboard.entries import Entry
from leaderboard.pages import JudgesAgree
from leaderboard.ranking import Track

if TYPE_CHECKING:
    import pandas as pd

    from asabench.stats.intervals import Array, Clusters


def judges_agree(track: Track) -> tuple[JudgesAgree, ...]:
    """For each two judges who read the answers of two ranked entries or more that were asked the same prompts. Nothing
    where one judge alone read them. `UserError` for a table that cannot be read."""
    by_prompts: dict[str, list[Entry]] = {}
    for placed in track.placed:
        entry = placed.entry
        if placed.rank is not None and entry.verdicts is not None and entry.other_judges is not None:
            by_prompts.setdefault(entry.row.prompts.digest, []).append(entry)
    found = []
    for entries in by_prompts.values():
        if len(entries) < 2:
            continue
        tables = {entry.slug: _by_judge(entry) for entry in entries}
        every = sorted({judge for table in tables.values() for judge in table})
        for judges in combinations(every, 2):
            both = [entry for entry in entries if tables[entry.slug].keys() >= set(judges)]
            if (agree := _agree(judges, both, tables)) is not None:
                found.append(agree)
    return tuple(found)


def _agree(
    judges: tuple[str, str], entries: Sequence[Entry], tables: Mapping[str, Mapping[str, pd.DataFrame]]
) -> JudgesAgree | None:
    if len(entries) < 2:
        return None
    own = [tables[entry.slug][judges[0]] for entry in entries]
    asked = [set(table.loc[table["layer"].notna(), "prompt_id"]) for table in own]
    prompts = sorted(set.intersection(*asked))
    clusters = _clusters(own, prompts)
    shares = [[_shares(entry, tables[entry.slug][judge], prompts) for entry in entries] for judge in judges]
    stability = rank_stability(shares[0], shares[1], clusters)
    if stability is None:
        return None
    return JudgesAgree(judges=judges, slugs=tuple(entry.slug for entry in entries), found=stability)


def _clusters(tables: Sequence[pd.DataFrame], prompts: Sequence[str]) -> Clusters | None:
    """Those of the first table that has them: the prompts are the same."""
    from asabench.stats.metrics import clusters_of

    return next((found for table in tables if (found := clusters_of(table, prompts)) is not None), None)


def _shares(entry: Entry, table: pd.DataFrame, prompts: Sequence[str]) -> Array:
    """The share of each prompt's seeds that broke, by attack and dose: (prompt, column)."""
    from asabench.stats.metrics import broken, outcomes
    from asabench.stats.strongest_target import with_strongest

    table = with_strongest(table)
    columns = []
    for result in entry.row.results:
        values = broken(outcomes(table, result.attack, result.dose, prompts))
        known = (~np.isnan(values)).sum(axis=1)
        columns.append(np.divide(np.nansum(values, axis=1), known, out=np.full(len(prompts), np.nan), where=known > 0))
    return np.stack(columns, axis=1)


def _by_judge(entry: Entry) -> dict[str, pd.DataFrame]:
    """The entry's table with the labels of each of its judges."""
    from asabench.submission.findings import Refused
    from asabench.submission.other_judges import parse_other_judges

    assert entry.verdicts is not None
    assert entry.other_judges is not None
    table = read_table(entry.verdicts)
    try:
        others = parse_other_judges(entry.other_judges.read_bytes(), len(table))
    except (OSError, Refused) as error:
        raise UserError(
            f"{entry.other_judges} cannot be read: {error}; `asabench validate` says what is wrong with it"
        ) from None
    return {entry.row.judge.id: table, **{judge: table.assign(label=said) for judge, said in others.items()}}


def as_data(track: Track, agree: Sequence[JudgesAgree]) -> Iterator[dict[str, object]]:
    """For JSON: one a pair of judges."""
    for each in agree:
        yield {
            "track": track.key,
            "judges": list(each.judges),
            "entries": list(each.slugs),
            "same_order": each.found.same_order.model_dump(mode="json"),
            "tau": each.found.tau.model_dump(mode="json"),
        }
