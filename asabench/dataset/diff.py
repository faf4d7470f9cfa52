"""Two benchmarks side by side: counts by model and layer, the cells that both hold, and labels that differ.

Cells are the same when model, prompt, suffix, layer, attack, dose and seed are (`cell_id`); or, where one side is of
the original layout, which names no attack, dose or seed, when model, prompt and layer are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from asabench.core.errors import UserError
from asabench.core.records import LABELS
from asabench.core.text import text_table
from asabench.dataset.files import Benchmark
from asabench.dataset.original_layout import OriginalBenchmark, known_model, open_benchmark

Key = Literal["cell", "prompt-layer"]
KEYS: dict[Key, tuple[str, ...]] = {"cell": ("cell_id",), "prompt-layer": ("prompt_sha256", "layer")}
"""The columns within a model that make two cells the same."""
UNSCORED = "unscored"
AnyBenchmark = Benchmark | OriginalBenchmark


@dataclass(frozen=True, kw_only=True)
class Cells:
    """How many cells are in both, and in one only."""

    both: int
    only_a: int
    only_b: int

    @property
    def jaccard(self) -> float | None:
        """Cells in both, as a share of those in either; None where there are none."""
        either = self.both + self.only_a + self.only_b
        return self.both / either if either else None


@dataclass(frozen=True, kw_only=True)
class LayerCounts:
    """Instances of one layer."""

    layer: int
    a: int
    b: int
    both: int


@dataclass(frozen=True, kw_only=True)
class LabelCount:
    """How many attempts that both sides ran have these labels in A and in B."""

    a: str
    b: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class ModelDifference:
    """One model, named in both. `instances_*`: rows; `cells`: distinct cells of instances by the key; `labels`: None
    where a side has no attempts."""

    model: str
    revision_a: str | None
    revision_b: str | None
    instances_a: int
    instances_b: int
    cells: Cells
    layers: tuple[LayerCounts, ...]
    labels: tuple[LabelCount, ...] | None

    @property
    def attempts(self) -> int:
        """How many attempts both ran."""
        return sum(count.attempts for count in self.labels or ())

    @property
    def changed(self) -> int:
        """How many of them have another label."""
        return sum(count.attempts for count in self.labels or () if count.a != count.b)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What `diff` found. `same`: both hold the same cells of the same models, and no attempt's label differs."""

    a: str
    b: str
    key: Key
    models: tuple[ModelDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def cells(self) -> Cells:
        """Of the models that both hold."""
        return Cells(
            both=sum(model.cells.both for model in self.models),
            only_a=sum(model.cells.only_a for model in self.models),
            only_b=sum(model.cells.only_b for model in self.models),
        )

    @property
    def same(self) -> bool:
        cells = self.cells
        changed = any(model.changed for model in self.models)
        return not (self.only_a or self.only_b or cells.only_a or cells.only_b or changed)

    def as_json(self) -> dict[str, Any]:
        found = {**asdict(self), "same": self.same, "cells": _cells_json(self.cells)}
        for entry, model in zip(found["models"], self.models, strict=True):
            entry.update(cells=_cells_json(model.cells), attempts=model.attempts, changed=model.changed)
        return found

    @property
    def text(self) -> str:
        """For a terminal."""
        return _report(self)


def diff(a: str | Path, b: str | Path, *, key: Key | None = None) -> Difference:
    """Compares two benchmark folders, in either layout, one model at a time.

    key: see `KEYS`; if None, `cell` where both are of the Parquet layout and neither was made from the original one.
    A model is the same under its hub id and its name in the original layout. Raises `UserError` for a folder that
    cannot be read.
    """
    first, second = open_benchmark(Path(a)), open_benchmark(Path(b))
    if key is None:
        key = "prompt-layer" if _is_original(first) or _is_original(second) else "cell"
    elif key not in KEYS:
        raise UserError(f"--key {key!r} is not known; allowed: {', '.join(KEYS)}")
    configs_a, configs_b = _configs(first), _configs(second)
    return Difference(
        a=str(a),
        b=str(b),
        key=key,
        models=tuple(
            _model_difference(model, (first, configs_a[model]), (second, configs_b[model]), key)
            for model in configs_a
            if model in configs_b
        ),
        only_a=tuple(model for model in configs_a if model not in configs_b),
        only_b=tuple(model for model in configs_b if model not in configs_a),
    )


def _is_original(benchmark: AnyBenchmark) -> bool:
    return isinstance(benchmark, OriginalBenchmark) or benchmark.manifest.origin == "original-layout"


def _configs(benchmark: AnyBenchmark) -> dict[str, str]:
    """Configs by the name of the model, that of the published set where it is one of them."""
    if isinstance(benchmark, Benchmark):
        names = {entry.config: entry.name for entry in benchmark.manifest.models}
    else:
        names = {config: config for config in benchmark.configs}
    known = {config: known_model(name) for config, name in names.items()}
    return {(found.name if (found := known[config]) else name): config for config, name in names.items()}


def _model_difference(
    model: str, a: tuple[AnyBenchmark, str], b: tuple[AnyBenchmark, str], key: Key
) -> ModelDifference:
    instances_a, instances_b = _instances(*a, key), _instances(*b, key)
    cells = _joined(instances_a, instances_b, key)
    return ModelDifference(
        model=model,
        revision_a=_revision(*a),
        revision_b=_revision(*b),
        instances_a=len(instances_a),
        instances_b=len(instances_b),
        cells=Cells(
            both=int((cells["side"] == "both").sum()),
            only_a=int((cells["side"] == "left_only").sum()),
            only_b=int((cells["side"] == "right_only").sum()),
        ),
        layers=_layer_counts(instances_a, instances_b, cells),
        labels=_label_counts(_attempts(*a), _attempts(*b)),
    )


def _revision(benchmark: AnyBenchmark, config: str) -> str | None:
    return benchmark.model(config).revision if isinstance(benchmark, Benchmark) else None


def _instances(benchmark: AnyBenchmark, config: str, key: Key) -> pd.DataFrame:
    columns = list(dict.fromkeys((*KEYS[key], "layer")))
    return benchmark.instances(config, columns=columns).to_pandas()


def _attempts(benchmark: AnyBenchmark, config: str) -> pd.DataFrame | None:
    table = benchmark.attempts(config, columns=["cell_id", "label"])
    return None if table is None else table.to_pandas()


def _joined(a: pd.DataFrame, b: pd.DataFrame, key: Key) -> pd.DataFrame:
    """The distinct cells of either, with their layer and a column `side`."""
    columns = list(KEYS[key])
    distinct = [side.drop_duplicates(columns) for side in (a, b)]
    whole = distinct[0].merge(distinct[1], on=columns, how="outer", indicator="side", suffixes=("", "_b"))
    if "layer_b" in whole:
        whole["layer"] = whole["layer"].fillna(whole["layer_b"])
    return whole


def _layer_counts(a: pd.DataFrame, b: pd.DataFrame, cells: pd.DataFrame) -> tuple[LayerCounts, ...]:
    both = cells[cells["side"] == "both"]
    counts = pd.DataFrame({name: table["layer"].value_counts() for name, table in (("a", a), ("b", b), ("both", both))})
    counts = counts.fillna(0).astype(int).sort_index()
    return tuple(
        LayerCounts(layer=int(layer), a=int(in_a), b=int(in_b), both=int(in_both))
        for layer, in_a, in_b, in_both in counts.itertuples()
    )


def _label_counts(a: pd.DataFrame | None, b: pd.DataFrame | None) -> tuple[LabelCount, ...] | None:
    """Over attempts that both ran, clean answers too, in the order of the labels."""
    if a is None or b is None:
        return None
    joined = a.merge(b, on="cell_id", suffixes=("_a", "_b"))
    counts = joined[["label_a", "label_b"]].astype(object).fillna(UNSCORED).value_counts()
    names = (*LABELS, UNSCORED)
    return tuple(
        LabelCount(a=first, b=second, attempts=int(counts[first, second]))
        for first in names
        for second in names
        if (first, second) in counts.index
    )


def _cells_json(cells: Cells) -> dict[str, Any]:
    return {**asdict(cells), "jaccard": cells.jaccard}


# The report


def _report(found: Difference) -> str:
    by = "model, prompt, suffix, layer, attack, dose and seed" if found.key == "cell" else "model, prompt and layer"
    rows = [
        ["model", "instances A", "instances B", "cells in both", "only A", "only B", "Jaccard", "labels that differ"]
    ]
    for model in found.models:
        labels = "not known" if model.labels is None else f"{model.changed:,} of {model.attempts:,}"
        instances = (f"{model.instances_a:,}", f"{model.instances_b:,}")
        rows.append([model.model, *instances, *_cells_text(model.cells), labels])
    if len(found.models) > 1:
        sums = [sum(getattr(model, name) for model in found.models) for name in ("instances_a", "instances_b")]
        rows.append(["total", *(f"{number:,}" for number in sums), *_cells_text(found.cells), ""])
    parts = [f"A: {found.a}\nB: {found.b}\nthe same cell: the same {by}", text_table(rows)]
    parts += [
        f"only in {side}: {', '.join(names)}" for side, names in (("A", found.only_a), ("B", found.only_b)) if names
    ]
    for model in found.models:
        parts.append(_model_report(model))
    parts.append("the same cells and labels" if found.same else "they differ")
    return "\n\n".join(parts)


def _model_report(model: ModelDifference) -> str:
    lines = [model.model]
    if model.revision_a != model.revision_b:
        lines.append(f"revisions: A {model.revision_a or 'not known'}, B {model.revision_b or 'not known'}")
    layers = [[str(n.layer), f"{n.a:,}", f"{n.b:,}", f"{n.both:,}"] for n in model.layers]
    lines.append(text_table([["layer", "A", "B", "both"], *layers]))
    changed = [[n.a, n.b, f"{n.attempts:,}"] for n in model.labels or () if n.a != n.b]
    if changed:
        lines.append(text_table([["label in A", "label in B", "attempts"], *changed]))
    return "\n".join(lines)


def _cells_text(cells: Cells) -> Sequence[str]:
    jaccard = "-" if cells.jaccard is None else f"{cells.jaccard:.3f}"
    return [f"{cells.both:,}", f"{cells.only_a:,}", f"{cells.only_b:,}", jaccard]
