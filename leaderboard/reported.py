"""Figures that a paper reports of itself, as they were printed: shown in a track of their own, never ranked."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

REPORTED_FILE = "gu2025.csv"
SOURCE = "Gu et al. 2025, arXiv:2506.16078"
_EXPERIMENTS = {
    "effectiveness": "random noise, several models",
    "gradient": "random noise against the gradient's direction",
    "lapt": "before and after LAPT training",
}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One printed line; a number that the paper does not give is None."""

    experiment: str
    model: str
    attack: str
    init: float | None
    masr: float | None
    pasr: float | None
    note: str


def reported_text() -> str:
    """The data file as it is: what the page offers for download."""
    return resources.files("leaderboard").joinpath("data", REPORTED_FILE).read_text(encoding="utf-8")


def read_reported() -> tuple[Reported, ...]:
    """The paper's figures, in the paper's order."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    return tuple(
        Reported(
            experiment=_EXPERIMENTS[line["table"]],
            model=line["model"],
            attack=line["attack"],
            init=number(line["init"]),
            masr=number(line["masr"]),
            pasr=number(line["pasr"]),
            note=line["note"],
        )
        for line in csv.DictReader(reported_text().splitlines())
    )
