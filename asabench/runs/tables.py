"""The tables of a run on disk: Parquet parts whose columns have the types that `asabench.core.records` names."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asabench.core.errors import UserError, one_line
from asabench.core.files import whole_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PARTS = "part-*.parquet"
_AGAIN = "run the same evaluation again: it sets aside what is damaged and does that again; delete nothing"


def arrow_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of a table in `asabench.core.records`."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "list<int32>": pa.list_(pa.int32()),
    }
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


def nullable_types(pa: Any) -> dict[Any, Any]:
    """pandas' types by Arrow's: a layer, a seed or a fact that is missing does not turn the others into floats or
    objects."""
    import pandas as pd

    return {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


def next_part(folder: Path) -> Path:
    """Where the next part of a table goes: behind the last one, also where one in between was deleted."""
    last = max((int(path.stem.removeprefix("part-")) for path in folder.glob(PARTS)), default=-1)
    return folder / f"part-{last + 1:06d}.parquet"


class DamagedPart(Exception):
    """A part that is not as it was written; says what shows it."""


def digest_file(part: Path) -> Path:
    """Where the SHA-256 of a part stands, in hex: `RUN/digests/TABLE-part-N`. It is there before the part is."""
    return part.parent.parent / "digests" / f"{part.parent.name}-{part.stem}"


def write_part(part: Path, rows: Sequence[dict[str, object]], columns: Mapping[str, str]) -> None:
    """One part, whole or not at all, with the types of `columns` even where a column holds nothing but nulls."""
    _write(part, part_bytes(rows, columns))


def part_bytes(rows: Sequence[dict[str, object]], columns: Mapping[str, str]) -> bytes:
    """What `write_part` writes."""
    import pyarrow as pa

    return _bytes_of(pa.Table.from_pylist(list(rows), schema=arrow_schema(columns)))


def write_part_of(part: Path, table: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """A table with those columns as one part."""
    import pyarrow as pa

    arrow = pa.Table.from_pandas(table[list(columns)], schema=arrow_schema(columns), preserve_index=False)
    _write(part, _bytes_of(arrow.replace_schema_metadata(None)))


def _bytes_of(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def _write(part: Path, content: bytes) -> None:
    digest_file(part).parent.mkdir(exist_ok=True)
    with whole_file(digest_file(part)) as file:
        file.write(hashlib.sha256(content).hexdigest().encode())
    with whole_file(part) as file:
        file.write(content)


def read_part(part: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """One part, with nulls in columns that it does not have yet; raises `DamagedPart`. Parts from before there were
    digests are only tried."""
    import pyarrow as pa

    return _read(part, columns).to_pandas(types_mapper=nullable_types(pa).get)


def _read(part: Path, columns: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = part.read_bytes()
        written = digest_file(part)
        if written.is_file() and written.read_bytes() != hashlib.sha256(content).hexdigest().encode():
            raise DamagedPart("it is not as it was written, by its SHA-256")
        return pq.read_table(pa.BufferReader(content), schema=arrow_schema(columns))
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise DamagedPart(one_line(error)) from None


def read_parts(folder: Path, columns: Mapping[str, str], key: Sequence[str]) -> pd.DataFrame:
    """All parts of a table in order, with nulls in columns that a part does not have yet; `UserError` for a part that
    is damaged, and where a `key` is there twice."""
    import pyarrow as pa

    parts = []
    for path in sorted(folder.glob(PARTS)):
        try:
            parts.append(_read(path, columns))
        except DamagedPart as damaged:
            raise UserError(f"{path} is damaged ({damaged}); {_AGAIN}") from None
    whole = pa.concat_tables(parts) if parts else arrow_schema(columns).empty_table()
    frame = whole.to_pandas(types_mapper=nullable_types(pa).get)
    if frame.duplicated(list(key)).any():
        raise UserError(f"{folder} holds a {' and '.join(key)} twice; {_AGAIN}")
    return frame
