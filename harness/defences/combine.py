"""Any combination of the choices that make a recipe (`harness.defences.form`): for what nobody has tried.

    combine:source=pgd:layers=given:positions=answer            LAPT with PGD in place of noise
    combine:source=noise:layers=even:target=pair                LAT with equations (1) and (2) in place of PGD
    combine:source=pgd:embedding=true:target=reroute            circuit breakers under CAT's attack

Source: ours; the parts are those of the recipes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.defences.form import Attacker, Choices, Composed, Positions
from harness.defences.layer_choice import LayerChoice
from harness.defences.perturbations import Ablated, GradientDirection, Noise, Nothing, Pgd, Source
from harness.defences.targets import Noised, Pair, Preferred, Rerouted, Safe, Target
from harness.defences.training import Settings

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "small": (Settings(learning_rate=2e-5, batch_size=4, steps=60, benign_batch_size=4), {})
}


class Combine(Composed):
    recipe = "combine"

    source: Literal["none", "noise", "gradient", "pgd", "ablate"] = "pgd"
    embedding: bool = Field(False, description="disturb the embedding's output in place of blocks")
    positions: Positions = "prompt"
    layers: LayerChoice = "even"
    count: int = Field(4, ge=1, description="blocks of layers=even and layers=sampled")
    target: Literal["safe", "pair", "dpo", "reroute", "noise"] = "safe"
    attacker: Attacker = "targeted"
    dose: float = Field(1.0, ge=0, description="of source=noise")
    rho: float = Field(2.0, gt=0, description="of source=gradient")
    bound: float = Field(0.4, gt=0, description="of source=pgd, in standard deviations of the stream")
    radius: float | None = Field(None, gt=0, description="of source=pgd: an absolute bound instead")
    inner_steps: int = Field(6, ge=1)
    inner_step: float = Field(0.25, gt=0)
    probability: float = Field(0.5, ge=0, le=1, description="of source=ablate")
    toward: float = Field(0.5, ge=0)
    away: float = Field(0.5, ge=0)
    beta: float = Field(0.1, gt=0, description="of DPO")
    alpha: float = Field(10.0, gt=0, description="of target=reroute")
    model_steps: int = Field(1, ge=1, description="optimiser updates for one perturbation")
    benign_loss: Literal["sft", "kl", "none"] = "sft"
    benign_weight: float = Field(1.0, ge=0)

    def choices(self) -> Choices:
        sources: dict[str, Source] = {
            "none": Nothing(),
            "noise": Noise(dose=self.dose),
            "gradient": GradientDirection(length=self.rho),
            "pgd": Pgd(bound=self.bound, radius=self.radius, steps=self.inner_steps, step=self.inner_step),
            "ablate": Ablated(probability=self.probability),
        }
        targets: dict[str, Target] = {
            "safe": Safe(),
            "pair": Pair(toward=self.toward, away=self.away),
            "dpo": Preferred(beta=self.beta),
            "reroute": Rerouted(alpha=self.alpha),
            "noise": Noised(),
        }
        return Choices(
            source=sources[self.source],
            embedding=self.embedding,
            positions=self.positions,
            layers=self.layers,
            count=self.count,
            train_sampled=self.layers == "sampled",
            attacker=self.attacker,
            toward=self.toward,
            away=self.away,
            beta=self.beta,
            target=targets[self.target],
            benign=self.benign_loss,
            benign_weight=self.benign_weight,
            updates=self.model_steps,
        )
