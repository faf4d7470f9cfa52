"""Lists of numbers: as they stand on the command line, and evenly spaced ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from asabench.core.errors import UserError


def numbers(what: str, text: str | None, kind: type) -> list[Any] | None:
    """`0.3,1` as a list; None stays None. kind: int or float. `UserError` for what cannot be read."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        example = "0.3,1" if kind is float else "0,1,2"
        raise UserError(f"{what} {text!r} cannot be read; give numbers between commas, such as {example}") from None


def ranges(whole: Iterable[int]) -> str:
    """`0-2,5` for (0, 1, 2, 5)."""
    found: list[list[int]] = []
    for number in sorted(set(whole)):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def evenly_spaced(layers: Sequence[int], n: int) -> list[int]:
    """`n` of the layers, the first and last included; all of them when there are fewer.

    The i-th, from 0, stands at place i * (len(layers) - 1) / (n - 1), rounded to the nearest whole number, and half-way
    to the even one.
    """
    if len(layers) <= n or n < 2:
        return list(layers[:n])
    return [layers[round(i * (len(layers) - 1) / (n - 1))] for i in range(n)]
