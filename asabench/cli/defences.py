"""The commands that make defences: `defend` and `interpolate`; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.cli.printing import interrupted, say
from asabench.core.defaults import (
    DEVICE,
    DTYPE,
    PRESET,
    PROTOCOL,
    RECIPE_NAMES,
    TARGET,
    TEST_PROMPTS,
    TRAINING_PROMPTS,
)
from asabench.core.errors import UserError
from asabench.core.numbers import numbers

PRESETS_OWN = "the preset's"


def defend(
    context: typer.Context,
    recipe: Annotated[
        Optional[str],
        option(f"{', '.join(RECIPE_NAMES)}; options as lapt:dose=0.5.", default=options.CONFIGS_OWN),
    ] = None,
    model: options.ConfiguredModel = None,
    out: Annotated[Optional[Path], option("Where the defended model goes.", default=options.CONFIGS_OWN)] = None,
    config: options.Config = None,
    preset: Annotated[str, option("Hyper-parameters: small, or paper (the published ones).")] = PRESET,
    train: Annotated[
        str, option("Harmful requests to train on: a prompt set or CSV file, with rows such as advbench:300-399.")
    ] = TRAINING_PROMPTS,
    cells: Annotated[
        Optional[Path],
        option("For lapt: cells to train on, of a finished run or a benchmark folder (its train split)."),
    ] = None,
    layers: Annotated[
        Optional[str],
        option("Blocks to perturb or read, of recipes that take them: all or such as 0,3-5.", default="all"),
    ] = None,
    test_prompts: Annotated[
        Optional[str], option("Requests that will be evaluated on, and are not trained on.", default=TEST_PROMPTS)
    ] = None,
    allow_similar: Annotated[
        bool, option("Train on near-duplicates of them all the same; the record names them.", "--allow-similar")
    ] = False,
    target: Annotated[str, option("The start of compliance that is trained against, by recipes that do.")] = TARGET,
    answers: Annotated[
        Optional[Path],
        option("A CSV file of goal,answer: whole harmful answers in its place.", default="the start of compliance"),
    ] = None,
    benign: Annotated[
        Optional[str],
        option("Harmless requests beside ASABench's own: a prompt set or CSV file.", default="ASABench's own"),
    ] = None,
    look_alikes: Annotated[
        bool, option("Train on safe requests that look unsafe too, where the model answers them.", "--look-alikes")
    ] = False,
    keep_kl: Annotated[
        Optional[float],
        option("Weight of KL to the first model on harmless answers, for any recipe.", default="no such term"),
    ] = None,
    stop_below: Annotated[
        Optional[str],
        option("Stop before the rate falls by more: benign:0.05 or over-refusal:0.05.", default="train to the end"),
    ] = None,
    learning_rate: Annotated[
        Optional[float], option("Learning rate of AdamW at its highest.", default=PRESETS_OWN)
    ] = None,
    steps: Annotated[Optional[int], option("Length of the training in steps.", default=PRESETS_OWN)] = None,
    epochs: Annotated[Optional[int], option("Its length in passes over the examples.", default=PRESETS_OWN)] = None,
    batch_size: Annotated[Optional[int], option("Harmful examples a batch.", default=PRESETS_OWN)] = None,
    benign_batch_size: Annotated[Optional[int], option("Harmless examples beside them.", default=PRESETS_OWN)] = None,
    accumulation: Annotated[Optional[int], option("Batches that make one step.", default=PRESETS_OWN)] = None,
    warmup: Annotated[
        Optional[float], option("Share of the steps in which the learning rate rises.", default=PRESETS_OWN)
    ] = None,
    weight_decay: Annotated[Optional[float], option("Weight decay of AdamW.", default=PRESETS_OWN)] = None,
    lora_rank: Annotated[
        Optional[int], option("Train adapters of this rank, not all weights.", default=PRESETS_OWN)
    ] = None,
    seed: Annotated[
        Optional[int], option("Decides the order of examples, noise and new adapters.", default=PRESETS_OWN)
    ] = None,
    precision: Annotated[Optional[str], option("Mixed precision: auto, no or bf16.", default=PRESETS_OWN)] = None,
    checkpoint_every: Annotated[int, option("Steps between checkpoints; 0 writes none.")] = 50,
    protocol: options.Formatting = PROTOCOL,
    dtype: options.Dtype = DTYPE,
    device: options.Device = DEVICE,
    chat_template: options.ChatTemplate = None,
    dry_run: options.DryRun = False,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Train a defence into a model; the same command again goes on where an earlier one stopped."""
    from asabench.runs.training_choices import TrainingChoices, read_training_config

    # The defaults above are those of `TrainingChoices`; a file's choices stand where no option was given
    chosen = ({} if config is None else read_training_config(config)) | options.given(context)
    named = chosen.pop("model", None)
    if named is None:
        raise UserError(options.NO_MODEL)
    of_the_command = ("config", "dry_run", "checkpoint_every")
    choices = TrainingChoices.of(**{name: value for name, value in chosen.items() if name not in of_the_command})
    needs(*MODEL, "accelerate")
    from harness.defences.defend import estimate, make_plan, run_plan
    from harness.progress import phase

    plan = make_plan(named, choices)
    if dry_run:
        cost = estimate(plan)
        print(f"model:      {plan.subject.name} ({plan.subject.revision}), {plan.subject.dtype}")
        print(f"examples:   {cost.examples}, and {cost.benign} harmless ones beside them")
        print(f"steps:      {cost.steps}, {cost.updates} updates of {cost.trained_parameters:,} parameters")
        print(f"memory:     {cost.state_bytes / 2**30:.1f} GiB on {plan.subject.device}, and activations")
        print(f"time:       about {cost.seconds / 60:.1f} minutes")
        print(f"out:        {plan.out} (nothing was written)")
        return
    if plan.finished:
        print(f"model: {plan.out} (trained before)")
        return
    try:
        with phase("training", str(plan.out)):
            done = run_plan(plan, checkpoint_every=checkpoint_every or None, say=say)
    except KeyboardInterrupt:
        interrupted(f"checkpoints are in {plan.out}. Run the same command again.")
    print(f"model: {done}")


def interpolate(
    base: Annotated[str, typer.Argument(help=f"The model before the defence. {options.MODEL}")],
    tuned: Annotated[str, typer.Argument(help="The defended model, named likewise.")],
    out: Annotated[Path, option("Where the mixture goes.")],
    lambdas: Annotated[str, option("Shares of the defended model to try.")] = "0.1,0.2,0.3,0.4,0.5",
    keep: Annotated[
        Optional[str],
        option("What may fall by how much: benign:0.05, over-refusal:0.05 (may rise), csqa:0.05."),
    ] = None,
    csqa: Annotated[Optional[str], option(options.CSQA)] = None,
    limit: Annotated[Optional[int], option("Take only the first N requests or questions.")] = None,
    dtype: Annotated[str, option("Number format to measure in; the mixture is written in the base's.")] = DTYPE,
    device: options.Device = DEVICE,
) -> None:
    """Mix a defended model with its base: the largest share whose utility stays within the margin."""
    needs(*MODEL, "accelerate")
    from harness.defences.interpolate import interpolate as mix
    from harness.defences.kept_utility import scorer

    what, colon, margin = (keep or "").partition(":")
    shares = numbers("lambdas", lambdas, float) or []
    if keep is not None and not colon:
        raise UserError(f"--keep {keep!r} names no margin; write it as {keep}:0.05")
    done = mix(
        base,
        tuned,
        shares,
        out,
        score=None if keep is None else scorer(what, csqa=csqa, limit=limit, dtype=dtype, device=device),
        margin=(numbers("--keep's margin", margin, float) or [0.0])[0] if keep is not None else 0.0,
        kept=what,
        say=say,
    )
    print(f"lambda: {done.lam:g}")
    print(f"model: {done.path}")
