"""Columns that follow from the others: digests, ids, splits and places. Written once and recomputed by `verify`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asabench.core.records import sha256_hex
from asabench.dataset.files import FragileLayers
from asabench.dataset.schema import INSTANCE_COLUMNS, SPLIT_COLUMNS, TEXT_COLUMNS, instance_schema
from asabench.dataset.splits import heldout_split, leakfree_split, published_split

if TYPE_CHECKING:
    import pyarrow as pa

CELL_CONTENT = ("prompt_sha256", "suffix", "layer", "attack", "dose", "seed")
"""What `cell_id` hashes, as `asabench.core.records.Cell.id` does."""
INSTANCE_CONTENT = ("model", "model_revision", "cell_id", "original_response_sha256", "steered_response_sha256")
"""What `instance_id` hashes: judging an answer again does not change its id."""
ID_LENGTH = 20
BATCH_ROWS = 100_000
"""Rows that are turned into Python objects at a time."""
DERIVED_COLUMNS = (
    "instance_id",
    "cell_id",
    "fragile_layer",
    *SPLIT_COLUMNS,
    *(f"{name}_sha256" for name in TEXT_COLUMNS),
)
KNOWN_COLUMNS = tuple(name for name in INSTANCE_COLUMNS if name not in DERIVED_COLUMNS)
"""The columns of an instance that do not follow from others."""


def complete_instances(known: Mapping[str, Any], fragile: Sequence[FragileLayers]) -> pa.Table:
    """The instance table of one model from the columns that do not follow from others.

    known: `KNOWN_COLUMNS` by name, as anything that `pa.array` takes. fragile: the model's, by attack and dose.
    """
    import pyarrow as pa

    columns = {name: pa.array(values, instance_schema().field(name).type) for name, values in known.items()}
    for name in TEXT_COLUMNS:
        columns[f"{name}_sha256"] = text_digests(columns[name])
    columns["cell_id"] = content_ids([columns[name] for name in CELL_CONTENT])
    columns["instance_id"] = content_ids([columns[name] for name in INSTANCE_CONTENT])
    for name, side in split_columns(columns).items():
        columns[name] = side
    columns["fragile_layer"] = fragile_places(columns, fragile)
    return pa.table([columns[name] for name in INSTANCE_COLUMNS], schema=instance_schema())


def text_digests(texts: pa.Array) -> pa.Array:
    """SHA-256 of the UTF-8 bytes of each text, in hex; null for null."""
    return _mapped([texts], lambda value: None if value is None else sha256_hex(value))


def content_ids(columns: Sequence[pa.Array]) -> pa.ChunkedArray:
    """For each row the first 20 hex digits of the SHA-256 of its values as a JSON list, which is how ids are made."""
    import pyarrow as pa

    table = pa.table(list(columns), names=[str(n) for n in range(len(columns))])
    batches = table.to_batches(max_chunksize=BATCH_ROWS)
    return pa.chunked_array([_batch_ids(batch.columns) for batch in batches], pa.string())


def _batch_ids(columns: Sequence[pa.Array]) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pc.binary_join_element_wise(*(_mapped([column], json.dumps) for column in columns), ", ")
    digests = (hashlib.sha256(f"[{row}]".encode()).hexdigest() for row in rows.to_pylist())
    return pa.array([digest[:ID_LENGTH] for digest in digests], pa.string())


def split_columns(columns: Mapping[str, pa.Array] | pa.Table) -> dict[str, pa.Array]:
    """The split columns of one model's instances, in whatever order they are."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    order = np.asarray(pc.sort_indices(columns["position"]))
    layers = np.asarray(columns["layer"])
    published = np.empty(len(layers), dtype=object)
    published[order] = published_split(layers[order].tolist())

    def heldout(layer: int, n_layers: int | None) -> str | None:
        return heldout_split(layer, n_layers) if n_layers else None

    return {
        "split_leakfree_by_prompt": _mapped([columns["prompt_sha256"]], leakfree_split),
        "split_published_by_layer": pa.array(published, pa.string()),
        "split_heldout_layers": _mapped([columns["layer"], columns["n_layers"]], heldout),
    }


def fragile_places(columns: Mapping[str, pa.Array] | pa.Table, fragile: Iterable[FragileLayers]) -> pa.Array:
    """For each instance which of the fragile layers under its attack and dose its layer is; null if none."""
    places = {(found.attack, found.dose): found.places() for found in fragile}
    return _mapped(
        [columns["attack"], columns["dose"], columns["layer"]],
        lambda attack, dose, layer: places.get((attack, dose), {}).get(layer),
    )


def _mapped(columns: Sequence[pa.Array], function: Callable[..., str | None]) -> pa.Array:
    """The function of each row's values, called once for every distinct combination of them; null for None."""
    import pyarrow as pa

    if len(columns) == 1:
        values, codes = _encoded(columns[0])
        return pa.array([function(value) for value in values], pa.string()).take(codes)
    frame = pa.table(list(columns), names=[str(n) for n in range(len(columns))])
    distinct = frame.group_by(frame.column_names).aggregate([])
    results = {tuple(row.values()): function(*row.values()) for row in distinct.to_pylist()}
    return pa.array(
        [results[row] for row in zip(*(column.to_pylist() for column in frame.columns), strict=True)], pa.string()
    )


def _encoded(column: pa.Array) -> tuple[list[Any], pa.Array]:
    """The distinct values, null among them, and for each row which one it is. column: chunked or not."""
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = whole.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), encoded.indices
