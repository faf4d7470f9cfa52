"""The command line: every command by its name. Everything heavy is imported inside the commands, so that
`asabench --help` is quick."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

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
    probe,
    submission,
    utility,
)
from asabench.cli.plugins import ListsPlugins
from asabench.cli.terminal import any_characters, one_line, swallow_output
from asabench.core.errors import UserError
from asabench.core.links import link

app = typer.Typer(
    name="asabench",
    help="How well does a language model's refusal survive a nudge of its hidden states?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(leaderboard.app, name="leaderboard")
COMMANDS: tuple[tuple[Callable[..., None], *tuple[str, ...]], ...] = (
    (evaluation.evaluate, "docs/protocol.md", "configs/evaluate.yaml"),
    (evaluation.merge, "docs/scale.md"),
    (evaluation.report, "docs/protocol.md"),
    (evaluation.compare, "docs/protocol.md"),
    (probe.probe, "docs/diagnostics.md"),
    (lvs.lvs, "docs/diagnostics.md"),
    (models.models, "docs/protocol.md"),
    (card.card, "docs/card.md"),
    (defences.defend, "docs/defences.md"),
    (defences.interpolate, "docs/defences.md"),
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
)
"""Each with the pages that its help ends with."""
# What follows `--` goes on to vLLM
PASSED_ON = {"judge-server": {"allow_extra_args": True, "ignore_unknown_options": False}}

for command, *pages in COMMANDS:
    name = command.__name__.replace("_", "-")
    # \b: an address is not broken where a line ends
    more = "\b\n" + "\n".join(f"More: {link(page)}" for page in pages)
    app.command(name, cls=ListsPlugins, epilog=more, context_settings=PASSED_ON.get(name))(command)


def main() -> None:
    """The console script: turns a `UserError` into one line and exit code 2."""
    any_characters()
    if sys.argv[1:3] == ["judge", "read"]:  # a run folder of that name is ./read
        sys.argv[1:3] = ["judge-read"]
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
