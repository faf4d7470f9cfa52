"""The board is served to this machine alone: no other host, method, folder or path."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboard.serve import HOST, make_server


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    site = tmp_path / "site"
    (site / "entries").mkdir(parents=True)
    (site / "index.html").write_text("the board")
    (site / "entries" / "one.html").write_text("one")
    (tmp_path / "secret").write_text("secret")
    (site / "linked").symlink_to(tmp_path / "secret")
    with make_server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port: int, line: str, host: str | None = "") -> tuple[int, bytes]:
    """The status and body of a request whose first line is written as it is."""
    head = "" if host is None else f"Host: {host or f'{HOST}:{port}'}\r\n"
    with socket.create_connection((HOST, port), timeout=10) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode("latin-1"))
        response = http.client.HTTPResponse(connection, method=line.split(" ")[0])
        response.begin()
        return response.status, response.read()


def test_pages_are_served(port: int) -> None:
    assert ask(port, "GET /") == (200, b"the board")
    assert ask(port, "GET /entries/one.html?x=1#y") == (200, b"one")
    assert ask(port, "GET /index.html", f"localhost:{port}") == (200, b"the board")
    assert ask(port, "HEAD /index.html") == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_no_other_method(method: str, port: int) -> None:
    assert ask(port, f"{method} /index.html")[0] == 501


@pytest.mark.parametrize(
    "host", [None, "evil.example", "evil.example:80", "127.0.0.1", "localhost:1", "127.0.0.1.evil"]
)
def test_no_other_host(host: str | None, port: int) -> None:
    """A page whose name was made to resolve to this machine."""
    status, body = ask(port, "GET /index.html", host)
    assert status == 421
    assert b"the board" not in body


@pytest.mark.parametrize(
    "path",
    ["/../secret", "/%2e%2e/secret", "/..%2fsecret", "/%00", "/a%00b", "/%ff", "/a%0d%0ab", "/..%5csecret", "secret"],
)
def test_bad_paths(path: str, port: int) -> None:
    status, body = ask(port, f"GET {path}")
    assert status == 400
    assert b"Traceback" not in body


@pytest.mark.parametrize("path", ["/entries/", "/nothing", "/linked", "/" + "x" * 3000])
def test_no_listing_and_nothing_from_outside(path: str, port: int) -> None:
    status, body = ask(port, f"GET {path}")
    assert status == 404
    assert b"one.html" not in body
    assert body != b"secret"
