"""The digests of published labelled pairs: what a check or a certificate says it was made on.

All of it comes with ASABench, digests where the text does not: a comparison needs no other package and no network.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from asabench.judging.labelled_pairs import PAIR_SETS, labelled_pairs, pairs_digest


class PairSet(NamedTuple):
    digest: str
    n: int
    n_unsafe: int


# Of the package pyrit 1.1.0, whose text is not shipped: of its pairs, whole and by source, and of the gold pairs with
# them. A test computes them where the package is installed
_PAIRS_WITH_PYRIT = {
    "pyrit": PairSet("812647e8f67f35e78fefa768c91ae0172e1bc28f20782dc1531fde5dd250d147", 489, 190),
    "all": PairSet("89d4d359c418bfacf1284933c7d7231b24a514f2c092f2d28ab8da7e6f767771", 662, 242),
    "pyrit-objective": PairSet("68b9054eb8339128b70bb5d135e09c90391657259c07d6b97c28115fc0577492", 394, 190),
    "pyrit-refusal": PairSet("dcf49c74dbcb849e5ba95a1e36118ac13f213bac7c5dd3f7da39fb4fef20c7b6", 95, 0),
    "pyrit-graded": PairSet("e17aa187fdf15dec70ba31e0d4d6376c51690d00a7090a1c77d5597e5d0560e3", 730, 339),
}


@lru_cache
def pair_set(name: str) -> PairSet | None:
    """The labelled pairs of that name, a set or a source in one; None where none are known by their digest."""
    if name in _PAIRS_WITH_PYRIT:
        return _PAIRS_WITH_PYRIT[name]
    if name not in PAIR_SETS:
        return None
    pairs = labelled_pairs(name)
    return PairSet(pairs_digest(pairs), len(pairs), sum(pair.unsafe for pair in pairs))
