"""Tampering attack resistance (TAR): refuse still after somebody has fine-tuned the weights on harmful answers.

    inner  theta_K from theta by K steps of AdamW on CE(harmful answer), as an attacker would
    outer  g = scale * mean over every `inner_every`-th k of gradient of T(theta_k)   (first order: taken at theta_k,
               applied at theta)  +  gradient of retain * [CE(harmless answer) + mean over l of ||h_l - h0_l||]

    T  entropy  minus the entropy of the next-token distribution at the harmful answer: nothing to follow
       dpo      the DPO loss of the refusal over the harmful answer, against the frozen model

The attack trains on other requests than T is taken on; its learning rate is one of `inner_rates`, drawn each step.

Source: Tamirisa et al. 2024 (arXiv:2408.00761) and its public code (rishub-tamirisa/tamper-resistance), which has
`entropy` for hazardous knowledge and, in the paper, `dpo` for refusals. Different here: the model that training starts
from stands in for that paper's first safeguard; attackers' tasks are one kind; no schedule weighs T by the attack's
step; the harmful answer is the start of compliance unless answers are given (--answers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.schema import Record
from harness.defences.examples import Example, HarmfulData, batch_of, mean_cross_entropy, refusal_examples
from harness.defences.frozen import frozen_copy
from harness.defences.targets import harmful_only, pair_batch, read, real_positions
from harness.defences.terms import dpo_loss, negative_entropy, stay_loss, summed_log_p
from harness.defences.training import Batch, Pools, Settings, trained_parameters
from harness.model.memory import free_memory
from harness.model.subject import Subject

PRESETS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "paper": (
        Settings(learning_rate=2e-5, batch_size=8, steps=750, warmup=32 / 750, benign_batch_size=8),
        {"inner_steps": 64, "inner_every": 4, "inner_batch": 4, "inner_rates": "2e-6,2e-5,4e-5", "scale": 4.0},
    ),
    "small": (
        Settings(learning_rate=2e-5, batch_size=4, steps=30, benign_batch_size=4),
        {"inner_steps": 8, "inner_every": 4, "inner_batch": 4, "inner_rates": "2e-5,4e-5", "tamper": "dpo"},
    ),
}
"""`paper`: the public code's script for Llama-3-8B."""

COPIES = 4
"""Of the trained weights, while an attack runs: themselves, its optimiser's two, and the outer gradient."""


@dataclass(frozen=True, kw_only=True)
class Tampered:
    """What an attack left: the mean of T along it, and its gradient in each trained parameter."""

    loss: float
    gradients: Sequence[Tensor]


class Tar(Record):
    inner_steps: int = Field(8, ge=1, description="steps of each simulated attack")
    inner_every: int = Field(4, ge=1, description="how often on its way the loss after it is taken")
    inner_batch: int = Field(4, ge=1)
    inner_rates: str = Field("2e-5,4e-5", description="learning rates of attacks, one is drawn each step")
    tamper: Literal["entropy", "dpo"] = "entropy"
    beta: float = Field(0.1, gt=0, description="of tamper=dpo")
    scale: float = Field(4.0, gt=0, description="weight of the loss after the attack")
    retain: float = Field(1.0, ge=0, description="weight of the harmless answers and of the states that stay")

    _frozen: Any = PrivateAttr(None)
    _harmful: Any = PrivateAttr(())

    @field_validator("inner_rates")
    @classmethod
    def _are_rates(cls, given: str) -> str:
        try:
            if all(float(rate) > 0 for rate in given.split(",")):
                return given
        except ValueError:
            pass
        raise ValueError("give learning rates over 0, such as 2e-5,4e-5")

    @property
    def name(self) -> str:
        return "tar"

    @property
    def weights(self) -> Mapping[str, float]:
        return {"tampered": self.scale, "benign": self.retain, "stay": self.retain}

    @property
    def distances(self) -> frozenset[str]:
        return frozenset({"stay"})

    @property
    def updates(self) -> int:
        return 1

    def harmful_examples(self, subject: Subject, data: HarmfulData) -> list[Example]:
        examples = refusal_examples(subject, data.prompts, data.protocol, rejected=data.target, answers=data.answers)
        if len(examples) < 2:
            raise UserError(
                f"tar attacks on other requests than it measures on, and --train has {len(examples)}; give 2 or more"
            )
        return examples

    def pools(self, harmful: Sequence[Example], benign: Sequence[Example]) -> Pools:
        self._harmful = harmful
        return Pools(examples=harmful, benign=benign if self.retain else ())

    def begin(self, subject: Subject) -> None:
        trained = trained_parameters(subject)
        size = COPIES * sum(parameter.numel() * parameter.element_size() for parameter in trained)
        free = free_memory(subject.device)
        if size > free:
            raise UserError(
                f"an attack of the recipe tar takes {size / 2**30:.1f} GiB beside {subject.name}, and "
                f"{free / 2**30:.1f} GiB are free on {subject.device}; use --lora-rank, or another machine"
            )
        self._frozen = frozen_copy(subject, "the recipe tar")

    def prepare(self, subject: Subject, batch: Batch) -> Tampered:
        """Attacks the weights, takes the gradient of the loss along the way, and puts the weights back."""
        trained = trained_parameters(subject)
        before = [parameter.detach().clone() for parameter in trained]
        rates = [float(rate) for rate in self.inner_rates.split(",")]
        rate = rates[int(torch.randint(len(rates), (), generator=batch.generator))]
        attacker = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        measured = set(batch.examples)
        others = [example for example in self._harmful if example not in measured] or list(self._harmful)
        total = [torch.zeros_like(parameter) for parameter in trained]
        losses: list[float] = []
        try:
            for step in range(1, self.inner_steps + 1):
                places = torch.randint(len(others), (self.inner_batch,), generator=batch.generator).tolist()
                tokens = batch_of([harmful_only(others[place]) for place in places])
                reading = read(subject, tokens)
                attacker.zero_grad(set_to_none=True)
                mean_cross_entropy(reading.logits, reading.labels).backward()  # type: ignore[no-untyped-call]
                attacker.step()
                if step % self.inner_every == 0 or step == self.inner_steps:
                    loss = self.tamper_loss(subject, batch.examples)
                    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
                    for sum_, gradient in zip(total, gradients, strict=True):
                        if gradient is not None:
                            sum_ += gradient
                    losses.append(float(loss.detach()))
        finally:
            with torch.no_grad():
                for parameter, own in zip(trained, before, strict=True):
                    parameter.copy_(own)
                    parameter.grad = None
        return Tampered(loss=sum(losses) / len(losses), gradients=[each / len(losses) for each in total])

    def tamper_loss(self, subject: Subject, examples: Sequence[Example]) -> Tensor:
        """T, a scalar: what shall be low after an attack."""
        if self.tamper == "entropy":
            reading = read(subject, batch_of([harmful_only(example) for example in examples]))
            return negative_entropy(reading.logits, reading.labels)
        pairs = pair_batch(examples)
        now = read(subject, pairs)
        with torch.no_grad():
            then = read(self._frozen, pairs)
        log_p = [[summed_log_p(*reading.half(which)) for which in (0, 1)] for reading in (now, then)]
        return dpo_loss(log_p[0], log_p[1], self.beta)

    def losses(self, subject: Subject, batch: Batch, prepared: Tampered) -> dict[str, Tensor]:
        # A term with the value of T whose gradient is the one that was taken at the attacked weights
        along = [(p * g).sum() for p, g in zip(trained_parameters(subject), prepared.gradients, strict=True)]
        surrogate = torch.stack(along).sum()
        terms = {"tampered": prepared.loss + surrogate - surrogate.detach()}
        if batch.benign:
            tokens = batch_of(batch.benign)
            layers = range(subject.n_layers)
            now = read(subject, tokens, layers)
            with torch.no_grad():
                then = read(self._frozen, tokens, layers)
            real = real_positions(tokens)
            stayed = []
            for n in layers:
                where = real.to(now.hidden[n].device)
                stayed.append(stay_loss(now.hidden[n][where], then.hidden[n][where]))
            terms["benign"] = mean_cross_entropy(now.logits, now.labels)
            terms["stay"] = torch.stack(stayed).mean()
        return terms
