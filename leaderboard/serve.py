"""The built board over HTTP, for a look at it on this machine only."""

from __future__ import annotations

import errno
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from asabench.core.errors import UserError

HOST = "127.0.0.1"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: whoever looks at the page does not look at the terminal."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the files in `folder`, bound and not yet serving; port 0 takes a free one. `UserError` when the port
    is taken or not allowed."""
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Quiet, directory=str(folder)))
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
