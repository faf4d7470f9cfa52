"""Which blocks a training step disturbs or reads: one of the choices that make a recipe (`harness.defences.form`).

all       every block
even      `count` of them, evenly spaced
given     those of --layers: ASABench's fragile ones, say
sampled   `count` of them, drawn anew each step in proportion to the norm of a gradient there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

LayerChoice = Literal["all", "even", "given", "sampled"]


def middles_of_parts(count: int, n_layers: int) -> list[int]:
    """`count` blocks spread over the depth, each in the middle of its share of it; all blocks if there are fewer."""
    count = min(count, n_layers)
    return [(2 * place + 1) * n_layers // (2 * count) for place in range(count)]


def fixed_layers(choice: LayerChoice, count: int, n_layers: int, given: Sequence[int]) -> list[int]:
    """The blocks of a choice that does not change from step to step; of `sampled`, those that are drawn from."""
    if choice == "even":
        return middles_of_parts(count, n_layers)
    return list(given) if choice == "given" else list(range(n_layers))


def sampled_layers(gradients: Mapping[int, Tensor], count: int, generator: torch.Generator) -> list[int]:
    """`count` of the blocks without replacement, each with a probability in proportion to its gradient's L2 norm.

    gradients: by block, of any shape. Equal probabilities where all norms are zero.
    """
    layers = list(gradients)
    norms = torch.stack([gradients[layer].float().norm().cpu() for layer in layers])
    # torch.multinomial refuses more draws than there are weights over zero
    weights = norms + (norms.max() if norms.max() > 0 else 1.0) * 1e-6
    drawn = torch.multinomial(weights, min(count, len(layers)), generator=generator)
    return sorted(layers[int(place)] for place in drawn)
