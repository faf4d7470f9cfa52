"""The row of a submission, from its manifest and its verdicts: `submit` writes it, `validate` makes it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from asabench.core.row import (
    HEADLINE,
    SCHEMA_VERSION,
    PromptSetInfo,
    ProtocolInfo,
    Row,
    headline_fields,
    with_headline,
)
from asabench.stats.dose_response import MASKING
from asabench.stats.facts import has_facts
from asabench.stats.noise_floor import WITHIN_NOISE
from asabench.stats.scoring import ONE_VECTOR, RowHead, scored_row
from asabench.submission.findings import shown
from asabench.submission.manifest import RunManifest

TOLERANCE = 1e-9
"""The bootstrap is seeded; sums may be taken in another order elsewhere."""


def row_of(manifest: RunManifest, table: pd.DataFrame, *, created: str, version: str) -> Row:
    """The row that follows. The judge is the first run's; whether the runs fit together is not checked here."""
    settings = manifest.settings
    protocol = settings.protocol
    head = RowHead(
        run_id=settings.id,
        created=created,
        asabench_version=version,
        model=manifest.model,
        protocol=ProtocolInfo(name=protocol.name, digest=protocol.digest),
        prompts=PromptSetInfo(name=manifest.prompt_set, digest=settings.prompts, n=len(manifest.prompts)),
        layers=settings.layers,
        seeds=protocol.seeds,
        shared_noise=protocol.shares_noise,
        # Rows from before the facts had no such flag
        max_new_tokens=protocol.max_new_tokens if has_facts(table) else None,
        suite=settings.suite,
    )
    rules = manifest.content_rules
    table = manifest.clustered(table if rules is None else table.assign(content_rules=rules))
    return scored_row(head, table, settings.attacks, protocol.doses, manifest.runs[0].judge)


SINCE_3 = frozenset(
    {"asr_at_k", "eps50", "interval_unit", "worst", "false_alarms", "pasr_held_out", "masr_floor", "pasr_floor"}
)
"""Fields that rows of schema version 3 were the first to have, or to have by today's definition."""
WITHDRAWN = frozenset({"init_corrected", "pasr_corrected", "asr_at_1_corrected"})
BY_INTERVALS = frozenset({WITHIN_NOISE, ONE_VECTOR, MASKING})
"""Flags that intervals decide, or that came with version 3."""
_ENDS = frozenset({"low", "high"})


def row_differences(row: Row, expected: Row) -> Iterator[tuple[str, str, str]]:
    """(field, what is there, what it should be) for each field in which a row differs from the one that follows.

    A row of an older schema version is held to what was defined then as it is today: its verdicts and values, and the
    headline that follows from its own results. Intervals, ASR@k, eps50 and corrected rates were other ones; such a row
    is valid, and not ranked (`asabench.submission.tracks.missing`).
    """
    found, again = row.model_dump(mode="json"), expected.model_dump(mode="json")
    if all(result.against_control is None for result in row.results):  # rows from before there were such differences
        again["results"] = [each | {"against_control": None} for each in again["results"]]
    if row.schema_version >= SCHEMA_VERSION:
        yield from differences(found, again)
        return
    if row.results:
        # Which of equal MASRs stands on top, the intervals of then decided
        top = headline_fields(with_headline(row).results)
        there = [each for each in again["results"] if (each["attack"], each["dose"]) == (top["attack"], top["dose"])]
        again |= {name: there[0][name] for name in HEADLINE} if there else {}
    again["schema_version"] = found["schema_version"]
    for each in (found, again):
        each["flags"] = [flag for flag in each["flags"] if flag not in BY_INTERVALS]
    yield from differences(_lasting(found), _lasting(again))


def _lasting(row: dict[str, Any]) -> Any:
    """What a row has by a definition that has not changed; the judge and its figures whole."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            lost = SINCE_3 | WITHDRAWN | (_ENDS if value.keys() == {"value", *_ENDS} else frozenset())
            return {name: kept(each) for name, each in value.items() if name not in lost}
        return [kept(each) for each in value] if isinstance(value, list) else value

    return kept({**row, "judge": None}) | {"judge": row["judge"]}


def differences(found: Any, expected: Any, field: str = "") -> Iterator[tuple[str, str, str]]:
    """(field, what is there, what it should be) for each leaf in which two JSON values differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in [*expected, *(name for name in found if name not in expected)]:
            path = f"{field}.{name}" if field else str(name)
            if name not in found or name not in expected:
                yield path, _whether(name in found), _whether(name in expected)
            else:
                yield from differences(found[name], expected[name], path)
    elif isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            yield field, f"{len(found)} values", f"{len(expected)} values"
        else:
            for number, (one, other) in enumerate(zip(found, expected, strict=True)):
                yield from differences(one, other, f"{field}.{number}")
    elif not _same(found, expected):
        yield field, shown(found), shown(expected)


def _same(found: Any, expected: Any) -> bool:
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (found, expected)]
    if all(numbers):
        return bool(abs(found - expected) <= TOLERANCE)
    return type(found) is type(expected) and bool(found == expected)


def _whether(there: bool) -> str:
    return "there" if there else "not there"
