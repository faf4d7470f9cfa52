"""Files and folders that are there whole or not at all, and records that stand alone in a file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from asabench.core.errors import UserError
from asabench.core.schema import first_problem

UNFINISHED = ".unfinished-"
"""What the name of an unfinished file or folder begins with: the dot hides it from whoever reads the folder as data."""

ELSEWHERE = "free some space, or choose another place to write to"
OTHER_OUT = "free some space, or give an --out folder that can be written"

AnyRecord = TypeVar("AnyRecord", bound=BaseModel)


def write_whole(path: Path, content: bytes, *, durable: bool = True, fix: str = ELSEWHERE) -> None:
    """Writes a file so that it is there whole or not at all. durable: even after a power cut, which costs a wait for
    the disk. `UserError`, which ends with `fix`, where that is not possible."""
    with disk_errors(path, fix), whole_file(path, durable=durable) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when all went well; else nothing is left of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=UNFINISHED, delete=False) as file:
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
            if durable:
                _sync_folder(path.parent)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False, fix: str = ELSEWHERE) -> Iterator[Path]:
    """A folder to fill that bears its name already and takes its place when all went well; else nothing is left of it.

    replace: what stands at `path` makes way, and comes back if the new folder cannot take its place. Without it a
    folder that came to stand there meanwhile stays: whoever made it was quicker, and it is as good. `UserError`, which
    ends with `fix`, where no folder can be made there.
    """
    path = path.absolute()
    with disk_errors(path, fix):
        path.parent.mkdir(parents=True, exist_ok=True)
    with hidden_folder(path.parent, fix) as hidden:
        made = hidden / path.name
        made.mkdir()
        yield made
        with disk_errors(path, fix):
            _put_in_place(made, path, replace)


def _put_in_place(made: Path, path: Path, replace: bool) -> None:
    old = made.with_name(f"{made.name}-replaced")
    if replace and path.exists():
        path.rename(old)
    try:
        made.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        elif not replace and path.is_dir():
            return
        raise


@contextmanager
def hidden_folder(parent: Path, fix: str = ELSEWHERE) -> Iterator[Path]:
    """A folder in `parent` to write into, for this user alone; it is gone afterwards."""
    with disk_errors(parent, fix):
        hidden = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def disk_errors(path: Path, fix: str = ELSEWHERE) -> Iterator[None]:
    """What the system says of a place that cannot be written, as a `UserError` that ends with `fix`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); {fix}") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text; `ValueError` for what is none, also where it is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_record(path: Path, record: BaseModel, *, indent: int = 2, fix: str = ELSEWHERE) -> None:
    """Writes a record as JSON, whole or not at all; `UserError` where that is not possible."""
    write_whole(path, (record.model_dump_json(indent=indent) + "\n").encode(), fix=fix)


def read_record(kind: type[AnyRecord], path: Path, what: str, how: str) -> AnyRecord:
    """The record in a file. what: "a card", for the user; how: what writes one. Raises `UserError` for a file that is
    missing or is not one."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} cannot be read at {path} ({error.strerror}); {how}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not {what}: it is not UTF-8; {how}") from None
    except ValidationError as error:
        raise UserError(f"{path} is not {what}: {first_problem(error)}; {how}") from None
