"""The command line: every command by its name. Everything heavy is imported inside the commands, so that
`asabench --help` is quick."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.core import TyperGroup

import asabench
from asabench.cli import (
    card,
    dataset,
    defences,
    evaluation,
    judging,
    leaderboard,
    lvs,
    models,
    organisms,
    probe,
    submission,
    utility,
)
from asabench.cli import enter as entering
from asabench.cli.command import AGAIN, Command, JudgeGroup
from asabench.cli.logs import logged
from asabench.cli.terminal import any_characters, one_line, swallow_output
from asabench.core.errors import UserError
from asabench.core.links import link

app = typer.Typer(
    name="asabench",
    help="How well does a language model's refusal survive a nudge of its hidden states?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # Every option has a variable, such as ASABENCH_EVALUATE_LAYERS
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ASABENCH"},
)
PAGES: tuple[tuple[Callable[..., None], *tuple[str, ...]], ...] = (
    (evaluation.evaluate, "docs/protocol.md", "configs/evaluate.yaml"),
    (entering.enter, "docs/submitting.md"),
    (evaluation.merge, "docs/scale.md"),
    (evaluation.report, "docs/protocol.md"),
    (evaluation.compare, "docs/protocol.md"),
    (probe.probe, "docs/diagnostics.md"),
    (lvs.lvs, "docs/diagnostics.md"),
    (models.models, "docs/protocol.md"),
    (card.card, "docs/card.md"),
    (defences.defend, "docs/defences.md"),
    (defences.interpolate, "docs/defences.md"),
    (organisms.backdoor, "docs/defences.md"),
    (organisms.unlearn_check, "docs/defences.md"),
    (judging.judge, "docs/judges.md"),
    (judging.judge_check, "docs/judges.md"),
    (judging.judge_read, "docs/judges.md"),
    (judging.judge_server, "docs/judging-with-vllm.md"),
    (utility.utility, "docs/utility.md"),
    (submission.submit, "docs/submitting.md"),
    (submission.validate, "docs/submitting.md"),
    (dataset.build, "docs/dataset.md", "configs/asabench-8.yaml"),
    (dataset.download, "docs/dataset.md"),
    (dataset.verify, "docs/dataset.md"),
    (dataset.diff, "docs/dataset.md"),
    (dataset.push, "docs/publishing.md"),
    (leaderboard.build, "docs/leaderboard.md"),
    (leaderboard.serve, "docs/leaderboard.md"),
)
"""Each command with the pages that its help ends with."""
GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "data": {
        "download": dataset.download,
        "verify": dataset.verify,
        "diff": dataset.diff,
        "build": dataset.build,
        "push": dataset.push,
    },
    "judge": {
        AGAIN: judging.judge,
        "check": judging.judge_check,
        "read": judging.judge_read,
        "server": judging.judge_server,
    },
    "train": {
        "defend": defences.defend,
        "interpolate": defences.interpolate,
        "backdoor": organisms.backdoor,
        "unlearn-check": organisms.unlearn_check,
    },
    "board": {
        "submit": submission.submit,
        "validate": submission.validate,
        "build": leaderboard.build,
        "serve": leaderboard.serve,
    },
}
"""What belongs together, under one name. The commands that had names of their own before keep them, unlisted."""
ABOUT = {
    "data": "The published instances: have them, check them, make them, publish them.",
    "judge": "Judges: judge a run again, check a judge, read answers yourself, serve one.",
    "train": "Defences: train one, mix its weights with its base's; check for backdoors and unlearning.",
    "board": "The board: make an entry, check entries, build and serve the pages.",
}
EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    evaluation.evaluate: (
        "asabench evaluate smollm2-135m --limit 4 --layers 0,10,20",
        "asabench evaluate Qwen/Qwen3-0.6B --prompts advbench --size lite --attack required",
    ),
    entering.enter: ("asabench enter my-model --base smollm2-135m --name Mine --author 'A. Author' --licence MIT",),
    evaluation.compare: ("asabench compare runs/base runs/defended",),
    evaluation.merge: ("asabench merge runs/shard-* --out runs/whole",),
    probe.probe: ("asabench probe smollm2-135m --limit 4 --what nll,kl",),
    utility.utility: ("asabench utility my-model --out runs/my-model-utility.json",),
    card.card: ("asabench card my-model --base smollm2-135m --out runs/my-card",),
    defences.defend: ("asabench train defend --recipe lapt --model smollm2-135m --out my-model",),
    judging.judge: ("asabench judge runs/mine --judge qwen3guard:0.6B@http://127.0.0.1:8000/v1",),
    judging.judge_check: ("asabench judge check embedded --set gold,pyrit",),
    judging.judge_read: ("asabench judge read runs/mine --reader ada",),
    submission.validate: ("asabench board validate submissions/my-model",),
    dataset.download: ("asabench data download --config Llama-31-8B-Instruct --out benchmark",),
    dataset.build: ("asabench data build configs/asabench-8.yaml --dry-run",),
}
# What follows `--` goes on to vLLM
PASSED_ON = {judging.judge_server: {"allow_extra_args": True, "ignore_unknown_options": False}}

RUNNING = (evaluation.evaluate, judging.judge, defences.defend, dataset.build, utility.utility, probe.probe)
"""Those that take their time, and say what they do meanwhile."""


def _add(to: typer.Typer, name: str, command: Callable[..., None], *, hidden: bool = False) -> None:
    pages = next(pages for each, *pages in PAGES if each is command)
    # \b: an address is not broken where a line ends
    path = f"asabench {name}" if to is app else f"asabench {to.info.name} {name}"
    variable = re.sub("[ -]", "_", path).upper()
    lines = [f"Example: {example}" for example in EXAMPLES.get(command, ())]
    lines.append(f"Each option may be in the environment, as {variable}_OPTION.")
    lines += [f"More: {link(page)}" for page in pages]
    more = "\b\n" + "\n".join(lines)
    to.command(name, cls=Command, epilog=more, hidden=hidden, context_settings=PASSED_ON.get(command))(
        logged(command) if command in RUNNING else command
    )


for title, commands in GROUPS.items():
    kind = JudgeGroup if AGAIN in commands else TyperGroup
    group = typer.Typer(name=title, help=ABOUT[title], no_args_is_help=True, rich_markup_mode=None, cls=kind)
    for name, command in commands.items():
        _add(group, name, command)
    app.add_typer(group, name=title)
    if title == "board":
        app.add_typer(group, name="leaderboard", hidden=True)
_grouped = [command for commands in GROUPS.values() for command in commands.values()]
for command, *_ in PAGES:
    name = command.__name__.replace("_", "-")
    if name not in GROUPS and command not in (leaderboard.build, leaderboard.serve):
        _add(app, name, command, hidden=command in _grouped)


def main() -> None:
    """The console script: turns a `UserError` into one line and exit code 2."""
    any_characters()
    with _clear_errors():
        app()


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        try:
            yield
        finally:  # also when the command leaves by itself: at the end of the program it would be too late
            sys.stdout.flush()
    except UserError as error:
        print(f"asabench: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nasabench: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has gone
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF) or error.filename is not None:
            # Of the disk or the network, and about what was named: nothing that a traceback says better
            where = "" if error.filename is None else f"{error.filename}: "
            said = one_line(f"{where}{error.strerror or error or type(error).__name__}")
            print(f"asabench: the system refuses ({said}); give a place or a name that it allows", file=sys.stderr)
            sys.exit(2)
        print(f"asabench: a write failed ({error.strerror}); free some space where the output goes", file=sys.stderr)
        swallow_output()
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


if __name__ == "__main__":
    main()
