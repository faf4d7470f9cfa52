"""Tables of tasks: from a local JSON Lines or Parquet file, or from the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asabench.core.errors import UserError
from asabench.core.files import parse_json
from asabench.core.records import sha256_hex
from asabench.core.utility_report import TaskScore
from asabench.stats.intervals import mean_rate

Record = Mapping[str, Any]


@dataclass(frozen=True)
class HubTable:
    """A table of a dataset on the hub: its repository, and its Parquet files."""

    repository: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows, and where they are from: a file's name, or a repository and its commit."""

    source: str
    rows: Sequence[Record]

    @property
    def digest(self) -> str:
        """16 hex digits of a SHA-256 over the rows in order."""
        return sha256_hex(json.dumps(list(self.rows), sort_keys=True, ensure_ascii=False))[:16]


def read_table(spec: str, hub: HubTable, limit: int | None = None) -> Table:
    """spec: `hub`, `hub@REVISION`, or a local `.jsonl` or `.parquet` file. limit: the first rows only. `UserError` for
    what cannot be read."""
    check_limit(limit)
    kind, _, revision = spec.partition("@")
    table = _from_hub(hub, revision or None) if kind == "hub" else _from_file(Path(spec), hub)
    if not table.rows:
        raise UserError(f"{table.source} holds no rows; give a file with at least one question")
    return Table(table.source, table.rows[:limit])


def check_limit(limit: int | None) -> None:
    """`UserError` for one that leaves no questions."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} leaves no questions; give 1 or more")


def task_score(right: Sequence[bool], chance: float, table: Table) -> TaskScore:
    """Accuracy over a table's questions, with its interval."""
    return TaskScore(
        accuracy=mean_rate(np.array(right, dtype=float)[:, None]),
        n=len(right),
        chance=chance,
        source=table.source,
        digest=table.digest,
    )


def _from_file(path: Path, hub: HubTable) -> Table:
    how = f"give a .jsonl or .parquet file, or `hub` for {hub.repository}"
    if not path.is_file():
        raise UserError(f"there is no file {path}; {how}")
    try:
        if path.suffix == ".parquet":
            return Table(path.name, _parquet_rows([path]))
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [parse_json(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {how}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds lines that are no JSON objects; {how}")
    return Table(path.name, rows)


def _from_hub(hub: HubTable, revision: str | None) -> Table:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(hub.repository, repo_type="dataset", revision=revision, allow_patterns=list(hub.files))
        )
    except Exception as error:  # whatever the hub's client raises, the next step is the same
        raise UserError(
            f"the hub does not give {hub.repository} ({type(error).__name__}); give a local file instead"
        ) from None
    # The folder of a snapshot is named after its commit
    return Table(f"{hub.repository}@{folder.name}", _parquet_rows(sorted(folder.rglob("*.parquet"))))


def _parquet_rows(paths: Sequence[Path]) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return [row for path in paths for row in pq.read_table(path).to_pylist()]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{', '.join(map(str, paths))} cannot be read ({error}); give a .parquet file") from None
