"""Two defences that act while the model answers, to be measured with `asabench evaluate --defence`.

    harness.defences.at_inference:ActivationClamp   z = h / rms(h), each dimension held in the range of clean requests
    harness.defences.at_inference:RefusalMonitor    h . u, u the refusal direction, held in the range of clean requests

Both are fitted when they are put on a model, on requests that come with ASABench and without an attack, and hook every
block: so what was injected below is met by the blocks above. They keep nothing from one position to the next, and let
gradients through. The ranges are those of all positions, the first among them, whose states are of another size: a
known weakness, since an attack may hide there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from asabench.core.defaults import PROTOCOL, TRAINING_PROMPTS
from asabench.core.protocol import preset
from asabench.core.records import Prompt
from harness.defences.examples import Example, benign_requests, chosen_prompts
from harness.defences.perturbations import refusal_directions
from harness.model.padding import left_padded
from harness.model.subject import Subject
from harness.stream.injection import capture, hidden_state

BATCH = 16
SLACK = 0.1
"""How far outside the clean range a value may go, as a share of the range."""


class ActivationClamp:
    """Holds every dimension of the direction of every block's output within its range on harmless requests: a state
    that noise has thrown out is brought back to the edge, the others pass as they are."""

    def __call__(self, subject: Subject) -> Subject:
        states = clean_states(subject, benign_requests())
        for block, each in zip(subject.blocks, states, strict=True):
            low, high = clean_range(each / rms(each))
            _on_output(block, partial(clamped, low=low, high=high))
        return subject


class RefusalMonitor:
    """Holds the part of every block's output along the refusal direction within its range on harmful and harmless
    requests: ablation, or steering away from refusing, is undone up to that edge."""

    def __call__(self, subject: Subject) -> Subject:
        protocol = preset(PROTOCOL)
        harmful, benign = chosen_prompts(TRAINING_PROMPTS).prompts, benign_requests()
        examples = [
            [Example(prompt=tuple(subject.format(prompt, protocol)), answer=(0,)) for prompt in prompts]
            for prompts in (harmful, benign)
        ]
        units = refusal_directions(subject, *examples).cpu()
        states = clean_states(subject, [*harmful, *benign])
        for block, each, unit in zip(subject.blocks, states, units, strict=True):
            low, high = clean_range((each @ unit)[:, None])
            _on_output(block, partial(held_along, unit=unit, low=float(low), high=float(high)))
        return subject


@torch.no_grad()
def clean_states(subject: Subject, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Every block's outputs at the requests' positions: (position of all requests, d_model) each, on the CPU."""
    protocol = preset(PROTOCOL)
    ids = sorted((subject.format(prompt, protocol) for prompt in prompts), key=len)
    found: list[list[Tensor]] = [[] for _ in range(subject.n_layers)]
    for start in range(0, len(ids), BATCH):
        tokens, mask = left_padded(ids[start : start + BATCH])
        with capture(subject.blocks, range(subject.n_layers)) as seen:
            subject.forward(tokens.to(subject.device), mask.to(subject.device), last=1)
        for layer in range(subject.n_layers):
            found[layer].append(seen.outputs[layer].cpu()[mask.bool()].float())
    return [torch.cat(each) for each in found]


def clean_range(values: Tensor, slack: float = SLACK) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of each column, wider on both sides by `slack` of their distance."""
    low, high = values.min(dim=0).values, values.max(dim=0).values
    room = slack * (high - low)
    return low - room, high + room


def rms(hidden: Tensor) -> Tensor:
    """The root mean square over the last dimension, which stays with length 1."""
    return hidden.float().square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)


def clamped(hidden: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """h with each dimension of h / rms(h) between `low` and `high`. hidden: (..., d_model)."""
    size = rms(hidden)
    held = torch.minimum(torch.maximum(hidden.float() / size, low.to(hidden.device)), high.to(hidden.device))
    return (held * size).to(hidden.dtype)


def held_along(hidden: Tensor, unit: Tensor, low: float, high: float) -> Tensor:
    """h with its part along `unit` between `low` and `high`. hidden: (..., d_model)."""
    unit = unit.to(hidden.device)
    along = hidden.float() @ unit
    return (hidden.float() + (along.clamp(low, high) - along)[..., None] * unit).to(hidden.dtype)


def _on_output(block: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        changed = change(hidden_state(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    block.register_forward_hook(hook)
