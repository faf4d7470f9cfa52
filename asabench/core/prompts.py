"""Prompt sets by name or from a file. Each is identified by a digest of its content: goals and targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from asabench.core import advbench
from asabench.core.defaults import PUBLISHED_PROMPTS, TARGET
from asabench.core.errors import UserError
from asabench.core.paths import file_named
from asabench.core.prompt_files import PromptTable, read_prompt_table
from asabench.core.published_prompts import HUB, HUB_FORM, PUBLISHED, hub_table, published_table
from asabench.core.records import Prompt, sha256_hex

COLUMNS = ("id", "goal", "target", "suffix")
SUFFIXES = "best_suffix"
"""The column that a suffix file in the layout of the paper's repository has, beside `goal`."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts in order, with the name they were asked for by."""

    name: str
    prompts: tuple[Prompt, ...]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the `content` of the prompts; ids do not count."""
        return sha256_hex(json.dumps(content(self.prompts), ensure_ascii=False))

    def with_target(self, target: str | None) -> PromptSet:
        """The same prompts, each with this target, whether it had one or not; unchanged if None."""
        if target is None:
            return self
        if not target.strip():
            raise UserError(f'--target is empty; give the start of a compliant answer, such as "{TARGET}"')
        return PromptSet(self.name, tuple(replace(p, target=target, target_sha256=None) for p in self.prompts))

    def without_targets(self) -> PromptSet:
        """The goals alone, for what makes no use of targets."""
        return PromptSet(self.name, tuple(replace(p, target=None, target_sha256=None) for p in self.prompts))

    def with_target_texts(self) -> PromptSet:
        """The same prompts, with the text of each target that is known by its digest alone, from the hub; `NotAtHand`
        where it does not give it."""
        if all(prompt.target_sha256 is None for prompt in self.prompts):
            return self
        texts = advbench.target_texts()
        return PromptSet(
            self.name,
            tuple(
                p if p.target_sha256 is None else replace(p, target=texts[p.target_sha256], target_sha256=None)
                for p in self.prompts
            ),
        )

    def first(self, limit: int | None) -> PromptSet:
        """The first `limit` prompts; all if None."""
        if limit is None:
            return self
        if limit < 1:
            raise UserError(f"--limit {limit} leaves no prompts; give 1 or more")
        return PromptSet(self.name, self.prompts[:limit])


def content(prompts: Sequence[Prompt]) -> list[list[object]]:
    """[goal, target, suffix] of each prompt: what reaches the model.

    A goal of AdvBench with the target that was published with it stands as two digests, `{"sha256": ...}`: not every
    installation has the target's text, and the set is the same set.
    """
    return [
        [{"sha256": prompt.digest}, {"sha256": target_digest(prompt)}, prompt.suffix]
        if has_published_target(prompt)
        else [prompt.goal, prompt.target, prompt.suffix]
        for prompt in prompts
    ]


def published_digest(count: int) -> str:
    """The digest of the first prompts of AdvBench, each with the target that was published with it."""
    pairs = [[{"sha256": known.goal}, {"sha256": known.target}, None] for known in advbench.digests()[:count]]
    return sha256_hex(json.dumps(pairs, ensure_ascii=False))


def target_digest(prompt: Prompt) -> str | None:
    """SHA-256, in hex, of the target's UTF-8 bytes, whether its text is at hand or not; None without a target."""
    return prompt.target_sha256 if prompt.target is None else sha256_hex(prompt.target)


def has_published_target(prompt: Prompt) -> bool:
    """Whether the prompt is one of AdvBench's, with the target that was published with it."""
    return target_digest(prompt) == advbench.published_targets().get(prompt.digest, "")


def load_prompts(name: str, column: str | None = None) -> PromptSet:
    """A set by name (`quickstart`, `advbench`, or of `asabench.core.published_prompts`), of the hub
    (`hub:OWNER/NAME`), or from a CSV, JSON Lines or Parquet file with columns goal[,id,target,suffix] and others.

    column: the column with the requests, where it is not `goal`. Raises `UserError` that names the file and the line of
    what cannot be used.
    """
    if name in PROMPT_SETS:
        if column is not None:
            raise UserError(f"--prompt-column {column} is for files and hub: tables; {name} knows its own")
        return PromptSet(name, tuple(PROMPT_SETS[name]()))
    if (path := file_named(name)) is not None:
        return _known(PromptSet(path.name, tuple(read_prompts(path, column))))
    if name.startswith(HUB):
        full, table, named = hub_table(name)
        return PromptSet(full, tuple(_of_table(name, table, column or named)))
    if (found := published_table(name)) is not None:
        return PromptSet(found[0], tuple(_of_table(*found, column)))
    raise UserError(
        f"unknown prompts {name!r}; allowed: {', '.join([*PROMPT_SETS, *PUBLISHED])}, one of the last {len(PUBLISHED)} "
        f"as NAME=FILE, {HUB_FORM}, or a CSV file (or JSON Lines, Parquet) with a goal column"
    )


def _known(found: PromptSet) -> PromptSet:
    """The prompts; AdvBench's first ones with their published targets under its name and ids."""
    if found.digest != published_digest(len(found.prompts)):
        return found
    named = (replace(prompt, id=advbench.prompt_id(place)) for place, prompt in enumerate(found.prompts))
    return PromptSet(PUBLISHED_PROMPTS, tuple(named))


def read_prompts(path: Path, column: str | None = None) -> list[Prompt]:
    """Prompts from a CSV, JSON Lines or Parquet file. Ids must differ; they default to `prompt-<place>`, whatever the
    file is called: a run goes on under the same ids when it was renamed. column: of the requests; None: `goal`."""
    return _of_table(str(path), read_prompt_table(path), column)


def _of_table(source: str, table: PromptTable, column: str | None) -> list[Prompt]:
    """Prompts of a table's rows; columns that decide nothing go with them (`Prompt.extra`). Of a table with the column
    `SUFFIXES`, as the paper's repository has them, that is the suffix; goals without one are left out, as there."""
    goal = column or "goal"
    if goal not in table.columns:
        raise UserError(
            f"{source} has no {goal} column but {', '.join(table.columns) or 'nothing'}; name the one with the "
            "requests with --prompt-column"
        )
    # A name that was meant for one of ours would be carried along and do nothing
    for name in table.columns:
        if name != goal and name not in COLUMNS and (meant := get_close_matches(name.casefold(), COLUMNS[1:], 1, 0.8)):
            raise UserError(
                f"{source} has the column {name}; is {meant[0]} meant? Rename it, to that or to another name"
            )
    rows = []
    for number, line in enumerate(table.lines):
        fields = {name: _text(value) for name, value in line.fields.items()}
        fields["goal"] = fields.pop(goal, None)
        if SUFFIXES in table.columns:
            fields["suffix"] = fields.pop(SUFFIXES, None)
            if not (fields["suffix"] or "").strip():
                continue
        rows.append((line.where, fields.get("id") or f"prompt-{number:03d}", fields))
    return _checked(source, rows)


def _text(value: Any) -> str | None:
    """A cell's value as text: a number, a list or a record as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _checked(source: str, rows: Iterable[tuple[str, str, Mapping[str, str | None]]]) -> list[Prompt]:
    """Prompts from (where, id, fields), each with a goal and none twice."""
    prompts: list[Prompt] = []
    seen: dict[object, str] = {}
    for where, name, row in rows:
        goal = (row["goal"] or "").strip()
        if not any(each.isprintable() and not each.isspace() for each in goal):
            raise UserError(f"{where}: the goal is empty; give every line a request")
        if not name.isprintable():
            raise UserError(f"{where}: the id {name[:60]!r} holds characters that cannot be shown; give it plain ones")
        prompt = Prompt(
            id=name,
            goal=goal,
            target=row.get("target") or None,
            suffix=row.get("suffix") or None,
            extra=tuple((key, value) for key, value in row.items() if key not in COLUMNS and value is not None),
        )
        for what, key in (("id", name), ("goal and suffix", (goal, prompt.suffix))):
            if key in seen:
                raise UserError(f"{where}: the same {what} as {seen[key]}; every prompt must be there once")
            seen[key] = where
        prompts.append(prompt)
    if not prompts:
        raise UserError(f"{source} holds no prompts; give at least one line under the header")
    return prompts


def quickstart() -> list[Prompt]:
    """The small set that comes with ASABench, in its own wording: for a first look and for tests."""
    return read_prompts(Path(str(files("asabench") / "data" / "quickstart.csv")))


PROMPT_SETS: dict[str, Callable[[], list[Prompt]]] = {"quickstart": quickstart, "advbench": advbench.load}
