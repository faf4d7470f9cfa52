"""How far a run is: a moving line on a terminal; elsewhere (a job's log, CI, a notebook) a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

SECONDS_BETWEEN_LINES = 60.0


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
        from tqdm import tqdm

        self.steps_per_cell = steps_per_cell
        self.finished = float(done)
        self.total = total
        self._file = sys.stderr if file is None else file
        on_terminal = self._file.isatty()
        self._clock = clock
        self._lines = show and not on_terminal
        self._first, self._began = float(done), clock()
        self._said_at = self._began
        self._cells = float(done)
        self.bar = tqdm(
            total=total,
            initial=done,
            disable=not (show and on_terminal),
            file=self._file,
            mininterval=0.5,
            bar_format="{desc} {bar:30} {n:.0f}/{total} cells, {elapsed} elapsed, {remaining} left{postfix}",
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
        if self._lines:
            self._say()
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
        print(f"{self._cells:.0f}/{self.total} cells, {rate:.2g} a second{left}", file=self._file, flush=True)


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
