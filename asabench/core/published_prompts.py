"""Sets of requests that the field measures refusals with, as their makers lay them out: by name from the hub, or
`NAME=FILE` from a file of one's own; and any other table of the hub.

None of them ships. A download is one commit of the hub: that stated here where it is known, else the newest, which then
stands in the set's name (`harmbench@COMMIT`), so that the same can be asked for again. Whatever a set came from, a run
records the digest of its text.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from asabench.core.errors import UserError
from asabench.core.hub import HubRefusal, hub_files
from asabench.core.prompt_files import FORMATS, Line, PromptTable, read_prompt_table

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A set as it is published.

    about: what it is, with its source. repository, files: on the hub; the first pattern that matches any counts.
    revision: the commit, where it is known. goal, target: the columns that have them, the first that is there; of a
    list in a cell, its first entry. keep: whether a row counts. headerless: its CSV files have one column and no
    header.
    """

    about: str
    repository: str
    files: tuple[str, ...]
    goal: tuple[str, ...]
    revision: str | None = None
    target: tuple[str, ...] = ()
    keep: Callable[[Row], bool] = lambda row: True
    headerless: bool = False


def _unsafe_in_xstest(row: Row) -> bool:
    """Later versions of the set have a label; in all of them the type of unsafe prompts begins so."""
    return row["label"] == "unsafe" if "label" in row else str(row["type"]).startswith("contrast")


_jbb = partial(
    PublishedSet,
    repository="JailbreakBench/JBB-Behaviors",
    revision="d8d87b8fdcb7806e3b4e45fffb2bc24aa6b17f32",
    goal=("Goal",),
    target=("Target",),
)
_or_bench = partial(PublishedSet, repository="bench-llm/or-bench", goal=("prompt",))

PUBLISHED: Mapping[str, PublishedSet] = {
    "hex-phi": PublishedSet(
        about="HEx-PHI's harmful instructions in eleven categories (Qi et al. 2024, arXiv:2310.03693); gated",
        repository="LLM-Tuning-Safety/HEx-PHI",
        files=("category_*.csv",),
        goal=("goal",),
        headerless=True,
    ),
    "jbb": _jbb(
        about="JailbreakBench's 100 harmful behaviours (Chao et al. 2024, arXiv:2404.01318)",
        files=("data/harmful-behaviors.csv",),
    ),
    "jbb-benign": _jbb(
        about="JailbreakBench's 100 benign behaviours (Chao et al. 2024, arXiv:2404.01318)",
        files=("data/benign-behaviors.csv",),
    ),
    "harmbench": PublishedSet(
        about="HarmBench's 200 standard behaviours (Mazeika et al. 2024, arXiv:2402.04249)",
        repository="walledai/HarmBench",
        files=("standard/*.parquet", "*standard*.parquet"),
        goal=("Behavior", "prompt"),
        keep=lambda row: row.get("FunctionalCategory", "standard") == "standard",
    ),
    "strongreject": PublishedSet(
        about="StrongREJECT's 313 forbidden prompts (Souly et al. 2024, arXiv:2402.10260)",
        repository="walledai/StrongREJECT",
        files=("data/*.parquet", "*.parquet"),
        goal=("forbidden_prompt", "prompt"),
    ),
    "sorry-bench": PublishedSet(
        about="SORRY-Bench's 440 unsafe instructions in their base wording (Xie et al. 2025, arXiv:2406.14598); gated",
        repository="sorry-bench/sorry-bench-202503",
        files=("question.jsonl", "*.parquet"),
        goal=("turns",),
        keep=lambda row: row.get("prompt_style", "base") == "base",
    ),
    "xstest": PublishedSet(
        about="XSTest's 200 unsafe prompts, which contrast with its safe ones (Röttger et al. 2023, arXiv:2308.01263)",
        repository="walledai/XSTest",
        files=("data/test-*.parquet", "*.parquet"),
        goal=("prompt",),
        keep=_unsafe_in_xstest,
    ),
    "or-bench": _or_bench(
        about="OR-Bench's hard prompts, which are safe and look unsafe (Cui et al. 2024, arXiv:2405.20947)",
        files=("or-bench-hard-1k.csv",),
    ),
    "or-bench-toxic": _or_bench(
        about="OR-Bench's 655 toxic prompts (Cui et al. 2024, arXiv:2405.20947)",
        files=("or-bench-toxic.csv",),
    ),
}

HUB = "hub:"
HUB_FORM = "hub:OWNER/NAME[@REVISION][:CONFIG][:COLUMN]"
_HUB = re.compile(
    r"hub:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<config>[^:]*))?(:(?P<column>[^:]+))?"
)
SPLITS = ("test", "train")
"""Of several splits of a table of the hub that is not known by name, the first of these is taken."""


def published_table(name: str) -> tuple[str, PromptTable] | None:
    """The set's full name, and its rows that count with `goal` and `target` among their columns, for `NAME`,
    `NAME@COMMIT` or `NAME=FILE`; None where no set is called so. `UserError` for what cannot be had or read."""
    asked, equals, file = name.partition("=")
    known, _, revision = asked.partition("@")
    if known not in PUBLISHED:
        return None
    published = PUBLISHED[known]
    if equals:
        return known, _laid_out(known, published, [_table_of(Path(file), published)])
    files, commit = _from_hub(known, published.repository, revision or published.revision, published.files)
    tables = [_table_of(path, published) for path in files]
    return f"{known}@{commit}", _laid_out(known, published, tables)


def hub_table(name: str) -> tuple[str, PromptTable, str | None]:
    """Any table of the hub: its full name with the commit, its rows, and the column that was named as the goal's."""
    asked = _HUB.fullmatch(name)
    if asked is None:
        raise UserError(f"{name!r} names no table of the hub; allowed: {HUB_FORM}")
    config = asked["config"] or None
    under = f"*{config}*" if config else "*"
    patterns = [f"{under}{split}*{ending}" for ending in FORMATS for split in (*SPLITS, "")]
    files, commit = _from_hub(name, asked["repository"], asked["revision"], patterns)
    tables = [read_prompt_table(path) for path in files]
    full = f"{HUB}{asked['repository']}@{commit}" + "".join(
        f":{part}" for part in (asked["config"], asked["column"]) if part is not None
    )
    return full, _joined(tables), asked["column"]


def _from_hub(name: str, repository: str, revision: str | None, patterns: Sequence[str]) -> tuple[list[Path], str]:
    """The files of the first pattern that matches any, and the commit that they are of."""

    def wanted(paths: Sequence[str]) -> list[str]:
        found = (sorted(fnmatch.filter(paths, pattern)) for pattern in patterns)
        return next((paths for paths in found if paths), [])

    try:
        files, commit = hub_files(repository, revision, wanted, f"the prompts {name}")
    except HubRefusal as refusal:
        own = f", or give {name.split('@')[0]}=FILE" if not name.startswith(HUB) else ""
        raise UserError(f"the prompts {name} are not here: {refusal}; connect to the network{own}") from None
    if not files:
        raise UserError(f"{repository} at {commit} has no file like {' or '.join(patterns[:3])}; name another table")
    return files, commit


def _table_of(path: Path, published: PublishedSet) -> PromptTable:
    return read_prompt_table(path, header=("goal",) if published.headerless and path.suffix == ".csv" else None)


def _laid_out(name: str, published: PublishedSet, tables: Sequence[PromptTable]) -> PromptTable:
    """The rows that count, with the goal and the target under those names and everything else as it was."""
    table = _joined(tables)
    goal = next((column for column in published.goal if column in table.columns), None)
    if goal is None:
        raise UserError(
            f"the prompts {name} have no column {' or '.join(published.goal)} but {', '.join(table.columns)}; "
            "give the file as its makers publish it"
        )
    target = next((column for column in published.target if column in table.columns), None)
    lines = []
    for line in table.lines:
        try:
            if not published.keep(line.fields):
                continue
        except KeyError as error:
            raise UserError(f"{line.where}: no column {error}; give the file as its makers publish it") from None
        fields = {key: value for key, value in line.fields.items() if key not in (goal, target)}
        fields["goal"] = _first(line.fields.get(goal))
        if target is not None:
            fields["target"] = _first(line.fields.get(target))
        lines.append(Line(where=line.where, fields=fields))
    if not lines:
        raise UserError(f"the prompts {name} hold no row that counts; give the file as its makers publish it")
    columns = tuple(dict.fromkeys(column for line in lines for column in line.fields))
    return PromptTable(columns=columns, lines=lines)


def _joined(tables: Sequence[PromptTable]) -> PromptTable:
    return PromptTable(
        columns=tuple(dict.fromkeys(column for table in tables for column in table.columns)),
        lines=[line for table in tables for line in table.lines],
    )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
