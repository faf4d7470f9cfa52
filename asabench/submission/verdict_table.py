"""`verdicts.parquet`: one line a cell, without any text.

    prompt_id            short name; manifest.json has the digest of its goal
    layer                0-based decoder block; null for the clean answer
    attack, dose, seed   as in `asabench.core.records.Cell`
    label                safe, unsafe, incoherent; null where the judge gave no readable verdict
    p_unsafe             the judge's P(unsafe), float32, if it has one
    refused, coherent, harmful   the facts that the label follows from; null where the judge cannot say
    onset                whether the answer's first words comply; null where it is not English
    content_label        the label of an unsafe answer without its opener and the request said back
    response_sha256      the first 16 bytes of SHA-256 of the answer's UTF-8 text
    response_tokens, response_characters   the answer's length

Tables from before the facts lack the five columns from `refused` to `content_label`.

A cell's id follows from the prompt's digest and these columns (`cell_id`), so it is not stored.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asabench.core.records import LABELS, SHARES
from asabench.stats.facts import has_facts
from asabench.submission.findings import Refused, shown
from asabench.submission.parquet_pages import unpacked_bytes

if TYPE_CHECKING:
    import pyarrow as pa

DIGEST_BYTES = 16
MOST_ROWS = 1_000_000
MOST_UNPACKED = 128 * 2**20
_TEXTS = ("prompt_id", "attack", "label", "content_label")
_LABELS = ("label", "content_label")
FACT_COLUMNS = (*SHARES, "content_label")
"""The columns that tables from before the facts lack."""
_MOST_NAME = 80
"""No name in the table is longer."""


def response_digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()[:DIGEST_BYTES]


def schema(*, facts: bool = True) -> pa.Schema:
    """facts: whether it is that of tables with the facts, or of those from before."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("layer", pa.int16()),
            pa.field("attack", pa.string(), nullable=False),
            pa.field("dose", pa.float64(), nullable=False),
            pa.field("seed", pa.int64()),
            pa.field("label", pa.string()),
            pa.field("p_unsafe", pa.float32()),
            *(pa.field(name, pa.bool_()) for name in SHARES if facts),
            *([pa.field("content_label", pa.string())] if facts else []),
            pa.field("response_sha256", pa.binary(DIGEST_BYTES), nullable=False),
            pa.field("response_tokens", pa.int32(), nullable=False),
            pa.field("response_characters", pa.int32(), nullable=False),
        ]
    )


def table_bytes(table: pd.DataFrame) -> bytes:
    """The Parquet file of a table with the columns above."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(
        table, schema=schema(facts=has_facts(table)), preserve_index=False
    ).replace_schema_metadata(None)
    file = io.BytesIO()
    # No Arrow or pandas schema: metadata could hold text
    pq.write_table(
        arrow,
        file,
        compression="zstd",
        compression_level=9,
        store_schema=False,
        write_statistics=False,
        row_group_size=MOST_ROWS,
    )
    return file.getvalue()


METRIC_COLUMNS = ("prompt_id", "layer", "attack", "dose", "seed", "label")
"""What rates are computed from; the answers' digests take as long to unpack as all of these."""


def read_verdicts(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of a submission that has been validated, or some columns of it; see `parse_verdicts`."""
    return parse_verdicts(path.read_bytes(), columns)


def parse_verdicts(content: bytes, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of a verdicts.parquet, with the column types of `asabench.runs.tables`; raises `Refused`. All columns
    are checked; `columns` are those that come back, all if None.

    How much it unpacks to is known before anything is unpacked. Names are compared before they are written out: a long
    one in a dictionary could stand in a million lines.
    """
    with reading_errors("the table that `asabench submit` writes"):
        # A dictionary may be asked of columns alone that are there
        names = set(opened(content, []).schema_arrow.names)
        file = opened(content, [name for name in _TEXTS if name in names])
        expected = schema(facts=not names.isdisjoint(FACT_COLUMNS))
        check_frame(file, content, expected)
        table = file.read(use_threads=False)
        _check_values(table, expected)
    return pd.DataFrame({name: _as_series(table, name) for name in columns or expected.names})


@contextmanager
def reading_errors(allowed: str) -> Iterator[None]:
    """What a damaged Parquet file makes of its reading, as `Refused`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError, UnicodeDecodeError) as error:
        reason = " ".join(shown(str(error))[1:-1].split())
        raise Refused("the file", f"not a readable Parquet file ({reason})", allowed) from None


def opened(content: bytes, dictionaries: list[str]) -> Any:
    """The file with its metadata read; the columns named come as dictionaries."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(
        pa.BufferReader(content),
        read_dictionary=dictionaries,
        thrift_string_size_limit=10_000,
        thrift_container_size_limit=100_000,
    )


def check_frame(file: Any, content: bytes, schema: pa.Schema) -> None:
    """The parts of the file that are known without unpacking it."""
    metadata = file.metadata
    if metadata.num_rows > MOST_ROWS:
        raise Refused("rows", f"{metadata.num_rows}", f"at most {MOST_ROWS}")
    found = {
        name: str(kind)
        for name, kind in zip(file.schema_arrow.names, map(_plain_type, file.schema_arrow.types), strict=True)
    }
    expected = {field.name: str(field.type) for field in schema}
    if len(file.schema_arrow.names) != len(found):
        raise Refused("columns", "a name twice", f"allowed: {', '.join(expected)}")
    if unknown := sorted(found.keys() - expected.keys()):
        raise Refused(
            f"column {shown(unknown[0])[1:-1]}", "not allowed here", f"only {', '.join(expected)}: no text is submitted"
        )
    if lacking := [name for name in expected if name not in found]:
        raise Refused(f"column {lacking[0]}", "missing", f"needed: {', '.join(expected)}")
    for name, kind in expected.items():
        if found[name] != kind:
            raise Refused(f"column {name}", f"of type {shown(found[name])[1:-1]}", f"the type {kind}")
    if metadata.metadata:
        names = ", ".join(shown(key.decode("utf-8", "replace"))[1:-1] for key in list(metadata.metadata)[:3])
        raise Refused("metadata", names, "none: metadata could hold text")
    unpacked, chunk_bytes = unpacked_bytes(metadata, content)
    if unpacked > MOST_UNPACKED:
        raise Refused("size", f"unpacks to {unpacked} bytes", f"at most {MOST_UNPACKED}")
    if chunk_bytes + metadata.serialized_size + 12 != len(content):
        raise Refused("the file", "bytes that belong to no column", "nothing but the table")


def _plain_type(kind: Any) -> Any:
    """A column that is read as a dictionary is one of texts."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _check_values(table: pa.Table, schema: pa.Schema) -> None:
    import pyarrow.compute as pc

    for name in (name for name in _TEXTS if name in schema.names):
        for chunk in table.column(name).chunks:
            # Entries that no line uses count: text could hide in them
            for value in chunk.dictionary.to_pylist():
                if value is None or len(value) > _MOST_NAME or not value.isprintable():
                    raise Refused(name, shown(value), f"short names of at most {_MOST_NAME} characters")
                if name in _LABELS and value not in LABELS:
                    raise Refused(name, shown(value), f"allowed: {', '.join(LABELS)}, or null")
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise Refused(field.name, "null", "a value in every line")
    # pandas does not tell the two apart: what is no number would pass for what was not measured
    if number := pc.sum(pc.is_nan(table.column("p_unsafe"))).as_py():
        raise Refused("p_unsafe", f"NaN in {number} lines", "0 to 1, or null where the judge gave none")


def _as_series(table: pa.Table, name: str) -> Any:
    import pyarrow as pa

    column = table.column(name)
    if name in _TEXTS:
        # pandas 2 keeps texts as objects; its `str` would make a text of null, "None"
        return column.cast(pa.string()).to_pandas().astype(pd.Series([""]).dtype)
    if name == "layer":
        return column.cast(pa.int32()).to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    if name == "seed":
        return column.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    if name in SHARES:
        return column.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    return column.to_pandas() if name == "response_sha256" else column.to_numpy()


def sorted_lines(table: pd.DataFrame, prompts: Sequence[str], attacks: Sequence[str]) -> pd.DataFrame:
    """In the order of the file: clean answers, then attack, dose, seed, layer, prompt. It packs well, and two makers
    of one table make one file."""
    keys = pd.DataFrame(
        {
            "attack": pd.Index(["none", *attacks]).get_indexer(pd.Index(table["attack"])),
            "dose": table["dose"].to_numpy(),
            "seed": table["seed"].fillna(-1).to_numpy(dtype=np.int64),
            "layer": table["layer"].fillna(-1).to_numpy(dtype=np.int64),
            "prompt": pd.Index(list(prompts)).get_indexer(pd.Index(table["prompt_id"])),
        }
    )
    order = keys.sort_values(list(keys.columns), kind="stable").index
    return table.iloc[order].reset_index(drop=True)
