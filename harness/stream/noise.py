"""Portable noise: draws that depend on nothing but what a cell is (docs/protocol.md, "Portable noise")."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.records import Cell, sha256_hex

Noise = Literal["per-cell", "one-vector"]
NoiseDevice = Literal["cpu", "cuda"]


def require_generator(device: NoiseDevice) -> None:
    """`UserError` where noise is to come from a device that is not here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "the protocol draws its noise from a CUDA device's generator, and no such device can be used here; "
            "give --noise-device cpu, whose vectors are others, or run it where there is one"
        )


def portable_seed(seed: int, goal_digest: str, layer: int | str) -> int:
    """The generator seed of a cell: 63 bits of a hash (docs/protocol.md, "Portable noise")."""
    key = sha256_hex(f"{seed}:{goal_digest}:{layer}")
    return int(key[:16], 16) & (2**63 - 1)


def gaussian(cell: Cell, d_model: int, noise: Noise, draws: int = 1, *, device: NoiseDevice = "cpu") -> Tensor:
    """The first `draws` draws from N(0, I) of a cell: (draw, d_model), float32 on the CPU, whatever device drew them.

    `per-cell`: each (seed, goal, layer) has draws of its own; `one-vector`: the generator starts at the cell's seed.
    Draws come one after the other, so the first is the same however many are asked for.
    """
    return draws_from(generator_seed(cell, noise), d_model, draws, device=device)


def generator_seed(cell: Cell, noise: Noise) -> int:
    """What the generator of a cell's draws starts at; all that another process needs to draw the same."""
    if cell.seed is None or cell.layer is None:
        raise ValueError("a random direction needs a cell with a seed and a layer")
    return cell.seed if noise == "one-vector" else portable_seed(cell.seed, cell.prompt.digest, cell.layer)


def draws_from(seed: int, d_model: int, draws: int = 1, *, device: NoiseDevice = "cpu") -> Tensor:
    """(draw, d_model) from N(0, I), float32 on the CPU, whatever device drew them."""
    require_generator(device)
    generator = torch.Generator(device).manual_seed(seed)
    drawn = [torch.randn(d_model, generator=generator, dtype=torch.float32, device=device) for _ in range(draws)]
    return torch.stack(drawn).cpu()
