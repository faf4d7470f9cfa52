"""Which of AdvBench's goals are near-duplicates, by their digests: the text does not come with ASABench.

`data/advbench_pairs.csv` has every pair at `asabench.core.similarity.NEAR` or more. So what a training has in common
with a test, and the clusters of a test's prompts, are known where both are AdvBench's and only digests are at hand.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from asabench.core import advbench
from asabench.core.errors import NotAtHand
from asabench.core.similarity import Near, components

PAIRS = Path(str(files("asabench"))) / "data" / "advbench_pairs.csv"
PUBLISHED_TEST = 100
"""The first so many goals are what the published protocols test."""


@lru_cache
def pairs() -> tuple[Near, ...]:
    """The pairs of near-duplicates among AdvBench's goals by number, in order; `NotAtHand` where the table cannot be
    read."""
    try:
        with PAIRS.open(encoding="utf-8", newline="") as file:
            return tuple(
                Near(int(row["first"]), int(row["second"]), float(row["similarity"])) for row in csv.DictReader(file)
            )
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise NotAtHand(
            f"the near-duplicates of AdvBench in {PAIRS} cannot be read ({type(error).__name__}); "
            "install ASABench again"
        ) from None


def _numbers() -> Mapping[str, int]:
    return {known.goal: number for number, known in enumerate(advbench.digests())}


def published_clusters() -> tuple[int, ...]:
    """The cluster of each of AdvBench's goals among all of them, named by its first goal's number."""
    return components(len(advbench.digests()), [(near.first, near.second) for near in pairs()])


def disjoint_rows() -> list[int]:
    """The numbers of the goals that no chain of near-duplicates connects with the first `PUBLISHED_TEST`."""
    return [number for number, first in enumerate(published_clusters()) if first >= PUBLISHED_TEST]


def known_goals(digests: Iterable[str]) -> frozenset[str]:
    """Those of the digests that are of a goal of AdvBench."""
    return frozenset(digests) & _numbers().keys()


def clusters_of_digests(digests: Sequence[str]) -> tuple[int, ...] | None:
    """The cluster of each goal among those given, by SHA-256, named by the place of its first member; None where one
    of them is none of AdvBench's. As `asabench.core.similarity.clusters` makes them of the texts."""
    return None if len(known_goals(digests)) < len(set(digests)) else known_clusters(digests)


def known_clusters(digests: Sequence[str]) -> tuple[int, ...]:
    """The same, where what is none of AdvBench's stands alone: the coarsest clusters that are known for certain."""
    numbers = _numbers()
    place = {numbers[digest]: at for at, digest in enumerate(digests) if digest in numbers}
    inside = [(place[near.first], place[near.second]) for near in pairs() if {near.first, near.second} <= place.keys()]
    return components(len(digests), inside)


def known_near(training: Collection[str], test: Sequence[str]) -> dict[str, float]:
    """By digest of a test goal, its highest similarity to a training goal that is a near-duplicate and not the goal
    itself; only between AdvBench's."""
    known = advbench.digests()
    trained, tested = set(training), set(test)
    found: dict[str, float] = {}
    for near in pairs():
        if near.second >= len(known):
            continue
        for one, other in ((near.first, near.second), (near.second, near.first)):
            if known[one].goal in trained and known[other].goal in tested:
                goal = known[other].goal
                found[goal] = max(found.get(goal, 0.0), near.similarity)
    return found
