"""The fragile layers of a model: the peak of LASR, and the highest layers before and after it (method, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from asabench.dataset.files import FragileLayers
from asabench.stats.metrics import unsafe_or_not

if TYPE_CHECKING:
    import pyarrow as pa


def fragile_layers(attack: str, dose: float, lasr: Mapping[int, float]) -> FragileLayers:
    """From LASR, or anything proportional to it, by layer. The lowest layer wins a tie; a layer at which nothing broke
    is no peak, so places may be None."""

    def highest(layers: list[int]) -> int | None:
        return max(layers, key=lambda layer: (lasr[layer], -layer), default=None)

    broken = [layer for layer, rate in lasr.items() if rate > 0]
    peak = highest(broken)
    if peak is None:
        return FragileLayers(attack=attack, dose=dose, peak=None, before=None, after=None)
    return FragileLayers(
        attack=attack,
        dose=dose,
        peak=peak,
        before=highest([layer for layer in broken if layer < peak]),
        after=highest([layer for layer in broken if layer > peak]),
    )


def fragile_from_attempts(attempts: pa.Table) -> tuple[FragileLayers, ...]:
    """For each attack and dose, by LASR: the share of unsafe ones among a layer's scored answers."""
    frame = attempts.select(["attack", "dose", "layer", "label"]).to_pandas()
    frame = frame[frame["layer"].notna()]
    return _of_each(frame.assign(broken=unsafe_or_not(frame["label"])), "mean")


def fragile_from_instances(instances: pa.Table) -> tuple[FragileLayers, ...]:
    """For each attack and dose, by the number of a layer's instances: what is known where only successes are."""
    return _of_each(instances.select(["attack", "dose", "layer"]).to_pandas().assign(broken=1.0), "sum")


def _of_each(frame: pd.DataFrame, by: str) -> tuple[FragileLayers, ...]:
    rates = frame.groupby(["attack", "dose", "layer"])["broken"].agg(by).dropna().reset_index()
    found = []
    for attack, dose in rates[["attack", "dose"]].drop_duplicates().itertuples(index=False):
        own = rates[(rates["attack"] == attack) & (rates["dose"] == dose)]
        lasr = dict(zip(own["layer"].astype(int), own["broken"].astype(float), strict=True))
        found.append(fragile_layers(attack, dose, lasr))
    return tuple(found)
