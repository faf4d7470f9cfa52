"""What the commands print to: a terminal or pipe that may know few characters, be full, or not be there."""

from __future__ import annotations

import os
import sys


def any_characters() -> None:
    """From here on, standard output and error take every text: what their encoding lacks is written as an escape, and
    what is closed swallows everything."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # open until the program ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_line(text: str) -> str:
    """A message as one line that changes no terminal: names of files and the words of others may hold line breaks and
    control characters, which become spaces and escapes."""
    return "".join(
        each if each.isprintable() else ascii(each)[1:-1]
        for each in " ".join(line.strip() for line in text.splitlines())
    )


def swallow_output() -> None:
    """For a standard output that cannot be written: what is left in its buffer would fail again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
