"""Tables that end, hang or fill the process that reads them are one finding each, and the next file is read."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from asabench.core.errors import NotAtHand
from asabench.submission import guarded
from asabench.submission.findings import Refused
from asabench.submission.schema import VERDICTS_FILE
from asabench.submission.table_file import schema
from asabench.submission.validate import validate, validate_folder
from asabench.submission.verdict_table import parse_verdicts, table_bytes
from tests.conftest import ROOT

ENTRY = ROOT / "submissions" / "smollm2-135m-gu2025"


@pytest.fixture(scope="module")
def small() -> bytes:
    """A table of 300 lines, as it is written and with statistics in it, where mutations find more to break."""
    table = parse_verdicts((ENTRY / VERDICTS_FILE).read_bytes()).head(300)
    return table_bytes(table)


def fine(content: bytes) -> bool:
    return len(parse_verdicts(content)) > 0


def test_a_table_comes_as_it_was_written(small: bytes) -> None:
    table = parse_verdicts(small)
    assert len(table) == 300
    pd.testing.assert_frame_equal(parse_verdicts(table_bytes(table)), table)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_tables_are_read_or_refused(seed: int, small: bytes) -> None:
    """A hundred each, most in the metadata at the end, which is where a reader believes what it is told."""
    rng = random.Random(seed)
    refused = []
    for _ in range(100):
        content = bytearray(small)
        tail = rng.random() < 0.7
        for _ in range(rng.choice([1, 2, 8])):
            place = rng.randrange(len(content) - 1500, len(content)) if tail else rng.randrange(len(content))
            content[place] = rng.randrange(256)
        if rng.random() < 0.1:
            del content[rng.randrange(len(content)) :]
        try:
            parse_verdicts(bytes(content))
        except Refused as error:
            refused.append(error.in_file(VERDICTS_FILE).line)
    assert len(refused) > 50
    assert all(line.isprintable() for line in refused)
    assert fine(small)


def serving(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """In place of the reader, a program that does to it what a file may."""
    guarded._reader.stop()
    started = subprocess.Popen

    def start(words: list[str], **more: object) -> object:
        return started([sys.executable, "-c", f"import sys, os, time\nos.write(1, b'ready')\n{script}"], **more)

    monkeypatch.setattr(guarded.subprocess, "Popen", start)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sys.stdin.buffer.read(9); os.abort()", "it ended its reader"),
        ("sys.stdin.buffer.read(9); os._exit(0)", "it ended its reader"),
        ("sys.stdin.buffer.read(9); os.write(1, (10**6).to_bytes(8, 'little') + b'0half'); os._exit(0)", "it ended"),
        ("sys.stdin.buffer.read(9); time.sleep(60)", "not read within 0.5 seconds"),
    ],
)
def test_what_ends_or_stops_its_reader_is_one_finding(
    script: str, said: str, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fine(small)
    with monkeypatch.context() as patched:
        serving(patched, script)
        patched.setattr(guarded, "MOST_SECONDS", 0.5 if "within" in said else 30.0)
        if "within" in said:
            guarded._reader._running()
        with pytest.raises(Refused) as refused:
            parse_verdicts(small)
    assert said in refused.value.in_file("f").line
    assert fine(small), "the next file has a reader again"


def test_a_reader_that_does_not_start_is_no_fault_of_the_file(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        guarded._reader.stop()
        patched.setattr(guarded.sys, "executable", shutil.which("false"))
        with pytest.raises(NotAtHand, match="does not start"):
            parse_verdicts(small)
        assert validate_folder(ENTRY).state == "not checked"
    assert fine(small)


def test_a_reader_that_was_killed_meanwhile_is_started_again(small: bytes) -> None:
    assert fine(small)
    process = guarded._reader._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert fine(small)


def test_a_module_beside_the_files_is_not_run(small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull request's folder may hold a pandas.py."""
    for name in ("pandas", "pyarrow", "asabench"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    guarded._reader.stop()
    assert fine(small)
    assert not (tmp_path / "ran").exists()


def test_much_memory_is_refused(small: bytes) -> None:
    """A column that says it has two thousand million values, of which it has none."""
    table = pq.read_table(pa.BufferReader(small))
    names = pa.array(["x" * 70] * 1_000_000)
    wide = pa.table(
        {
            field.name: names
            if field.type == pa.string()
            else pa.array([table.column(field.name)[0].as_py()] * len(names), field.type)
            for field in schema(facts=False)
        }
    )
    out = pa.BufferOutputStream()
    pq.write_table(wide, out, compression="zstd", use_dictionary=False, store_schema=False)
    assert out.getvalue().size < 5_000_000
    with pytest.raises(Refused, match="size: unpacks to"):
        parse_verdicts(bytes(out.getvalue()))


def test_text_between_the_pages_is_refused(small: bytes) -> None:
    """A column chunk may be longer than what is read of it; a file may not."""
    hidden = small[:4] + b"an answer " * 20_000 + small[4:]
    with pytest.raises(Refused):
        parse_verdicts(hidden)


def test_one_bad_neighbour_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file that ends its reader, nor a fault of a check."""
    for slug in ("smollm2-135m-gu2025", "smollm2-135m-refusal-gu2025", "smollm2-135m-lapt-gu2025"):
        shutil.copytree(ROOT / "submissions" / slug, tmp_path / slug)
    (tmp_path / "smollm2-135m-lapt-gu2025" / VERDICTS_FILE).write_bytes(b"PAR1" + b"\xff" * 5000 + b"PAR1")
    given = yaml.safe_load((tmp_path / "smollm2-135m-refusal-gu2025" / "submission.yaml").read_text())
    checks = validate.__globals__["training_findings"]

    def failing(submission: object, *more: object) -> object:
        if getattr(submission, "slug", None) == given["slug"]:
            raise KeyError("a fault of ours")
        return checks(submission, *more)

    monkeypatch.setitem(validate.__globals__, "training_findings", failing)
    found = {each.slug: each for each in validate([tmp_path])}
    assert found["smollm2-135m-gu2025"].ok
    assert found["smollm2-135m-lapt-gu2025"].state == "invalid"
    failed = found["smollm2-135m-refusal-gu2025"]
    assert failed.state == "not checked"
    assert failed.not_checked is not None
    assert "KeyError" in failed.not_checked
