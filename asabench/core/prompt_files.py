"""Tables of prompts as people have them: CSV, JSON Lines and Parquet files, in any number of columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asabench.core.canonical import canonical_text
from asabench.core.errors import UserError

FORMATS = (".csv", ".jsonl", ".parquet")
"""A file of another name is read as CSV."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a table. where: its place, in words, for messages."""

    where: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """The columns of a file in order, and its rows."""

    columns: tuple[str, ...]
    lines: Sequence[Line]


def read_prompt_table(path: Path, *, header: Sequence[str] | None = None) -> PromptTable:
    """The table in a file. header: of a CSV file that has none. `UserError` for what cannot be read."""
    match path.suffix.casefold():
        case ".jsonl":
            return _json_lines(path)
        case ".parquet":
            return _parquet(path)
        case _:
            return _csv(path, header)


def _csv(path: Path, names: Sequence[str] | None) -> PromptTable:
    """In UTF-8; every line has a value for every column."""
    try:
        text = canonical_text(path.read_bytes()).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), names, strict=True)
        header = tuple(reader.fieldnames or ())
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"the prompts in {path} cannot be read: {error}; give a CSV file in UTF-8, its quotes closed"
        ) from None
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise UserError(f"{path} has the column {', '.join(twice)} twice; give each column once")
    for line, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{path}, line {line}: {len(header)} values are expected; quote a value that holds a comma")
    return PromptTable(columns=header, lines=[Line(where=f"{path}, line {line}", fields=row) for line, row in rows])


def _json_lines(path: Path) -> PromptTable:
    """One object a line; what a line lacks is empty."""
    lines = []
    try:
        for number, text in enumerate(canonical_text(path.read_bytes()).decode("utf-8-sig").split("\n"), start=1):
            if text.strip():
                fields = json.loads(text)
                if not isinstance(fields, dict):
                    raise ValueError(f"line {number} is no object")
                lines.append(Line(where=f"{path}, line {number}", fields=fields))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"the prompts in {path} cannot be read: {error}; give JSON Lines in UTF-8, an object a line"
        ) from None
    return PromptTable(columns=_all_columns(line.fields for line in lines), lines=lines)


def _parquet(path: Path) -> PromptTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"the prompts in {path} cannot be read: {error}; give a Parquet file") from None
    return PromptTable(
        columns=tuple(table.column_names),
        lines=[Line(where=f"{path}, row {number}", fields=row) for number, row in enumerate(rows)],
    )


def _all_columns(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(name) for row in rows for name in row))
