"""Lists of numbers as they stand on the command line."""

from __future__ import annotations

from typing import Any

from asabench.errors import UserError


def numbers(what: str, text: str | None, kind: type) -> list[Any] | None:
    """`0.3,1` as a list; None stays None. kind: int or float. `UserError` for what cannot be read."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        example = "0.3,1" if kind is float else "0,1,2"
        raise UserError(f"{what} {text!r} cannot be read; give numbers between commas, such as {example}") from None
