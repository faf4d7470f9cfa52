"""Targeted Vaccine: Vaccine at a few blocks, which are drawn by how much harmful fine-tuning would move them.

    p(l) in proportion to ||gradient of CE(harmful answer) in the output of block l||;  S blocks without replacement
    e_l and L' as in Vaccine, over those blocks; the weights of the other blocks stay in that step

Source: Liu et al. 2025 (arXiv:2410.09760) and its public code (Lslland/T-Vaccine). Different here: the norms are those
of each step's own batch, where that code takes them every 200 steps on 200 harmful prompts, and draws every 20; the
harmful answer is the start of compliance unless answers are given; and a benign term.
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
            batch_size=10,
            epochs=20,
            benign_batch_size=0,
            lora_rank=8,
            lora_alpha=4,
        ),
        {"rho": 3.0, "sampled": 8, "benign_weight": 0.0},
    ),
    "small": (Settings(learning_rate=2e-5, batch_size=8, steps=60, benign_batch_size=8), {"rho": 3.0, "sampled": 8}),
}
"""`paper`: the public code's values for models of 7B; its adapters' rank and alpha are Vaccine's."""


class TVaccine(Composed):
    recipe = "t-vaccine"

    rho: float = Field(3.0, gt=0, description="L2 norm of the shift over the drawn blocks and positions of a batch")
    sampled: int = Field(8, ge=1, description="how many blocks are drawn each step")
    benign_weight: float = Field(1.0, ge=0)

    def choices(self) -> Choices:
        return Choices(
            source=GradientDirection(length=self.rho),
            positions="all",
            layers="sampled",
            count=self.sampled,
            train_sampled=True,
            target=Safe(),
            benign_weight=self.benign_weight,
        )
