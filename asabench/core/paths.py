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
