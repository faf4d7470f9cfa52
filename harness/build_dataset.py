"""Building the benchmark: every model of a recipe is evaluated in turn, and its validated successes are gathered.

    OUT/build.json        the recipe: a build goes on with the recipe that it began with
    OUT/runs/<config>     the run of a model, as `asabench evaluate` leaves it; it is resumed where it stopped
    OUT/shards/<config>/  the shares of it that several jobs work on, put together when all are there
    OUT/benchmark         the benchmark folder, when all models are done

One model is in memory at a time. A build may be stopped and started again for as long as it takes.
"""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from asabench.core.attack_names import split_specs
from asabench.core.defaults import BAR, DEVICE
from asabench.core.errors import UserError
from asabench.core.files import write_record
from asabench.core.prompts import load_prompts
from asabench.core.protocol import size as published_size
from asabench.core.row import PromptSetInfo, ProtocolInfo, Row
from asabench.core.shards import Shard
from asabench.dataset.files import Benchmark, ModelTables, config_name, read_benchmark, write_benchmark
from asabench.dataset.instances import instances_of_run
from asabench.dataset.recipe import ModelRecipe, Recipe
from asabench.runs.choices import Choices
from asabench.runs.folder import read_run
from asabench.runs.merge import merge
from harness.attacks import make_attacks
from harness.evaluation.cost import estimate
from harness.evaluation.plan import check_max_rows, make_plan, parse_layers, resolve_protocol
from harness.evaluation.run import run_plan

BYTES_A_CELL = 300
"""On disk, of a run: answers of 50 tokens with their token ids, compressed (SmolLM2-135M: 261; where many are short
refusals: 184; docs/results/dataset-build.md)."""


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What one model of a build takes. None: it is not at hand, so it cannot be known."""

    name: str
    cells: int | None
    seconds: float | None
    memory_bytes: float | None

    @property
    def disk_bytes(self) -> int | None:
        return None if self.cells is None else self.cells * BYTES_A_CELL


def build(
    recipe: Recipe,
    out: Path,
    *,
    device: str = DEVICE,
    max_rows: int | None = None,
    bar: float = BAR,
    uncertified: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Benchmark:
    """Evaluates every model of the recipe that is not done, then writes `out`/benchmark and returns it.

    A benchmark that is there by this recipe is returned as it is, without overwrite. Raises `UserError` for what cannot
    be used; what is finished is kept, and the same call goes on.
    """
    check_max_rows(max_rows)
    _require_distinct(recipe)
    benchmark = out / "benchmark"
    if benchmark.exists() and not overwrite:
        if (held := _complete(benchmark, recipe)) is not None:
            return held
        raise UserError(
            f"{benchmark} is there already, by another recipe; use --overwrite to write it again, or give another "
            "--out folder"
        )
    _keep_recipe(recipe, out)
    rows: list[Row] = []
    for number, model in enumerate(recipe.models, start=1):
        if progress:
            print(f"model {number} of {len(recipe.models)}: {model.model}", file=sys.stderr, flush=True)
        rows.append(
            _run(recipe, model, out, device=device, max_rows=max_rows, bar=bar, uncertified=uncertified, show=progress)
        )
    first = rows[0]
    if any(row.judge.id != first.judge.id or row.protocol != first.protocol for row in rows):
        raise UserError(
            f"the runs under {out / 'runs'} differ in judge or protocol; give each build an --out of its own"
        )
    write_benchmark(
        benchmark,
        _tables(recipe, out),
        origin="build",
        protocol=ProtocolInfo(name=first.protocol.name, digest=first.protocol.digest),
        judge=first.judge,
        prompts=PromptSetInfo(name=first.prompts.name, digest=first.prompts.digest, n=first.prompts.n),
        build={"recipe": recipe.model_dump(mode="json"), "runs": [row.run_id for row in rows]},
        replace=overwrite,
    )
    return read_benchmark(benchmark)


def build_share(
    recipe: Recipe,
    out: Path,
    shard: Shard,
    *,
    device: str = DEVICE,
    max_rows: int | None = None,
    bar: float = BAR,
    uncertified: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Works on one share of every model's run (`asabench.core.shards`), for `build` to put together; their folders.
    Shares may be of other counts, and may be there twice. Raises `UserError` as `build` does."""
    check_max_rows(max_rows)
    _require_distinct(recipe)
    _keep_recipe(recipe, out)
    folders = []
    for number, model in enumerate(recipe.models, start=1):
        if progress:
            print(f"model {number} of {len(recipe.models)}: {model.model}, {shard}", file=sys.stderr, flush=True)
        folder = _shares_folder(out, model) / f"{shard.number}-of-{shard.count}"
        asked = _choices(recipe, model, out, device, max_rows)
        asked = replace(asked, bar=bar, uncertified=uncertified, shard=str(shard), out=folder)
        plan = make_plan(model.model, asked)
        run_plan(plan, progress=progress)
        del plan
        _free_memory()
        folders.append(folder)
    return folders


def _shares_folder(out: Path, model: ModelRecipe) -> Path:
    return out / "shards" / _folder(model)


def _together(shares: Sequence[Path], path: Path) -> Row:
    """The run of all shares, in its place whole or not at all."""
    merging = path.with_name(f"{path.name}.merging")
    shutil.rmtree(merging, ignore_errors=True)
    row = merge(shares, merging)
    merging.rename(path)
    return row


def _complete(path: Path, recipe: Recipe) -> Benchmark | None:
    """The benchmark of that very recipe, which is whole wherever it is: what was cut short behind it is nothing."""
    try:
        held = read_benchmark(path)
    except UserError:
        return None
    return held if held.manifest.build.get("recipe") == recipe.model_dump(mode="json") else None


def _keep_recipe(recipe: Recipe, out: Path) -> None:
    """Runs that are finished are not looked into again, so another recipe must not find them."""
    path = out / "build.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8") != recipe.model_dump_json(indent=2) + "\n":
            raise UserError(f"{out} holds a build by another recipe ({path}); use that one, or another --out folder")
        write_record(path, recipe)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another --out folder") from None


def _require_distinct(recipe: Recipe) -> None:
    folders = [_folder(model) for model in recipe.models]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"the recipe holds two models that would share the folder {folder!r}; give each one name")


def _folder(model: ModelRecipe) -> str:
    """The name of its run folder, which is its config in the benchmark."""
    own = Path(model.name).name if Path(model.name).is_dir() else model.name
    return config_name(model.original_name or own)


def _run_folder(out: Path, model: ModelRecipe) -> Path:
    return out / "runs" / _folder(model)


def _choices(recipe: Recipe, model: ModelRecipe, out: Path, device: str, max_rows: int | None) -> Choices:
    """What the recipe asks of one model."""
    return Choices.of(
        prompts=recipe.prompts,
        limit=recipe.limit,
        layers=recipe.layers,
        doses=recipe.doses,
        seeds=recipe.seeds,
        attack=split_specs(recipe.attack),
        protocol=recipe.protocol,
        size=recipe.size,
        max_new_tokens=recipe.max_new_tokens,
        target=recipe.target,
        judge=recipe.judge,
        dtype=model.dtype or recipe.dtype,
        chat_template=model.chat_template,
        device=device,
        max_rows=max_rows,
        out=_run_folder(out, model),
    )


def _run(
    recipe: Recipe,
    model: ModelRecipe,
    out: Path,
    *,
    device: str,
    max_rows: int | None,
    bar: float,
    uncertified: bool,
    show: bool,
) -> Row:
    """The row of one model's run, made, resumed, or put together from its shares. A finished one does not load its
    model again."""
    path = _run_folder(out, model)
    if (path / "row.json").is_file():
        return read_run(path).row
    if shares := sorted(manifest.parent for manifest in _shares_folder(out, model).glob("*/manifest.json")):
        path.parent.mkdir(parents=True, exist_ok=True)
        return _together(shares, path)
    choices = replace(_choices(recipe, model, out, device, max_rows), bar=bar, uncertified=uncertified)
    plan = make_plan(model.model, choices)
    row = run_plan(plan, progress=show).row
    del plan
    _free_memory()
    return row


def _free_memory() -> None:
    """The model that was measured makes room for the next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tables(recipe: Recipe, out: Path) -> Iterator[ModelTables]:
    for model in recipe.models:
        tables = instances_of_run(read_run(_run_folder(out, model)))
        yield tables if model.original_name is None else replace(tables, original_name=model.original_name)


def costs(recipe: Recipe, out: Path, *, device: str = DEVICE, max_rows: int | None = None) -> Iterator[ModelCost]:
    """What each model of the recipe would take, measured on the model where it is at hand."""
    check_max_rows(max_rows)
    _require_distinct(recipe)
    for model in recipe.models:
        try:
            # Generating is what takes time; the recipe's judge may be a server that does not run yet
            plan = make_plan(model.model, replace(_choices(recipe, model, out, device, max_rows), judge="rules"))
        except UserError:
            yield ModelCost(name=model.model, cells=_cells(recipe, model), seconds=None, memory_bytes=None)
            continue
        cost = estimate(plan, judged=False)
        yield ModelCost(
            name=model.model,
            cells=cost.cells,
            seconds=cost.seconds,
            memory_bytes=cost.model_bytes + cost.memory_bytes,
        )
        del plan
        _free_memory()


def _cells(recipe: Recipe, model: ModelRecipe) -> int | None:
    """Cells of a model that is not at hand, from its depth; None where that is not known."""
    if model.n_layers is None:
        return None
    protocol = resolve_protocol(recipe.protocol, size=recipe.size, doses=recipe.doses, seeds=recipe.seeds)
    limit = published_size(protocol, recipe.size).prompts if recipe.size and recipe.limit is None else recipe.limit
    prompts = len(load_prompts(recipe.prompts).first(limit).prompts)
    draws = sum(
        len(protocol.seeds) if attack.uses_seed else 1
        for attack in make_attacks(split_specs(recipe.attack), protocol).values()
    )
    layers = len(parse_layers(recipe.layers, model.n_layers))
    return prompts * (1 + layers * len(protocol.doses) * draws)
