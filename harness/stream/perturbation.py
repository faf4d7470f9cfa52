"""The arithmetic of the Activation Steering Attack: pure functions of tensors.

Source: Gu et al. 2025 (arXiv:2506.16078), instance-normalised perturbation; equations (1) and (2) of docs/protocol.md.
"""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-6


def standardise(direction: Tensor) -> Tensor:
    """A raw direction with mean 0 and standard deviation 1 over its `d_model` entries.

    direction: (..., d_model). Returns the same shape. `std` is the unbiased one. This is the part of equation (1)
    that does not depend on the hidden state, so that a sweep computes it once per cell and not once per token.
    """
    centred = direction - direction.mean(dim=-1, keepdim=True)
    return centred / (direction.std(dim=-1, keepdim=True) + EPSILON)


def normalise(unit: Tensor, reference: Tensor) -> Tensor:
    """delta', equation (1): a standardised direction given the mean and standard deviation of a hidden state.

    unit: (..., d_model) from `standardise`. reference: (..., d_model), the hidden state whose statistics are taken.
    Returns (..., d_model) in the dtype of `unit`.
    """
    reference = reference.to(unit.dtype)
    return reference.mean(dim=-1, keepdim=True) + unit * reference.std(dim=-1, keepdim=True)


def perturb(hidden: Tensor, delta: Tensor, dose: Tensor) -> Tensor:
    """h + eps * delta', equation (2), computed in the dtype of `delta` and returned in that of `hidden`.

    hidden, delta: (..., d_model). dose: broadcastable to (..., 1), in units of the activation's own length
    (at dose 1, ||delta'|| is about ||h||).
    """
    return (hidden.to(delta.dtype) + dose * delta).to(hidden.dtype)
