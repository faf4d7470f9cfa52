"""DeepRefusal: refuse although the refusal direction is taken out of the stream, at random blocks and positions.

    h_l[position] <- h_l[position] - (h_l[position] . u_l) u_l   where drawn;  L = mean -log p(refusal)

A block is drawn with probability p, and of a drawn block each position with p again. u_l is the difference of the mean
states of harmful and harmless requests at their last position, once, under the model that training starts from. So the
model has to say no late, and from states that have lost the wish to.

Source: Xie et al. 2025 (arXiv:2509.15202) and its public code (YuanBoXie/DeepRefusal), which draws so. Different here:
one direction a block, taken from the block's output, where that code takes one direction from every block's input and
from what attention and MLP add; harmful answers' starts before the refusal are an option (`prefill`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from harness.defences.examples import Example, HarmfulData
from harness.defences.form import Choices, Composed
from harness.defences.perturbations import Ablated
from harness.defences.targets import Safe
from harness.defences.training import Settings
from harness.model.subject import Subject

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(learning_rate=1e-4, batch_size=8, epochs=1, benign_batch_size=8, lora_rank=8, lora_alpha=16),
        {"probability": 0.05},
    ),
    "small": (
        Settings(learning_rate=2e-5, batch_size=8, steps=60, benign_batch_size=8),
        {"probability": 0.5, "prefill": 0.25},
    ),
}
"""`paper`: the defaults of the public code, which names no learning rate: ours."""


class DeepRefusal(Composed):
    recipe = "deep-refusal"

    probability: float = Field(0.5, ge=0, le=1, description="of a block to be drawn, and of each position there")
    prefill: float = Field(0.0, ge=0, le=1, description="share of the requests whose answer begins harmfully")
    benign_weight: float = Field(1.0, ge=0)

    def choices(self) -> Choices:
        return Choices(
            source=Ablated(probability=self.probability),
            positions="all",
            layers="all",
            target=Safe(),
            benign_weight=self.benign_weight,
        )

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        """Where an answer begins harmfully, that beginning counts as read, and the refusal after it is learnt."""
        examples = super().harmful_examples(subject, data)
        every = round(1 / self.prefill) if self.prefill else 0
        return [
            replace(example, prompt=(*example.prompt, *example.rejected)) if every and n % every == 0 else example
            for n, example in enumerate(examples)
        ]
