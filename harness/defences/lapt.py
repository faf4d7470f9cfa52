"""Layer-wise adversarial patch training (LAPT): keep the safe answer under noise at a fragile block.

    L = mean over answer tokens of -log p(y_t | x, y_<t; h_l + eps * delta')

For a training cell (x, y, l), y the clean safe answer: every step draws a fresh delta ~ N(0, I), and equations (1) and
(2) of docs/protocol.md act at block l wherever generation would inject: the last position of the request, which
predicts the first token, and every token of the answer that is fed back. The loss is on the answer alone.

Source: Gu et al. 2025 (arXiv:2506.16078). The benign terms are ours: without them a small model learns to refuse
everything. `benign_weight` multiplies the cross-entropy of the model's own answers to harmless requests, of which the
share `benign_noise` is answered under noise too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.schema import Record
from harness.defences.examples import (
    Example,
    HarmfulData,
    TokenBatch,
    answer_loss,
    at_layers,
    batch_of,
    cell_examples,
    own_answers,
    refused,
)
from harness.defences.training import Batch, Pools, Settings
from harness.model.subject import Subject
from harness.stream.injection import NO_LAYER, Injection, inject

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(
            learning_rate=1e-4,
            weight_decay=2e-6,
            warmup=0.1,
            batch_size=1,
            accumulation=2,
            steps=20,
            benign_batch_size=0,
        ),
        {"benign_weight": 0.0},
    ),
    "small": (
        Settings(learning_rate=2e-5, batch_size=8, steps=60, benign_batch_size=4),
        {"benign_weight": 1.0, "benign_noise": 0.5},
    ),
}
"""`paper`: as published, for models of 3B to 8B. `small`: chosen on SmolLM2-135M (docs/defences.md)."""


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """A teacher-forced batch and what perturbs it."""

    batch: TokenBatch
    injection: Injection


class Lapt(Record):
    dose: float = Field(1.0, ge=0, allow_inf_nan=False)
    benign_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    benign_noise: float = Field(0.5, ge=0, le=1, description="share of benign examples that are perturbed too")

    @property
    def name(self) -> str:
        return "lapt"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"answer": 1.0, "benign": self.benign_weight}

    @property
    def distances(self) -> frozenset[str]:
        return frozenset()

    @property
    def updates(self) -> int:
        return 1

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        """The cells that are given; else the requests that the model refuses by itself, at every layer."""
        if data.cells is not None:
            return cell_examples(subject, data.cells, data.protocol)
        kept = refused(subject, own_answers(subject, data.prompts, data.protocol))
        if not kept:
            raise UserError(
                f"{subject.name} refuses none of the {len(data.prompts)} training prompts, and LAPT trains it to keep "
                "its own refusals; train it with --recipe refusal first"
            )
        return at_layers(kept, data.layers)

    def pools(self, harmful: Sequence[Example], benign: Sequence[Example]) -> Pools:
        return Pools(examples=harmful, benign=benign if self.benign_weight else ())

    def begin(self, subject: Subject) -> None:
        """Nothing is kept of the first weights."""

    def prepare(self, subject: Subject, batch: Batch) -> list[Perturbed]:
        """The cells under noise at their own blocks; then the benign examples, some under noise at the same blocks."""
        layers = torch.tensor([example.layer for example in batch.examples])
        prepared = [self._perturbed(subject, batch.examples, layers, batch.generator)]
        if batch.benign:
            rows = len(batch.benign)
            drawn = layers[torch.randint(len(layers), (rows,), generator=batch.generator)]
            perturbed = torch.rand(rows, generator=batch.generator) < self.benign_noise
            drawn = torch.where(perturbed, drawn, NO_LAYER)
            prepared.append(self._perturbed(subject, batch.benign, drawn, batch.generator))
        return prepared

    def _perturbed(
        self, subject: Subject, examples: Sequence[Example], layers: Tensor, generator: torch.Generator
    ) -> Perturbed:
        batch = batch_of(examples)
        noise = torch.randn(len(examples), subject.d_model, generator=generator)
        injection = Injection.from_directions(
            layer=layers,
            direction=noise,
            dose=torch.full((len(examples),), self.dose),
            positions=batch.answer_positions,
        )
        return Perturbed(batch=batch, injection=injection)

    def losses(self, subject: Subject, batch: Batch, prepared: list[Perturbed]) -> dict[str, Tensor]:
        terms = {}
        for name, each in zip(("answer", "benign"), prepared, strict=False):
            with inject(subject.blocks, each.injection):
                terms[name] = answer_loss(subject, each.batch)
        return terms
