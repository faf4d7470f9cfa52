"""The harmless requests: two sets that come with ASABench, XSTest by name, or a file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.records import Prompt
from asabench.core.request_sets import OWN_SETS, own_requests, requests_digest
from asabench.core.utility_report import RequestSet
from harness.utility.sources import HubTable, Record, read_table

XSTEST = HubTable("walledai/XSTest", ("data/test-*.parquet",))
"""Röttger et al. 2023 (arXiv:2308.01263): 250 safe prompts that look unsafe, and 200 unsafe ones beside them. On the
hub it must be asked for; its authors' repository has the CSV file."""


def load_requests(name: str, limit: int | None = None) -> PromptSet:
    """A set of harmless requests: `benign-test`, `over-refusal`, `xstest`, `xstest:FILE.csv`, or a CSV file as
    `asabench.core.prompts.load_prompts` reads it. limit: only the first ones. Raises `UserError`."""
    kind, _, file = name.partition(":")
    if kind == "xstest":
        found = PromptSet("xstest", tuple(_xstest(file)))
    elif (own := own_requests(name)) is not None:
        found = PromptSet(name, tuple(Prompt(id=f"{name}-{n:03d}", goal=text) for n, text in enumerate(own)))
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
    digest = requests_digest([prompt.goal for prompt in requests.prompts])
    return RequestSet(name=requests.name, digest=digest, n=len(requests.prompts))


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
