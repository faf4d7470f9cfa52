"""Continuous adversarial training (CAT): refuse although the request's embeddings are moved where that is hardest.

    inner  min over ||d[position]|| <= eps of CE(harmful answer; e + d)        signed steps, e: the request's embeddings
    outer  toward * CE(refusal; e + d) + away * (-CE(harmful answer; e + d)) + utility * CE(harmless answer)

`toward` stops counting below a cross-entropy of 0.5, `away` above one of 5: enough is enough.
eps is a share of the mean norm of the embedding table's rows.

Source: Xhonneux et al. 2024 (arXiv:2405.15589) and its public code (sophie-xhonneux/Continuous-AdvTrain). Different
here: the inner step is a share of eps (0.1, which ten steps use up) instead of 1e-4 a dimension; harmless answers are
the model's own; the harmful answer is the start of compliance unless answers are given (--answers).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.defences.form import Choices, Composed
from harness.defences.perturbations import Pgd
from harness.defences.targets import Pair
from harness.defences.training import Settings

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(learning_rate=2e-4, batch_size=8, accumulation=8, epochs=5, benign_batch_size=56, lora_rank=64),
        {},
    ),
    "small": (Settings(learning_rate=2e-5, batch_size=4, steps=60, benign_batch_size=8), {}),
}
"""`paper`: what the public configuration says; its learning rate and adapters stand nowhere in it: ours."""


class Cat(Composed):
    recipe = "cat"

    eps: float = Field(0.05, gt=0, description="bound, in mean norms of the embedding table's rows")
    inner_steps: int = Field(10, ge=1)
    inner_step: float = Field(0.1, gt=0, description="length of an inner step, in bounds")
    toward: float = Field(0.5, ge=0)
    away: float = Field(0.5, ge=0)
    toward_floor: float = Field(0.5, ge=0, description="cross-entropy of the refusal that is enough")
    away_ceiling: float = Field(5.0, gt=0, description="cross-entropy of the harmful answer that is enough")
    benign_weight: float = Field(1.0, ge=0)

    def choices(self) -> Choices:
        return Choices(
            source=Pgd(bound=self.eps, steps=self.inner_steps, step=self.inner_step, rule="sign", random_start=False),
            embedding=True,
            positions="prompt",
            attacker="targeted",
            toward=1.0,
            away=0.0,
            target=Pair(
                toward=self.toward,
                away=self.away,
                toward_floor=self.toward_floor,
                away_cutoff=-self.away_ceiling,
                away_loss="ascent",
            ),
            benign_weight=self.benign_weight,
        )
