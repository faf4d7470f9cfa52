"""The commands that make defences: `defend` and `interpolate`; `asabench.cli.app` adds them to the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from asabench.cli.needs import MODEL, needs
from asabench.core.errors import UserError
from asabench.core.numbers import numbers


def defend(
    recipe: Annotated[
        str, typer.Option(help="refusal, lapt or lat; options as lapt:dose=0.5:benign_noise=0.25 (docs/defences.md).")
    ],
    model: Annotated[str, typer.Option(help="As for evaluate.")],
    out: Annotated[Path, typer.Option(help="Where the defended model goes.")],
    preset: Annotated[str, typer.Option(help="small, or the published hyper-parameters: paper.")] = "small",
    train: Annotated[
        str, typer.Option(help="Harmful requests: a prompt set or CSV file, with rows such as advbench:100-299.")
    ] = "advbench:100-299",
    cells: Annotated[
        Optional[Path], typer.Option(help="For lapt: a finished run, or a benchmark folder (its train split).")
    ] = None,
    layers: Annotated[Optional[str], typer.Option(help="For lapt: as for evaluate. [default: all]")] = None,
    test_prompts: Annotated[
        Optional[str], typer.Option(help="What will be evaluated on, and is not trained on. [default: advbench:0-99]")
    ] = None,
    target: Annotated[str, typer.Option(help="For lat: the start of compliance.")] = "Sure, here is",
    learning_rate: Annotated[Optional[float], typer.Option(help="[default: the preset's, as for all below]")] = None,
    steps: Annotated[Optional[int], typer.Option(help="Length in steps.")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Length in passes over the examples.")] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="Harmful examples a batch.")] = None,
    benign_batch_size: Annotated[Optional[int], typer.Option(help="Harmless examples beside them.")] = None,
    accumulation: Annotated[Optional[int], typer.Option(help="Batches a step.")] = None,
    warmup: Annotated[Optional[float], typer.Option(help="Share of the steps.")] = None,
    weight_decay: Annotated[Optional[float], typer.Option(help="Of AdamW.")] = None,
    lora_rank: Annotated[Optional[int], typer.Option(help="Train adapters of this rank, not all weights.")] = None,
    seed: Annotated[int, typer.Option(help="Of order, noise and adapters.")] = 0,
    precision: Annotated[Optional[str], typer.Option(help="auto, no or bf16.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0 writes none.")] = 50,
    protocol: Annotated[str, typer.Option(help="How prompts are formatted: asabench-v1 or gu2025.")] = "asabench-v1",
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    chat_template: Annotated[Optional[Path], typer.Option(help="As for evaluate.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
    allow_remote_code: Annotated[bool, typer.Option("--allow-remote-code", help="As for evaluate.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="As for evaluate.")] = False,
) -> None:
    """Train a defence into a model; the same command again goes on where an earlier one stopped."""
    needs(*MODEL, "accelerate")
    from harness.defences.defend import estimate, make_plan, run_plan

    plan = make_plan(
        model,
        recipe,
        out,
        preset_name=preset,
        train=train,
        cells=cells,
        layers=layers,
        test_prompts=test_prompts,
        target=target,
        protocol=protocol,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
        learning_rate=learning_rate,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        benign_batch_size=benign_batch_size,
        accumulation=accumulation,
        warmup=warmup,
        weight_decay=weight_decay,
        lora_rank=lora_rank,
        seed=seed,
        precision=precision,
    )
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
        done = run_plan(plan, checkpoint_every=checkpoint_every or None, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(f"\nasabench: interrupted; checkpoints are in {out}. Run the same command again.", file=sys.stderr)
        sys.exit(130)
    print(f"model: {done}")


def interpolate(
    base: Annotated[str, typer.Argument(help="The model before the defence: a short name, folder or hub id.")],
    tuned: Annotated[str, typer.Argument(help="The defended model.")],
    out: Annotated[Path, typer.Option(help="Where the mixture goes.")],
    lambdas: Annotated[str, typer.Option(help="Shares of the defended model to try.")] = "0.1,0.2,0.3,0.4,0.5",
    keep: Annotated[
        Optional[str],
        typer.Option(help="What may fall by how much: benign:0.05, over-refusal:0.05 (may rise), csqa:0.05."),
    ] = None,
    csqa: Annotated[Optional[str], typer.Option(help="CommonsenseQA, as for `asabench utility`.")] = None,
    limit: Annotated[Optional[int], typer.Option(help="Only the first N requests or questions.")] = None,
    dtype: Annotated[str, typer.Option(help="In which models are measured; they are written in the base's.")] = (
        "float32"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
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
        say=lambda line: print(line, flush=True),
    )
    print(f"lambda: {done.lam:g}")
    print(f"model: {done.path}")
