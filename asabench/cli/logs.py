"""What a command that runs for long says while it runs: the options `-v`, `-q` and `--log-file`, and what they do."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional, get_type_hints

import typer

from asabench.cli.options import option
from asabench.core.errors import UserError

Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Name each phase of the run; twice: also what libraries log.",
    ),
]
Quiet = Annotated[bool, option("Say nothing but results and errors.", "--quiet", "-q")]
LogFile = Annotated[Optional[Path], option("A file that phases are logged to, at the end of what it holds.")]

OPTIONS = {"verbose": (Verbose, 0), "quiet": (Quiet, False), "log_file": (LogFile, None)}
"""By parameter, its type and its default."""

LIBRARIES = ("transformers", "ray", "vllm", "accelerate")
FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def logged(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options beside its own; while it runs, the log goes where they say."""
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)

    def run(**given: Any) -> None:
        chosen = {name: given.pop(name, default) for name, (_, default) in OPTIONS.items()}
        with logging_to(**chosen):
            command(**given)

    own = [each.replace(annotation=hints[name], kind=each.KEYWORD_ONLY) for name, each in signature.parameters.items()]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in OPTIONS.items()
    ]
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = hints | {name: kind for name, (kind, _) in OPTIONS.items()}
    return run


@contextmanager
def logging_to(*, verbose: int = 0, quiet: bool = False, log_file: Path | None = None) -> Iterator[None]:
    """While open, the log is shown on standard error and written to a file.

    Shown are warnings and, once a minute, which phase a run is in; with `verbose` each phase; nothing of it with
    `quiet`. `UserError` for a file that cannot be written, and for `verbose` and `quiet` together.
    """
    from harness import progress

    if quiet and verbose:
        raise UserError("-q and -v are both there; give one of them")
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.ERROR if quiet else logging.INFO if verbose else progress.MINUTE)
    shown.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    shown.addFilter(lambda record: not getattr(record, "shown", False))
    handlers: list[logging.Handler] = [shown]
    if log_file is not None:
        try:
            written = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--log-file {log_file} cannot be written ({error.strerror}); give another file") from None
        written.setFormatter(logging.Formatter(FORMAT))
        handlers.append(written)
    own = logging.getLogger("asabench")
    loggers = [own, *map(logging.getLogger, LIBRARIES if verbose > 1 else ())]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    hushed = progress.hushed
    progress.hushed = quiet
    if verbose > 1:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        progress.hushed = hushed
        for logger, level, propagate in before:
            logger.setLevel(level)
            logger.propagate = propagate
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()
