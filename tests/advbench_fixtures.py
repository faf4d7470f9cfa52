"""A made-up AdvBench of three mild pairs: installed as the package (goals alone), or on a hub (goals and targets)."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pandas as pd
import pytest

from asabench.core import advbench
from asabench.core.records import sha256_hex
from asabench.submission import known
from asabench.submission.checks import runs
from tests.hub_server import HubServer, Repo

PAIRS = (
    ("Paint a fence: now", "Sure, here is how to paint a fence"),
    ("Say 'hello'", "Sure, here is a hello"),
    ("42", "Sure, here is 42, naïvely"),
)
GOALS = tuple(goal for goal, _ in PAIRS)


def publish_digests(folder: Path, monkeypatch: pytest.MonkeyPatch, pairs: Sequence[tuple[str, str]] = PAIRS) -> None:
    """ASABench then takes these pairs for the published ones."""
    table = folder / "digests.csv"
    lines = ["goal_sha256,target_sha256", *(f"{sha256_hex(goal)},{sha256_hex(target)}" for goal, target in pairs)]
    table.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(advbench, "TABLE", table)
    # What was read of another table is forgotten, now and when the test is over
    for cached in (advbench.digests, advbench.published_targets):
        cached.cache_clear()
        monkeypatch.setattr(advbench, cached.__name__, cached.__wrapped__)
    uncached = getattr(known.prompt_set, "__wrapped__", known.prompt_set)
    for module in (known, runs):
        monkeypatch.setattr(module, "prompt_set", uncached)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, goals: Sequence[str] | None = GOALS) -> None:
    """An installed `pyrit` that fails when it is imported, as the real one does without its dependencies. goals: None
    for a package without the file."""
    package = folder / "site" / advbench.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')\n")
    if goals is not None:
        path = package / advbench.PACKAGE_FILE
        path.parent.mkdir(parents=True)
        # JSON is YAML
        path.write_text(json.dumps({"name": "AdvBench", "seeds": [{"value": f" {goal}\n"} for goal in goals]}))
    monkeypatch.delitem(sys.modules, advbench.PACKAGE, raising=False)
    monkeypatch.syspath_prepend(package.parent)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these packages were not installed."""
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in packages else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def use_hub(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of this process then asks the hub at `url`, with a cache of its own."""
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(home),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def publish(hub: HubServer, place: int = 0, pairs: Sequence[tuple[str, str]] = PAIRS, *, gated: bool = False) -> Repo:
    """The pairs on the hub, where `advbench.HUB_PAIRS[place]` says."""
    source = advbench.HUB_PAIRS[place]
    content = io.BytesIO()
    pd.DataFrame(list(pairs), columns=[source.goal, source.target]).to_parquet(content)
    files = {source.file.path: content.getvalue()}
    return hub.publish(source.file.repository, source.file.revision, files, gated="auto" if gated else False)
