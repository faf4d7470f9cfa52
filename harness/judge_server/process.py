"""A server's process group: started so that it never outlives its program, and ended whole."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from asabench.core.errors import UserError
from harness.judge_server.command import surroundings
from harness.judge_server.environment import Environment

GRACE_SECONDS = 20.0
"""What a server has to end by itself before it is killed; vLLM needs one or two seconds."""
KILL_SECONDS = 5.0

# Linux sends the server SIGTERM when this process goes without a word (SIGKILL, out of memory). A script of its own, as
# Popen's preexec_fn may deadlock in a process with threads.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this server has gone")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@contextmanager
def server_process(
    environment: Environment, arguments: Sequence[str], log_file: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The environment's Python with these arguments, as the leader of a process group that is gone after the block."""
    try:
        log = log_file.open("wb")
    except OSError as error:
        raise UserError(f"cannot write the log {log_file} ({error.strerror}); name another file") from None
    python = str(environment.python)
    with log:
        log.write(f"{shlex.join([python, *arguments])}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [python, "-c", _LAUNCH, str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=surroundings(environment),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group that a process leads: SIGTERM, and SIGKILL after GRACE_SECONDS, or at once when a signal
    interrupts the wait."""
    try:
        _signal_group(process.pid, signal.SIGTERM)
        _wait_for_end(process, GRACE_SECONDS)
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        _wait_for_end(process, KILL_SECONDS)


def _signal_group(group: int, number: signal.Signals) -> None:
    # Only while it has members: the number of one that has ended may be another's
    if members(group):
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def _wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (process.poll() is None or members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)


@contextmanager
def signals_end_the_program() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the block as an exception, so that what is open gets closed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's business
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def members(group: int) -> list[int]:
    """Ids of the processes of a process group that still run (zombies have ended)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; after it: state, parent, group
            state, _, of_group = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
        except OSError:  # it has ended since
            continue
        if int(of_group) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found
