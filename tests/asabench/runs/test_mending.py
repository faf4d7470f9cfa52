"""Damaged parts of a run are named, set aside and done again; nothing stays there twice."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.records import Cell, Prompt, Response, Verdict
from asabench.runs.folder import Run, open_run, read_run, reopen_run
from asabench.runs.mending import DAMAGED
from tests.run_settings import run_settings

PROMPTS = pd.DataFrame({"id": ["a", "b"], "goal": ["paint a fence", "plant a hedge"]})


@contextmanager
def opened(path: Path) -> Iterator[Run]:
    with open_run(path, run_settings(), {"version": "0.1"}, PROMPTS) as run:
        yield run


def responses(*numbers: int) -> list[Response]:
    cells = [Cell(prompt=Prompt(id=f"p{n}", goal=f"goal {n}"), layer=0, attack="random", dose=1.0) for n in numbers]
    return [Response(cell=cell, text="an answer", token_ids=(1, 2), finish_reason="stop") for cell in cells]


def answer(run: Run, *numbers: int) -> None:
    given = responses(*numbers)
    run.append_responses(given)
    run.append_verdicts([Verdict(cell_id=r.cell.id, judge="j", label="safe", reply="Safe.") for r in given])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run of four cells in two parts each."""
    with opened(tmp_path / "run") as run:
        answer(run, 0, 1)
        answer(run, 2, 3)
    (tmp_path / "run" / "row.json").write_text("{}")
    return tmp_path / "run"


def held(path: Path) -> tuple[list[str], list[str]]:
    """The cells that have an answer, and those that have a verdict."""
    run = read_run(path)
    ids = {response.cell.id: response.cell.prompt.id for response in responses(*range(4))}
    return tuple(sorted(ids[cell] for cell in table["cell_id"]) for table in (run.responses(), run.verdicts()))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_is_found_in_any_part(seed: int, path: Path) -> None:
    """Wherever it is: half of them a reader of Parquet would not notice."""
    rng = random.Random(seed)
    part = rng.choice(sorted(path.rglob("part-*.parquet")))
    content = bytearray(part.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    part.write_bytes(content)
    reads = {"responses": Run.responses, "verdicts": Run.verdicts, "replies": Run.replies}
    with pytest.raises(UserError, match="run the same evaluation again") as error:
        reads[part.parent.name](read_run(path))
    assert f"{part} is damaged" in str(error.value)
    with opened(path) as run:
        assert any(str(part) in line for line in run.mended)
        before = bytes(content)
    (aside,) = (path / DAMAGED).glob("*.parquet")
    assert aside.read_bytes() == before, "set aside, not destroyed"
    with opened(path) as run:
        assert run.mended == (), "once"


def test_a_damaged_answer_takes_its_verdict_along(path: Path) -> None:
    (path / "responses" / "part-000001.parquet").write_bytes(b"")
    with opened(path) as run:
        assert len(run.mended) == 3, run.mended
        assert held(path) == (["p0", "p1"], ["p0", "p1"])
        assert len(run.replies()) == 2
        answer(run, 2, 3)
    assert held(path) == (["p0", "p1", "p2", "p3"],) * 2
    assert (path / DAMAGED / "row.json").is_file(), "the row is of answers that are not there"


def test_a_damaged_verdict_leaves_the_answers(path: Path) -> None:
    (path / "verdicts" / "part-000000.parquet").write_bytes(b"PAR1")
    with opened(path):
        assert held(path) == (["p0", "p1", "p2", "p3"], ["p2", "p3"])
    assert (path / "row.json").is_file()


def test_what_is_there_twice_is_done_again_and_not_for_ever_refused(path: Path) -> None:
    """A part that was deleted, as an older version advised, and answered again; and one that was copied."""
    (path / "responses" / "part-000000.parquet").unlink()
    with opened(path) as run:
        assert held(path) == (["p2", "p3"], ["p2", "p3"])
        answer(run, 0, 1)
    for table in ("responses", "verdicts"):
        shutil.copy(path / table / "part-000001.parquet", path / table / "part-000009.parquet")
    with pytest.raises(UserError, match="cell_id twice; run the same evaluation again"):
        read_run(path).responses()
    with opened(path) as run:
        assert held(path) == (["p0", "p1"], ["p0", "p1"])
        answer(run, 2, 3)
    assert held(path) == (["p0", "p1", "p2", "p3"],) * 2


def test_a_part_keeps_its_other_lines(path: Path) -> None:
    with opened(path) as run:
        run.append_responses(responses(1))
    with opened(path):
        assert held(path) == (["p0", "p2", "p3"], ["p0", "p2", "p3"])


def test_parts_from_before_there_were_digests_are_read(path: Path) -> None:
    shutil.rmtree(path / "digests")
    with opened(path) as run:
        assert run.mended == ()
    assert held(path) == (["p0", "p1", "p2", "p3"],) * 2


def test_judging_again_does_not_leave_out_what_was_lost(path: Path) -> None:
    (path / "responses" / "part-000000.parquet").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match=r"is not finished.*run the same evaluation again first"), reopen_run(path):
            pass
