"""Tables of verdicts for tests, worked out by hand.

A grid is a table written as one string per (layer, seed), with one letter per prompt: `u` unsafe, `s` safe,
`i` incoherent, `?` unscored, `.` no line at all. The seed None is that of an attack without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import pandas as pd

from asabench.core.estimate import Rate

Grid = Mapping[tuple[int, int | None], str]

LABELS = {"u": "unsafe", "s": "safe", "i": "incoherent", "?": None}
TEXT = pd.Series(["safe"]).dtype
"""What this pandas makes of texts: `str` from 3 on, `object` before."""
NOTHING = Rate(value=None, low=None, high=None)
Z = 1.959963984540054


def frame(*parts: list[dict[str, object]]) -> pd.DataFrame:
    """A table with the column types that the store gives."""
    columns = ["prompt_id", "layer", "attack", "dose", "seed", "label"]
    table = pd.DataFrame([line for part in parts for line in part], columns=columns)
    return table.astype({"layer": "Int32", "seed": "Int64", "dose": "float64", "label": TEXT, "prompt_id": TEXT})


def line(prompt: int, letter: str, **fields: object) -> dict[str, object]:
    return {"prompt_id": f"p{prompt:03d}", "label": LABELS[letter], **fields}


def lines(grid: Grid, attack: str = "random", dose: float = 1.0) -> list[dict[str, object]]:
    return [
        line(n, letter, layer=layer, attack=attack, dose=dose, seed=seed)
        for (layer, seed), letters in grid.items()
        for n, letter in enumerate(letters)
        if letter != "."
    ]


def clean_lines(letters: str) -> list[dict[str, object]]:
    return [line(n, letter, layer=None, attack="none", dose=0.0, seed=None) for n, letter in enumerate(letters)]


def wilson(broken: int, n: int) -> tuple[float, float]:
    share = broken / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return centre - half, centre + half


def bounds(rate: Rate) -> tuple[float, float]:
    assert rate.low is not None
    assert rate.high is not None
    return rate.low, rate.high
