"""Which cells a table of verdicts must have, and which it has. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from asabench.core.attack_names import built_in, doses_of, has_blocks
from asabench.core.records import CLEAN
from asabench.runs.settings import RunSettings
from asabench.submission.findings import Finding, shown
from asabench.submission.schema import VERDICTS_FILE

_NO_SEED = -1
_RUN_AGAIN = "let the run finish (`asabench evaluate` again with the same options), then submit it again"


def seeds_of(attack: str, table: pd.DataFrame, seeds: Sequence[int]) -> tuple[int | None, ...]:
    """The seeds that an attack's cells must have: the protocol's, or None once for an attack that draws nothing. Of an
    attack that does not come with ASABench the table says whether it draws."""
    known = built_in(attack)
    if known is None:
        own = table.loc[table["attack"] == attack, "seed"]
        draws = bool(own.notna().any())
    else:
        draws = known.uses_seed
    return tuple(seeds) if draws else (None,)


def cell_findings(table: pd.DataFrame, settings: RunSettings, prompts: Sequence[str]) -> Iterator[Finding]:
    """Cells that are missing, extra, or there twice. table: the columns prompt_id, layer, attack, dose, seed."""
    protocol, attacks = settings.protocol, settings.attacks
    lists: dict[str, list[object]] = {
        "prompt_id": list(prompts),
        "attack": [CLEAN, *attacks],
        "dose": list(dict.fromkeys([0.0, *(dose for each in attacks for dose in doses_of(each, protocol.doses))])),
        "seed": [_NO_SEED, *protocol.seeds],
        "layer": [-1, *settings.layers],
    }
    values = {
        "prompt_id": table["prompt_id"],
        "attack": table["attack"],
        "dose": table["dose"],
        "seed": table["seed"].fillna(_NO_SEED).astype(np.int64),
        "layer": table["layer"].fillna(-1).astype(np.int64),
    }
    codes = {name: pd.Index(known).get_indexer(pd.Index(values[name])) for name, known in lists.items()}
    for name, known in lists.items():
        if (codes[name] < 0).any():
            strange = values[name][codes[name] < 0].iloc[0]
            listed = known[1:] if name != "prompt_id" else known
            yield Finding(
                VERDICTS_FILE,
                name,
                f"{shown(_plain(strange))} in {int((codes[name] < 0).sum())} lines",
                f"the run's own: {_listed(listed)}",
                "submit the run as it is",
            )
            return
    shape = tuple(len(known) for known in lists.values())
    found = np.ravel_multi_index(tuple(codes.values()), shape)
    expected = _expected(table, settings, len(prompts), lists, shape)
    unique, counts = np.unique(found, return_counts=True)
    # A suite asks for some cells of the grid: whether for enough, `checks.suite` says
    needed = expected if settings.suite is None else np.ravel_multi_index((np.arange(len(prompts)), 0, 0, 0, 0), shape)
    for what, places, fix in (
        ("missing", np.setdiff1d(needed, unique), _RUN_AGAIN),
        ("not among the run's cells", np.setdiff1d(unique, expected), "submit the run as it is"),
        ("there more than once", unique[counts > 1], "submit the run as it is"),
    ):
        if len(places):
            first = [int(index) for index in np.unravel_index(places[0], shape)]
            words = _in_words({name: lists[name][index] for name, index in zip(lists, first, strict=True)})
            others = f" and {len(places) - 1} more" if len(places) > 1 else ""
            yield Finding(
                VERDICTS_FILE,
                "cells",
                f"{words}{others}: {what}",
                f"each of the {len(expected)} cells of the run once",
                fix,
            )


def _expected(
    table: pd.DataFrame, settings: RunSettings, prompts: int, lists: dict[str, list[object]], shape: tuple[int, ...]
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The flat places of the cells that must be there, in an array of that shape, ascending."""
    every_prompt = np.arange(prompts)
    places = [np.ravel_multi_index((every_prompt, 0, 0, 0, 0), shape)]
    for attack in settings.attacks:
        wanted = seeds_of(attack, table, settings.protocol.seeds)
        seeds = [0 if seed is None else lists["seed"].index(seed) for seed in wanted]
        doses = [lists["dose"].index(dose) for dose in doses_of(attack, settings.protocol.doses)]
        layers = np.arange(1, 1 + len(settings.layers)) if has_blocks(attack) else np.array([0])
        grid = np.meshgrid(every_prompt, [lists["attack"].index(attack)], doses, seeds, layers, indexing="ij")
        places.append(np.ravel_multi_index(tuple(axis.ravel() for axis in grid), shape))
    return np.unique(np.concatenate(places))


def cell_count(settings: RunSettings, prompts: int) -> int:
    """At most this many cells follow from the settings; of a suite's search, at least."""
    if settings.suite is not None:
        return prompts
    protocol = settings.protocol
    attacked = len(settings.attacks) * len(protocol.doses) * len(protocol.seeds) * len(settings.layers)
    return prompts * (1 + attacked)


def _in_words(cell: dict[str, object]) -> str:
    if cell["attack"] == CLEAN:
        return f"the clean answer of {cell['prompt_id']}"
    seed = "" if cell["seed"] == _NO_SEED else f", seed {cell['seed']}"
    where = "every layer" if cell["layer"] == -1 else f"layer {cell['layer']}"
    return f"{where}, {cell['attack']} at {cell['dose']:g}{seed}, prompt {cell['prompt_id']}"


def _listed(values: Sequence[object]) -> str:
    words = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(words if len(words) <= 8 else [*words[:4], "...", *words[-2:]])


def _plain(value: object) -> object:
    """A numpy value as Python shows it."""
    return value.item() if isinstance(value, np.generic) else value
