"""Reads a verdicts.parquet in a process of its own: whatever a file does to its reader, here it is one finding.

    python -P -m asabench.submission.guarded     the reader: answers requests on its standard input, one after another

One reader serves a whole process, as starting it costs as much as reading many tables; when a file ends it, or takes
too long, the next file gets another. A request is a length, a letter for what the file is, and its bytes. An answer is
`0` and the table as an Arrow stream, or `1` and what is wrong as JSON, with its length before it.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Literal

from asabench.core.errors import NotAtHand
from asabench.submission.findings import Refused, shown

if TYPE_CHECKING:
    import pyarrow as pa

MOST_SECONDS = 60.0
"""A table of the largest size takes two."""
MOST_MEMORY = 3 * 2**30
"""Address space of the reader beyond what it has when it starts, in bytes."""
_LENGTH = struct.Struct("<Q")
_TABLE, _REFUSED = b"0", b"1"
_READY = b"ready"
Kind = Literal["verdicts", "other judges"]
_KINDS: dict[Kind, bytes] = {"verdicts": b"v", "other judges": b"o"}
_WHAT = "the table that `asabench submit` writes"


def read_table(content: bytes, kind: Kind = "verdicts") -> pa.Table:
    """The table of a file of that kind, checked by `asabench.submission.table_file`; raises `Refused`, also for a file
    that ends its reader, takes longer than a minute, or more memory than any table needs. `NotAtHand` where no reader
    can be started."""
    import pyarrow as pa

    answer = _reader.ask(_KINDS[kind] + content)
    if answer[:1] == _TABLE:
        with pa.ipc.open_stream(pa.py_buffer(answer[1:])) as stream:
            return stream.read_all()
    raise Refused(*json.loads(answer[1:]))


class _Reader:
    """The reader's process, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def ask(self, content: bytes) -> bytes:
        with self._lock:
            process = self._running()
            try:
                answer = _exchange(process, content)
            except TimeoutError:
                self.stop()
                raise Refused("the file", f"not read within {MOST_SECONDS:g} seconds", _WHAT) from None
            except (OSError, EOFError):
                self.stop()
                raise Refused("the file", "no Parquet file that can be read: it ended its reader", _WHAT) from None
            except BaseException:
                # Ctrl-C: half of an answer would be read as the next one
                self.stop()
                raise
            return answer

    def _running(self) -> subprocess.Popen[bytes]:
        # A fork has its parent's pipes, but not its place in their queue
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        try:
            self._process = subprocess.Popen(
                # -P: a pandas.py in the folder that is checked is no module
                [sys.executable, "-P", "-m", "asabench.submission.guarded"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise NotAtHand(
                f"no process to read a table in can be started ({error.strerror}); free some memory"
            ) from None
        self._owner = os.getpid()
        try:
            assert self._process.stdout is not None
            _received(self._process.stdout, len(_READY), time.monotonic() + MOST_SECONDS)
        except (OSError, EOFError):  # a TimeoutError is an OSError
            self.stop()
            raise NotAtHand(
                "the process that reads tables does not start; `python -m asabench.submission.guarded` says why"
            ) from None
        return self._process

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


_reader = _Reader()
atexit.register(_reader.stop)


def _exchange(process: subprocess.Popen[bytes], content: bytes) -> bytes:
    """Sends a file and waits for the answer. `TimeoutError`, or `EOFError` or `OSError` where the reader is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    until = time.monotonic() + MOST_SECONDS
    # The reader takes all of it before it looks at any, so this does not wait for its answer
    process.stdin.write(_LENGTH.pack(len(content)) + content)
    process.stdin.flush()
    (length,) = _LENGTH.unpack(_received(process.stdout, _LENGTH.size, until))
    return _received(process.stdout, length, until)


def _received(pipe: IO[bytes], length: int, until: float) -> bytes:
    received = bytearray()
    while len(received) < length:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(pipe.fileno(), length - len(received))
        if not part:
            raise EOFError
        received += part
    return bytes(received)


# The reader's side


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    from asabench.submission.table_file import checked, checked_others

    checks = {_KINDS["verdicts"]: checked, _KINDS["other judges"]: checked_others}
    answers.write(_READY)
    answers.flush()
    _bound_memory()
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        request = requests.read(_LENGTH.unpack(head)[0])
        answer = _answer(checks[request[:1]], request[1:])
        answers.write(_LENGTH.pack(len(answer)) + answer)
        answers.flush()


def _answer(checked: Any, content: bytes) -> bytes:
    import pyarrow as pa

    try:
        table = checked(content)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return _TABLE + bytes(sink.getvalue())
    except Refused as refused:
        found = refused.finding
        return _REFUSED + json.dumps([found.field, found.found, found.allowed, found.fix]).encode()
    except Exception as error:  # whatever a reader of strangers' files raises, the file is what is wrong
        reason = " ".join(shown(str(error))[1:-1].split()) or type(error).__name__
        return _REFUSED + json.dumps(["the file", f"not a readable Parquet file ({reason})", _WHAT]).encode()


def _bound_memory() -> None:
    """Of this process, where the system can: Linux counts address space."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints is no answer
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)
