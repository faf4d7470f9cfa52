"""Strangers' folders: refused in one line or measured as what they are, and nothing in them runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asabench.core.errors import UserError
from harness.model import safe_loading
from harness.model.inspection import try_files
from harness.model.safe_loading import Limits, within_limits
from harness.model.subject import load
from tests.command_line import asabench
from tests.harness.model.hostile import CASES, PAGE, Case, expected, fault_of, made, save_clean, short_limits, table


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    save_clean(folder)
    return folder


def test_the_corpus_is_as_large_as_it_says_and_the_page_has_its_table() -> None:
    assert len(CASES) >= 150
    assert len({case.id for case in CASES}) == len(CASES)
    assert table(expected()) in PAGE.read_text(encoding="utf-8"), "run python -m tests.harness.model.hostile"


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_hostile_folder(case: Case, clean: Path, tmp_path: Path) -> None:
    with short_limits():
        _, wrong = fault_of(case, made(case, clean, tmp_path))
    assert wrong == ""


def test_what_runs_is_told_and_a_refusal_is_one_line_with_code_2(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {case.fault: case for case in CASES if case.family == "llama"}
    load(str(made(cases["configuration own code for a known family"], clean, tmp_path)))
    assert "code of its own (auto_map in config.json, evil.py), which is not run" in capsys.readouterr().err

    (tmp_path / "other").mkdir()
    folder = made(cases["configuration nested field"], clean, tmp_path / "other")
    done = asabench("evaluate", "--model", folder, "--limit", 1, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "config.json" in done.stderr
    assert "nested deeper than 64 levels" in done.stderr


def test_whoever_allows_a_models_code_is_not_kept_from_it(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*_: object, **__: object) -> None:
        raise UserError("tried in a child")

    monkeypatch.setattr("harness.model.subject.try_files", tried)
    with pytest.raises(UserError, match="tried in a child"):
        load(str(clean / "llama"))
    assert not load(str(clean / "llama"), allow_remote_code=True).strange


def test_weights_must_fit_into_the_memory_there_is_unless_that_is_elsewhere(clean: Path) -> None:
    # 4 blocks of 32 * 32 * (1 + 1/2 + 1/2 + 1) + 3 * 32 * 48 + 2 * 32, embeddings twice 160 * 32, a norm of 32; and the
    # 4 frequencies of the rotary embedding, twice
    values = 4 * (3072 + 4608 + 64) + 2 * 5120 + 32 + 8
    options: dict[str, Any] = {"template": None, "bytes_per_value": 4}
    try_files(clean / "llama", (), "tiny", room=4 * values, **options)
    try_files(clean / "llama", (), "tiny", room=None, **options)
    with pytest.raises(UserError, match=f"has {values:,} weights by its config.json"):
        try_files(clean / "llama", (), "tiny", room=4 * values - 1, **options)


# What a child may take


def computes() -> Iterator[str]:
    yield "a sum"
    while True:
        pass


def waits() -> Iterator[str]:
    yield "a pause"
    time.sleep(1000)


def allocates() -> Iterator[str]:
    yield "a list"
    bytearray(2**40)


def dies() -> Iterator[str]:
    yield "a crash"
    os.kill(os.getpid(), signal.SIGSEGV)


def panics() -> Iterator[str]:
    yield "a panic"
    raise BaseException("at the disco\nand more")


def talks() -> Iterator[str]:
    while True:
        yield "x" * 2**20


def writes() -> Iterator[str]:
    yield "a file"
    Path("written").write_text("x")


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (computes, "a sum of tiny takes more than 1 seconds of computing"),
        (waits, "a pause of tiny could not be read within 5 seconds"),
        (allocates, "a list of tiny takes more than 1 GiB of memory"),
        (dies, r"reading a crash of tiny ended the process that tried it \(SIGSEGV\)"),
        (panics, r"a panic of tiny cannot be read \(BaseException: at the disco and more\)"),
        (talks, "a file of tiny"),
        (writes, "File too large"),
    ],
)
def test_a_child_that_takes_more_than_it_may(
    function: object, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(safe_loading, "LIMITS", Limits(cpu_seconds=1, seconds=5, memory=2**30, output=2**16))
    with pytest.raises(UserError, match=line) as caught:
        within_limits(function, name="tiny")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def refuses(given: str) -> Iterator[str]:
    yield "nothing"
    raise UserError(f"{given} is refused")


def test_what_is_refused_in_the_child_is_refused_here_and_what_is_not_is_not() -> None:
    with pytest.raises(UserError, match=r"^this is refused$"):
        within_limits(refuses, "this", name="tiny")
    within_limits(iter, ("a file",), name="tiny")
