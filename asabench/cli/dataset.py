"""The commands of the dataset: build, download, verify, diff, push; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.cli.printing import interrupted
from asabench.core.defaults import ATTACK, BAR, DEVICE, DTYPE, JUDGE, LAYERS, PROTOCOL, PUBLISHED_PROMPTS
from asabench.core.errors import UserError

PUBLISHED = "Carol0110/ASABench"
RECIPE_OR_PROTOCOL = "the recipe's, or the protocol's"


def build(
    models: Annotated[str, option("Models between commas, or a recipe: a YAML file (see below for one).")],
    out: Annotated[Path, option("Where the runs and the benchmark go.")],
    prompts: Annotated[Optional[str], option(options.PROMPTS, default=f"the recipe's, or {PUBLISHED_PROMPTS}")] = None,
    limit: Annotated[Optional[int], option(options.LIMIT, default="the recipe's, or 100")] = None,
    layers: Annotated[Optional[str], option(options.LAYERS, default=f"the recipe's, or {LAYERS}")] = None,
    doses: Annotated[Optional[str], option(options.DOSES, default=RECIPE_OR_PROTOCOL)] = None,
    seeds: Annotated[Optional[str], option(options.SEEDS, default=RECIPE_OR_PROTOCOL)] = None,
    attack: Annotated[Optional[str], option(options.ATTACK, default=f"the recipe's, or {ATTACK}")] = None,
    protocol: Annotated[Optional[str], option(options.PROTOCOL, default=f"the recipe's, or {PROTOCOL}")] = None,
    size: Annotated[Optional[str], option(options.SIZE, default="the recipe's, or none")] = None,
    max_new_tokens: Annotated[Optional[int], option(options.MAX_NEW_TOKENS, default=RECIPE_OR_PROTOCOL)] = None,
    target: Annotated[Optional[str], option(options.TARGET, default="the recipe's, or each prompt's own")] = None,
    judge: Annotated[Optional[str], option(options.JUDGE, default=f"the recipe's, or {JUDGE}")] = None,
    bar: options.Bar = BAR,
    uncertified: options.Uncertified = False,
    dtype: Annotated[Optional[str], option(options.DTYPE, default=f"the recipe's, or {DTYPE}")] = None,
    device: options.Device = DEVICE,
    max_rows: options.MaxRows = None,
    shard: options.Shard = None,
    overwrite: Annotated[
        bool, option("Write OUT/benchmark again; finished runs are not run again.", "--overwrite")
    ] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Regenerate the benchmark from models; the same command again goes on where an earlier one stopped.

    An option wins over the recipe.
    """
    needs(*MODEL)
    from asabench.core.numbers import numbers
    from asabench.core.shards import shard_here
    from asabench.dataset.recipe import Recipe, read_recipe
    from harness.build_dataset import build as build_benchmark
    from harness.build_dataset import build_share, costs

    given = {
        "protocol": protocol,
        "prompts": prompts,
        "limit": limit,
        "layers": layers,
        "attack": attack,
        "doses": numbers("doses", doses, float),
        "seeds": numbers("seeds", seeds, int),
        "size": size,
        "max_new_tokens": max_new_tokens,
        "target": target,
        "judge": judge,
        "dtype": dtype,
    }
    recipe = read_recipe(models).model_dump() | {name: value for name, value in given.items() if value is not None}
    checked = Recipe.model_validate(recipe)
    if dry_run:
        _print_costs(list(costs(checked, out, device=device, max_rows=max_rows)))
        return
    share = shard_here(shard, os.environ)
    how: dict[str, Any] = {
        "device": device,
        "max_rows": max_rows,
        "bar": bar,
        "uncertified": uncertified,
        "progress": True,
    }
    try:
        if share is not None and share.count > 1:
            folders = build_share(checked, out, share, **how)
            return print(
                f"shard {share} of {len(folders)} models is in {out}\n"
                "When all shards are there, the same command without a shard puts them together."
            )
        benchmark = build_benchmark(checked, out, overwrite=overwrite, **how)
    except KeyboardInterrupt:
        interrupted(f"what is done is kept in {out}. Run the same command again.")
    for model in benchmark.manifest.models:
        fragile = "; ".join(
            f"{found.attack} at {found.dose:g}: peak {found.peak}, before {found.before}, after {found.after}"
            for found in model.fragile_layers
        )
        print(f"{model.config}: {model.instances} instances of {model.attempts} attempts; fragile layers {fragile}")
    print(f"benchmark: {benchmark.path} ({benchmark.manifest.instances} instances); asabench verify {benchmark.path}")


def _print_costs(costs: list[object]) -> None:
    from harness.build_dataset import ModelCost

    known = [cost for cost in costs if isinstance(cost, ModelCost)]
    print(f"{'model':60}{'cells':>10}{'hours':>10}{'memory':>12}{'disk':>10}")
    for cost in known:
        hours = "not here" if cost.seconds is None else f"{cost.seconds / 3600:.2f}"
        memory = "" if cost.memory_bytes is None else f"{cost.memory_bytes / 2**30:.1f} GiB"
        disk = "" if cost.disk_bytes is None else f"{cost.disk_bytes / 2**20:.0f} MiB"
        print(f"{cost.name:60}{'?' if cost.cells is None else cost.cells:>10}{hours:>10}{memory:>12}{disk:>10}")
    print("hours are measured where a model is at hand; nothing was written")


def download(
    repo: Annotated[str, option("The dataset on the Hub.")] = PUBLISHED,
    revision: Annotated[Optional[str], option("A tag, branch or commit.", default="main")] = None,
    config: Annotated[Optional[str], option("One model's part.", default="all")] = None,
    out: Annotated[Optional[Path], option("Write a benchmark folder here.", default="only the cache")] = None,
) -> None:
    """Download the published benchmark at a pinned revision, in either layout; needs no torch."""
    from asabench.dataset.download import download as fetch

    done = fetch(repo, revision, config, out, say=lambda line: print(line, file=sys.stderr))
    print(done.text)
    if done.path is not None:
        print(f"benchmark: {done.path}")


def verify(
    path: Annotated[Path, typer.Argument(help="A benchmark folder, or files in the original layout.")],
    published: Annotated[
        Optional[bool], option("Expect the published totals (4,862).", "--published/--not-published")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Check a benchmark: schema, ids, layers, verdicts, counts, digests; exit code 1 if anything differs."""
    from asabench.dataset.verify import verify as check

    found = check(path, published=published)
    _show(found.as_json() if as_json else found.text)
    sys.exit(0 if found.ok else 1)


def diff(
    a: Annotated[Path, typer.Argument(help="A benchmark folder, or files in the original layout.")],
    b: Annotated[Path, typer.Argument(help="The one that is compared with it.")],
    key: Annotated[Optional[str], option("What makes two instances one: cell, or prompt-layer.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare two benchmarks: counts by model and layer, agreement of cells and labels."""
    from asabench.dataset.diff import diff as compare

    found = compare(a, b, key=key)  # type: ignore[arg-type]
    _show(found.as_json() if as_json else found.text)


def push(
    path: Annotated[Path, typer.Argument(help="The benchmark folder.")],
    repo: Annotated[str, option("The dataset on the Hub, OWNER/NAME.")],
    version: Annotated[str, option("The new tag, such as v1.0. A tag that exists is never moved.")],
    gated: Annotated[str, option("auto, manual, or none (only with --redact).")] = "auto",
    private: Annotated[bool, option("If the dataset is made, only its owner sees it.", "--private")] = False,
    redact: Annotated[bool, option("Publish digests in place of texts.", "--redact")] = False,
    adopt: Annotated[bool, option("Into a repository that holds something else.", "--adopt")] = False,
    licence: Annotated[str, option("As the Hub names it.")] = "mit",
    message: Annotated[Optional[str], option("The commit's message.")] = None,
) -> None:
    """Publish a benchmark folder on the Hub: Parquet, a card, gated, with a tag for the version."""
    from asabench.dataset.push import push as publish

    if gated not in ("auto", "manual", "none"):
        raise UserError(f"--gated {gated!r} is unknown; allowed: auto, manual, none")
    done = publish(
        path,
        repo,
        version=version,
        gated=None if gated == "none" else gated,  # type: ignore[arg-type]
        private=private,
        redact=redact,
        adopt=adopt,
        licence=licence,
        message=message,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(f"{done.url} {done.version} at {done.commit}, content digest {done.digest}, gated: {done.gated or 'no'}")


def _show(found: object) -> None:
    import json

    print(found if isinstance(found, str) else json.dumps(found, indent=2))
