"""Unlearning: facts that shall not be known any more, with or without latent attacks that call them up.

    ga    toward * CE(generic answer) + away * (-CE(fact's answer), down to `enough` nats)      gradient ascent
    whp   CE(generic answer)                                                                    generic predictions
    rmu   mean ||h_l - c * u||^2 on the fact's answer + alpha * mean ||h_l - h0_l||^2 on what is kept, over d

u is one random unit vector, l one block. With `latent`, under the shift by which projected gradient descent makes the
fact's answer likely, as in LAT; each plus the cross-entropy of what is kept (`benign_weight`; in rmu the states stay).
The facts are the requests of --train with the answers of --answers, what is kept those of --benign.

Source: the third application of Sheshadri et al. 2024 (arXiv:2407.15549); whp after Eldan and Russinovich 2023
(arXiv:2310.02238), rmu after Li et al. 2024 (arXiv:2403.03218). Different here: one generic sentence
in place of a second model's predictions; rmu trains every weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from asabench.core.errors import UserError
from harness.defences.examples import Example, HarmfulData, batch_of, end_token, text_tokens
from harness.defences.form import Choices, Composed
from harness.defences.perturbations import Nothing, Pgd
from harness.defences.targets import Outcome, Pair, Safe, Target, frozen_states, read, real_positions
from harness.defences.training import Settings
from harness.model.subject import Subject

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(learning_rate=5e-5, batch_size=4, steps=200, clip=0.5, benign_batch_size=4, lora_rank=64),
        {
            "base": "ga",
            "latent": True,
            "radius": 2.0,
            "inner_steps": 16,
            "model_steps": 4,
            "toward": 0.0,
            "away": 1.0,
            "benign_weight": 4.0,
        },
    ),
    "small": (Settings(learning_rate=2e-5, batch_size=8, steps=60, benign_batch_size=16), {}),
}
"""`paper`: the published notebook's gradient ascent on hazardous knowledge, for a model of 7B."""


@dataclass(frozen=True, kw_only=True)
class Misdirected:
    """States of facts' answers towards a random direction, states of what is kept where they are: RMU."""

    block: float
    coefficient: float
    alpha: float
    paired: ClassVar[bool] = True
    frozen: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    distances: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    @property
    def weights(self) -> Mapping[str, float]:
        return {"forget": 1.0, "retain": self.alpha}

    def terms(self, outcome: Outcome) -> dict[str, Tensor]:
        subject = outcome.subject
        layer = min(int(self.block * subject.n_layers), subject.n_layers - 1)
        _, rows = outcome.rows
        hidden = outcome.read([layer]).hidden[layer][rows].float()
        where = outcome.tokens.answer_positions[rows].to(hidden.device)
        towards = self.coefficient * random_direction(subject.d_model).to(hidden.device)
        terms = {"forget": (hidden[where] - towards).square().mean()}
        if outcome.kept:
            tokens = batch_of(outcome.kept)
            now = read(subject, tokens, [layer]).hidden[layer].float()
            then = frozen_states(replace(outcome, layers=[layer]), tokens)[layer].float()
            real = real_positions(tokens).to(now.device)
            terms["retain"] = (now[real] - then[real]).square().mean()
        return terms


def random_direction(d_model: int) -> Tensor:
    """A unit vector (d_model,), always the same."""
    drawn = torch.rand(d_model, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm()


class Unlearn(Composed):
    recipe = "unlearn"

    base: Literal["ga", "whp", "rmu"] = "ga"
    latent: bool = Field(False, description="under a latent attack that calls the fact up")
    generic: str = Field("I do not know.", description="what is answered in place of a fact")
    toward: float = Field(1.0, ge=0, description="of ga: weight of the generic answer")
    away: float = Field(1.0, ge=0, description="of ga: weight of the ascent")
    enough: float = Field(5.0, gt=0, description="of ga: cross-entropy of the fact's answer that is enough")
    block: float = Field(0.25, ge=0, le=1, description="of rmu: its block, as a share of the depth")
    coefficient: float = Field(6.5, gt=0, description="of rmu: length of the random direction")
    alpha: float = Field(1200.0, ge=0, description="of rmu: weight of the states that stay")
    layers: int = Field(1, ge=1, description="blocks that the latent attack shifts, evenly spaced")
    bound: float = Field(0.4, gt=0, description="of the latent attack, in standard deviations of the stream")
    radius: float | None = Field(None, gt=0, description="an absolute bound instead")
    inner_steps: int = Field(6, ge=1)
    inner_step: float = Field(0.25, gt=0)
    model_steps: int = Field(1, ge=1, description="optimiser updates for one latent attack")
    benign_weight: float = Field(1.0, ge=0)

    def choices(self) -> Choices:
        targets: dict[str, Target] = {
            "ga": Pair(toward=self.toward, away=self.away, away_loss="ascent", away_cutoff=-self.enough),
            "whp": Safe(),
            "rmu": Misdirected(block=self.block, coefficient=self.coefficient, alpha=self.alpha),
        }
        pgd = Pgd(bound=self.bound, radius=self.radius, steps=self.inner_steps, step=self.inner_step)
        return Choices(
            source=pgd if self.latent else Nothing(),
            positions="prompt",
            layers="even",
            count=self.layers,
            attacker="targeted",
            toward=1.0,
            away=0.0,
            target=targets[self.base],
            benign="none" if self.base == "rmu" else "sft",
            benign_weight=self.benign_weight,
            updates=self.model_steps,
        )

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        """The facts: the generic sentence as the safe answer, the fact's own as the harmful one."""
        if data.answers is None:
            raise UserError("unlearn needs the answers to unlearn; name a file of goal,answer with --answers")
        self._given = tuple(data.layers)
        stop = end_token(subject)
        generic = (*text_tokens(subject, self.generic), stop)
        return [
            Example(
                prompt=tuple(subject.format(prompt, data.protocol)),
                answer=generic,
                rejected=(*text_tokens(subject, data.answers[prompt.digest]), stop),
            )
            for prompt in data.prompts
        ]
