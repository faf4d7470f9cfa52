"""What a training step learns while its hidden states are disturbed: the fourth of the choices that make a recipe
(`harness.defences.form`).

    Safe       CE(safe answer)
    Pair       toward * CE(safe answer) + away * mean -log(1 - p(token of the harmful answer))
    Preferred  DPO: the safe answer over the harmful one, against the frozen model
    Rerouted   relu(cos(h, h0)) on harmful answers, ||h - h0|| on what is kept
    Noised     MMD(h, N(0, I)) on harmful answers, their loss raised, the safe answer's lowered

A target is a small record; asked with an `Outcome` it gives its terms, which the recipe weighs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from harness.defences.examples import (
    Example,
    TokenBatch,
    answer_logits,
    batch_of,
    mean_cross_entropy,
    teacher_forced,
)
from harness.defences.layer_choice import middles_of_parts
from harness.defences.perturbations import Perturbation, perturbed
from harness.defences.terms import (
    ascent_loss,
    away_loss,
    dpo_loss,
    floored_cross_entropy,
    kl_to_frozen,
    mean_discrepancy,
    reroute_loss,
    stay_loss,
    summed_log_p,
)
from harness.model.architecture import unembedding
from harness.model.subject import Subject
from harness.stream.injection import capture


def pair_batch(examples: Sequence[Example]) -> TokenBatch:
    """2n rows: every request with its refusal, then every request with the harmful start. Position p of row i and of
    row n + i is the same token of the request."""
    prompts = [example.prompt for example in examples]
    return teacher_forced([*prompts, *prompts], [*(e.answer for e in examples), *(e.rejected for e in examples)])


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One forward: logits (row, step, vocabulary) of the answers' steps in float32, labels (row, step), and by block
    the hidden states (row, position, d_model) that were asked for."""

    logits: Tensor
    labels: Tensor
    hidden: Mapping[int, Tensor] = field(default_factory=dict)

    def half(self, which: int) -> tuple[Tensor, Tensor]:
        """Logits and labels of the safe answers (0), or of the harmful ones (1), in a batch of pairs."""
        middle = len(self.labels) // 2
        rows = slice(middle) if which == 0 else slice(middle, None)
        return self.logits[rows], self.labels[rows]


def read(subject: Subject, tokens: TokenBatch, layers: Sequence[int] = (), by: Perturbation | None = None) -> Reading:
    """A teacher-forced forward under a perturbation. layers: blocks whose (perturbed) outputs are wanted."""
    with perturbed(subject, by), capture(subject.blocks, layers) as seen:
        logits, labels = answer_logits(subject, tokens)
    return Reading(logits=logits, labels=labels, hidden={layer: seen.outputs[layer] for layer in layers})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a target is asked with. tokens: of the examples with their safe answers, and where `paired`, with their
    harmful ones behind them; the perturbation is for these. kept: harmless requests with the model's own answers.
    progress: the share of the training that is over."""

    subject: Subject
    frozen: Subject | None
    tokens: TokenBatch
    paired: bool
    kept: Sequence[Example]
    perturbation: Perturbation | None
    layers: Sequence[int]
    progress: float
    generator: torch.Generator

    @property
    def reference(self) -> Subject:
        """The frozen model."""
        assert self.frozen is not None
        return self.frozen

    def read(self, layers: Sequence[int] = ()) -> Reading:
        """The examples under the perturbation."""
        return read(self.subject, self.tokens, layers, by=self.perturbation)

    def safe(self, reading: Reading) -> tuple[Tensor, Tensor]:
        """Logits and labels of the safe answers."""
        return reading.half(0) if self.paired else (reading.logits, reading.labels)

    @property
    def rows(self) -> tuple[slice, slice]:
        """Of the safe and of the harmful answers, in a batch of pairs."""
        middle = len(self.tokens.ids) // 2
        return slice(middle), slice(middle, None)


class Target(Protocol):
    """`paired`: it needs harmful answers. `frozen`: it compares with the model that training starts from. `keeps`: it
    has a term of its own on harmless answers. `weights`: what multiplies each of its terms; `distances`: those of them
    that are not in nats, and may grow by any number. A class states of these what it does differently."""

    paired: ClassVar[bool] = False
    frozen: ClassVar[bool] = False
    keeps: ClassVar[bool] = False
    distances: ClassVar[frozenset[str]] = frozenset()

    @property
    def weights(self) -> Mapping[str, float]: ...

    def terms(self, outcome: Outcome) -> dict[str, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Safe(Target):
    @property
    def weights(self) -> Mapping[str, float]:
        return {"answer": 1.0}

    def terms(self, outcome: Outcome) -> dict[str, Tensor]:
        return {"answer": mean_cross_entropy(*outcome.safe(outcome.read()))}


@dataclass(frozen=True, kw_only=True)
class Pair(Target):
    """toward_floor, away_cutoff: where enough is enough (`harness.defences.terms`). away_loss: `unlikely`, the mean of
    -log(1 - p), or `ascent`, minus the cross-entropy down to `away_cutoff`."""

    toward: float = 0.5
    away: float = 0.5
    toward_floor: float | None = None
    away_cutoff: float | None = None
    away_loss: Literal["unlikely", "ascent"] = "unlikely"
    paired: ClassVar[bool] = True

    @property
    def weights(self) -> Mapping[str, float]:
        return {"toward": self.toward, "away": self.away}

    def terms(self, outcome: Outcome) -> dict[str, Tensor]:
        reading = outcome.read()
        safe, harmful = reading.half(0), reading.half(1)
        if self.toward_floor is None:
            toward = mean_cross_entropy(*safe)
        else:
            toward = floored_cross_entropy(*safe, self.toward_floor)
        if self.away_loss == "ascent":
            away = ascent_loss(*harmful, ceiling=math.inf if self.away_cutoff is None else -self.away_cutoff)
        else:
            away = away_loss(*harmful, self.away_cutoff)
        return {"toward": toward, "away": away}


@dataclass(frozen=True, kw_only=True)
class Preferred(Target):
    beta: float = 0.1
    paired: ClassVar[bool] = True
    frozen: ClassVar[bool] = True

    @property
    def weights(self) -> Mapping[str, float]:
        return {"dpo": 1.0}

    def terms(self, outcome: Outcome) -> dict[str, Tensor]:
        reading = outcome.read()
        with torch.no_grad():
            before = read(outcome.reference, outcome.tokens)
        now = [summed_log_p(*reading.half(which)) for which in (0, 1)]
        then = [summed_log_p(*before.half(which)) for which in (0, 1)]
        return {"dpo": dpo_loss(now, then, self.beta)}


@dataclass(frozen=True, kw_only=True)
class Rerouted(Target):
    """Representation rerouting. The two terms are multiplied by alpha * (1 - t) and alpha * t, t half the share of the
    training that is over (`alpha` alone where not `scheduled`). Kept are the harmless answers, and where
    `keep_refusals` the safe ones to harmful requests."""

    alpha: float = 10.0
    scheduled: bool = True
    keep_refusals: bool = True
    paired: ClassVar[bool] = True
    frozen: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    distances: ClassVar[frozenset[str]] = frozenset({"reroute", "retain"})

    @property
    def weights(self) -> Mapping[str, float]:
        return {"reroute": 1.0, "retain": 1.0}

    def terms(self, outcome: Outcome) -> dict[str, Tensor]:
        safe_rows, harmful_rows = outcome.rows
        now, then = outcome.read(outcome.layers).hidden, frozen_states(outcome, outcome.tokens)
        where = outcome.tokens.answer_positions[harmful_rows]
        rerouted = [
            reroute_loss(now[n][harmful_rows], then[n][harmful_rows], where.to(now[n].device)) for n in outcome.layers
        ]
        terms = {"reroute": self._coefficient(1 - outcome.progress / 2) * torch.stack(rerouted).mean()}
        # Positions of both kinds count alike: (states now, before, their mask)
        kept: list[tuple[Mapping[int, Tensor], Mapping[int, Tensor], Tensor, slice]] = []
        if self.keep_refusals:
            kept.append((now, then, real_positions(outcome.tokens), safe_rows))
        if outcome.kept:
            tokens = batch_of(outcome.kept)
            own = read(outcome.subject, tokens, outcome.layers).hidden
            kept.append((own, frozen_states(outcome, tokens), real_positions(tokens), slice(None)))
        if kept:
            stayed = []
            for n in outcome.layers:
                a = torch.cat([each[n][rows][mask[rows].to(each[n].device)] for each, _, mask, rows in kept])
                b = torch.cat([each[n][rows][mask[rows].to(each[n].device)] for _, each, mask, rows in kept])
                stayed.append(stay_loss(a, b))
            terms["retain"] = self._coefficient(outcome.progress / 2) * torch.stack(stayed).mean()
        return terms

    def _coefficient(self, share: float) -> float:
        return self.alpha * share if self.scheduled else self.alpha


@dataclass(frozen=True, kw_only=True)
class Noised(Target):
    """Representation noising: safe + beta * noise - alpha * log(1 + mean harmful cross-entropy).

    The noise term is the mean over blocks of the MMD between what each harmful example's states are at its answer's
    positions, one vector an example, and Gaussian noise. The harmful cross-entropy is that of the logits, and of as
    many blocks' outputs, evenly spaced, read as if the model ended there (`lens`; 0: of the logits alone)."""

    alpha: float = 1.0
    beta: float = 0.001
    lens: int = 4
    paired: ClassVar[bool] = True

    @property
    def weights(self) -> Mapping[str, float]:
        return {"answer": 1.0, "noise": self.beta, "ascent": self.alpha}

    def terms(self, outcome: Outcome) -> dict[str, Tensor]:
        subject = outcome.subject
        read_at = middles_of_parts(self.lens, subject.n_layers) if self.lens else []
        reading = outcome.read(sorted({*outcome.layers, *read_at}))
        _, rows = outcome.rows
        where = outcome.tokens.answer_positions[rows]
        noised = []
        for layer in outcome.layers:
            hidden = reading.hidden[layer][rows].float()
            mask = where.to(hidden.device)[..., None]
            gaussian = torch.randn(hidden.shape, generator=outcome.generator).to(hidden.device)
            noised.append(mean_discrepancy((hidden * mask).flatten(1), (gaussian * mask).flatten(1)))
        logits, labels = reading.half(1)
        losses = [mean_cross_entropy(logits, labels)]
        if read_at:
            logits_of = unembedding(subject.model, subject.name)
            steps = labels.shape[1]
            losses += [
                mean_cross_entropy(logits_of(reading.hidden[layer][rows, -steps:]).float(), labels) for layer in read_at
            ]
        return {
            "answer": mean_cross_entropy(*reading.half(0)),
            "noise": torch.stack(noised).mean(),
            "ascent": -torch.log1p(torch.stack(losses).mean()),
        }


def real_positions(tokens: TokenBatch) -> Tensor:
    """(row, position) bool: those of requests, and of answers' tokens that predict another."""
    return tokens.prompt_positions | tokens.answer_positions


def harmful_only(example: Example) -> Example:
    """The request with its harmful answer in the place of the safe one."""
    return Example(prompt=example.prompt, answer=example.rejected)


@torch.no_grad()
def frozen_states(outcome: Outcome, tokens: TokenBatch) -> Mapping[int, Tensor]:
    """The hidden states at the outcome's blocks under the frozen model."""
    return read(outcome.reference, tokens, outcome.layers).hidden


def benign_loss(subject: Subject, tokens: TokenBatch, frozen: Subject | None) -> Tensor:
    """The cross-entropy of harmless answers; with a frozen model the mean KL(p0 || p) at their tokens."""
    logits, labels = answer_logits(subject, tokens)
    if frozen is None:
        return mean_cross_entropy(logits, labels)
    with torch.no_grad():
        before, _ = answer_logits(frozen, tokens)
    return kl_to_frozen(logits, before, labels)
