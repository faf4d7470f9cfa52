"""`verdicts.parquet`: what no judge and no model could have put there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from asabench.core.records import FACTS, NOTHING_KNOWN, Facts, label_of
from asabench.stats.facts import has_facts
from asabench.submission.columns import DIGEST_BYTES, FACT_COLUMNS
from asabench.submission.findings import Finding
from asabench.submission.schema import VERDICTS_FILE


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
    for name in ("label", *(FACT_COLUMNS if has_facts(table) else ())):
        answers = pd.DataFrame({"prompt": table["prompt_id"], "digest": digests, "value": _codes(table[name])})
        if (several := answers.groupby(["prompt", "digest"])["value"].nunique() > 1).any():
            yield Finding(
                VERDICTS_FILE,
                name,
                f"{int(several.sum())} answers to a prompt have several labels"
                if name == "label"
                else f"{int(several.sum())} answers to a prompt have several values",
                "a judge gives equal answers to a prompt one label",
                "judge the run again with one judge (`asabench judge`)",
            )
    if has_facts(table):
        yield from _fact_findings(table)


def _fact_findings(table: pd.DataFrame) -> Iterator[Finding]:
    """The label follows from the facts, where some are known; and only unsafe answers have a label of their content."""
    counts = table.groupby([*FACTS, "label"], dropna=False, observed=True).size().reset_index(name="lines")
    for *values, label, lines in counts.to_numpy(dtype=object).tolist():
        facts = Facts(*(None if pd.isna(value) else bool(value) for value in values))
        follows = label_of(facts)
        if facts != NOTHING_KNOWN and follows != (None if pd.isna(label) else label):
            known = ", ".join(f"{name} {value}".lower() for name, value in facts._asdict().items() if value is not None)
            yield Finding(
                VERDICTS_FILE,
                "label",
                f"{'null' if pd.isna(label) else label} in {lines} lines",
                f"{follows or 'null'}, which follows from {known}",
            )
    if number := int((table["content_label"].notna() & ~table["label"].eq("unsafe").fillna(False)).sum()):
        yield Finding(VERDICTS_FILE, "content_label", f"there in {number} lines that are not unsafe", "null there")


def _codes(values: pd.Series) -> np.ndarray[Any, Any]:
    """Each value as a number, so that null is a value too."""
    return pd.factorize(values, use_na_sentinel=False)[0]
