"""Running somebody else's parser on a stranger's file: in a child process first, which may take so much and no more.

A regular expression, a template or a parser in C cannot be stopped from within the process that it runs in, and one
that crashes takes that process with it. The child is a fork of this process, so nothing is imported or read again;
where forking is unsafe (anything but Linux) it is a new process, and what it is given is pickled.
"""

from __future__ import annotations

import faulthandler
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from asabench.core.errors import UserError, with_type


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a child may take. cpu_seconds: of computing. seconds: on the clock, for one that sleeps or waits. memory:
    bytes beyond what this process holds already (enforced on Linux). output: bytes of what it has to say."""

    cpu_seconds: int = 30
    seconds: float = 50.0
    memory: int = 4 * 2**30
    output: int = 2**20


LIMITS = Limits()


def within_limits(function: Callable[..., Iterator[str]], *args: Any, name: str, more_seconds: int = 0) -> None:
    """Runs a generator to its end in a child process.

    function: yields what it reads next ("the tokenizer"), for the line of an error; what it raises as `UserError` is
    raised here too. name: whose files they are. more_seconds: of computing, and twice as many on the clock, beyond
    `LIMITS`. Raises `UserError` where a limit is met, and where the child dies or raises anything else.
    """
    limits = replace(LIMITS, cpu_seconds=LIMITS.cpu_seconds + more_seconds, seconds=LIMITS.seconds + 2 * more_seconds)
    context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, function, args, limits), daemon=True)  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads: the child takes no lock of theirs
        child.start()
    sender.close()
    try:
        _follow(child, receiver, name, limits)
    finally:
        child.kill()
        child.join()
        child.close()
        receiver.close()


def _follow(child: Any, receiver: Connection, name: str, limits: Limits) -> None:
    """Reads what a child says until it has ended; `UserError` unless it ended well."""
    deadline, reading = time.monotonic() + limits.seconds, "a file"
    while True:
        try:
            if not receiver.poll(max(deadline - time.monotonic(), 0)):
                raise UserError(
                    f"{reading} of {name} could not be read within {limits.seconds:g} seconds; leave the model out, or "
                    "repair that"
                )
            kind, said = json.loads(receiver.recv_bytes(limits.output))
        except (EOFError, OSError, ValueError):
            raise UserError(_why_it_ended(child, reading, name, limits)) from None
        if kind == "reads":
            reading = said
        elif kind == "refused":
            raise UserError(said)
        elif kind == "memory":
            raise UserError(_too_much_memory(reading, name, limits))
        elif kind == "fault":
            raise UserError(f"{reading} of {name} cannot be read ({said}); save it again, whole")
        else:
            return


def _why_it_ended(child: Any, reading: str, name: str, limits: Limits) -> str:
    child.join(timeout=5)
    code = child.exitcode
    if code == -signal.SIGXCPU:
        return (
            f"{reading} of {name} takes more than {limits.cpu_seconds} seconds of computing; leave the model out, or "
            "repair that"
        )
    try:
        how = signal.Signals(-(code or 0)).name
    except ValueError:
        how = f"exit code {code}"
    return f"reading {reading} of {name} ended the process that tried it ({how}); leave the model out, or repair that"


def _too_much_memory(reading: str, name: str, limits: Limits) -> str:
    return (
        f"{reading} of {name} takes more than {limits.memory / 2**30:.2g} GiB of memory to read; leave the model out, "
        "or repair that"
    )


def is_memory_fault(error: BaseException) -> bool:
    """Whether Python or torch could not have the memory that it asked for."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _child(sender: Connection, function: Callable[..., Iterator[str]], args: tuple[Any, ...], limits: Limits) -> None:
    _be_quiet()
    _limit(limits)
    try:
        for reading in function(*args):
            _say(sender, "reads", reading)
        _say(sender, "done", "")
    except UserError as error:
        _say(sender, "refused", str(error))
    except BaseException as error:  # a panic in Rust is no `Exception`
        _say(sender, "memory" if is_memory_fault(error) else "fault", with_type(error))
    # Nothing of the parent's is to be cleaned up here
    os._exit(0)


def _say(sender: Connection, kind: str, text: str) -> None:
    sender.send_bytes(json.dumps([kind, text]).encode())


def _be_quiet() -> None:
    """What parsers print is nobody's; a crash is told by the parent."""
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _limit(limits: Limits) -> None:
    import resource

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the parent's threads are not here
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    spent = math.ceil(time.process_time())  # by a new process, on its imports
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CPU: spent + limits.cpu_seconds,
    }
    if sys.platform.startswith("linux"):
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        wanted[resource.RLIMIT_AS] = held + limits.memory
    for kind, most in wanted.items():
        soft, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (min([most, *(each for each in (soft, hard) if each >= 0)]), hard))
