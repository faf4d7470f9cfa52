"""Attacks: each proposes raw directions. One file each.

An attack does not normalise, dose or apply what it proposes: `harness.perturbation` and `harness.injection` do, the
same way for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol as Interface

from torch import Tensor

from asabench.errors import UserError
from asabench.protocol import Protocol
from asabench.records import Cell
from harness.attacks.random import RandomAttack
from harness.subject import Subject


class Attack(Interface):
    """What the harness asks of an attack. `name` stands in the `attack` column."""

    @property
    def name(self) -> str: ...

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """Raw directions (cell, d_model), float32 on the CPU, in the order of `cells`."""
        ...


ATTACKS: dict[str, Callable[[Protocol], Attack]] = {
    "random": lambda protocol: RandomAttack(noise=protocol.noise),
}


def make_attack(name: str, protocol: Protocol) -> Attack:
    """The attack of that name under a protocol."""
    if name not in ATTACKS:
        raise UserError(f"unknown attack {name!r}; allowed: {', '.join(ATTACKS)}")
    return ATTACKS[name](protocol)
