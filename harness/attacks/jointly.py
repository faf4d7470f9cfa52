"""An attack on every block at once, with the direction that it has for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from asabench.core.attack_names import JOINT
from asabench.core.records import Cell
from harness.model.subject import Subject

if TYPE_CHECKING:
    from harness.attacks import Attack


@dataclass(frozen=True, kw_only=True)
class Jointly:
    """`inner` is the attack. Its cells have no layer; at equal dose every block is perturbed as it would be alone, on
    top of what the blocks below did."""

    inner: Attack

    @property
    def name(self) -> str:
        return f"{self.inner.name}:{JOINT}"

    @property
    def family(self) -> str:
        return self.inner.family

    @property
    def uses_seed(self) -> bool:
        return self.inner.uses_seed

    @property
    def needs_targets(self) -> bool:
        return self.inner.needs_targets

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, block, d_model), float32 on the CPU."""
        return self.inner.directions(subject, cells)
