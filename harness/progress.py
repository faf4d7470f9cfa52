"""A progress line with a rate and the time left; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Counts answered cells, and the steps of those under way as parts of a cell."""

    def __init__(self, done: int, total: int, steps_per_cell: int, show: bool) -> None:
        from tqdm import tqdm

        self.steps_per_cell = steps_per_cell
        self.finished = float(done)
        self.total = total
        self.bar = tqdm(
            total=total,
            initial=done,
            disable=not show,
            file=sys.stderr,
            mininterval=0.5,
            bar_format="{desc} {bar:30} {n:.0f}/{total} cells, {elapsed} elapsed, {remaining} left{postfix}",
            postfix="",
        )

    def step(self, rows: int) -> None:
        """A decoding step moved `rows` answers on by a token."""
        self._move_to(self.bar.n + rows / self.steps_per_cell)

    def finish(self, cells: int) -> None:
        """So many answers are whole and on disk."""
        self.finished += cells
        self._move_to(self.finished)

    def _move_to(self, cells: float) -> None:
        rate = self.bar.format_dict["rate"] or (
            (self.bar.n - self.bar.initial) / self.bar.format_dict["elapsed"] if self.bar.format_dict["elapsed"] else 0
        )
        self.bar.set_postfix_str(f"{rate:.1f} cells/s", refresh=False)
        self.bar.update(min(cells, self.total) - self.bar.n)


@contextmanager
def progress_line(done: int, total: int, steps_per_cell: int, show: bool) -> Iterator[Progress]:
    """`show=True` shows it on a terminal only."""
    progress = Progress(done, total, steps_per_cell, show and sys.stderr.isatty())
    try:
        yield progress
    finally:
        progress.bar.close()
