"""Shards of a run and their merge: whatever was killed, in whatever order, the whole run's tables and row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.records import RESPONSE_SCHEMA, Prompt, Response, sha256_hex
from asabench.runs.folder import Run, read_run
from asabench.runs.merge import merge
from asabench.runs.tables import write_part_of
from harness.evaluation.evaluate import Evaluation
from harness.model.subject import Subject
from tests.harness.evaluation.test_evaluate import LengthJudge, small

PROMPTS = [
    Prompt(id=f"p{number}", goal="count to " + "nine " * (number % 5), suffix="!" * (number + 1)) for number in range(9)
]
ASKED: dict[str, Any] = {"prompts": PROMPTS, "doses": [0.5, 1.0], "seeds": [0, 1], "layers": "0,2"}


class Killed(BaseException):
    """As when the system ends the process: nothing after it runs."""


def shard(subject: Subject, out: Path, text: str, **choices: Any) -> Evaluation:
    return small(subject, out, shard=text, max_rows=5, **{**ASKED, **choices})


def killed(monkeypatch: pytest.MonkeyPatch, subject: Subject, out: Path, text: str, *, parts: int) -> None:
    """A shard that dies after so many parts of answers are on disk."""
    append = Run.append_responses

    def append_and_die(self: Run, responses: Sequence[Response]) -> None:
        append(self, responses)
        if len(list((self.path / "responses").glob("part-*"))) >= parts:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append_responses", append_and_die)
        with pytest.raises(Killed):
            shard(subject, out, text)


def tables(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    run = read_run(path)
    return tuple(  # type: ignore[return-value]
        table.sort_values("cell_id", ignore_index=True) for table in (run.responses(), run.verdicts())
    )


def row(path: Path) -> dict[str, Any]:
    content = json.loads((path / "row.json").read_text())
    return {name: value for name, value in content.items() if name != "created"}


@pytest.fixture
def whole(llama: Subject, tmp_path: Path) -> Path:
    small(llama, tmp_path / "whole", **ASKED)
    return tmp_path / "whole"


def same_run(whole: Path, merged: Path) -> None:
    for expected, got in zip(tables(whole), tables(merged), strict=True):
        pd.testing.assert_frame_equal(got, expected)
    assert row(merged) == row(whole)
    assert read_run(merged).id == read_run(whole).id


def test_shards_together_are_the_whole_run(llama: Subject, whole: Path, tmp_path: Path) -> None:
    folders = [tmp_path / f"s{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, 1):
        done = shard(llama, folder, f"{number}/3")
        assert not (folder / "row.json").exists()
        with pytest.raises(UserError, match=f"shard {number}/3 of a run and has no row"):
            _ = done.row
    merge(folders[::-1], tmp_path / "merged")
    same_run(whole, tmp_path / "merged")


def test_kills_and_another_number_of_shards_change_nothing(
    llama: Subject, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three shards die, one of them at once; the rest of the work is dealt out anew among four."""
    killed(monkeypatch, llama, tmp_path / "a1", "1/3", parts=2)
    killed(monkeypatch, llama, tmp_path / "a2", "2/3", parts=1)
    shard(llama, tmp_path / "a3", "3/3")
    with pytest.raises(UserError, match="answers are missing") as missing:
        merge([tmp_path / "a1", tmp_path / "a2", tmp_path / "a3"], tmp_path / "merged")
    assert "a1" in str(missing.value)
    assert not (tmp_path / "merged").exists()
    for number in (4, 2, 1, 3):
        shard(llama, tmp_path / f"b{number}", f"{number}/4")
    left = [tmp_path / name for name in ("b2", "a1", "a3", "b4", "b1", "b3", "a2")]
    merge(left, tmp_path / "merged")
    same_run(whole, tmp_path / "merged")


def test_a_killed_shard_goes_on(llama: Subject, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(monkeypatch, llama, tmp_path / "s1", "1/2", parts=2)
    before = set(read_run(tmp_path / "s1").responses()["cell_id"])
    shard(llama, tmp_path / "s1", "1/2")
    shard(llama, tmp_path / "s2", "2/2")
    assert before < set(read_run(tmp_path / "s1").responses()["cell_id"])
    merge([tmp_path / "s1", tmp_path / "s2"], tmp_path / "merged")
    same_run(whole, tmp_path / "merged")


def test_a_missing_shard_is_a_hole(llama: Subject, tmp_path: Path) -> None:
    shard(llama, tmp_path / "s1", "1/2")
    with pytest.raises(UserError, match=r"\d+ of 81 answers are missing, of \d prompts; .*, or that were left out"):
        merge([tmp_path / "s1"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_does_not_belong_together_is_refused(llama: Subject, tmp_path: Path) -> None:
    shard(llama, tmp_path / "s1", "1/2")
    shard(llama, tmp_path / "other", "2/2", doses=[0.5])
    with pytest.raises(UserError, match=r"other settings .protocol was"):
        merge([tmp_path / "s1", tmp_path / "other"], tmp_path / "merged")
    shard(llama, tmp_path / "judge", "2/2", judge=LengthJudge("length-2"))
    with pytest.raises(UserError, match=r"was judged by length-2 and .* by length-1; judge them alike"):
        merge([tmp_path / "s1", tmp_path / "judge"], tmp_path / "merged")
    with pytest.raises(UserError, match="is one of the folders that are merged"):
        merge([tmp_path / "s1"], tmp_path / "s1")
    with pytest.raises(UserError, match="is not a run folder"):
        merge([tmp_path / "nowhere"], tmp_path / "merged")
    with pytest.raises(UserError, match="no folder was named"):
        merge([], tmp_path / "merged")


def test_two_answers_to_one_cell_are_refused_in_float32(llama: Subject, tmp_path: Path) -> None:
    shard(llama, tmp_path / "s1", "1/2")
    shard(llama, tmp_path / "s2", "2/2")
    shutil.copytree(tmp_path / "s1", tmp_path / "twin")
    part = next((tmp_path / "twin" / "responses").glob("part-*"))
    changed = pd.read_parquet(part)
    changed["token_ids"] = [[7] for _ in changed.index]
    write_part_of(part, changed.astype({"layer": "Int32", "seed": "Int64"}), RESPONSE_SCHEMA)
    with pytest.raises(UserError, match=r"answer \d+ cells differently"):
        merge([tmp_path / "s1", tmp_path / "s2", tmp_path / "twin"], tmp_path / "merged")


def test_more_shards_than_prompts(llama: Subject, tmp_path: Path) -> None:
    empty = next(
        number for number in range(1, 100) if all(int(sha256_hex(p.id)[:16], 16) % 99 != number - 1 for p in PROMPTS)
    )
    with pytest.raises(UserError, match=rf"shard {empty}/99 holds none of the 9 prompts"):
        shard(llama, tmp_path / "s", f"{empty}/99")


def test_a_share_of_one_is_the_whole_run(llama: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASABENCH_SHARD", "1/1")
    assert small(llama, tmp_path / "run", **ASKED).row.prompts.n == len(PROMPTS)
    monkeypatch.setenv("ASABENCH_SHARD", "1/2")
    assert small(llama, tmp_path / "share", **ASKED).shard is not None
