"""Logs of pip and vLLM: their end, and the one line that says why something ended."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

LOG_BYTES = 200_000
"""Only this much of a log's end is searched for what went wrong."""


def new_log() -> Path:
    """An empty file in the folder for temporary files."""
    handle, name = tempfile.mkstemp(prefix="asabench-vllm-", suffix=".log")
    os.close(handle)
    return Path(name)


def end_of(path: Path, size: int = LOG_BYTES) -> str:
    """The last `size` bytes of a file, as text."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", "replace")


def what_went_wrong(log: str) -> str:
    """The one line of a server's log that says why it ended."""
    usage = re.findall(r"(?m)^\S+: error: (.+)$", log)
    # pydantic's reason is in the line below the exception's name
    values = re.findall(r"(?m)^ +(?:Value|Assertion) error, (.+?)(?: \[type=.*)?$", log)
    errors = re.findall(r"(?m)^(?:\([^()\n]*\) )?(?:ERROR [^\]\n]*\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", log)
    # The first one is the cause; what follows are those of the processes that missed the first
    return shortened((usage or values or errors or [last_line(log) or "its log is empty"])[0])


def last_line(text: str) -> str:
    """The last line with something on it, without vLLM's process names, times and places, and control characters."""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    line = lines[-1].strip() if lines else ""
    line = re.sub(r"^(\([^()]*pid=\d+\) )?(\w+ \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?", "", line)
    return shortened(re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[^\x20-\x7e]", "", line).strip())


def last_match(pattern: str, text: str) -> str | None:
    """What the pattern's last match holds in its group; None without a match."""
    matches = re.findall(pattern, text)
    return shortened(matches[-1]) if matches else None


def shortened(line: str, limit: int = 300) -> str:
    """The line, cut where it is longer than a message may be."""
    return line if len(line) <= limit else line[: limit - 3] + "..."
