"""The tables of a run on disk: Parquet parts whose columns have the types that `asabench.core.records` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from asabench.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PARTS = "part-*.parquet"


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


def write_part(file: IO[bytes], rows: Sequence[dict[str, object]], columns: Mapping[str, str]) -> None:
    """One part, with the types of `columns` even where a column holds nothing but nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows), schema=arrow_schema(columns)), file)


def write_table(file: IO[bytes], table: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """A table with those columns as one part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table[list(columns)], schema=arrow_schema(columns), preserve_index=False)
    pq.write_table(arrow.replace_schema_metadata(None), file)


def read_parts(folder: Path, columns: Mapping[str, str], key: Sequence[str]) -> pd.DataFrame:
    """All parts of a table in order, with nulls in columns that a part does not have yet; `UserError` for a part that
    cannot be read, and where a `key` is there twice."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for path in sorted(folder.glob(PARTS)):
        try:
            parts.append(pq.read_table(path, schema=arrow_schema(columns)))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it and start the run again") from None
    whole = pa.concat_tables(parts) if parts else arrow_schema(columns).empty_table()
    frame = whole.to_pandas(types_mapper=nullable_types(pa).get)
    if frame.duplicated(list(key)).any():
        raise UserError(f"{folder} holds a {' and '.join(key)} twice; it was not written by ASABench alone")
    return frame
