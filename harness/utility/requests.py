"""The harmless requests: two sets that come with ASABench, XSTest by name, or a file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.records import Prompt, sha256_hex
from asabench.core.utility_report import RequestSet
from harness.utility.sources import HubTable, Record, read_table

BENIGN = "benign-test"
OVER_REFUSAL = "over-refusal"

OWN_SETS = {BENIGN: "benign_test_requests.txt", OVER_REFUSAL: "over_refusal_requests.txt"}
"""The sets that come with ASABench: plainly harmless requests that no recipe of ASABench trains on, and safe requests
that look unsafe."""

XSTEST = HubTable("walledai/XSTest", ("data/test-*.parquet",))
"""Röttger et al. 2023 (arXiv:2308.01263): 250 safe prompts that look unsafe, and 200 unsafe ones beside them. On the
hub it must be asked for; its authors' repository has the CSV file."""


def load_requests(name: str, limit: int | None = None) -> PromptSet:
    """A set of harmless requests: `benign-test`, `over-refusal`, `xstest`, `xstest:FILE.csv`, or a CSV file as
    `asabench.core.prompts.load_prompts` reads it. limit: only the first ones. Raises `UserError`."""
    kind, _, file = name.partition(":")
    if kind == "xstest":
        found = PromptSet("xstest", tuple(_xstest(file)))
    elif name in OWN_SETS:
        text = (files("asabench") / "data" / OWN_SETS[name]).read_text(encoding="utf-8")
        found = PromptSet(
            name, tuple(Prompt(id=f"{name}-{n:03d}", goal=line) for n, line in enumerate(text.split("\n")) if line)
        )
    elif Path(name).suffix == ".csv":
        found = load_prompts(name)
    else:
        raise UserError(
            f"unknown harmless requests {name!r}; allowed: {', '.join(OWN_SETS)}, xstest, xstest:FILE.csv, or a CSV "
            "file with a goal column"
        )
    return found.first(limit)


def described(requests: PromptSet) -> RequestSet:
    """As a report names them; the digest is of the texts in order."""
    texts = "\n".join(prompt.goal for prompt in requests.prompts)
    return RequestSet(name=requests.name, digest=sha256_hex(texts)[:16], n=len(requests.prompts))


def _xstest(file: str) -> list[Prompt]:
    """The safe prompts of XSTest, from its CSV file or the hub."""
    if file:
        try:
            with Path(file).open(encoding="utf-8-sig", newline="") as lines:
                rows: Sequence[Record] = list(csv.DictReader(lines))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"XSTest in {file} cannot be read: {error}; give its CSV file") from None
    else:
        rows = read_table("hub", XSTEST).rows
    if not rows or not {"prompt", "type"} <= rows[0].keys():
        raise UserError(
            f"{file or XSTEST.repository} is not XSTest: columns prompt and type are expected; give its CSV file"
        )
    # The unsafe prompts are those whose type begins so; later versions have a label beside it
    safe = [row for row in rows if row.get("label", "safe") == "safe" and not str(row["type"]).startswith("contrast")]
    if not safe:
        raise UserError(f"{file or XSTEST.repository} holds no safe prompts; give XSTest's own CSV file")
    return [Prompt(id=f"xstest-{n:03d}", goal=str(row["prompt"]).strip()) for n, row in enumerate(safe)]
