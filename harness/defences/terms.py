"""The losses of training steps, as pure functions of tensors: the last of the choices that make a recipe
(`harness.defences.form`).

Logits are (row, step, vocabulary) in float32, labels (row, step) with IGNORED where nothing counts
(`harness.defences.examples.answer_logits`); hidden states (..., d_model) with a mask of their positions. All return a
scalar.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, logsigmoid

from harness.defences.examples import IGNORED, mean_cross_entropy

MMD_KERNELS = 5
"""Bandwidths of the maximum mean discrepancy: the mean squared distance times 1/4, 1/2, 1, 2, 4."""


def away_loss(logits: Tensor, labels: Tensor, cutoff: float | None = None) -> Tensor:
    """Mean over the labels of -log(1 - p(label)), a scalar. logits: (row, step, vocabulary). cutoff: labels with log p
    below it count no more."""
    counts = labels != IGNORED
    logits, labels = logits[counts], labels[counts]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    # log(1 - p) as the others' share: it has a gradient where p is nearly 1
    lost = logits.logsumexp(-1) - others.logsumexp(-1)
    if cutoff is not None:
        log_p = logits.detach().log_softmax(-1).gather(1, labels[:, None]).squeeze(1)
        lost = torch.where(log_p < cutoff, lost.detach(), lost)
    return lost.mean()


def summed_log_p(logits: Tensor, labels: Tensor) -> Tensor:
    """log p of each row's labels, (row,)."""
    counts = labels != IGNORED
    log_p = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    return (log_p * counts).sum(-1)


def dpo_loss(now: Sequence[Tensor], then: Sequence[Tensor], beta: float) -> Tensor:
    """Mean of -log sigmoid(beta * ((log p(chosen) - log p0(chosen)) - (log p(rejected) - log p0(rejected)))).

    now, then: log p of whole answers, of the chosen and of the rejected ones, (row,) each; p0 is the frozen model.
    Source: Rafailov et al. 2023 (arXiv:2305.18290).
    """
    chosen, rejected = (after - before for after, before in zip(now, then, strict=True))
    return -logsigmoid(beta * (chosen - rejected)).mean()


def kl_to_frozen(logits: Tensor, frozen: Tensor, labels: Tensor) -> Tensor:
    """Mean over the counted positions of KL(p0 || p), in nats."""
    counts = labels != IGNORED
    now, before = logits[counts].log_softmax(-1), frozen[counts].log_softmax(-1)
    return kl_div(now, before, reduction="batchmean", log_target=True)


def reroute_loss(hidden: Tensor, frozen: Tensor, where: Tensor) -> Tensor:
    """Mean over positions of relu(cos(h, h0)). hidden, frozen: (row, position, d_model); where: (row, position)."""
    return cosine_similarity(hidden[where].float(), frozen[where].float(), dim=-1).relu().mean()


def stay_loss(hidden: Tensor, frozen: Tensor) -> Tensor:
    """Mean of the L2 norm ||h - h0|| over states (..., d_model)."""
    difference = hidden.float() - frozen.float()
    # The norm has no gradient at zero, where every training begins
    return (difference.square().sum(-1) + 1e-12).sqrt().mean()


def mean_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The biased squared maximum mean discrepancy of two samples (n, d) and (n, d), the sum over `MMD_KERNELS` Gaussian
    kernels exp(-||a - b||^2 / bandwidth). The bandwidths get no gradient. Gretton et al. 2012; RepNoise's form."""
    both = torch.cat([x, y]).float()
    squared = (both[:, None] - both[None]).square().sum(-1)
    count = len(both)
    middle = squared.detach().sum() / (count * count - count)
    powers = [2.0 ** (power - MMD_KERNELS // 2) for power in range(MMD_KERNELS)]
    kernel = torch.stack([torch.exp(-squared / (middle * power).clamp(min=1e-12)) for power in powers]).sum(0)
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - kernel[:n, n:].mean() - kernel[n:, :n].mean()


def negative_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean entropy of the next-token distribution over the counted positions, in nats."""
    log_p = logits[labels != IGNORED].log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1).mean()


def floored_cross_entropy(logits: Tensor, labels: Tensor, floor: float) -> Tensor:
    """Mean cross-entropy, of which only a thousandth counts below `floor`: enough is enough (CAT's cutoff)."""
    loss = mean_cross_entropy(logits, labels)
    return torch.where(loss < floor, floor + 0.001 * (loss - floor), loss)


def ascent_loss(logits: Tensor, labels: Tensor, ceiling: float) -> Tensor:
    """Minus the mean cross-entropy, of which only a thousandth counts above `ceiling` nats: gradient ascent."""
    loss = mean_cross_entropy(logits, labels)
    return -torch.where(loss > ceiling, ceiling + 0.001 * (loss - ceiling), loss)
