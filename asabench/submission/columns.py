"""What is known of a verdicts.parquet without opening one; imports neither pandas nor pyarrow."""

from __future__ import annotations

from asabench.core.records import SHARES

DIGEST_BYTES = 16
MOST_ROWS = 1_000_000
TEXTS = ("prompt_id", "attack", "label", "content_label")
LABEL_COLUMNS = ("label", "content_label")
FACT_COLUMNS = (*SHARES, "content_label")
"""The columns that tables from before the facts lack."""
