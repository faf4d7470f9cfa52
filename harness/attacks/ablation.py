"""Directional ablation: the direction that mediates refusal is taken out of the whole stream.

Source: Arditi et al. 2024 (arXiv:2406.11717); `harness.attacks.refusal_direction` fits it, on the model that is
attacked, so that a defended model is met by a direction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from asabench.core.records import Cell
from harness.attacks.directional import DirectionalAttack
from harness.attacks.refusal_direction import rewrite_with
from harness.model.subject import Subject
from harness.stream.rewrite import Rewrite


class AblationAttack(DirectionalAttack):
    """h - (h.v)v at every block and position, the prompt's too; v is the difference of means between harmful and
    harmless requests whose ablation lowers refusal of held-out ones most. No dose, no block: one cell a prompt."""

    what = "ablation"

    def rewrite(self, subject: Subject, cells: Sequence[Cell]) -> Rewrite:
        """The same for all cells. Raises `UserError`."""
        found = self.direction(subject)
        return rewrite_with(found.raw[None].repeat(len(cells), 1), self.act, found)


make = AblationAttack
