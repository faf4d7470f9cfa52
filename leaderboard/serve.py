"""The built board over HTTP, for a look at it on this machine only."""

from __future__ import annotations

import errno
import os
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from asabench.core.errors import UserError

HOST = "127.0.0.1"


class _Pages(SimpleHTTPRequestHandler):
    """The files of a folder to whoever asks this machine for them by its own name; nothing else.

    Host is looked at because a page of somebody's can have its name resolve to this machine, and then read what is
    served here. Other methods than GET and HEAD have no handler, and so end in 501.
    """

    timeout = 30
    server_version, sys_version = "asabench", ""

    def do_GET(self) -> None:
        if self._is_fine():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._is_fine():
            super().do_HEAD()

    def _is_fine(self) -> bool:
        port = self.server.server_address[1]  # type: ignore[index]
        if self.headers.get("Host") not in {f"{name}:{port}" for name in (HOST, "localhost")}:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "Ask for it as the address that was printed")
            return False
        path = unquote(self.path.partition("?")[0].partition("#")[0], errors="replace")
        parts = path.split("/")
        if not path.startswith("/") or not path.isprintable() or "\\" in path or "\ufffd" in path or ".." in parts:
            self.send_error(HTTPStatus.BAD_REQUEST, "No such path can be")
            return False
        try:
            known = Path(self.translate_path(self.path))
            if known.resolve().is_relative_to(Path(self.directory).resolve()) or not known.exists():
                return True
        except (OSError, ValueError):
            self.send_error(HTTPStatus.BAD_REQUEST, "No such path can be")
            return False
        self.send_error(HTTPStatus.NOT_FOUND, "No such page")
        return False

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """A folder without a page of its own is not listed."""
        self.send_error(HTTPStatus.NOT_FOUND, "No such page")

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: whoever looks at the page does not look at the terminal."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the files in `folder`, bound and not yet serving; port 0 takes a free one. `UserError` when the port
    is taken or not allowed."""
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Pages, directory=str(folder)))
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "is in use" if taken else f"cannot be opened ({error})"
        raise UserError(f"port {port} {reason}; choose another with --port, 0 for any that is free") from None


def serve(folder: Path, port: int) -> None:
    """Serves until Ctrl-C; prints the address when a browser can open it."""
    with make_server(folder, port) as server:
        print(f"serving: http://{HOST}:{server.server_address[1]}/ (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
