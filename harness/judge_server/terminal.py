"""What is said on standard error while something takes its time."""

from __future__ import annotations

import shutil
import sys
import time

POLL_SECONDS = 0.25
"""How often it is looked whether what is waited for has come."""


class Waiting:
    """One line that is written over: what is waited for, since when, and the last line of a log. Silent where standard
    error is no terminal."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()
        self.watched = sys.stderr.isatty()

    def __enter__(self) -> Waiting:
        return self

    def show(self, line: str) -> None:
        if self.watched:
            text = f"{self.what}, {time.monotonic() - self.started:.0f} s: {line}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *exception: object) -> None:
        if self.watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
