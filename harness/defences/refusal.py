"""Refusal training (RT): supervised fine-tuning on (harmful request, refusal), with benign requests kept.

    L = mean over answer tokens of -log p(y_t | x, y_<t)

x is a harmful request with y a refusal, or a benign request with y the model's own clean answer, so that it does not
learn to refuse everything. All are in one pool. Source: docs/protocol.md; plain supervised safety training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from asabench.core.schema import Record
from harness.defences.examples import Example, HarmfulData, answer_loss, batch_of, refusal_examples
from harness.defences.training import Batch, Pools, Settings
from harness.model.subject import Subject

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "small": (Settings(learning_rate=2e-5, batch_size=8, epochs=2, benign_batch_size=0), {})
}
"""`small`: chosen on SmolLM2-135M, all weights (docs/results/attacks.md)."""


class Refusal(Record):
    """Refusal training; it has no options."""

    @property
    def name(self) -> str:
        return "refusal"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"answer": 1.0}

    @property
    def distances(self) -> frozenset[str]:
        return frozenset()

    @property
    def updates(self) -> int:
        return 1

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        return refusal_examples(subject, data.prompts, data.protocol)

    def pools(self, harmful: Sequence[Example], benign: Sequence[Example]) -> Pools:
        return Pools(examples=[*harmful, *benign])

    def begin(self, subject: Subject) -> None:
        """Nothing is kept of the first weights."""

    def prepare(self, subject: Subject, batch: Batch) -> None:
        """Nothing is perturbed."""

    def losses(self, subject: Subject, batch: Batch, prepared: None) -> dict[str, Tensor]:
        return {"answer": answer_loss(subject, batch_of(batch.examples))}
