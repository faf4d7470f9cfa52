"""The common form of a defence's training step: disturb the hidden states, learn the answer despite it.

    for each batch   d = source(where, layers, attacker)            one `prepare`
    for each update  theta <- theta - grad [target terms under d  +  benign_weight * benign term without d]

Four choices make a recipe, each a record of a module of its own, so that a recipe is a page that names its choices, its
equation and its source:

    source   what disturbs    `harness.defences.perturbations`: Nothing, Noise, GradientDirection, Pgd, Ablated
    where    which states     the embedding or blocks; at the request, the answer, or all positions
    layers   which blocks     `harness.defences.layer_choice`: all, even, given, sampled
    target   what is learnt   `harness.defences.targets`: Safe, Pair, Preferred, Rerouted, Noised

The attacker's loss, which a source lowers:

    untargeted  -CE(safe answer)
    targeted    toward * CE(harmful answer) + away * mean -log(1 - p(token of the safe answer))
    dpo         the DPO loss with the two answers swapped, against the frozen model

Source of the form: the table that sets these defences side by side in Gu et al. 2025 (arXiv:2506.16078).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import PrivateAttr
from torch import Tensor

from asabench.core.schema import Record
from harness.defences.examples import Example, HarmfulData, TokenBatch, batch_of, mean_cross_entropy, refusal_examples
from harness.defences.frozen import frozen_copy
from harness.defences.layer_choice import LayerChoice, fixed_layers, sampled_layers
from harness.defences.perturbations import (
    EMBEDDING,
    Nothing,
    Perturbation,
    Scene,
    Source,
    refusal_directions,
    shift_gradients,
)
from harness.defences.targets import Outcome, Target, benign_loss, pair_batch, read
from harness.defences.terms import away_loss, dpo_loss, summed_log_p
from harness.defences.training import Batch, Pools
from harness.model.subject import Subject

Positions = Literal["prompt", "answer", "all"]
Attacker = Literal["untargeted", "targeted", "dpo"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a recipe chooses. `count`: blocks of the layer choices that need one. `train_sampled`: the weights of blocks
    that were not sampled stay as they are in that step. `toward`, `away`: of a targeted attacker, `beta`: of a DPO one.
    `benign`: how harmless answers are kept: `sft`, their cross-entropy; `kl`, to the frozen model; `none`."""

    source: Source = Nothing()  # noqa: RUF009 (a frozen record)
    embedding: bool = False
    positions: Positions = "prompt"
    layers: LayerChoice = "all"
    count: int = 4
    train_sampled: bool = False
    attacker: Attacker = "untargeted"
    toward: float = 0.5
    away: float = 0.5
    beta: float = 0.1
    target: Target
    benign: Literal["sft", "kl", "none"] = "sft"
    benign_weight: float = 1.0
    updates: int = 1

    @property
    def paired(self) -> bool:
        """Whether harmful answers are needed."""
        return self.target.paired or self.attacker != "untargeted" or self.layers == "sampled"

    @property
    def frozen(self) -> bool:
        """Whether a frozen copy of the model is needed."""
        by_kl = self.benign == "kl" and self.benign_weight > 0
        return self.target.frozen or self.attacker == "dpo" or by_kl


@dataclass(frozen=True, kw_only=True)
class Disturbed:
    """What `prepare` made for a batch: the perturbation, and the blocks that were chosen."""

    perturbation: Perturbation | None
    layers: Sequence[int]


def perturbed_positions(tokens: TokenBatch, examples: int, positions: Positions) -> Tensor:
    """(example, position) bool, of a batch that holds the examples once or several times over, with other answers.
    `answer`: wherever one of the answers has a token that predicts another, or the request's last that predicts one."""
    prompt = tokens.prompt_positions[:examples]
    if positions == "prompt":
        return prompt
    answer = tokens.answer_positions.unflatten(0, (-1, examples)).any(dim=0)
    return answer if positions == "answer" else prompt | answer


class Composed(Record):
    """A recipe made of choices. Pages of recipes derive from it and say `choices`."""

    recipe: ClassVar[str]
    later: ClassVar[frozenset[str]] = frozenset()
    """Options that came after trainings had been recorded: their records say nothing of them at their defaults."""

    _frozen: Any = PrivateAttr(None)
    _given: Any = PrivateAttr(())
    _directions: Any = PrivateAttr(None)
    _pools: Any = PrivateAttr(None)
    _trainable: Any = PrivateAttr(())

    @abstractmethod
    def choices(self) -> Choices: ...

    @property
    def name(self) -> str:
        return self.recipe

    @property
    def weights(self) -> Mapping[str, float]:
        chosen = self.choices()
        return {**chosen.target.weights, "benign": chosen.benign_weight}

    @property
    def distances(self) -> frozenset[str]:
        return self.choices().target.distances

    @property
    def updates(self) -> int:
        return self.choices().updates

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        self._given = tuple(data.layers)
        return refusal_examples(subject, data.prompts, data.protocol, rejected=data.target, answers=data.answers)

    def pools(self, harmful: Sequence[Example], benign: Sequence[Example]) -> Pools:
        self._pools = (harmful, benign)
        return Pools(examples=harmful, benign=benign if self.keeps_benign else ())

    @property
    def keeps_benign(self) -> bool:
        chosen = self.choices()
        return chosen.target.keeps or (chosen.benign != "none" and chosen.benign_weight > 0)

    def begin(self, subject: Subject) -> None:
        """Keeps of the first weights what the choices need: a frozen copy, the refusal directions."""
        chosen = self.choices()
        if chosen.frozen:
            self._frozen = frozen_copy(subject, f"the recipe {self.name}")
        if chosen.source.needs_direction:
            self._directions = refusal_directions(subject, *self._pools)
        self._trainable = [
            [parameter for parameter in block.parameters() if parameter.requires_grad] for block in subject.blocks
        ]

    def prepare(self, subject: Subject, batch: Batch) -> Disturbed:
        chosen = self.choices()
        tokens = pair_batch(batch.examples) if chosen.paired else batch_of(batch.examples)
        blocks = fixed_layers(chosen.layers, chosen.count, subject.n_layers, self._given or range(subject.n_layers))
        where = perturbed_positions(tokens, len(batch.examples), chosen.positions).to(subject.device)
        scene = Scene(
            subject=subject,
            tokens=tokens,
            where=where,
            layers=[EMBEDDING] if chosen.embedding else blocks,
            objective=attacker_of(chosen, subject, tokens, self._frozen),
            generator=batch.generator,
            directions=self._directions,
        )
        if chosen.layers == "sampled":
            gradients = shift_gradients(scene, blocks, lambda by: harmful_loss(subject, tokens, by))
            blocks = sampled_layers(gradients, chosen.count, batch.generator)
            scene = replace(scene, layers=blocks)
        return Disturbed(perturbation=chosen.source.make(scene), layers=blocks)

    def losses(self, subject: Subject, batch: Batch, prepared: Disturbed) -> dict[str, Tensor]:
        chosen = self.choices()
        if chosen.train_sampled:
            for layer, parameters in enumerate(self._trainable):
                for parameter in parameters:
                    parameter.requires_grad_(layer in prepared.layers)
        terms = chosen.target.terms(
            Outcome(
                subject=subject,
                frozen=self._frozen,
                tokens=pair_batch(batch.examples) if chosen.paired else batch_of(batch.examples),
                paired=chosen.paired,
                kept=batch.benign,
                perturbation=prepared.perturbation,
                layers=prepared.layers,
                progress=batch.progress,
                # Fresh for every update, and the same when a training goes on
                generator=torch.Generator().manual_seed(batch.generator.initial_seed() + 1),
            )
        )
        if batch.benign and chosen.benign != "none" and chosen.benign_weight:
            terms["benign"] = benign_loss(
                subject, batch_of(batch.benign), self._frozen if chosen.benign == "kl" else None
            )
        return terms


def attacker_of(
    chosen: Choices, subject: Subject, tokens: TokenBatch, frozen: Subject | None
) -> Callable[[Perturbation | None], Tensor]:
    """What a source lowers, a scalar of a perturbation. tokens: of pairs where the choices are `paired`."""
    before: list[Tensor] = []
    if chosen.attacker == "dpo":
        assert frozen is not None
        with torch.no_grad():
            reading = read(frozen, tokens)
        before = [summed_log_p(*reading.half(which)) for which in (0, 1)]

    def loss(by: Perturbation | None) -> Tensor:
        reading = read(subject, tokens, by=by)
        if chosen.attacker == "targeted":
            return chosen.toward * mean_cross_entropy(*reading.half(1)) + chosen.away * away_loss(*reading.half(0))
        if chosen.attacker == "dpo":
            now = [summed_log_p(*reading.half(which)) for which in (0, 1)]
            return dpo_loss(now[::-1], before[::-1], chosen.beta)
        if chosen.paired:
            return -mean_cross_entropy(*reading.half(0))
        return -mean_cross_entropy(reading.logits, reading.labels)

    return loss


def harmful_loss(subject: Subject, tokens: TokenBatch, by: Perturbation | None) -> Tensor:
    """The cross-entropy of the harmful answers in a batch of pairs: fine-tuning on them would follow its gradient."""
    return mean_cross_entropy(*read(subject, tokens, by=by).half(1))
