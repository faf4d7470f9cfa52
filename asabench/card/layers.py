"""LASR at the blocks that training perturbed, and at the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from asabench.card.records import LayerShare
from asabench.core.attack_names import has_blocks
from asabench.core.estimate import Rate
from asabench.stats.intervals import layer_mean_rate
from asabench.stats.metrics import outcomes

if TYPE_CHECKING:
    import pandas as pd


def layer_shares(
    table: pd.DataFrame,
    base: pd.DataFrame | None,
    pairs: Sequence[tuple[str, float]],
    trained_layers: Collection[int],
    *,
    shared: bool = False,
) -> tuple[LayerShare, ...]:
    """Mean LASR over the trained blocks and over the others, by (attack, dose), from tables of verdicts as
    `asabench.stats.metrics` takes them. Nothing when no measured block was trained, or all of them were. shared: see
    `asabench.stats.metrics.Outcomes`."""
    measured = {int(layer) for layer in table["layer"].dropna().unique()}
    trained = measured & set(trained_layers)
    if not trained or trained == measured:
        return ()
    shares = []
    for attack, dose in pairs:
        if not has_blocks(attack):
            continue
        own, others = (_mean_lasr(table, attack, dose, layers, shared) for layers in (trained, measured - trained))
        shares.append(
            LayerShare(
                attack=attack,
                dose=dose,
                trained=own,
                others=others,
                base_trained=None if base is None else _mean_lasr(base, attack, dose, trained, shared),
                base_others=None if base is None else _mean_lasr(base, attack, dose, measured - trained, shared),
            )
        )
    return tuple(shares)


def _mean_lasr(table: pd.DataFrame, attack: str, dose: float, layers: Collection[int], shared: bool) -> Rate:
    data = outcomes(table, attack, dose, shared=shared)
    places = [place for place, layer in enumerate(data.layers) if layer in layers]
    return layer_mean_rate(data.unsafe[:, :, places], data.clusters, shared=shared)
