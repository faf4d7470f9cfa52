"""Labels of further judges in a submission: they go with the lines of its table, and are checked."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asabench.core.errors import UserError
from asabench.core.records import VERDICT_SCHEMA, Label, Response, Verdict
from asabench.core.row import JudgeInfo
from asabench.runs.folder import read_run
from asabench.runs.tables import write_part_of
from asabench.submission.columns import MOST_JUDGES
from asabench.submission.findings import Refused
from asabench.submission.make import Details, make_submission
from asabench.submission.other_judges import other_judges_bytes, parse_other_judges
from asabench.submission.schema import OTHER_JUDGES_FILE, VERDICTS_FILE
from asabench.submission.validate import validate_folder
from asabench.submission.verdict_table import parse_verdicts
from harness.evaluation.evaluate import evaluate
from harness.evaluation.judge import judge_again
from harness.judges.rules import Rules
from tests.asabench.submission.test_submission import REVISION_OF_RUN, write
from tests.conftest import tiny_subject

DETAILS = Details(name="tiny", slug="tiny", authors=("A. Author",), licence="MIT")


def by_length(characters: int) -> Label | None:
    return (None, "safe", "unsafe")[characters % 3]  # type: ignore[return-value]


class ByLength:
    """As long as an answer is, so it is judged; a third has no readable verdict."""

    info = JudgeInfo(id="by-length-1", description="of a test")

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        return [Verdict(cell_id=r.cell.id, judge=self.info.id, label=by_length(len(r.text))) for r in responses]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    subject = tiny_subject("llama")
    pinned = type(subject)(**{**vars(subject), "revision": REVISION_OF_RUN})
    evaluate(pinned, prompts="quickstart", limit=3, max_new_tokens=8, judge=Rules(), uncertified=True, out=path)
    judge_again(path, ByLength(), uncertified=True)
    judge_again(path, Rules(), uncertified=True)
    return path


@pytest.fixture(scope="module")
def original(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("submissions")
    make_submission([run], DETAILS, other_judges=True, out=out)
    return out / "tiny"


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "tiny")


def test_labels_are_those_of_the_lines_of_the_table(folder: Path, run: Path) -> None:
    found = validate_folder(folder)
    assert found.findings == ()
    table = parse_verdicts((folder / VERDICTS_FILE).read_bytes())
    others = parse_other_judges((folder / OTHER_JUDGES_FILE).read_bytes(), len(table))
    assert list(others) == ["by-length-1"]
    said = [None if pd.isna(label) else label for label in others["by-length-1"]]
    assert said == [by_length(characters) for characters in table["response_characters"]]
    assert len(set(said)) > 1
    assert len(said) == len(read_run(run).responses())
    assert b"quickstart" not in (folder / OTHER_JUDGES_FILE).read_bytes()


def test_without_asking_none_are_submitted(run: Path, tmp_path: Path) -> None:
    make_submission([run], DETAILS, out=tmp_path)
    assert not (tmp_path / "tiny" / OTHER_JUDGES_FILE).exists()


def test_where_no_other_judge_has_read_all_answers_that_is_said(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for part in (copy / "verdicts").glob("*.parquet"):
        table = pd.read_parquet(part)
        write_part_of(part, table[table["judge"] != "by-length-1"], VERDICT_SCHEMA)
    with pytest.raises(UserError, match=r"no other judge than rules-\w+ has read all answers"):
        make_submission([copy], DETAILS, other_judges=True, out=tmp_path / "out")


def labels(folder: Path) -> pd.Series:
    lines = len(parse_verdicts((folder / VERDICTS_FILE).read_bytes()))
    return parse_other_judges((folder / OTHER_JUDGES_FILE).read_bytes(), lines)["by-length-1"]


def findings(folder: Path, **said: pd.Series) -> list[str]:
    named = {name.replace("_", "-"): each for name, each in said.items()}
    write(folder, OTHER_JUDGES_FILE, other_judges_bytes(named))
    return [str(each.line) for each in validate_folder(folder).findings]


def test_what_is_refused(folder: Path) -> None:
    given = labels(folder)
    assert findings(folder, another=given) == []
    (short,) = findings(folder, another=given[:-1])
    assert "that stand together, one a verdict" in short
    (own,) = findings(folder, **{str(validate_folder(folder).row.judge.id): given})  # type: ignore[union-attr]
    assert "others than the judge of verdicts.parquet" in own
    (word,) = findings(folder, another=given.where(given != "safe", "perhaps"))
    assert "allowed: safe, unsafe, incoherent, or null" in word
    (text,) = findings(folder, **{"a sentence of somebody": given})
    assert "ids of judges" in text
    (many,) = findings(folder, **{f"judge{n}": given for n in range(MOST_JUDGES + 1)})
    assert f"1 to {MOST_JUDGES}" in many
    write(folder, OTHER_JUDGES_FILE, b"PAR1")
    (damaged,) = validate_folder(folder).findings
    assert damaged.found.startswith("not a readable Parquet file")


def test_equal_answers_have_equal_labels(folder: Path) -> None:
    table = parse_verdicts((folder / VERDICTS_FILE).read_bytes())
    again = table.duplicated(["prompt_id", "response_sha256"])
    assert again.any()
    (finding,) = findings(folder, another=pd.Series("safe", index=table.index).mask(again, "unsafe"))
    assert "have several labels" in finding


def test_other_columns_and_metadata_are_refused(folder: Path) -> None:
    table = pq.read_table(pa.BufferReader((folder / OTHER_JUDGES_FILE).read_bytes()))
    for changed, why in (
        (table.append_column("note", pa.array(["x"] * len(table))), "not allowed here"),
        (table.drop_columns(["label"]), "missing"),
        (table.replace_schema_metadata({"note": "text"}), "metadata could hold text"),
    ):
        file = io.BytesIO()
        pq.write_table(changed, file, store_schema=changed.schema.metadata is not None)
        with pytest.raises(Refused) as refused:
            parse_other_judges(file.getvalue(), len(table))
        assert why in refused.value.in_file(OTHER_JUDGES_FILE).line
