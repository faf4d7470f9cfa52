"""How far a run is: named phases in the log, and in the longest of them a moving line on a terminal or in a notebook;
elsewhere (a job's log, CI) a line a minute.

The log is the logger `asabench`, as in any library: who runs the program says where it goes (the commands' `-v`, `-q`
and `--log-file`). Phases are INFO; what is said once a minute is `MINUTE`, just above it.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 60.0

LOG = logging.getLogger("asabench")
MINUTE = logging.INFO + 5
logging.addLevelName(MINUTE, "MINUTE")

SHOWN = {"shown": True}
"""Marks what a terminal or a job's log has seen already: it is for files alone."""

hushed = False
"""Whether nothing is shown of how far a run is, whoever asked for it (`-q`)."""


@contextmanager
def phase(name: str, what: str = "", *, beats: bool = True) -> Iterator[None]:
    """Logs when a part of a run begins and ends, and that it goes on, once a minute. what: of what. beats: False where
    the part says itself how far it is."""
    LOG.info("%s%s", name, f": {what}" if what else "")
    began, over = time.monotonic(), threading.Event()

    def beat() -> None:
        while not over.wait(SECONDS_BETWEEN_LINES):
            LOG.log(MINUTE, "%s: %s so far", name, _lasting(time.monotonic() - began))

    if beats:
        threading.Thread(target=beat, name=f"asabench-{name}", daemon=True).start()
    try:
        yield
    finally:
        over.set()
    LOG.info("%s: done in %s", name, _lasting(time.monotonic() - began))


class Progress:
    """Counts answered cells, and the steps of those under way as parts of a cell.

    show: False shows nothing. file: where to; a terminal gets the moving line. clock: seconds, for tests.
    """

    def __init__(
        self,
        done: int,
        total: int,
        steps_per_cell: int,
        show: bool,
        *,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps_per_cell = steps_per_cell
        self.finished = float(done)
        self.total = total
        self._file = sys.stderr if file is None else file
        show = show and not hushed
        in_notebook = file is None and _in_notebook()
        on_terminal = in_notebook or self._file.isatty()
        bar: Any = _bar(in_notebook)
        self._clock = clock
        self._lines = show and not on_terminal
        self._first, self._began = float(done), clock()
        self._said_at = self._began
        self._cells = float(done)
        self.bar = bar(
            total=total,
            initial=done,
            disable=not (show and on_terminal),
            file=self._file,
            mininterval=0.5,
            bar_format=("{desc} {bar}" if in_notebook else "{desc} {bar:30}")
            + " {n:.0f}/{total} cells, {elapsed} elapsed, {remaining} left{postfix}",
            postfix="",
        )

    def step(self, rows: int) -> None:
        """A decoding step moved `rows` answers on by a token."""
        self._move_to(self._cells + rows / self.steps_per_cell)

    def finish(self, cells: int) -> None:
        """So many answers are whole and on disk."""
        self.finished += cells
        self._move_to(self.finished)

    def _move_to(self, cells: float) -> None:
        self._cells = min(cells, float(self.total))
        self._say()
        if self._lines:
            return
        rate = self.bar.format_dict["rate"] or (
            (self.bar.n - self.bar.initial) / self.bar.format_dict["elapsed"] if self.bar.format_dict["elapsed"] else 0
        )
        self.bar.set_postfix_str(f"{rate:.1f} cells/s", refresh=False)
        self.bar.update(self._cells - self.bar.n)

    def _say(self) -> None:
        """A line, if the last one is long ago. The rate is that since this process began."""
        now = self._clock()
        if now - self._said_at < SECONDS_BETWEEN_LINES:
            return
        self._said_at = now
        rate = (self._cells - self._first) / (now - self._began)
        left = f", about {_lasting((self.total - self._cells) / rate)} left" if rate > 0 else ""
        line = f"{self._cells:.0f}/{self.total} cells, {rate:.2g} a second{left}"
        if self._lines:
            print(line, file=self._file, flush=True)
        LOG.log(MINUTE, line, extra=SHOWN)


def _in_notebook() -> bool:
    """Whether a notebook shows what is printed, and has what tqdm draws its bar with there."""
    return "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None


def _bar(in_notebook: bool) -> Any:
    if in_notebook:
        from tqdm.notebook import tqdm as notebook

        return notebook
    from tqdm import tqdm

    return tqdm


def _lasting(seconds: float) -> str:
    """A time to wait, to two figures at most: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_line(done: int, total: int, steps_per_cell: int, show: bool) -> Iterator[Progress]:
    """`show=True` shows it: on a terminal as a moving line, elsewhere as a line a minute on stderr."""
    progress = Progress(done, total, steps_per_cell, show)
    try:
        yield progress
    finally:
        progress.bar.close()
