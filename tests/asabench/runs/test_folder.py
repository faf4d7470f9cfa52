"""A run on disk: what was written is read back, and nothing a process, a disk or another process does loses it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from asabench.core.errors import UserError
from asabench.core.records import RESPONSE_SCHEMA, VERDICT_SCHEMA, Cell, Prompt, Response, Verdict
from asabench.runs.folder import Run, open_run, read_run
from asabench.runs.settings import RunSettings
from asabench.runs.tables import arrow_schema, write_part
from tests.conftest import ROOT
from tests.run_settings import run_settings

SETTINGS = run_settings()
PROMPTS = pd.DataFrame({"id": ["a", "b"], "goal": ["paint a fence", "plant a hedge"]})


@contextmanager
def opened(path: Path, **changes: Any) -> Iterator[Run]:
    with open_run(path, run_settings(**changes), {"version": "0.1"}, PROMPTS) as run:
        yield run


def response(number: int, layer: int | None = 0, **changes: Any) -> Response:
    prompt = Prompt(id=f"p{number}", goal=f"goal {number}")
    cell = Cell(prompt=prompt) if layer is None else Cell(prompt=prompt, layer=layer, attack="random", dose=1.0, seed=0)
    fields: dict[str, Any] = {"text": f"answer {number}", "token_ids": (number, 2), "finish_reason": "stop"}
    return Response(cell=cell, **{**fields, **changes})


def append(run: Run, *numbers: int) -> None:
    run.append_responses([response(number) for number in numbers])


def parts(path: Path, table: str = "responses") -> list[str]:
    return sorted(part.name for part in (path / table).iterdir())


def prompt_ids(path: Path) -> list[str]:
    return list(read_run(path).responses()["prompt_id"])


def message(error: pytest.ExceptionInfo[UserError]) -> str:
    """A user reads one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


# Round trips


def test_responses_come_back_as_they_were(tmp_path: Path) -> None:
    text = 'Zeile 1\nZeile 2\t"\u0000\ufffd 漆🎨'
    steered = response(1, layer=7, text=text, token_ids=(5, 0, 151_643), direction_sha256="ab" * 32)
    clean = response(2, layer=None, text="", token_ids=(), finish_reason="length")
    with opened(tmp_path) as run:
        run.append_responses([steered])
        run.append_responses([clean])
        table = run.responses()
    assert list(table.columns) == list(RESPONSE_SCHEMA)
    assert table["cell_id"].tolist() == [steered.cell.id, clean.cell.id]
    assert table["text"].tolist() == [text, ""]
    assert [list(ids) for ids in table["token_ids"]] == [[5, 0, 151_643], []]
    assert table["finish_reason"].tolist() == ["stop", "length"]
    assert (table["layer"].dtype, table["seed"].dtype) == (pd.Int32Dtype(), pd.Int64Dtype())
    assert (table["layer"][0], table["seed"][0], table["dose"].tolist()) == (7, 0, [1.0, 0.0])
    assert table.loc[1, ["suffix", "layer", "seed", "direction_sha256"]].isna().all()
    assert table["direction_sha256"][0] == "ab" * 32
    pd.testing.assert_frame_equal(read_run(tmp_path).responses(), table)


def test_verdicts_come_back_as_they_were(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.append_verdicts([Verdict(cell_id="c", judge="j@1", label="unsafe", reason="complied", p_unsafe=0.75)])
        run.append_verdicts(
            [Verdict(cell_id="c", judge="k@1", label=None), Verdict(cell_id="d", judge="j@1", label="safe")]
        )
    table = read_run(tmp_path).verdicts()
    assert list(table.columns) == list(VERDICT_SCHEMA)
    assert table[["cell_id", "judge"]].to_numpy().tolist() == [["c", "j@1"], ["c", "k@1"], ["d", "j@1"]]
    assert table["label"].isna().tolist() == [False, True, False]
    assert (table["label"][0], table["reason"][0], table["p_unsafe"][0]) == ("unsafe", "complied", 0.75)
    assert table.loc[1, ["label", "reason", "p_unsafe"]].isna().all()


def test_facts_come_back_as_they_were_and_what_is_not_known_stays_unknown(tmp_path: Path) -> None:
    facts = {"refused": False, "coherent": True, "harmful": None}
    with opened(tmp_path) as run:
        append(run, 1, 2)
        ids = run.responses()["cell_id"].tolist()
        run.append_verdicts([Verdict(cell_id=ids[0], judge="j", onset=True, content_label="incoherent", **facts)])
        run.append_verdicts([Verdict(cell_id=ids[1], judge="j", label="safe")])
        table = run.judged("j").set_index("cell_id")
    assert table.loc[ids[0], ["label", "refused", "coherent", "onset", "content_label"]].tolist() == [
        *("unsafe", False, True, True, "incoherent")
    ]
    assert table["harmful"].isna().all()
    assert table.loc[ids[1], ["refused", "coherent", "harmful", "onset", "content_label"]].isna().all()
    assert table["refused"].dtype == pd.BooleanDtype()


def test_verdicts_from_before_the_facts_are_read_as_they_were_stored(tmp_path: Path) -> None:
    old = {name: VERDICT_SCHEMA[name] for name in ("cell_id", "judge", "label", "reason", "p_unsafe")}
    with opened(tmp_path) as run:
        append(run, 1, 2)
        ids = run.responses()["cell_id"].tolist()
        write_part(
            tmp_path / "verdicts" / "part-000000.parquet", [{"cell_id": ids[0], "judge": "j", "label": "unsafe"}], old
        )
        run.append_verdicts([Verdict(cell_id=ids[1], judge="j", refused=True, coherent=True)])
        table = run.judged("j")
    assert table["label"].tolist() == ["unsafe", "safe"]
    assert table["refused"].isna().tolist() == [True, False]
    assert table["content_label"].isna().all()


def test_judged_joins_one_judge_and_leaves_null_what_it_has_not_judged(tmp_path: Path) -> None:
    ids = [response(number).cell.id for number in range(3)]
    with opened(tmp_path) as run:
        append(run, 0, 1, 2)
        run.append_verdicts([Verdict(cell_id=ids[2], judge="j", label="unsafe", reason="r")])
        run.append_verdicts([Verdict(cell_id=ids[0], judge="j", label=None, reason="no reading")])
        run.append_verdicts([Verdict(cell_id=cell_id, judge="other", label="safe") for cell_id in ids])
        table = run.judged("j")
    assert table["cell_id"].tolist() == ids
    assert table["label"].isna().tolist() == [True, True, False]
    assert table["label"][2] == "unsafe"
    assert (table["reason"][0], table["reason"].isna().tolist()) == ("no reading", [False, True, False])


def test_an_empty_run_has_empty_tables_with_their_columns(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.append_responses([])
        run.append_verdicts([])
    run = read_run(tmp_path)
    assert parts(tmp_path) == parts(tmp_path, "verdicts") == []
    assert (len(run.responses()), list(run.responses().columns)) == (0, list(RESPONSE_SCHEMA))
    assert (len(run.verdicts()), list(run.verdicts().columns)) == (0, list(VERDICT_SCHEMA))
    assert len(run.judged("j")) == 0


def test_the_folder_is_readable_without_asabench(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        append(run, 0, 1)
        run.append_responses([response(2, layer=None)])
        run.append_verdicts([Verdict(cell_id="c", judge="j", label=None)])
        (tmp_path / "responses" / ".unfinished-x").write_bytes(b"PAR1 half a part")
        responses = pd.read_parquet(tmp_path / "responses")
        assert len(pd.read_parquet(tmp_path / "verdicts")) == 1
    assert responses["prompt_id"].tolist() == ["p0", "p1", "p2"]
    assert responses["layer"].isna().tolist() == [False, False, True]
    assert pd.read_parquet(tmp_path / "prompts.parquet").equals(PROMPTS)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o444 == 0o444, path.name
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["settings"], manifest["run_id"], manifest["state"]) == (
        SETTINGS.as_json(),
        SETTINGS.id,
        "running",
    )
    assert manifest["version"] == "0.1"


def test_a_part_has_the_types_of_the_schema_even_where_all_is_null(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.append_responses([response(0, layer=None, token_ids=())])
    [part] = parts(tmp_path)
    # names and types apart from the metadata that parquet may add
    assert pq.read_schema(tmp_path / "responses" / part).equals(arrow_schema(RESPONSE_SCHEMA), check_metadata=False)


# Parts


@pytest.mark.parametrize("deleted", [[], [0], [1], [2], [0, 2], [0, 1, 2]], ids=str)
def test_a_new_part_never_overwrites_one(tmp_path: Path, deleted: list[int]) -> None:
    with opened(tmp_path) as run:
        for number in range(3):
            append(run, number)
    for number in deleted:
        (tmp_path / "responses" / f"part-{number:06d}.parquet").unlink()
    with opened(tmp_path) as run:
        append(run, 10)
        append(run, 11)
    kept = [f"p{number}" for number in range(3) if number not in deleted]
    assert prompt_ids(tmp_path) == [*kept, "p10", "p11"]


def test_unfinished_files_are_ignored_and_cleaned_on_open(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        append(run, 0)
    leftovers = [tmp_path / folder / ".unfinished-abc123" for folder in (".", "responses", "verdicts")]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    assert prompt_ids(tmp_path) == ["p0"]
    assert len(read_run(tmp_path).verdicts()) == 0
    assert all(leftover.exists() for leftover in leftovers)  # a reader cleans nothing: they may be being written
    with opened(tmp_path) as run:
        assert not any(leftover.exists() for leftover in leftovers)
        append(run, 1)
    assert prompt_ids(tmp_path) == ["p0", "p1"]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"not parquet"])
def test_a_corrupt_part_is_named(tmp_path: Path, damage: Any) -> None:
    with opened(tmp_path) as run:
        append(run, 0)
        append(run, 1)
    part = tmp_path / "responses" / "part-000001.parquet"
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(UserError, match="run the same evaluation again: it sets aside") as error:
        read_run(tmp_path).responses()
    assert str(part) in message(error)
    with opened(tmp_path):
        pass
    assert prompt_ids(tmp_path) == ["p0"]


def test_a_cell_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        append(run, 0, 1)
        append(run, 1)
        with pytest.raises(UserError, match="cell_id twice") as error:
            run.responses()
        assert str(tmp_path / "responses") in message(error)


def test_a_verdict_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.append_verdicts(
            [Verdict(cell_id="c", judge="j", label="safe"), Verdict(cell_id="c", judge="k", label="safe")]
        )
        assert len(run.verdicts()) == 2
        run.append_verdicts([Verdict(cell_id="c", judge="j", label="unsafe")])
        with pytest.raises(UserError, match="cell_id and judge twice") as error:
            run.verdicts()
        message(error)


# Resuming


def test_a_run_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    with opened(tmp_path / "new" / "run") as run:
        append(run, 0)
        first = run.id
    content = SETTINGS.as_json()
    reordered = RunSettings.model_validate({name: content[name] for name in reversed(content)})
    with open_run(tmp_path / "new" / "run", reordered, {"version": "0.2"}, PROMPTS) as run:
        append(run, 1)
        assert run.id == first
    manifest = read_run(tmp_path / "new" / "run").manifest
    assert prompt_ids(tmp_path / "new" / "run") == ["p0", "p1"]
    assert (manifest["version"], manifest["resumed"], manifest["state"]) == ("0.1", [{"version": "0.2"}], "running")


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        append(run, 0)
    before = (tmp_path / "manifest.json").read_bytes()
    with (
        pytest.raises(UserError, match="other settings") as error,
        opened(tmp_path, model="large", layers=(0,), chat_template="0" * 16),
    ):
        pytest.fail("opened")
    text = message(error)
    assert 'model was "tiny", is now "large"' in text
    assert "layers was [0, 1], is now [0]" in text
    assert 'chat_template was null, is now "0000000000000000"' in text
    assert "protocol" not in text
    assert "another --out" in text
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert prompt_ids(tmp_path) == ["p0"]
    with opened(tmp_path):
        pass  # and the lock is free


def test_long_settings_are_cut_short_in_the_message(tmp_path: Path) -> None:
    with opened(tmp_path, layers=tuple(range(1000))):
        pass
    with pytest.raises(UserError, match=r"layers was \[0, 1, 2") as error, opened(tmp_path):
        pytest.fail("opened")
    assert len(message(error)) < 300 + len(str(tmp_path))


def test_a_changed_manifest_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.update_manifest(state="finished", notes="Café")
    manifest = read_run(tmp_path).manifest
    assert (manifest["state"], manifest["notes"], manifest["settings"]) == (
        "finished",
        "Café",
        SETTINGS.as_json(),
    )


@pytest.mark.parametrize("content", [None, "", "{", "[1, 2]", '"text"', '{"name": "an extension"}'])
def test_a_folder_that_holds_no_run_is_not_read(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest") as error:
        read_run(tmp_path)
    assert str(tmp_path) in message(error)


def test_the_manifest_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an extension"}')
    with pytest.raises(UserError, match="not the manifest of a run"), opened(tmp_path):
        pytest.fail("opened")
    assert (tmp_path / "manifest.json").read_text() == '{"name": "an extension"}'


def test_responses_without_a_manifest_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        append(run, 0)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match="responses without a manifest") as error, opened(tmp_path):
        pytest.fail("opened")
    message(error)
    assert parts(tmp_path) == ["part-000000.parquet"]


def test_the_row_of_an_unfinished_run_is_an_error(tmp_path: Path) -> None:
    with opened(tmp_path) as run, pytest.raises(UserError, match="row cannot be read") as error:
        _ = run.row
    message(error)


# Disks


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write") as error, opened(tmp_path / name):
        pytest.fail("opened")
    assert str(tmp_path / name) in message(error)
    assert (tmp_path / "file").read_text() == "mine"


def fill_disk(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_loses_nothing_that_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with opened(tmp_path) as run:
        append(run, 0)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with monkeypatch.context() as disk:
            fill_disk(disk, function)
            for write in (
                lambda: append(run, 1),
                lambda: run.append_verdicts([Verdict(cell_id="c", judge="j", label="safe")]),
                lambda: run.update_manifest(state="finished"),
            ):
                with pytest.raises(UserError, match="No space left on device") as error:
                    write()
                assert "what is finished is kept" in message(error)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with opened(tmp_path) as run:
        append(run, 1)
    assert prompt_ids(tmp_path) == ["p0", "p1"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_is_full_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    with monkeypatch.context() as disk:
        fill_disk(disk, function)
        with pytest.raises(UserError, match="No space left on device") as error, opened(tmp_path):
            pytest.fail("opened")
        message(error)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]
    with opened(tmp_path) as run:
        append(run, 0)
    assert prompt_ids(tmp_path) == ["p0"]


def test_an_interrupt_in_the_middle_of_a_part_leaves_no_stray_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with opened(tmp_path) as run:
        append(run, 0)
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", interrupt)
            with pytest.raises(KeyboardInterrupt):
                append(run, 1)
    assert parts(tmp_path) == ["part-000000.parquet"]


# Other processes

HOLD = """
import sys, time
from pathlib import Path
import pandas as pd
from asabench.runs.folder import open_run
from tests.run_settings import run_settings
with open_run(Path(sys.argv[1]), run_settings(), {}, pd.DataFrame({"id": ["a"]})):
    print("open", flush=True)
    time.sleep(60)
"""

# Forks a writer for each number of seconds that it reads, kills it after them, and says so
KILL = """
import os, signal, sys, time
from pathlib import Path
import pandas as pd
import pyarrow.parquet
from asabench.core.records import Cell, Prompt, Response, Verdict
from asabench.runs.folder import open_run
from tests.run_settings import run_settings

LINES = 40
path = Path(sys.argv[1])

def slow_sync(descriptor, sync=os.fsync):
    time.sleep(0.004)  # most of the time is spent in an unfinished part
    sync(descriptor)

def write():
    os.fsync = slow_sync
    with open_run(path, run_settings(), {}, pd.DataFrame({"id": ["a"]})) as run:
        batch = len(run.responses()) // LINES
        while True:
            cells = [Cell(prompt=Prompt(id=str(batch), goal=f"{batch}-{n}")) for n in range(LINES)]
            run.append_responses(
                [Response(cell=cell, text="x" * 400, token_ids=(1, 2), finish_reason="stop") for cell in cells]
            )
            batch += 1

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            write()
        finally:
            os._exit(1)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else "ended by itself", flush=True)
"""


@contextmanager
def process(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def read_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@contextmanager
def open_here(path: Path) -> Iterator[Run]:
    with open_run(path, run_settings(), {}, pd.DataFrame({"id": ["a"]})) as run:
        yield run


def test_one_process_writes_at_a_time_and_a_killed_one_frees_the_run(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as holder:
        assert read_line(holder) == "open"
        with pytest.raises(UserError, match="another process is writing the run") as error, open_here(tmp_path):
            pytest.fail("opened")
        assert str(tmp_path) in message(error)
        assert len(read_run(tmp_path).responses()) == 0  # reading is not refused
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with open_here(tmp_path) as run:
            append(run, 0)
    assert prompt_ids(tmp_path) == ["p0"]


def test_a_run_that_was_closed_or_failed_is_free(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(tmp_path) as run:
        append(run, 0)
        raise ZeroDivisionError
    with opened(tmp_path), pytest.raises(UserError, match="another process"), opened(tmp_path):
        pytest.fail("opened twice")
    with opened(tmp_path):
        assert prompt_ids(tmp_path) == ["p0"]


def test_a_writer_killed_at_any_instant_leaves_whole_parts_only(tmp_path: Path) -> None:
    path, delays = tmp_path / "run", np.random.default_rng().uniform(0, 0.2, 200)
    interrupted, batches = 0, 0
    with open_here(path):
        pass
    with process(KILL, path) as killer:
        assert killer.stdin is not None
        for kills, delay in enumerate(delays):
            if kills >= 15 and interrupted and batches:  # beside other work a writer may not even have begun
                break
            print(delay, file=killer.stdin, flush=True)
            assert read_line(killer) == "killed"
            interrupted += any(path.rglob(".unfinished-*"))
            by_batch = read_run(path).responses().groupby("prompt_id").size()
            assert set(by_batch) <= {40}
            assert sorted(map(int, by_batch.index)) == list(range(len(by_batch)))
            assert len(by_batch) >= batches  # nothing that was there is gone
            batches = len(by_batch)
    assert batches > 0
    assert interrupted > 0  # or it was never caught in the middle
    with open_here(path):
        assert not list(path.rglob(".unfinished-*"))
    assert len(pd.read_parquet(path / "responses")) == 40 * batches
