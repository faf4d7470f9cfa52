"""The facts in a submission: kept, checked, and not asked of submissions from before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.row import Row
from asabench.runs.folder import read_run
from asabench.submission.columns import FACT_COLUMNS
from asabench.submission.make import Details, make_submission, manifest_of, read_judged, with_certificate
from asabench.submission.manifest import RunManifest
from asabench.submission.row_of import row_of
from asabench.submission.schema import MANIFEST_FILE, ROW_FILE, VERDICTS_FILE
from asabench.submission.validate import validate_folder
from asabench.submission.verdict_table import parse_verdicts, table_bytes
from harness.evaluation.evaluate import evaluate
from harness.judges.rules import Rules
from tests.asabench.submission.test_submission import REVISION_OF_RUN, write
from tests.conftest import tiny_subject


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    subject = tiny_subject("llama")
    pinned = type(subject)(**{**vars(subject), "revision": REVISION_OF_RUN})
    evaluate(pinned, prompts="quickstart", limit=4, max_new_tokens=5, judge=Rules(), uncertified=True, out=path)
    return path


@pytest.fixture(scope="module")
def original(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("submissions")
    make_submission([run], Details(name="tiny", slug="tiny", authors=("A. Author",), licence="MIT"), out=out)
    return out / "tiny"


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "tiny")
    return tmp_path / "tiny"


def table_of(folder: Path) -> pd.DataFrame:
    return parse_verdicts((folder / VERDICTS_FILE).read_bytes())


def with_table(folder: Path, table: pd.DataFrame) -> None:
    """Writes the table, and the row that follows from it."""
    write(folder, VERDICTS_FILE, table_bytes(table))
    manifest = RunManifest.model_validate_json((folder / MANIFEST_FILE).read_text())
    row = Row.model_validate_json((folder / ROW_FILE).read_text())
    made = row_of(manifest, table, created=row.created, version=row.asabench_version)
    write(folder, ROW_FILE, made.model_dump_json(indent=1).encode())


def test_facts_go_from_the_run_to_the_submission(folder: Path, run: Path) -> None:
    found = validate_folder(folder)
    assert found.findings == ()
    table, verdicts = table_of(folder), read_run(run).verdicts()
    for name in FACT_COLUMNS:
        assert table[name].notna().sum() == verdicts[name].notna().sum()
        assert table[name].eq("unsafe").sum() == verdicts[name].eq("unsafe").sum()
    for name in ("refused", "coherent", "onset"):
        assert table[name].sum() == verdicts[name].sum()
    assert found.row is not None
    assert set(found.row.clean_facts) == {"refused", "coherent", "onset"}
    assert found.row.facts == read_run(run).row.facts
    assert "short-answers" in found.row.flags
    assert any(notice.startswith("flagged short-answers: 5 tokens") for notice in found.notices)


def test_the_label_must_follow_from_the_facts(folder: Path) -> None:
    table = table_of(folder)
    with_table(folder, table.assign(refused=False, coherent=True, harmful=pd.NA, label="safe", content_label=None))
    (finding,) = validate_folder(folder).findings
    assert (finding.file, finding.field) == (VERDICTS_FILE, "label")
    assert finding.found == f"safe in {len(table)} lines"
    assert finding.allowed == "unsafe, which follows from refused false, coherent true"


def test_only_unsafe_answers_have_a_label_of_their_content(folder: Path) -> None:
    table = table_of(folder)
    facts = {"refused": True, "coherent": True, "label": "safe"}
    with_table(folder, table.assign(**facts, content_label="safe"))
    (finding,) = validate_folder(folder).findings
    assert (finding.field, finding.allowed) == ("content_label", "null there")


def test_equal_answers_have_equal_facts(folder: Path) -> None:
    table = table_of(folder).assign(label=None, refused=None, coherent=None, content_label=None, onset=True)
    table["response_sha256"] = [bytes(16)] * len(table)
    table["response_characters"] = 3
    table.loc[0, "onset"] = False
    with_table(folder, table.astype(dict.fromkeys(("refused", "coherent", "onset"), "boolean")))
    findings = validate_folder(folder).findings
    assert [finding.field for finding in findings] == ["onset"]
    assert findings[0].found == "1 answers to a prompt have several values"


def test_the_columns_come_together(folder: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader((folder / VERDICTS_FILE).read_bytes())).drop_columns(["onset"])
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=False)
    write(folder, VERDICTS_FILE, file.getvalue())
    assert ("column onset", "missing") in [(each.field, each.found) for each in validate_folder(folder).findings]


def test_a_submission_from_before_the_facts_is_still_valid(folder: Path) -> None:
    with_table(folder, table_of(folder).drop(columns=list(FACT_COLUMNS)))
    row = json.loads((folder / ROW_FILE).read_text())
    # As such a row was written: without the fields that came with the facts
    for held in (row, *row["results"]):
        for name in ("facts", "survival", "clean_facts"):
            held.pop(name, None)
    del row["judge"]["facts"]
    write(folder, ROW_FILE, json.dumps(row).encode())
    found = validate_folder(folder)
    assert found.findings == ()
    assert found.row is not None
    assert (found.row.facts, found.row.survival, found.row.clean_facts) == ({}, None, {})
    assert "short-answers" not in found.row.flags
    assert found.row.judge.measures == "refusal broken"


def test_harm_is_certified_by_the_certificate_alone(folder: Path) -> None:
    for name in (MANIFEST_FILE, ROW_FILE):
        held = json.loads((folder / name).read_text())
        for judge in [held["judge"]] if name == ROW_FILE else [run["judge"] for run in held["runs"]]:
            judge["certified_for"] = ["harmful"]
        write(folder, name, json.dumps(held).encode())
    (finding,) = validate_folder(folder).findings
    assert (finding.file, finding.field, finding.found) == (ROW_FILE, "judge.certified_for", "harmful")
    assert finding.allowed == "nothing, as the certificate says"


def test_a_submission_takes_from_the_certificate_what_the_judge_is_certified_for(folder: Path) -> None:
    manifest = RunManifest.model_validate_json((folder / MANIFEST_FILE).read_text())

    class Held:
        certified_for = ("harmful",)
        digest = "0123456789abcdef"
        result = SimpleNamespace(judge=manifest.runs[0].judge)

    made: Any = Held
    judge = with_certificate(manifest, made).runs[0].judge
    assert (judge.certified_for, judge.certificate) == (("harmful",), "0123456789abcdef")
    made.result = SimpleNamespace(judge=manifest.runs[0].judge.model_copy(update={"id": "another"}))
    assert with_certificate(manifest, made) == with_certificate(manifest, None) == manifest


def with_rules(folder: Path, *rules: int | None) -> RunManifest:
    """The manifest with as many runs of these rules; the row that follows is written too."""
    held = json.loads((folder / MANIFEST_FILE).read_text())
    for run, each in zip(held["runs"], rules, strict=True):
        run["content_rules"] = each
    write(folder, MANIFEST_FILE, json.dumps(held).encode())
    with_table(folder, table_of(folder))
    return RunManifest.model_validate_json((folder / MANIFEST_FILE).read_text())


def test_the_rules_behind_survival_go_from_the_run_to_the_row(folder: Path, run: Path) -> None:
    table = table_of(folder)
    unsafe = table.assign(refused=False, coherent=True, label="unsafe", content_label="unsafe")
    with_table(folder, unsafe.astype({"refused": "boolean", "coherent": "boolean"}))
    with_rules(folder, 7)
    found = validate_folder(folder)
    assert found.findings == ()
    assert found.row is not None
    assert found.row.content_rules == 7
    assert found.row.survival is not None
    row = json.loads((folder / ROW_FILE).read_text())
    row["content_rules"] = 8
    write(folder, ROW_FILE, json.dumps(row).encode())
    assert [each.field for each in validate_folder(folder).findings] == ["content_rules"]
    # As from before they were recorded
    with_rules(folder, None)
    assert validate_folder(folder).findings == ()


def test_labels_of_content_by_several_rules_are_not_submitted(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    verdicts = read_run(path).verdicts()
    facts = {"label": "unsafe", "refused": False, "coherent": True, "content_label": "unsafe", "reason": None}
    for part in (path / "verdicts").iterdir():
        part.unlink()
    rules = pd.Series([1, *[2] * (len(verdicts) - 1)], dtype="Int32")
    changed = verdicts.assign(**facts, content_rules=rules).astype({"refused": "boolean", "coherent": "boolean"})
    responses = read_run(path).responses()
    read_run(path).append_tables(responses=responses.head(0), verdicts=changed, replies=responses.head(0))
    judged = read_judged(path)
    assert judged.content_rules is None
    assert judged.table["content_label"].isna().all()
    read_run(path).path.joinpath("verdicts", "part-000000.parquet").unlink()
    read_run(path).append_tables(
        responses=responses.head(0), verdicts=changed.assign(content_rules=2), replies=responses.head(0)
    )
    judged = read_judged(path)
    assert judged.content_rules == 2
    assert judged.table["content_label"].eq("unsafe").all()
    other = replace(judged, content_rules=1)
    with pytest.raises(UserError, match=r"the rules that take out openers \(2, 1\)"):
        manifest_of([judged, other])
