"""What was answered again, its power, and who may say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom, binomtest

from asabench.submission.evidence import Evidence, faults, fewest_milder, p_value, power, verdicts_digest
from asabench.submission.schema import RERUN_FILE, VERDICTS_FILE
from asabench.submission.validate import validate_folder, validate_whole
from tests.conftest import ROOT

NAME = "smollm2-135m-gu2025"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "submissions" / NAME, tmp_path / "submissions" / NAME)
    return tmp_path / "submissions" / NAME


def evidence(folder: Path, **changes: Any) -> Evidence:
    fields: dict[str, Any] = dict(
        verdicts=verdicts_digest((folder / VERDICTS_FILE).read_bytes()),
        cells=100,
        seed=7,
        same_answers=95,
        same_labels=98,
        changed_labels=0,
        milder=1,
        harsher=1,
        judge="embedded-a5aed7aa",
        device="cpu",
        by="a maintainer",
        created="2026-11-25T12:00:00+00:00",
        asabench_version="0.1.0",
    )
    return Evidence(**{**fields, **changes})


def write(folder: Path, record: Evidence) -> None:
    (folder / RERUN_FILE).write_text(record.model_dump_json())


def test_evidence_is_read_beside_the_entry_and_is_no_file_of_its_authors(folder: Path) -> None:
    assert validate_folder(folder).evidence is None
    write(folder, evidence(folder))
    found = validate_folder(folder)
    assert found.ok, found.problem
    assert found.evidence is not None
    assert found.evidence.kind == "rerun"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdicts": "0" * 64}, "rerun.json: verdicts"),
        ({"judge": "other@1"}, "rerun.json: judge"),
        ({"created": "2199-01-01T00:00:00+00:00"}, "rerun.json: created"),
        ({"same_answers": 101}, "rerun.json: cells"),
        ({"same_labels": 99}, "rerun.json: cells"),
        ({"changed_labels": 1}, "1 equal answers have other labels"),
        ({"same_answers": 9}, "9 of 100 answers came out again"),
        ({"milder": 10, "same_labels": 80}, "10 cells are unsafe and were not submitted so"),
    ],
)
def test_evidence_that_is_none(changes: dict[str, Any], said: str, folder: Path) -> None:
    write(folder, evidence(folder, **changes))
    assert any(said in finding.line for finding in validate_folder(folder).findings)


def test_whom_it_is_about_does_not_bring_it(folder: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(folder.parent, before)
    write(folder, evidence(folder))
    stranger, _ = validate_whole(folder.parent, before=before, maintainer=False)
    assert [finding.file for each in stranger for finding in each.findings] == [f"{NAME}/{RERUN_FILE}"]
    assert all(each.ok for each in validate_whole(folder.parent, before=before, maintainer=True)[0])
    shutil.copytree(folder.parent, before, dirs_exist_ok=True)
    assert all(each.ok for each in validate_whole(folder.parent, before=before, maintainer=False)[0])


def test_the_sign_test() -> None:
    for milder, harsher in ((0, 0), (1, 0), (7, 0), (6, 1), (10, 3), (2, 8)):
        number = milder + harsher
        expected = binomtest(milder, number, 0.5, "greater").pvalue if number else 1.0
        assert p_value(milder, harsher) == pytest.approx(expected)
    assert fewest_milder() == 7, "one half to the seventh is the first below one in a hundred"


@pytest.mark.parametrize(("cells", "share"), [(50, 0.05), (50, 0.1), (200, 0.1), (5, 0.5)])
def test_its_power(cells: int, share: float) -> None:
    assert power(cells, share) == pytest.approx(binom.sf(6, cells, share))


def test_a_rerun_of_few_cells_says_nothing_by_parting(folder: Path) -> None:
    assert faults(evidence(folder, cells=19, same_answers=0, same_labels=19, milder=0, harsher=0)) is None
    assert faults(evidence(folder, cells=20, same_answers=1, same_labels=20, milder=0, harsher=0)) is not None
    assert json.loads(evidence(folder).model_dump_json())["seed"] == 7
