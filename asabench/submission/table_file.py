"""A verdicts.parquet that anybody may have written, from bytes to an Arrow table; pyarrow alone.

The reader of Parquet is other people's C++, which a file can make allocate what a header says, throw past Python, or
never end. So it runs in a process of its own, with bounds on memory and time, that answers with the table or with what
is wrong with the file (`asabench.submission.guarded`). What comes back was written by that process and not by the
file's author.
"""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from asabench.core.records import LABELS, SHARES
from asabench.submission.columns import (
    DIGEST_BYTES,
    FACT_COLUMNS,
    JUDGE_ID,
    LABEL_COLUMNS,
    MOST_JUDGES,
    MOST_ROWS,
    TEXTS,
)
from asabench.submission.findings import Refused, shown

MOST_UNPACKED = 128 * 2**20
_MOST_NAME = 80
"""No name in the table is longer."""
_SLACK = 1.05, 64 * 2**10
"""How much longer than its table's own a file may be: other versions of the packer, another writer's small file."""


def schema(*, facts: bool = True) -> pa.Schema:
    """facts: whether it is that of tables with the facts, or of those from before."""
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


def packed(table: pa.Table) -> bytes:
    """The Parquet file of a table with the columns above."""
    file = io.BytesIO()
    # No Arrow or pandas schema: metadata could hold text
    pq.write_table(
        table.replace_schema_metadata(None),
        file,
        compression="zstd",
        compression_level=9,
        store_schema=False,
        write_statistics=False,
        row_group_size=MOST_ROWS,
    )
    return file.getvalue()


def checked(content: bytes) -> pa.Table:
    """The table of a verdicts.parquet, of the types of `schema`; raises `Refused`. How much it says that it unpacks to
    is looked at before anything is unpacked. Names are compared before they are written out: a long one in a dictionary
    could stand in a million lines."""
    # A dictionary may be asked of columns alone that are there
    names = set(_opened(content, []).schema_arrow.names)
    file = _opened(content, [name for name in TEXTS if name in names])
    expected = schema(facts=not names.isdisjoint(FACT_COLUMNS))
    _check_frame(file, content, expected)
    table = file.read(use_threads=False)
    _check_values(table, expected)
    plain = pa.table({name: _undictionaried(table.column(name)) for name in expected.names}, schema=expected)
    plain.validate(full=True)
    # What the reader passes over, between and behind the pages, is not in the table
    factor, slack = _SLACK
    most = int(len(packed(plain)) * factor) + slack
    if len(content) > most:
        raise Refused("the file", f"{len(content)} bytes", f"at most {most} for what the table holds")
    return plain


def others_schema() -> pa.Schema:
    """Of an other_judges.parquet (`asabench.submission.other_judges`)."""
    return pa.schema([pa.field("judge", pa.string(), nullable=False), pa.field("label", pa.string())])


def checked_others(content: bytes) -> pa.Table:
    """The table of an other_judges.parquet, of the types of `others_schema`; raises `Refused`."""
    expected = others_schema()
    names = set(_opened(content, []).schema_arrow.names)
    file = _opened(content, [name for name in expected.names if name in names])
    _check_frame(file, content, expected)
    table = file.read(use_threads=False)
    _check_others(table)
    plain = pa.table({name: _undictionaried(table.column(name)) for name in expected.names}, schema=expected)
    plain.validate(full=True)
    return plain


def _check_others(table: pa.Table) -> None:
    """Entries of a dictionary that no line uses count too: text could hide in them."""
    judges = {value for chunk in table.column("judge").chunks for value in chunk.dictionary.to_pylist()}
    if not judges or len(judges) > MOST_JUDGES:
        raise Refused("judge", f"{len(judges)} judges", f"1 to {MOST_JUDGES}")
    if strange := [value for value in judges if value is None or not JUDGE_ID.fullmatch(value)]:
        raise Refused("judge", shown(strange[0]), "ids of judges: letters, digits and @._:/+-, at most 160")
    labels = {value for chunk in table.column("label").chunks for value in chunk.dictionary.to_pylist()}
    if other := [value for value in labels if value not in LABELS]:
        raise Refused("label", shown(other[0]), f"allowed: {', '.join(LABELS)}, or null")
    if table.column("judge").null_count:
        raise Refused("judge", "null", "a value in every line")


def _undictionaried(column: Any) -> Any:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _opened(content: bytes, dictionaries: list[str]) -> Any:
    """The file with its metadata read; the columns named come as dictionaries."""
    return pq.ParquetFile(
        pa.BufferReader(content),
        read_dictionary=dictionaries,
        thrift_string_size_limit=10_000,
        thrift_container_size_limit=100_000,
    )


def _check_frame(file: Any, content: bytes, schema: pa.Schema) -> None:
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
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    if not 0 <= unpacked <= MOST_UNPACKED:
        raise Refused("size", f"unpacks to {unpacked} bytes", f"at most {MOST_UNPACKED}")
    chunk_bytes = sum(group.column(number).total_compressed_size for group in groups for number in range(len(expected)))
    if chunk_bytes + metadata.serialized_size + 12 != len(content):
        raise Refused("the file", "bytes that belong to no column", "nothing but the table")


def _plain_type(kind: Any) -> Any:
    """A column that is read as a dictionary is one of texts."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _check_values(table: pa.Table, schema: pa.Schema) -> None:
    for name in (name for name in TEXTS if name in schema.names):
        for chunk in table.column(name).chunks:
            # Entries that no line uses count: text could hide in them
            for value in chunk.dictionary.to_pylist():
                if value is None or len(value) > _MOST_NAME or not value.isprintable():
                    raise Refused(name, shown(value), f"short names of at most {_MOST_NAME} characters")
                if name in LABEL_COLUMNS and value not in LABELS:
                    raise Refused(name, shown(value), f"allowed: {', '.join(LABELS)}, or null")
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise Refused(field.name, "null", "a value in every line")
    # pandas does not tell the two apart: what is no number would pass for what was not measured
    if number := pc.sum(pc.is_nan(table.column("p_unsafe"))).as_py():
        raise Refused("p_unsafe", f"NaN in {number} lines", "0 to 1, or null where the judge gave none")
