"""Changes of the whole residual stream: at every position, the prompt's included, in every forward.

They are no perturbations of equations (1) and (2) of docs/protocol.md: they take no dose and are at no one block's
scale. Source: Arditi et al. 2024 (arXiv:2406.11717), directional ablation and activation addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

Act = Literal["ablate", "subtract", "add"]
"""`ablate`: h - (h.v)v with v of length 1, at every block; `subtract` and `add`: h - r and h + r at one block."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rewrite:
    """What is done to each row of a batch.

    direction: (row, d_model), raw; of `ablate` its length does not count. block: where it is subtracted or added; of
    `ablate` it is None.
    """

    act: Act
    direction: Tensor
    block: int | None = None

    def blocks_of(self, n_layers: int) -> Sequence[int]:
        """The blocks whose outputs change."""
        return range(n_layers) if self.block is None else (self.block,)

    @property
    def from_the_start(self) -> bool:
        """Whether what the first block reads changes too: ablated, the stream never holds the direction."""
        return self.act == "ablate"

    def of_rows(self, rows: Tensor) -> Rewrite:
        """That of some rows only. rows: their indices, in order."""
        return replace(self, direction=self.direction[rows.to(self.direction.device)])

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden states (row, position, d_model), a new tensor of their dtype, computed in that of the direction."""
        direction = self.direction.to(hidden.device)[:, None]
        state = hidden.to(direction.dtype)
        if self.act == "ablate":
            unit = direction / direction.norm(dim=-1, keepdim=True)
            changed = state - (state * unit).sum(dim=-1, keepdim=True) * unit
        else:
            changed = state + direction if self.act == "add" else state - direction
        return changed.to(hidden.dtype)
