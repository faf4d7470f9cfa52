"""Benign-answer rate and over-refusal, from what the answers were read as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from asabench.core.records import Cell, Prompt
from asabench.core.utility_report import BenignRates
from asabench.stats.intervals import Array, layer_mean_rate
from harness.utility.answers import Reading

Readings = Mapping[Cell, Reading | None]


def benign_rates(
    found: Readings,
    benign: Sequence[Prompt],
    over_refusal: Sequence[Prompt],
    attack: str,
    dose: float,
    *,
    shared: bool = False,
) -> BenignRates:
    """The rates of one attack at one dose, or of the clean answers (`attack` "none", dose 0). shared: each seed is one
    noise vector for all prompts (`asabench.stats.metrics.Outcomes`)."""
    cells = {cell: reading for cell, reading in found.items() if (cell.attack, cell.dose) == (attack, dose)}
    return BenignRates(
        attack=attack,
        dose=dose,
        benign_answer_rate=layer_mean_rate(values_of(cells, benign, "answered"), shared=shared),
        over_refusal=layer_mean_rate(values_of(cells, over_refusal, "refused"), shared=shared),
    )


def values_of(cells: Readings, prompts: Sequence[Prompt], wanted: Reading) -> Array:
    """(prompt, seed, layer): 1 where the answer was read as `wanted`, 0 where as something else, NaN where not read."""
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    layers = list(dict.fromkeys(cell.layer for cell in cells))
    values = np.full((len(prompts), len(seeds), len(layers)), np.nan)
    place = {prompt: index for index, prompt in enumerate(prompts)}
    for cell, reading in cells.items():
        if cell.prompt in place and reading is not None:
            values[place[cell.prompt], seeds.index(cell.seed), layers.index(cell.layer)] = reading == wanted
    return values
