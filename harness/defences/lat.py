"""Targeted latent adversarial training (LAT): refuse under the worst small shift of the residual stream.

Inner problem, by projected gradient descent on shifts d_l of the outputs of a few evenly spaced blocks:

    min over ||d_l[position]|| <= r_l of  toward * CE(harmful start) + away * mean -log(1 - p(refusal token))

Outer problem, on the weights, under those shifts:

    refusal  toward * CE(refusal) + away * mean -log(1 - p(token of the harmful start))
    dpo      -log sigmoid(beta * ((log p(refusal) - log p0(refusal)) - (log p(harmful) - log p0(harmful))))

plus, without a shift, `benign_weight` times the cross-entropy of the model's own answers to harmless requests (`sft`)
or times KL(p0 || p) on them (`kl`); p0 is the frozen model that training starts from.
With `attack=dpo` the inner problem is the DPO loss with the two answers swapped, as in the published removal of
backdoors (preset `backdoor`).

The bound: r_l = `bound` times the stream's standard deviation times sqrt(d_model), or the absolute `radius`. The
standard deviation is taken over the entries of h, and its median over the perturbed positions of the batch: the first
token of a text has a norm many times that of the others, which a mean would follow. So a bound of 0.4 is as long as the
Activation Steering Attack at dose 0.4.

Source: Sheshadri et al. 2024 (arXiv:2407.15549). Different here: shifts of the embedding output are not among the
layers; inner steps follow the gradient's direction at each position, by `inner_step` radii, where the published code
uses Adam; harmful completions are the start of compliance alone, so that no harmful text is needed.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.defences.form import Choices, Composed
from harness.defences.perturbations import Pgd
from harness.defences.targets import Pair, Preferred
from harness.defences.training import Settings

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(learning_rate=2e-5, batch_size=8, steps=100, benign_batch_size=8, lora_rank=64),
        {
            "radius": 6.0,
            "inner_steps": 16,
            "model_steps": 4,
            "toward": 0.5,
            "away": 0.5,
            "benign_loss": "sft",
            "benign_weight": 1.5,
        },
    ),
    "small": (
        Settings(learning_rate=2e-5, batch_size=4, steps=30, benign_batch_size=4),
        {"bound": 0.4, "inner_steps": 6, "model_steps": 2, "benign_weight": 1.5},
    ),
    "backdoor": (
        Settings(learning_rate=2e-5, batch_size=16, steps=256, benign_batch_size=16, lora_rank=64),
        {
            "radius": 1.5,
            "inner_steps": 16,
            "model_steps": 4,
            "base": "dpo",
            "attack": "dpo",
            "beta": 0.3,
            "benign_weight": 1.0,
        },
    ),
}
"""`paper`: the published code's values for models of 8B; `backdoor`: its values for backdoors in models of 7B.
`small`: chosen on SmolLM2-135M (docs/defences.md)."""


class Lat(Composed):
    recipe = "lat"
    later = frozenset({"attack"})

    layers: int = Field(4, ge=1, description="how many evenly spaced blocks are perturbed")
    positions: Literal["prompt", "all"] = "prompt"
    bound: float = Field(0.4, gt=0, description="in standard deviations of the stream")
    radius: float | None = Field(None, gt=0, description="an absolute L2 bound instead")
    inner_steps: int = Field(16, ge=1)
    inner_step: float = Field(0.25, gt=0, description="length of an inner step, in radii")
    model_steps: int = Field(4, ge=1, description="optimiser updates for one inner attack")
    base: Literal["refusal", "dpo"] = "refusal"
    beta: float = Field(0.1, gt=0, description="of DPO")
    toward: float = Field(0.5, ge=0)
    away: float = Field(0.5, ge=0)
    benign_loss: Literal["sft", "kl"] = "sft"
    benign_weight: float = Field(1.5, ge=0)
    attack: Literal["likelihood", "dpo"] = Field("likelihood", description="the attacker's loss; dpo: the swapped one")

    def choices(self) -> Choices:
        return Choices(
            source=Pgd(bound=self.bound, radius=self.radius, steps=self.inner_steps, step=self.inner_step),
            positions=self.positions,
            layers="even",
            count=self.layers,
            attacker="dpo" if self.attack == "dpo" else "targeted",
            toward=self.toward,
            away=self.away,
            beta=self.beta,
            target=Preferred(beta=self.beta) if self.base == "dpo" else Pair(toward=self.toward, away=self.away),
            benign=self.benign_loss,
            benign_weight=self.benign_weight,
            updates=self.model_steps,
        )
