"""The commands of a run: evaluate, report, compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.cli.printing import interrupted, print_cost, show_row
from asabench.core.defaults import ATTACK, BAR, DEVICE, ENGINE, JUDGE, LAYERS, PROMPTS, PROTOCOL


def evaluate(
    context: typer.Context,
    place: options.ModelPlace = None,
    model: options.ConfiguredModel = None,
    config: options.Config = None,
    prompts: options.Prompts = PROMPTS,
    prompt_column: options.PromptColumn = None,
    limit: options.Limit = None,
    layers: Annotated[Optional[str], option(options.LAYERS_OR_JOINT, default=f"those of the size, or {LAYERS}")] = None,
    doses: options.Doses = None,
    seeds: options.Seeds = None,
    attack: options.Attack = ATTACK,
    protocol: options.Protocol = PROTOCOL,
    size: options.Size = None,
    max_new_tokens: options.MaxNewTokens = None,
    steps: Annotated[
        Optional[str],
        option("Generation steps to perturb: every, first, or such as 0,1,5.", default=options.PROTOCOLS_OWN),
    ] = None,
    step_layers: Annotated[Optional[str], option("A block for each of --steps, such as 5,9,5.")] = None,
    target: options.Target = None,
    targets: options.Targets = None,
    prefix: options.Prefix = None,
    control: options.Control = False,
    paper_code: options.PaperCode = False,
    noise_device: options.NoiseDevice = None,
    judge: options.Judge = JUDGE,
    bar: options.Bar = BAR,
    uncertified: options.Uncertified = False,
    certificate: options.Certificate = None,
    defence: options.Defence = None,
    dtype: options.DtypeByDevice = None,
    device: options.Device = DEVICE,
    device_map: options.DeviceMap = None,
    attention: options.Attention = None,
    engine: options.Engine = ENGINE,
    tensor_parallel: options.TensorParallel = 1,
    gpu_memory: options.GpuMemory = None,
    shard: options.Shard = None,
    workers: options.Workers = None,
    gpus_per_worker: options.GpusPerWorker = None,
    ray: options.Ray = None,
    max_rows: options.MaxRows = None,
    chat_template: options.ChatTemplate = None,
    out: Annotated[Optional[Path], option("The run folder.", default="one under runs/")] = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Evaluate a model under an attack; write the run folder and its leaderboard row.

    The same command again goes on where an earlier one stopped.
    """
    from asabench.runs.choices import Choices, read_config

    # The defaults above are those of `Choices`; a file's choices stand where no option was given
    chosen = ({} if config is None else read_config(config)) | options.given(context)
    named = options.named_model(place, model if place else chosen.get("model"), "evaluate", config=True)
    of_command = ("place", "model", "config", "dry_run", "as_json")
    choices = Choices.of(**{name: value for name, value in chosen.items() if name not in of_command})
    needs(*MODEL)
    from asabench.runs.folder import read_run
    from harness.engine.selftest import SelfTestFailed
    from harness.evaluation.cost import estimate
    from harness.evaluation.finished import finished_run
    from harness.evaluation.plan import make_plan
    from harness.evaluation.run import run_plan

    if not dry_run and (run := finished_run(named, choices)) is not None:
        print(f"{run.path} is finished: this is its row, and nothing was run", file=sys.stderr if as_json else None)
        return show_row(run.row, run.path, as_json=as_json)
    plan = make_plan(named, choices)
    if dry_run:
        return print_cost(plan, estimate(plan))
    try:
        evaluation = run_plan(plan, progress=True)
    except SelfTestFailed as error:
        print(f"asabench: a self-test failed, the run was stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        kept = len(read_run(plan.path).responses()) if (plan.path / "manifest.json").is_file() else 0
        # How many a search will ask for is not known
        share = f"{kept} of {len(plan.cells)}" if plan.suite is None else str(kept)
        interrupted(f"{share} answers are kept in {plan.path}. To go on, run the same command again.")
    if evaluation.shard is not None:
        return print(
            f"shard {evaluation.shard}: {len(evaluation.responses)} answers in {evaluation.path}\n"
            f"When all shards are there: asabench merge RUN... --out RUN"
        )
    show_row(evaluation.row, evaluation.path, as_json=as_json)


def merge(
    runs: Annotated[list[Path], typer.Argument(help="The folders of all shards of one run.")],
    out: Annotated[Path, option("The folder of the whole run.")],
    as_json: options.AsJson = False,
) -> None:
    """Put the shards of a run together: the whole run with its row."""
    from asabench.runs.merge import merge

    show_row(merge(runs, out), out, as_json=as_json)


def report(run: Annotated[Path, typer.Argument(help="The run folder.")], as_json: options.AsJson = False) -> None:
    """Show a finished run again: tables and pictures, nothing recomputed."""
    from asabench.runs.folder import read_run

    opened = read_run(run)
    show_row(opened.row, opened.path, as_json=as_json)


def compare(
    a: Annotated[Path, typer.Argument(help="The run folder of the base, A.")],
    b: Annotated[Path, typer.Argument(help="The run folder that is compared with it, B.")],
    as_json: options.AsJson = False,
) -> None:
    """Show what changes from run A to run B, paired by prompt, with intervals."""
    from asabench.runs.compare import compare, comparison_json, comparison_table
    from asabench.runs.folder import read_run

    found = compare(read_run(a), read_run(b))
    print(comparison_json(found) if as_json else comparison_table(found))
