"""Prompt sets by name or from a file. Each is identified by a digest of its content: goals and targets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from asabench.core import advbench
from asabench.core.canonical import canonical_text
from asabench.core.defaults import TARGET
from asabench.core.errors import UserError
from asabench.core.paths import file_named
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


def load_prompts(name: str) -> PromptSet:
    """A set by name (`quickstart`, `advbench`) or from a CSV file with columns goal[,id,target,suffix].

    Raises `UserError` that names the file and the line of what cannot be used.
    """
    if name in PROMPT_SETS:
        return PromptSet(name, tuple(PROMPT_SETS[name]()))
    if (path := file_named(name)) is None:
        raise UserError(
            f"unknown prompts {name!r}; allowed: {', '.join(PROMPT_SETS)}, or a CSV file with a goal column"
        )
    return PromptSet(path.name, tuple(read_csv(path)))


def read_csv(path: Path) -> list[Prompt]:
    """Prompts from a CSV file in UTF-8 with a header. Ids must differ; they default to `prompt-<place>`, whatever the
    file is called: a run goes on under the same ids when it was renamed.

    A file of suffixes as the paper's repository has them (`SUFFIXES`) is read too: its further columns are not, and, as
    there, nor are goals without a suffix."""
    try:
        text = canonical_text(path.read_bytes()).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = list(reader.fieldnames or ())
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"the prompts in {path} cannot be read: {error}; give a CSV file in UTF-8, its quotes closed"
        ) from None
    if "goal" not in header:
        raise UserError(
            f"{path} has no goal column but {', '.join(header) or 'nothing'}; allowed: {', '.join(COLUMNS)}"
        )
    if SUFFIXES in header:
        kept = {"goal": "goal", "target": "target", SUFFIXES: "suffix"}
        rows = [
            (line, {name: row.get(column) or "" for column, name in kept.items()})
            for line, row in rows
            if (row.get(SUFFIXES) or "").strip()
        ]
        header = list(kept.values())
    if unknown := [column for column in header if column not in COLUMNS]:
        raise UserError(f"{path} has unknown columns {', '.join(unknown)}; allowed: {', '.join(COLUMNS)}")
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise UserError(f"{path} has the column {', '.join(twice)} twice; give each column once")
    for line, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{path}, line {line}: {len(header)} values are expected; quote a value that holds a comma")
    named = ((f"{path}, line {line}", row.get("id") or f"prompt-{n:03d}", row) for n, (line, row) in enumerate(rows))
    return _checked(str(path), named)


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
        prompt = Prompt(id=name, goal=goal, target=row.get("target") or None, suffix=row.get("suffix") or None)
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
    return read_csv(Path(str(files("asabench") / "data" / "quickstart.csv")))


PROMPT_SETS: dict[str, Callable[[], list[Prompt]]] = {"quickstart": quickstart, "advbench": advbench.load}
