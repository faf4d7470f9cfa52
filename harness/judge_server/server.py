"""Starts vLLM's OpenAI-compatible server in a Python environment of its own, and stops it again.

vLLM pins its own torch and transformers, so it never shares ASABench's environment: it is another process, run by
another Python. Nothing in this folder imports torch or vLLM.

    make_environment(kind="cpu")                  once: a venv with vLLM in it (`harness.judge_server.environment`)
    with serve("Qwen/QwQ-32B") as server:         a server for the time of the block
        judge = VllmJudge(server.model, server.url)
    run_server("Qwen/QwQ-32B")                    a server until Ctrl-C
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from asabench.core.defaults import PORT
from asabench.core.errors import UserError
from harness.judge_server.command import server_arguments
from harness.judge_server.environment import Environment, Kind, find_environment, make_environment, require_linux
from harness.judge_server.health import free_port, url_of, wait_until_healthy
from harness.judge_server.log import end_of, new_log, what_went_wrong
from harness.judge_server.options import ServerOptions
from harness.judge_server.process import members, server_process, signals_end_the_program
from harness.judge_server.terminal import POLL_SECONDS, say
from harness.model.files import locate


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


@contextmanager
def serve(model: str, options: ServerOptions | None = None) -> Iterator[JudgeServer]:
    """A healthy server for the time of the block; its whole process group is gone afterwards, also after Ctrl-C,
    SIGTERM and SIGHUP (which end the program, as without it, once the server is stopped).

    model: a short name, a local folder, or a hub id (`harness.model.files.locate`). `UserError` when the server does
    not start.
    """
    require_linux()
    options = options or ServerOptions()
    environment = find_environment(options.environment)
    options = replace(options, port=free_port(options.host, options.port))
    files = locate(model)
    if files.adapters:
        raise UserError(
            f"the judge {model} is an adapter, and the server would load its base alone; give the merged model"
        )
    arguments = server_arguments(environment, files, options)
    log_file = options.log_file or new_log()
    started = time.monotonic()
    with signals_end_the_program(), server_process(environment, arguments, log_file) as process:
        say(f"starting {files.name} with vLLM {environment.version} on the {environment.kind.upper()}; log: {log_file}")
        url = url_of(options.host, options.port)
        wait_until_healthy(process, url, files.name, log_file, options.timeout)
        yield JudgeServer(
            model=files.name,
            url=url,
            pid=process.pid,
            log_file=log_file,
            started_in=time.monotonic() - started,
            environment=environment,
        )


def run_server(
    model: str,
    options: ServerOptions | None = None,
    *,
    create_environment: bool = False,
    kind: Kind | None = None,
) -> None:
    """Serves until Ctrl-C, and prints one line on standard output when judging can begin. `UserError` when the server
    does not start, and when it ends by itself. create_environment: make the environment first if it is not there, of
    that `kind`."""
    options = options or ServerOptions(port=PORT)
    if create_environment:
        make_environment(options.environment, kind)
    with serve(model, options) as server:
        try:
            print(f"judge ready: --judge {server.judge}", flush=True)
            say(f"started in {server.started_in:.0f} s; Ctrl-C stops it")
            while server.pid in members(server.pid):  # its leader; workers may outlive it
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            say("stopping the server")
            return
        raise UserError(
            f"the server has ended by itself: {what_went_wrong(end_of(server.log_file))}; log: {server.log_file}"
        )
