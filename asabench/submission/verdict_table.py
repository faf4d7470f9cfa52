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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asabench.core.records import SHARES
from asabench.stats.facts import has_facts
from asabench.submission.columns import DIGEST_BYTES, TEXTS
from asabench.submission.guarded import read_table

if TYPE_CHECKING:
    import pyarrow as pa


def response_digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()[:DIGEST_BYTES]


def table_bytes(table: pd.DataFrame) -> bytes:
    """The Parquet file of a table with the columns above."""
    import pyarrow as pa

    from asabench.submission.table_file import packed, schema

    return packed(pa.Table.from_pandas(table, schema=schema(facts=has_facts(table)), preserve_index=False))


METRIC_COLUMNS = ("prompt_id", "layer", "attack", "dose", "seed", "label")
"""What rates are computed from; the answers' digests take as long to unpack as all of these."""


def read_verdicts(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of a submission that has been validated, or some columns of it; see `parse_verdicts`."""
    return parse_verdicts(path.read_bytes(), columns)


def parse_verdicts(content: bytes, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of a verdicts.parquet, with the column types of `asabench.runs.tables`; raises `Refused`. All columns
    are checked; `columns` are those that come back, all if None.

    The file is read in a process of its own (`asabench.submission.guarded`).
    """
    table = read_table(content)
    return pd.DataFrame({name: _as_series(table, name) for name in columns or table.column_names})


def _as_series(table: pa.Table, name: str) -> Any:
    import pyarrow as pa

    column = table.column(name)
    if name in TEXTS:
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
