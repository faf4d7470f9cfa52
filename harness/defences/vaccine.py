"""Vaccine: answer safely although the hidden states of every block are pushed where that is hardest.

    e_l = rho * g_l / ||g||,  g_l = gradient of L(theta) in the output of block l,  ||g||^2 = sum over l of ||g_l||^2
    L'(theta) = mean -log p(y_t | x, y_<t; h_l + e_l for every l)

x is a harmful request and y its refusal: the first pass finds e, the second trains under it; at every position.

Source: Huang et al. 2024 (arXiv:2402.01109) and its public code (git-disl/Vaccine), whose norm too is taken over all
blocks at once. Different here: the shift is of each block's output, where that code shifts what attention adds; and a
benign term, without which a small model learns to refuse everything.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.defences.form import Choices, Composed
from harness.defences.perturbations import GradientDirection
from harness.defences.targets import Safe
from harness.defences.training import Settings

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(
            learning_rate=1e-3,
            weight_decay=0.1,
            warmup=0.1,
            batch_size=5,
            epochs=50,
            benign_batch_size=0,
            lora_rank=8,
            lora_alpha=4,
        ),
        {"rho": 2.0, "benign_weight": 0.0},
    ),
    "small": (Settings(learning_rate=2e-5, batch_size=8, steps=60, benign_batch_size=8), {"rho": 2.0}),
}
"""`paper`: the public code's values for models of 7B."""


class Vaccine(Composed):
    recipe = "vaccine"

    rho: float = Field(2.0, gt=0, description="L2 norm of the shift over all blocks and positions of a batch")
    benign_weight: float = Field(1.0, ge=0)

    def choices(self) -> Choices:
        return Choices(
            source=GradientDirection(length=self.rho),
            positions="all",
            layers="all",
            target=Safe(),
            benign_weight=self.benign_weight,
        )
