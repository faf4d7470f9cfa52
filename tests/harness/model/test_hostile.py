"""Strangers' folders: refused in one line or measured as what they are, and nothing in them runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from harness.model import safe_loading
from harness.model.safe_loading import Limits, within_limits
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
