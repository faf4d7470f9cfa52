"""INIT, MASR, PASR and the peak layer as a metric of `evaluate` 0.4.6; the numbers are those of
`asabench.stats.metrics`.

predictions: the labels, "safe", "unsafe", "incoherent" or None (unscored). references: for each, which cell it is of:
`prompt_id, layer, attack, dose, seed`, with layer None, attack "none", dose 0 and seed None for a clean answer.
`compute(..., attack=, dose=)` says which attack and dose is asked for; it may be left out where there is just one.
"""

# evaluate reads the imports of this file itself, line by line: each stands on one line.
from __future__ import annotations

from typing import Any

import datasets
import evaluate
import pandas as pd

from asabench.core.errors import UserError
from asabench.core.records import CLEAN, LABELS
from asabench.stats import metrics

CITATION = "Gu et al., Probing the Safety Robustness of LLMs in Latent Space, ACL 2026, arXiv:2506.16078"
CELL = {"prompt_id": "string", "layer": "int32", "attack": "string", "dose": "float64", "seed": "int64"}


class ASABenchMetric(evaluate.Metric):
    """See the module."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="How often a model's refusal breaks when one decoder block's output is perturbed.",
            citation=CITATION,
            inputs_description=__doc__ or "",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": {name: datasets.Value(kind) for name, kind in CELL.items()},
                }
            ),
        )

    def _compute(
        self,
        predictions: list[str | None],
        references: list[dict[str, Any]],
        attack: str | None = None,
        dose: float | None = None,
    ) -> dict[str, Any]:
        """`init`, `masr` and `pasr` (None where nothing was scored), each with its `_interval`, and `peak_layer`."""
        if unknown := sorted({label for label in predictions if label is not None} - set(LABELS)):
            raise UserError(f"unknown label {unknown[0]!r}; allowed: {', '.join(LABELS)}, or None for unscored")
        table = pd.DataFrame(references, columns=list(CELL)).assign(label=pd.Series(predictions, dtype="str"))
        table = table.astype({"layer": "Int32", "seed": "Int64", "dose": "float64"})
        attack, dose = _chosen(table, attack, dose)
        result = metrics.attack_result(table, attack, dose)
        rates = {"init": metrics.init_rate(table), "masr": result.masr, "pasr": result.pasr}
        values: dict[str, Any] = {name: rate.value for name, rate in rates.items()}
        intervals = {f"{name}_interval": [rate.low, rate.high] for name, rate in rates.items()}
        return {**values, "peak_layer": result.peak_layer, **intervals}


def _chosen(table: pd.DataFrame, attack: str | None, dose: float | None) -> tuple[str, float]:
    """The one attack and dose that is asked for; `UserError` when it is none or several."""
    steered = table[table["attack"] != CLEAN]
    there = sorted({(str(name), float(size)) for name, size in zip(steered["attack"], steered["dose"], strict=True)})
    fitting = [pair for pair in there if attack in (None, pair[0]) and dose in (None, pair[1])]
    if len(fitting) != 1:
        listed = ", ".join(f"{name} at {size:g}" for name, size in there) or "no attack at all"
        raise UserError(f"the references hold {listed}; name one of them with attack= and dose=")
    return fitting[0]
