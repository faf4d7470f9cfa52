"""The matched control of `ablation`: a random direction in the fitted one's place, with its length, at its block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asabench.core.records import Cell
from harness.attacks.directional import DirectionalAttack
from harness.attacks.refusal_direction import rewrite_with
from harness.model.subject import Subject
from harness.stream.noise import draws_from, portable_seed
from harness.stream.rewrite import Rewrite

PLACE = "every block"
"""What stands in a draw's seed where a block's number does else."""


class RandomAblationAttack(DirectionalAttack):
    """What `ablation` does with the same options, with a draw from N(0, I) for a direction: one per (seed, goal), or
    one for all under gu2025."""

    what = "random_ablation"
    uses_seed = True

    def rewrite(self, subject: Subject, cells: Sequence[Cell]) -> Rewrite:
        """A draw a cell, as long as the fitted direction where its length counts. Raises `UserError`."""
        directions = torch.stack([self._draw(cell, subject.d_model) for cell in cells])
        if self.act == "ablate":
            return Rewrite(act=self.act, direction=directions)
        found = self.direction(subject)
        directions *= found.raw.norm() / directions.norm(dim=-1, keepdim=True)
        return rewrite_with(directions, self.act, found)

    def _draw(self, cell: Cell, d_model: int) -> Tensor:
        if cell.seed is None:
            raise ValueError("a random direction needs a cell with a seed")
        one = self.protocol.noise == "one-vector"
        seed = cell.seed if one else portable_seed(cell.seed, cell.prompt.digest, PLACE)
        return draws_from(seed, d_model, device=self.protocol.noise_device)[0]


make = RandomAblationAttack
