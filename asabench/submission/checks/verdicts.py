"""`verdicts.parquet`: what no judge and no model could have put there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from asabench.submission.findings import Finding
from asabench.submission.schema import VERDICTS_FILE
from asabench.submission.verdict_table import DIGEST_BYTES


def line_findings(table: pd.DataFrame, most_tokens: int) -> Iterator[Finding]:
    """What no judge and no model could have put there."""
    tokens, characters, p_unsafe = (
        table[name].to_numpy() for name in ("response_tokens", "response_characters", "p_unsafe")
    )
    with np.errstate(invalid="ignore"):
        outside = ~np.isnan(p_unsafe) & ~((p_unsafe >= 0) & (p_unsafe <= 1))
    for name, wrong, values, allowed in (
        ("response_tokens", (tokens < 0) | (tokens > most_tokens), tokens, f"0 to the protocol's {most_tokens}"),
        ("response_characters", characters < 0, characters, "0 or more"),
        ("p_unsafe", outside, p_unsafe, "0 to 1, or null"),
    ):
        if wrong.any():
            yield Finding(VERDICTS_FILE, name, f"{values[wrong][0]} in {int(wrong.sum())} lines", allowed)
    digests = table["response_sha256"]
    empty = (digests == hashlib.sha256(b"").digest()[:DIGEST_BYTES]).to_numpy(dtype=bool)
    if (wrong := empty != (characters == 0)).any():
        yield Finding(
            VERDICTS_FILE,
            "response_sha256",
            f"the empty text's where there are characters, or the reverse, in {int(wrong.sum())} lines",
            "the digest of the answer that was given",
        )
    lengths = pd.DataFrame({"digest": digests, "characters": characters}).groupby("digest")["characters"]
    if (several := lengths.nunique() > 1).any():
        yield Finding(
            VERDICTS_FILE,
            "response_characters",
            f"{int(several.sum())} digests stand beside several lengths",
            "equal answers have equal lengths",
        )
    answers = pd.DataFrame({"prompt": table["prompt_id"], "digest": digests, "label": table["label"].fillna("")})
    labels = answers.groupby(["prompt", "digest"])["label"].nunique()
    if (several := labels > 1).any():
        yield Finding(
            VERDICTS_FILE,
            "label",
            f"{int(several.sum())} answers to a prompt have several labels",
            "a judge gives equal answers to a prompt one label",
            "judge the run again with one judge (`asabench judge`)",
        )
