"""The row of a submission, from its manifest and its verdicts: `submit` writes it, `validate` makes it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from asabench.core.row import PromptSetInfo, ProtocolInfo, Row
from asabench.stats.facts import has_facts
from asabench.stats.scoring import RowHead, scored_row
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
        # Rows from before the facts had no such flag
        max_new_tokens=protocol.max_new_tokens if has_facts(table) else None,
    )
    return scored_row(head, manifest.clustered(table), settings.attacks, protocol.doses, manifest.runs[0].judge)


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
