"""Targeted latent adversarial training (LAT): refuse under the worst small shift of the residual stream.

Inner problem, by projected gradient descent on shifts d_l of the outputs of a few evenly spaced blocks:

    min over ||d_l[position]|| <= r_l of  toward * CE(harmful start) + away * mean -log(1 - p(refusal token))

Outer problem, on the weights, under those shifts:

    refusal  toward * CE(refusal) + away * mean -log(1 - p(token of the harmful start))
    dpo      -log sigmoid(beta * ((log p(refusal) - log p0(refusal)) - (log p(harmful) - log p0(harmful))))

plus, without a shift, `benign_weight` times the cross-entropy of the model's own answers to harmless requests (`sft`)
or times KL(p0 || p) on them (`kl`); p0 is the frozen model that training starts from.

The bound: r_l = `bound` times the stream's standard deviation times sqrt(d_model), or the absolute `radius`. The
standard deviation is taken over the entries of h, and its median over the perturbed positions of the batch: the first
token of a text has a norm many times that of the others, which a mean would follow. So a bound of 0.4 is as long as the
Activation Steering Attack at dose 0.4.

Source: Sheshadri et al. 2024 (arXiv:2407.15549). Different here: shifts of the embedding output are not among the
layers; inner steps follow the gradient's direction at each position, by `inner_step` radii, where the published code
uses Adam; harmful completions are the start of compliance alone, so that no harmful text is needed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

from asabench.core.schema import Record
from harness.defences.examples import (
    IGNORED,
    Example,
    HarmfulData,
    TokenBatch,
    answer_logits,
    batch_of,
    mean_cross_entropy,
    refusal_examples,
    teacher_forced,
)
from harness.defences.training import Batch, Pools, Settings
from harness.model.subject import Subject
from harness.stream.injection import capture, edit

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
}
"""`paper`: the published code's values for models of 8B. `small`: chosen on SmolLM2-135M (docs/defences.md)."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A shift of the residual stream. by_layer: (example, position, d_model) each, zero where nothing is perturbed."""

    by_layer: Mapping[int, Tensor]


class Lat(Record):
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

    _frozen: Any = PrivateAttr(None)

    @property
    def name(self) -> str:
        return "lat"

    @property
    def weights(self) -> Mapping[str, float]:
        own = {"dpo": 1.0} if self.base == "dpo" else {"toward": self.toward, "away": self.away}
        return {**own, "benign": self.benign_weight}

    @property
    def updates(self) -> int:
        return self.model_steps

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        return refusal_examples(subject, data.prompts, data.protocol, rejected=data.target)

    def pools(self, harmful: Sequence[Example], benign: Sequence[Example]) -> Pools:
        return Pools(examples=harmful, benign=benign if self.benign_weight else ())

    def begin(self, subject: Subject) -> None:
        """Keeps a frozen copy of the weights where a term compares with them: as much memory as the model."""
        if self.base == "dpo" or (self.benign_loss == "kl" and self.benign_weight):
            model = copy.deepcopy(subject.model).eval().requires_grad_(False)
            self._frozen = Subject(
                model=model, tokenizer=subject.tokenizer, blocks=(), name=subject.name, revision=subject.revision
            )

    def prepare(self, subject: Subject, batch: Batch) -> Shift:
        """The inner attack, by projected gradient descent."""
        pairs = pair_batch(batch.examples)
        where = perturbed_positions(pairs, len(batch.examples), self.positions).to(subject.device)
        layers = middles_of_parts(self.layers, subject.n_layers)
        radius = self._radii(subject, pairs, where, layers)
        shape = (*where.shape, subject.d_model)
        shifts = {
            layer: project(torch.randn(shape, generator=batch.generator).to(where.device), radius[layer] / 2, where)
            for layer in layers
        }
        for _ in range(self.inner_steps):
            leaves = {layer: shift.requires_grad_() for layer, shift in shifts.items()}
            with torch.enable_grad():
                loss = self.inner_loss(subject, pairs, Shift(by_layer=leaves))
                gradients = torch.autograd.grad(loss, list(leaves.values()))
            shifts = {
                layer: project(shift.detach() - self.inner_step * radius[layer] * _unit(gradient), radius[layer], where)
                for (layer, shift), gradient in zip(leaves.items(), gradients, strict=True)
            }
        return Shift(by_layer=shifts)

    def _radii(self, subject: Subject, pairs: TokenBatch, where: Tensor, layers: Sequence[int]) -> dict[int, float]:
        if self.radius is not None:
            return dict.fromkeys(layers, self.radius)
        with torch.no_grad(), capture(subject.blocks, layers) as seen:
            answer_logits(subject, pairs)
        root = math.sqrt(subject.d_model)
        half = len(where)
        return {
            layer: self.bound * root * float(seen.outputs[layer][:half].float().std(dim=-1)[where].median())
            for layer in layers
        }

    def inner_loss(self, subject: Subject, pairs: TokenBatch, shift: Shift) -> Tensor:
        """What the inner attack lowers, a scalar. pairs: as `pair_batch` makes them."""
        (refusal, refusal_labels), (harmful, harmful_labels) = shifted_pairs(subject, pairs, shift)
        toward = mean_cross_entropy(harmful, harmful_labels)
        return self.toward * toward + self.away * away_loss(refusal, refusal_labels)

    def losses(self, subject: Subject, batch: Batch, prepared: Shift) -> dict[str, Tensor]:
        pairs = pair_batch(batch.examples)
        (refusal, refusal_labels), (harmful, harmful_labels) = shifted_pairs(subject, pairs, prepared)
        terms: dict[str, Tensor] = {}
        if self.base == "dpo":
            terms["dpo"] = self._dpo(pairs, refusal, refusal_labels, harmful, harmful_labels)
        else:
            terms["toward"] = mean_cross_entropy(refusal, refusal_labels)
            terms["away"] = away_loss(harmful, harmful_labels)
        if batch.benign:
            terms["benign"] = self._benign(subject, batch_of(batch.benign))
        return terms

    def _dpo(
        self, pairs: TokenBatch, refusal: Tensor, refusal_labels: Tensor, harmful: Tensor, harmful_labels: Tensor
    ) -> Tensor:
        with torch.no_grad():
            logits, labels = answer_logits(self._frozen, pairs)
            chosen, rejected = summed_log_p(logits, labels).chunk(2)
        gain = summed_log_p(refusal, refusal_labels) - chosen
        loss = summed_log_p(harmful, harmful_labels) - rejected
        return -logsigmoid(self.beta * (gain - loss)).mean()

    def _benign(self, subject: Subject, batch: TokenBatch) -> Tensor:
        logits, labels = answer_logits(subject, batch)
        if self.benign_loss == "sft":
            return mean_cross_entropy(logits, labels)
        with torch.no_grad():
            frozen, _ = answer_logits(self._frozen, batch)
        counts = labels != IGNORED
        now, before = logits[counts].log_softmax(-1), frozen[counts].log_softmax(-1)
        return kl_div(now, before, reduction="batchmean", log_target=True)


def middles_of_parts(count: int, n_layers: int) -> list[int]:
    """`count` blocks spread over the depth, each in the middle of its share of it; all blocks if there are fewer."""
    count = min(count, n_layers)
    return [(2 * place + 1) * n_layers // (2 * count) for place in range(count)]


def pair_batch(examples: Sequence[Example]) -> TokenBatch:
    """2n rows: every request with its refusal, then every request with the harmful start. Position p of row i and of
    row n + i is the same token of the request."""
    prompts = [example.prompt for example in examples]
    return teacher_forced([*prompts, *prompts], [*(e.answer for e in examples), *(e.rejected for e in examples)])


def perturbed_positions(pairs: TokenBatch, examples: int, positions: str) -> Tensor:
    """(example, position) bool. `all`: also where either of the two answers has a token that predicts another."""
    prompt = pairs.prompt_positions[:examples]
    if positions == "prompt":
        return prompt
    return prompt | pairs.answer_positions[:examples] | pairs.answer_positions[examples:]


def shifted_pairs(subject: Subject, pairs: TokenBatch, shift: Shift) -> tuple[tuple[Tensor, Tensor], ...]:
    """Logits and labels of the refusals, then of the harmful starts, both under the same shift of their request."""

    def shifted(shift: Tensor, block_input: Tensor, block_output: Tensor) -> Tensor:
        return (block_output.float() + torch.cat([shift, shift]).to(block_output.device)).to(block_output.dtype)

    edits: dict[int, Callable[[Tensor, Tensor], Tensor | None]] = {
        layer: partial(shifted, each) for layer, each in shift.by_layer.items()
    }
    with edit(subject.blocks, edits):
        logits, labels = answer_logits(subject, pairs)
    half = len(labels) // 2
    return (logits[:half], labels[:half]), (logits[half:], labels[half:])


def project(shift: Tensor, radius: float, where: Tensor) -> Tensor:
    """The nearest shift whose L2 norm is at most `radius` at each position of `where`, and zero elsewhere.

    shift: (example, position, d_model); where: (example, position) bool.
    """
    norm = shift.norm(dim=-1, keepdim=True)
    return torch.where(where[..., None], shift * (radius / norm.clamp(min=1e-12)).clamp(max=1.0), 0.0)


def _unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def away_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels of -log(1 - p(label)), a scalar. logits: (row, step, vocabulary)."""
    counts = labels != IGNORED
    logits, labels = logits[counts], labels[counts]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    # log(1 - p) as the others' share: it has a gradient where p is nearly 1
    return (logits.logsumexp(-1) - others.logsumexp(-1)).mean()


def summed_log_p(logits: Tensor, labels: Tensor) -> Tensor:
    """log p of each row's labels, (row,)."""
    counts = labels != IGNORED
    log_p = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    return (log_p * counts).sum(-1)
