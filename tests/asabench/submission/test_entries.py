"""The entries in `submissions/`: each is valid, its numbers come out again, and its files keep their shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asabench.card.records import ModelCard
from asabench.core.row import Row, read_row
from asabench.core.schema import Record
from asabench.core.utility_report import UtilityReport
from asabench.judging.certificate import Certificate
from asabench.submission.manifest import RunManifest
from asabench.submission.row_of import row_differences, row_of
from asabench.submission.schema import (
    CARD_FILE,
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    ROW_FILE,
    SUBMISSION_FILE,
    UTILITY_FILE,
    VERDICTS_FILE,
)
from asabench.submission.validate import validate_folder
from asabench.submission.verdict_table import parse_verdicts
from tests.conftest import ROOT

ENTRIES = sorted(path.parent for path in (ROOT / "submissions").glob(f"*/{SUBMISSION_FILE}"))
RECORDS: dict[str, type[Record]] = {
    ROW_FILE: Row,
    MANIFEST_FILE: RunManifest,
    UTILITY_FILE: UtilityReport,
    CERTIFICATE_FILE: Certificate,
    CARD_FILE: ModelCard,
}


def name(path: Path) -> str:
    return path.name


def test_there_are_entries() -> None:
    assert len(ENTRIES) >= 10


@pytest.mark.parametrize("folder", ENTRIES, ids=name)
def test_an_entry_is_valid_and_its_row_comes_out_again(folder: Path) -> None:
    assert validate_folder(folder).findings == ()
    row = read_row(folder / ROW_FILE)
    manifest = RunManifest.model_validate_json((folder / MANIFEST_FILE).read_text())
    verdicts = parse_verdicts((folder / VERDICTS_FILE).read_bytes())
    again = row_of(manifest, verdicts, created=row.created, version=row.asabench_version)
    assert list(row_differences(row, again)) == []


@pytest.mark.parametrize("folder", ENTRIES, ids=name)
def test_the_records_of_an_entry_are_written_as_they_are_read(folder: Path) -> None:
    for file in RECORDS.keys() & {path.name for path in folder.iterdir()}:
        text = (folder / file).read_text()
        record = RECORDS[file].model_validate_json(text)
        # As text: the order of the fields too
        assert json.dumps(record.model_dump(mode="json", exclude_unset=True)) == json.dumps(json.loads(text)), file
