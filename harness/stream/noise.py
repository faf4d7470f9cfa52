"""Portable noise: draws that depend on nothing but what a cell is (docs/protocol.md, "Portable noise")."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from asabench.core.records import Cell, sha256_hex

Noise = Literal["per-cell", "one-vector"]


def portable_seed(seed: int, goal_digest: str, layer: int) -> int:
    """The generator seed of a cell: 63 bits of a hash (docs/protocol.md, "Portable noise")."""
    key = sha256_hex(f"{seed}:{goal_digest}:{layer}")
    return int(key[:16], 16) & (2**63 - 1)


def gaussian(cell: Cell, d_model: int, noise: Noise, draws: int = 1) -> Tensor:
    """The first `draws` draws from N(0, I) of a cell: (draw, d_model), float32 on the CPU.

    `per-cell`: each (seed, goal, layer) has draws of its own; `one-vector`: the generator starts at the cell's seed.
    Draws come one after the other, so the first is the same however many are asked for.
    """
    return draws_from(generator_seed(cell, noise), d_model, draws)


def generator_seed(cell: Cell, noise: Noise) -> int:
    """What the generator of a cell's draws starts at; all that another process needs to draw the same."""
    if cell.seed is None or cell.layer is None:
        raise ValueError("a random direction needs a cell with a seed and a layer")
    return cell.seed if noise == "one-vector" else portable_seed(cell.seed, cell.prompt.digest, cell.layer)


def draws_from(seed: int, d_model: int, draws: int = 1) -> Tensor:
    """(draw, d_model) from N(0, I), float32 on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.stack([torch.randn(d_model, generator=generator, dtype=torch.float32) for _ in range(draws)])
