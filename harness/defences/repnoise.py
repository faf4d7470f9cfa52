"""Representation noising (RepNoise): nothing of a harmful answer is left in the hidden states to fine-tune on.

    L = CE(refusal) + beta * mean over l of MMD(h_l on harmful answers, N(0, I)) - alpha * log(1 + CE(harmful answer))

the harmful cross-entropy taken as the mean over the logits and several blocks read as if the model ended there. MMD
sums five Gaussian kernels.

Source: Rosati et al. 2024 (arXiv:2405.14577) and its public code (domenicrosati/representation-noising), from which
alpha and beta are. Different here: the states of the stream, where that code takes what each MLP adds; four blocks
instead of all are read as logits; the harmful answer is the start of compliance unless answers are given (--answers);
and a benign term.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.defences.form import Choices, Composed
from harness.defences.targets import Noised
from harness.defences.training import Settings

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(learning_rate=2e-5, batch_size=8, epochs=1, benign_batch_size=0),
        {"alpha": 1.0, "beta": 0.001, "benign_weight": 0.0},
    ),
    "small": (Settings(learning_rate=2e-5, batch_size=8, steps=60, benign_batch_size=8), {}),
}
"""`paper`: alpha and beta of the public code. Its learning rate, batch and length are not in that code: ours."""


class RepNoise(Composed):
    recipe = "repnoise"

    alpha: float = Field(1.0, ge=0, description="weight of the harmful answers' raised loss")
    beta: float = Field(0.001, ge=0, description="weight of the noise term")
    lens: int = Field(4, ge=0, description="blocks that are read as logits, evenly spaced")
    benign_weight: float = Field(1.0, ge=0)

    def choices(self) -> Choices:
        return Choices(
            layers="all",
            target=Noised(alpha=self.alpha, beta=self.beta, lens=self.lens),
            benign_weight=self.benign_weight,
        )
