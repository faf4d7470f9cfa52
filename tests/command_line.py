"""The command line as a user meets it: in this process, or in one of its own where that is what a test is about."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asabench.cli.app import main

ASABENCH = [sys.executable, "-m", "asabench"]
RULES = ("--judge", "rules", "--uncertified")


def by_rules(arguments: tuple[object, ...]) -> list[str]:
    """An evaluation is judged by rules unless it names a judge: the default one takes seconds to load its model."""
    own = arguments[:1] != ("evaluate",) or "--judge" in arguments
    return [*map(str, arguments), *(() if own else RULES)]


def asabench(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `asabench ...` prints and exits with, without a hub, run in this process: a new one takes seconds to import
    torch."""
    words = by_rules(arguments)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exit_,
    ):
        patch.setattr(sys, "argv", ["asabench", *words])
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setenv("COLUMNS", "80")  # what a process has whose output is no terminal
        if cwd is not None:
            patch.chdir(cwd)
        main()
    code = exit_.value.code or 0
    assert isinstance(code, int)
    said, complained = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, code, said, complained)


def asabench_process(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, with that much more in its environment."""
    return subprocess.run(
        [*ASABENCH, *by_rules(arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """What a command says that exits with 2."""
    done = asabench(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def refused_in_one_line(*arguments: object, cwd: Path | None = None) -> str:
    """The one line that a `UserError` becomes."""
    message = refused(*arguments, cwd=cwd)
    assert message.startswith("asabench: "), message
    assert message.count("\n") == 1, message
    return message
