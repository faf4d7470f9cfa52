"""A server's address, and whether it answers there."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from asabench.core.errors import UserError
from harness.judge_server.log import end_of, last_line, what_went_wrong
from harness.judge_server.terminal import POLL_SECONDS, Waiting


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


def url_of(host: str, port: int) -> str:
    """The OpenAI-compatible address of a server that listens on that host and port."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/v1"
    if address.is_unspecified:  # it listens on all addresses; this one is always among them
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"http://[{address}]:{port}/v1" if address.version == 6 else f"http://{address}:{port}/v1"


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, name: str, log_file: Path, timeout: float) -> None:
    """Returns once the server behind `url` serves the model of that name; `UserError` when it ends before, is not ready
    after `timeout` seconds, or serves another model."""
    deadline = time.monotonic() + timeout
    with Waiting(f"starting {name}") as waiting:
        while not _healthy(url):
            if process.poll() is not None:
                raise UserError(
                    f"the server for {name} did not start: {what_went_wrong(end_of(log_file))}; log: {log_file}"
                )
            if time.monotonic() > deadline:
                raise UserError(
                    f"the server for {name} is not ready after {timeout:g} s; its log says where it is: {log_file}"
                )
            waiting.show(last_line(end_of(log_file, 2_000)))
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
