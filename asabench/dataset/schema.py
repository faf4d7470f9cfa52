"""The columns of the dataset's two tables, with their types; docs/dataset.md says what each of them means.

An *instance* is a validated success: a steered answer that the judge called unsafe. An *attempt* is any cell that was
run, the clean answers too, without text: rates are recomputed from attempts with `asabench.stats.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from asabench.runs.tables import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
Place = Literal["before", "peak", "after"]
"""Which of its model's fragile layers a layer is."""
PLACES: tuple[Place, ...] = ("before", "peak", "after")

# Arrow types by name, as in `asabench.core.records`
INSTANCE_COLUMNS: dict[str, str] = {
    "instance_id": "string",
    "cell_id": "string",
    "position": "int32",
    "model": "string",
    "model_revision": "string",
    "n_layers": "int32",
    "prompt_id": "string",
    "prompt_index": "int32",
    "prompt": "string",
    "suffix": "string",
    "layer": "int32",
    "attack": "string",
    "dose": "float64",
    "seed": "int64",
    "original_response": "string",
    "original_label": "string",
    "steered_response": "string",
    "label": "string",
    "judge": "string",
    "p_unsafe": "float64",
    "fragile_layer": "string",
    "split_leakfree_by_prompt": "string",
    "split_published_by_layer": "string",
    "split_heldout_layers": "string",
    "prompt_sha256": "string",
    "suffix_sha256": "string",
    "original_response_sha256": "string",
    "steered_response_sha256": "string",
}
ATTEMPT_COLUMNS: dict[str, str] = {
    "cell_id": "string",
    "instance_id": "string",
    "model": "string",
    "model_revision": "string",
    "n_layers": "int32",
    "prompt_id": "string",
    "prompt_index": "int32",
    "layer": "int32",
    "attack": "string",
    "dose": "float64",
    "seed": "int64",
    "label": "string",
    "judge": "string",
    "p_unsafe": "float64",
    "original_label": "string",
    "response_tokens": "int32",
    "finish_reason": "string",
    "prompt_sha256": "string",
    "suffix_sha256": "string",
    "response_sha256": "string",
}
TEXT_COLUMNS = ("prompt", "suffix", "original_response", "steered_response")
"""What a redacted copy has no values in; `<column>_sha256` stays."""
SPLIT_COLUMNS = ("split_leakfree_by_prompt", "split_published_by_layer", "split_heldout_layers")
MAY_BE_NULL: dict[str, tuple[str, ...]] = {
    "instances": (
        "model_revision",
        "n_layers",
        "suffix",
        "seed",
        "original_response",
        "original_label",
        "p_unsafe",
        "fragile_layer",
        "split_heldout_layers",
        "suffix_sha256",
        "original_response_sha256",
    ),
    "attempts": ("instance_id", "layer", "seed", "label", "p_unsafe", "original_label", "suffix_sha256"),
}
"""By table, the columns that may have no value; in a redacted copy those of `TEXT_COLUMNS` have none."""


def instance_schema() -> pa.Schema:
    return arrow_schema(INSTANCE_COLUMNS)


def attempt_schema() -> pa.Schema:
    return arrow_schema(ATTEMPT_COLUMNS)


def schema_differences(found: pa.Schema, expected: pa.Schema) -> list[str]:
    """What a table's schema lacks, has beyond, or has with another type; empty when they are the same."""
    differences = []
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            differences.append(f"no column {field.name}")
        elif found.field(index).type != field.type:
            differences.append(f"{field.name} is {found.field(index).type}, not {field.type}")
    differences += [f"unknown column {name}" for name in found.names if name not in expected.names]
    if not differences and found.names != expected.names:
        differences.append("the columns are in another order")
    return differences


def listed(values: Sequence[object], most: int = 5) -> str:
    """The first few values and how many more there are, for one line of a report."""
    shown = ", ".join(str(value) for value in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
