"""Figures that a paper reports of itself, as they were printed: shown in a track of their own, never ranked."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

REPORTED_FILE = "gu2025.csv"
PEERS_FILE = "peers.csv"
SOURCE = "Gu et al. 2025, arXiv:2506.16078"
_EXPERIMENTS = {
    "effectiveness": "random noise, several models",
    "gradient": "random noise against the gradient's direction",
    "lapt": "before and after LAPT training",
}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One printed line; a number that its source does not give is None. Where a source knows one rate alone, it is
    `masr`."""

    source: str
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
    """The figures of the paper, then those of others, in their order."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    own = csv.DictReader(reported_text().splitlines())
    peers = resources.files("leaderboard").joinpath("data", PEERS_FILE).read_text(encoding="utf-8")
    return tuple(
        Reported(
            source=line.get("source") or SOURCE,
            experiment=line.get("experiment") or _EXPERIMENTS[line["table"]],
            model=line["model"],
            attack=line["attack"],
            init=number(line["init"]),
            masr=number(line["masr"]),
            pasr=number(line["pasr"]),
            note=line["note"],
        )
        for line in (*own, *csv.DictReader(peers.splitlines()))
    )
