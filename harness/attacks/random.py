"""ASA_random: a direction drawn from N(0, I) (Gu et al. 2025, arXiv:2506.16078)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from asabench.core.protocol import Protocol
from asabench.core.records import Cell
from harness.attacks.cells import require_steered
from harness.stream.noise import Noise, NoiseDevice, gaussian, generator_seed, portable_seed, require_generator

if TYPE_CHECKING:
    from harness.model.subject import Subject

__all__ = ["RandomAttack", "portable_seed"]


@dataclass(frozen=True)
class RandomAttack:
    """N(0, I), one draw per (seed, goal, layer), or one for all under gu2025.

    The same on every machine, unless `noise_device` says that a GPU draws.

    `per-cell`: each (seed, goal, layer) has a draw of its own, whatever the batch, order or device (asabench-v1).
    `one-vector`: the generator starts at the seed before every draw, so that one vector serves all prompts and layers
    (gu2025).
    """

    noise: Noise = "per-cell"
    noise_device: NoiseDevice = "cpu"

    name: ClassVar[str] = "random"
    family: ClassVar[str] = "random"
    uses_seed: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = False

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU; for cells without a layer (cell, block, d_model), the draws that a cell
        at each block has."""
        require_steered(cells)
        return torch.stack([self._draw(cell, subject) for cell in cells])

    def _draw(self, cell: Cell, subject: Subject) -> Tensor:
        if cell.layer is None:
            return torch.stack([self._draw(replace(cell, layer=at), subject) for at in range(subject.n_layers)])
        return gaussian(cell, subject.d_model, self.noise, device=self.noise_device)[0]

    def generator_seeds(self, cells: Sequence[Cell]) -> list[int] | None:
        """What the generator of each cell's direction starts at: an engine in another process draws it there. None
        where a GPU draws: its vectors are handed over."""
        return [generator_seed(cell, self.noise) for cell in cells] if self.noise_device == "cpu" else None


def make(protocol: Protocol) -> RandomAttack:
    require_generator(protocol.noise_device)
    return RandomAttack(noise=protocol.noise, noise_device=protocol.noise_device)
