"""Circuit breakers by representation rerouting: what the model thinks while it answers harmfully leads nowhere.

    c_s = alpha * (1 - t / 2T),  c_r = alpha * t / 2T
    L = c_s * mean relu(cos(h_l, h0_l)) on harmful answers  +  c_r * mean ||h_l - h0_l|| on what is kept

h0 is the frozen model's state; l runs over a few blocks, t over the T steps. Kept are harmless requests with the
model's own answers and harmful ones with refusals. Nothing is perturbed.

Source: Zou et al. 2024 (arXiv:2406.04313); hyper-parameters from the scripts that public copies of its code share.
Different here: blocks are evenly spaced or those of --layers; adapters reach every block, where the published ones end
at the last block that is read; the harmful answer is the start of compliance unless answers are given (--answers).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.defences.form import Choices, Composed
from harness.defences.targets import Rerouted
from harness.defences.training import Settings

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(
            learning_rate=1e-4,
            weight_decay=0.0,
            warmup=0.0,
            batch_size=16,
            steps=150,
            benign_batch_size=16,
            lora_rank=16,
            lora_alpha=16,
        ),
        {"alpha": 10.0, "layers": "given"},
    ),
    "small": (
        Settings(learning_rate=2e-5, batch_size=8, steps=60, benign_batch_size=8),
        {"alpha": 10.0, "layers": "even", "count": 2},
    ),
}
"""`paper`: for Llama-3-8B, with --layers 10,20."""


class CircuitBreakers(Composed):
    recipe = "circuit-breakers"

    alpha: float = Field(10.0, gt=0)
    layers: Literal["all", "even", "given"] = Field("even", description="blocks that are read; given: --layers")
    count: int = Field(2, ge=1, description="how many, of evenly spaced ones")
    keep_refusals: bool = Field(True, description="keep the states of refusals too")

    def choices(self) -> Choices:
        return Choices(
            layers=self.layers,
            count=self.count,
            target=Rerouted(alpha=self.alpha, keep_refusals=self.keep_refusals),
            benign="none",
        )
