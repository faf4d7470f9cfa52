"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from asabench.core.errors import UserError


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home folder; `UserError` where this user has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path} needs a home folder, and none is known for this user; set HOME, or ASABENCH_CACHE for what "
            "ASABench keeps, or give a path without ~"
        ) from None


def file_named(text: str) -> Path | None:
    """The file that a text names, if it names one: a name of something else may be no path at all."""
    try:
        path = Path(text).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # too long for a path, or the home folder of nobody
        return None
