"""The cells of a run: every prompt clean, and under every attack, dose, seed and block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from asabench.core.attack_names import doses_of, layers_of
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt


def cells_of(
    prompts: Sequence[Prompt], layers: Sequence[int], uses_seed: Mapping[str, bool], protocol: Protocol
) -> Iterator[Cell]:
    """For each prompt the clean answer, then every attack, dose, seed and layer. uses_seed: by the attacks' names.

    An attack that uses no seed has one cell per dose and layer; one that acts on every block at once has one cell
    without a layer instead of one a layer, and one that has no dose is there once. With a layer per step
    (`protocol.step_layers`) there is one cell instead of one a layer; it stands under the first step's layer.
    """
    if protocol.step_layers is not None:
        layers = protocol.step_layers[:1]
    for prompt in prompts:
        yield Cell(prompt=prompt)
        for attack, draws in uses_seed.items():
            for dose in doses_of(attack, protocol.doses):
                for seed in protocol.seeds if draws else (None,):
                    for layer in layers_of(attack, layers):
                        yield Cell(prompt=prompt, layer=layer, attack=attack, dose=dose, seed=seed)
