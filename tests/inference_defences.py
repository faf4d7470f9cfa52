"""Defences at inference time for tests, reached by import path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.model.subject import Subject


class HalvedLastBlock:
    """Scales what the last block adds: it changes every answer, and lets gradients through."""

    def __call__(self, subject: Subject) -> Subject:
        def halve(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
            hidden: Tensor = args[0]
            return hidden + (output - hidden) / 2

        subject.blocks[-1].register_forward_hook(halve)
        return subject


class FewerBlocks:
    def __call__(self, subject: Subject) -> Subject:
        return replace(subject, blocks=subject.blocks[:-1])


class LooksAhead:
    """Lets every position see the mean over all: no causal model any more."""

    def __call__(self, subject: Subject) -> Subject:
        def mean(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + output.mean(dim=1, keepdim=True) * torch.ones_like(output)

        subject.blocks[0].register_forward_hook(mean)
        return subject


class NeedsMore:
    def __init__(self, strength: float) -> None:
        self.strength = strength


class NotCallable:
    pass
