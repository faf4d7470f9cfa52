"""Programs that tests start as forks of one that has imported already what takes seconds to import.

    done = with_tables().run(["-c", "import pandas; print(pandas.__version__)"], env=environment)
    process = with_models().start(["-m", "asabench", "evaluate", ...])

A fork is a process like any other: it has an id, an environment, a working folder, signals, memory and an exit code of
its own, and dies of `kill -9`. What it cannot show is what Python and its packages read from the environment when they
start (an encoding, `HF_ENDPOINT`); a test of that starts `sys.executable`, or forks from where the package is not
imported yet (`without`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]

TABLES = (
    "asabench.cli.app",
    "asabench.cli.dataset",
    "asabench.dataset.card",
    "asabench.dataset.load",
    "asabench.dataset.push",
    "asabench.dataset.verify",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "httpx",
    "httpx2",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
)
MODELS = (
    *TABLES,
    "asabench.cli.evaluation",
    "harness.build_dataset",
    "harness.evaluation.run",
    "harness.judges.rules",
    "leaderboard.figures.lasr",
    "scipy.stats",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)


@cache
def with_tables() -> Forks:
    """Programs that read and write tables. The hub's client is not imported yet: each has a hub of its own."""
    return Forks(TABLES, without=("huggingface_hub", "torch"))


@cache
def with_models() -> Forks:
    """Programs that run a model, without a hub."""
    return Forks(MODELS, HF_HUB_OFFLINE="1")


class Forks:
    """A program that has imported `modules`, and not `without`, and waits for words to run in a fork of itself."""

    def __init__(self, modules: Sequence[str], *, without: Sequence[str] = (), **environment: str) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-m", "tests.forks", str(theirs.fileno()), ",".join(modules), ",".join(without)]
        self._server = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **environment},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def start(self, words: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Fork:
        """Starts what `python WORDS` would run: `-m MODULE ...` or `-c CODE ...`."""
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 (the fork's, until it is read)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = {
            "words": [str(word) for word in words],
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
        }
        socket.send_fds(self._ours, [json.dumps(asked).encode()], [out.fileno(), err.fileno(), theirs.fileno()])
        theirs.close()
        if not (pid := ours.recv(64)):
            raise RuntimeError("the program that forks has ended; its reason stands above")
        return Fork(int(pid), ours, out, err)

    def run(
        self,
        words: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with captured output."""
        process = self.start(words, env=env, cwd=cwd)
        out, err = process.communicate(timeout)
        assert process.returncode is not None
        return subprocess.CompletedProcess(list(map(str, words)), process.returncode, out, err)


class Fork:
    """What `subprocess.Popen` is to a process, as far as tests need it."""

    def __init__(self, pid: int, ended: socket.socket, out: IO[bytes], err: IO[bytes]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended, self._out, self._err = ended, out, err

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        if self.returncode is None:
            self._ended.settimeout(timeout)
            try:
                self.returncode = int(self._ended.recv(64))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout) from None
            self._ended.close()
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it has written, once it has ended."""
        self.wait(timeout)
        return _text(self._out), _text(self._err)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


# In the program that forks


def _serve(control: socket.socket) -> None:
    """Forks for each request until the tests have ended; returns in nobody but them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for the forks are not waited for
    gc.freeze()
    while True:
        message, descriptors, *_ = socket.recv_fds(control, 2**20, 3)
        if not message:
            sys.exit()
        if os.fork() == 0:
            control.close()
            _fork(json.loads(message), *descriptors)
        for each in descriptors:
            os.close(each)


def _fork(asked: dict[str, Any], out: int, err: int, told: int) -> None:
    """Forks once more: the one process runs, the other waits for it and tells how it ended, as `Popen` counts."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for each in (out, err):
            os.close(each)
        teller = socket.socket(fileno=told)
        teller.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # nobody asks any more
            teller.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.close(told)
    for source, target in ((out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    _run(asked["words"])
    sys.exit()


def _run(words: list[str]) -> None:
    how, what, *arguments = words
    sys.argv = [how, *arguments]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)


def _main() -> None:
    control, modules, without = sys.argv[1:]
    for name in modules.split(","):
        if importlib.util.find_spec(name.partition(".")[0]):  # the hub's client has gone from one package to another
            importlib.import_module(name)
    if there := {name for name in without.split(",") if name in sys.modules}:
        sys.exit(f"tests.forks: {', '.join(sorted(there))} is imported with {modules}")
    _serve(socket.socket(fileno=int(control)))


if __name__ == "__main__":
    _main()
