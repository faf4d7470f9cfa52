"""What is known of a verdicts.parquet without opening one; imports neither pandas nor pyarrow."""

from __future__ import annotations

import re

from asabench.core.records import SHARES

DIGEST_BYTES = 16
MOST_ROWS = 1_000_000
TEXTS = ("prompt_id", "attack", "label", "content_label")
LABEL_COLUMNS = ("label", "content_label")
FACT_COLUMNS = (*SHARES, "content_label")
"""The columns that tables from before the facts lack."""
MOST_JUDGES = 8
"""Of an other_judges.parquet."""
JUDGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._:/+-]{0,159}")
"""As ids of judges are made: no sentence fits into one."""
