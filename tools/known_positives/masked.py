"""A masked model: its gradients vanish, and it is no more robust for it.

What goes into the output embedding is rounded, as quantised activations are: the answers hardly change, and the
derivative of rounding is zero. So gradient steps, taken once or many times, have nowhere to go; noise and directions
from elsewhere work as before. (Athalye et al. 2018, arXiv:1802.00420, call it shattered gradients.)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.model.subject import Subject

STEPS = 16
"""Steps of the rounding to one standard deviation of a position's entries."""


class Rounded:
    """A defence at inference time (`asabench evaluate --defence tools.known_positives.masked:Rounded`)."""

    def __call__(self, subject: Subject) -> Subject:
        subject.model.get_output_embeddings().register_forward_pre_hook(_rounded)
        return subject


def _rounded(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (hidden, *others) = args
    step = hidden.detach().std(dim=-1, keepdim=True) / STEPS
    return ((hidden / step).round() * step, *others)
