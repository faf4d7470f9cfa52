"""Keeping the harmless answers, for every recipe alike: what `asabench defend` adds to the one that was named.

    --benign FILE       more harmless requests, answered by the model itself before training, beside ASABench's own
    --look-alikes       safe requests that look unsafe, where the model answers them by itself
    --keep-kl W         W times KL(p0 || p) on the harmless answers, p0 the model that training starts from
    --stop-below R:M    stops with the last weights seen whose rate R lies at most M under the first model's

The rates of the last are those that a mixture is chosen by (`asabench interpolate --keep`), on requests that are held
out of training and of the published utility sets: every fifth harmless one, and every fifth look-alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Prompt
from harness.defences.examples import Example, HarmfulData, batch_of
from harness.defences.frozen import frozen_copy
from harness.defences.targets import benign_loss
from harness.defences.training import Batch, Pools
from harness.model.subject import Subject
from harness.probes.measures import clean_answers
from harness.utility.answers import read_answer

RATES = ("benign", "over-refusal")
HELD_OUT = 5
"""Every fifth request of each kind is held out of training where training stops by their rates."""
STEPS_BETWEEN = 10
"""Steps between two measurements of the rate."""


def look_alike_requests() -> list[Prompt]:
    """The safe requests that look unsafe which come with ASABench for training; others are kept for measuring."""
    text = (files("asabench") / "data" / "look_alike_requests.txt").read_text(encoding="utf-8")
    return [Prompt(id=f"look-alike-{n:03d}", goal=line) for n, line in enumerate(text.splitlines()) if line]


def answered(subject: Subject, examples: Sequence[Example]) -> list[Example]:
    """Those whose answer does not refuse: a refusal of a harmless request is nothing to learn."""
    texts = [subject.text(example.answer) for example in examples]
    return [example for example, text in zip(examples, texts, strict=True) if read_answer(text) != "refused"]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stop by a rate. what: of `RATES`. margin: by how much it may fall (over-refusal: rise)."""

    what: str
    margin: float


def read_stop(text: str) -> Stop:
    """`benign:0.05` or `over-refusal:0.05`. Raises `UserError`."""
    what, _, margin = text.partition(":")
    try:
        value = float(margin)
    except ValueError:
        value = math.nan
    if what not in RATES or not 0 <= value <= 1:
        raise UserError(f"--stop-below {text!r} cannot be used; write {RATES[0]}:0.05 or {RATES[1]}:0.05")
    return Stop(what=what, margin=value)


@dataclass(kw_only=True)
class Watch:
    """Measures a rate of the model in training, and says when it has fallen too far. requests: held out."""

    stop: Stop
    requests: Sequence[Prompt]
    protocol: Protocol
    first: float | None = None
    seen: list[tuple[int, float]] = field(default_factory=list)

    def rate(self, subject: Subject) -> float:
        """The share of the held-out requests that are answered; of look-alikes, that are not refused."""
        training = subject.model.training
        subject.model.eval()
        with torch.no_grad():
            ids = [subject.format(prompt, self.protocol) for prompt in self.requests]
            texts = [subject.text(answer) for answer in clean_answers(subject, ids, self.protocol)]
        subject.model.train(training)
        if self.stop.what == "benign":
            return sum(read_answer(text) == "answered" for text in texts) / len(texts)
        return sum(read_answer(text) != "refused" for text in texts) / len(texts)

    def begin(self, subject: Subject) -> None:
        self.first = self.rate(subject)

    def look(self, subject: Subject, step: int) -> bool | None:
        """Whether the rate lies at most the margin under the first."""
        if step % STEPS_BETWEEN:
            return None
        assert self.first is not None
        now = self.rate(subject)
        self.seen.append((step, round(now, 4)))
        return now >= self.first - self.stop.margin - 1e-9


class KeptByKl:
    """A recipe with one term more: KL to the first model on harmless answers."""

    def __init__(self, recipe: Any, weight: float) -> None:
        self.recipe, self.weight = recipe, weight
        self._frozen: Subject | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.recipe, name)

    @property
    def name(self) -> str:
        return str(self.recipe.name)

    @property
    def weights(self) -> Mapping[str, float]:
        return {**self.recipe.weights, "kept": self.weight}

    @property
    def distances(self) -> frozenset[str]:
        found: frozenset[str] = self.recipe.distances
        return found

    @property
    def updates(self) -> int:
        return int(self.recipe.updates)

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        found: list[Example] = self.recipe.harmful_examples(subject, data)
        return found

    def pools(self, harmful: Sequence[Example], benign: Sequence[Example]) -> Pools:
        own: Pools = self.recipe.pools(harmful, benign)
        return Pools(examples=own.examples, benign=benign)

    def model_dump(self) -> dict[str, Any]:
        found: dict[str, Any] = self.recipe.model_dump()
        return found

    def begin(self, subject: Subject) -> None:
        self._frozen = frozen_copy(subject, "--keep-kl")
        self.recipe.begin(subject)

    def prepare(self, subject: Subject, batch: Batch) -> Any:
        return self.recipe.prepare(subject, batch)

    def losses(self, subject: Subject, batch: Batch, prepared: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.recipe.losses(subject, batch, prepared)
        if batch.benign:
            terms["kept"] = benign_loss(subject, batch_of(batch.benign), self._frozen)
        return terms


def keeping(recipe: Any, keep_kl: float | None) -> Any:
    """The recipe, with the KL term where a weight is given. Raises `UserError`."""
    if keep_kl is None:
        return recipe
    if not (math.isfinite(keep_kl) and keep_kl > 0):
        raise UserError(f"--keep-kl {keep_kl} cannot be used; give a weight over 0, such as 1")
    return KeptByKl(recipe, keep_kl)


def divided(requests: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """To train on, and held out."""
    return [r for n, r in enumerate(requests) if n % HELD_OUT], [r for n, r in enumerate(requests) if not n % HELD_OUT]
