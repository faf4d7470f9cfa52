"""What a run says of how far it is, where no terminal watches: a line a minute, and none before."""

from __future__ import annotations

import io

import pytest

from harness.progress import Progress, _lasting


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_a_minute_where_no_terminal_watches() -> None:
    file, clock = io.StringIO(), Clock()
    progress = Progress(20, 620, 10, True, file=file, clock=clock)
    clock.now += 59
    progress.finish(50)
    assert file.getvalue() == ""
    clock.now += 1
    progress.finish(70)
    # 120 cells in 60 s, and 480 are left
    assert file.getvalue() == "140/620 cells, 2 a second, about 4 min left\n"
    clock.now += 30
    progress.finish(10)
    assert file.getvalue().count("\n") == 1
    clock.now += 30
    progress.step(200)
    # 130 and 20 more, as 200 rows moved on by one of 10 steps, in 120 s
    assert file.getvalue().splitlines()[1] == "170/620 cells, 1.2 a second, about 6 min left"


def test_nothing_is_said_where_nobody_asked() -> None:
    file, clock = io.StringIO(), Clock()
    progress = Progress(0, 10, 1, False, file=file, clock=clock)
    clock.now += 1000
    progress.finish(10)
    assert file.getvalue() == ""


def test_a_terminal_gets_the_moving_line_alone() -> None:
    file, clock = Terminal(), Clock()
    progress = Progress(0, 10, 1, True, file=file, clock=clock)
    clock.now += 1000
    progress.finish(10)
    progress.bar.close()
    assert "10/10 cells" in file.getvalue()
    assert "a second" not in file.getvalue()


def test_a_standstill_promises_nothing() -> None:
    file, clock = io.StringIO(), Clock()
    progress = Progress(5, 10, 1, True, file=file, clock=clock)
    clock.now += 60
    progress.finish(0)
    assert file.getvalue() == "5/10 cells, 0 a second\n"


@pytest.mark.parametrize(("seconds", "said"), [(40.4, "40 s"), (720.0, "12 min"), (12_600.0, "3.5 h")])
def test_times_in_words(seconds: float, said: str) -> None:
    assert _lasting(seconds) == said
