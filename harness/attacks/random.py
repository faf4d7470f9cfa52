"""ASA_random: a direction drawn from N(0, I) (Gu et al. 2025, arXiv:2506.16078)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from asabench.records import Cell, sha256_hex

if TYPE_CHECKING:
    from harness.subject import Subject


@dataclass(frozen=True)
class RandomAttack:
    """Gaussian noise, the same on every machine.

    `per-cell`: each (seed, goal, layer) has a draw of its own, whatever the batch, order or device (asabench-v1).
    `one-vector`: the generator starts at the seed before every draw, so that one vector serves all prompts and layers
    (gu2025).
    """

    noise: Literal["per-cell", "one-vector"] = "per-cell"
    name: str = "random"
    uses_seed: bool = True

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU."""
        return torch.stack([self._draw(cell, subject.d_model) for cell in cells])

    def _draw(self, cell: Cell, d_model: int) -> Tensor:
        if cell.seed is None or cell.layer is None:
            raise ValueError("a random direction needs a cell with a seed and a layer")
        seed = cell.seed if self.noise == "one-vector" else portable_seed(cell.seed, cell.prompt.digest, cell.layer)
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(d_model, generator=generator, dtype=torch.float32)


def portable_seed(seed: int, goal_digest: str, layer: int) -> int:
    """The generator seed of a cell: 63 bits of a hash (docs/protocol.md, "Portable noise")."""
    key = sha256_hex(f"{seed}:{goal_digest}:{layer}")
    return int(key[:16], 16) & (2**63 - 1)
