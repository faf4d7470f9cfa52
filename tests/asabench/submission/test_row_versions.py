"""A row of an older schema version is held to what was defined then as it is now, and is not ranked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asabench.core.row import Row
from asabench.submission.manifest import RunManifest
from asabench.submission.row_of import row_differences, row_of
from asabench.submission.schema import MANIFEST_FILE, VERDICTS_FILE
from asabench.submission.tracks import missing
from asabench.submission.verdict_table import parse_verdicts
from tests.conftest import ROOT
from tests.rows import make_row

ENTRY = ROOT / "submissions" / "smollm2-135m-lapt-asabench-v1"
NEW = ("pasr_held_out", "masr_floor", "pasr_floor")


@pytest.fixture(scope="module")
def today() -> Row:
    manifest = RunManifest.model_validate_json((ENTRY / MANIFEST_FILE).read_text())
    verdicts = parse_verdicts((ENTRY / VERDICTS_FILE).read_bytes())
    return row_of(manifest, verdicts, created="2026-01-31T12:00:00+00:00", version="0.1.0")


def second_version(row: Row) -> dict[str, Any]:
    """What version 2 might have written of the same verdicts: other intervals, corrected rates, none of the new."""
    old = row.model_dump(mode="json") | {"schema_version": 2, "flags": ["gradient-masking?"], "eps50": {}}
    old["interval_unit"] = "prompt"
    del old["worst"], old["false_alarms"]
    old["masr"]["low"] -= 0.01
    for result in old["results"]:
        result["masr"]["low"] = max(result["masr"]["low"] - 0.01, 0.0)
        result["asr_at_k"] = {"10": {"value": 0.3, "low": 0.2, "high": 0.4}}
        result["pasr_corrected"] = {"value": 0.3, "low": 0.2, "high": 0.4}
        for name in NEW:
            del result[name]
    return old


def found(old: dict[str, Any], today: Row) -> list[str]:
    return [field for field, _, _ in row_differences(Row.model_validate(old), today)]


def test_an_older_row_is_valid_and_not_ranked(today: Row) -> None:
    assert found(second_version(today), today) == []
    assert [lack for lack in missing(Row.model_validate(second_version(today)), None) if "schema version 2" in lack]
    assert not [lack for lack in missing(make_row(), None) if "schema version" in lack]


def changed(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(row: dict[str, Any]) -> None:
        for name in path[:-1]:
            row = row[name]  # type: ignore[index]
        row[path[-1]] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (changed("results", 0, "masr", "value", value=0.0123), "results.0.masr.value"),
        (changed("results", 1, "verdicts", "unsafe", value=0), "results.1.verdicts.unsafe"),
        (changed("masr", "value", value=0.0123), "masr.value"),
        (changed("attack", value="random"), "attack"),
        (changed("init", "value", value=0.0123), "init.value"),
        (changed("judge", "figures", "specificity", "high", value=1.0), "judge.figures.specificity.high"),
        (changed("flags", value=["made up"]), "flags"),
    ],
)
def test_an_older_row_may_not_say_what_its_verdicts_do_not(
    today: Row, change: Callable[[dict[str, Any]], None], field: str
) -> None:
    old = second_version(today)
    change(old)
    assert any(each.startswith(field) for each in found(old, today))


def test_a_row_of_today_is_held_to_all_of_it(today: Row) -> None:
    assert found(today.model_dump(mode="json"), today) == []
    for change in (changed("worst", "low", value=0.0), changed("results", 0, "masr_floor", "high", value=0.0)):
        row = today.model_dump(mode="json")
        change(row)
        assert len(found(row, today)) == 1
