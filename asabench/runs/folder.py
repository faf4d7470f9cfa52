"""A run on disk: a manifest and Parquet parts, each written under a temporary name and renamed when it is whole.

    RUN/manifest.json            what was asked for, with which versions, on which machine
    RUN/prompts.parquet          the prompts
    RUN/responses/part-*.parquet one line a cell
    RUN/verdicts/part-*.parquet  one line a cell and judge
    RUN/row.json                 the leaderboard row, when the run is finished: of the judge who judged it last
    RUN/rows/JUDGE.json          the row of every judge
    RUN/lock                     held by the process that writes

A process may die at any instant: what was renamed is there, the rest is not, and the next one goes on from it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import ValidationError

from asabench.core.errors import UserError
from asabench.core.records import (
    RESPONSE_SCHEMA,
    VERDICT_SCHEMA,
    Response,
    Verdict,
    response_columns,
    sha256_hex,
    verdict_columns,
)
from asabench.core.row import Row, read_row
from asabench.runs.settings import RunSettings
from asabench.runs.tables import next_part, read_parts, write_part

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """An open run folder. Make one with `open_run`, which holds the lock, or `read_run`, which only reads."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def id(self) -> str:
        return str(self.manifest["run_id"])

    @property
    def settings(self) -> RunSettings:
        """What decides its answers; `UserError` where the manifest holds other fields than this version knows."""
        try:
            return RunSettings.model_validate_json(json.dumps(self.manifest["settings"]))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{self.path}/manifest.json: settings.{where}: {first['msg']}; evaluate again with this version"
            ) from None

    @property
    def row(self) -> Row:
        """The row; `UserError` if the run is not finished."""
        return read_row(self.path / "row.json")

    def responses(self) -> pd.DataFrame:
        """One line a cell; see `asabench.core.records.RESPONSE_SCHEMA`."""
        return read_parts(self.path / "responses", RESPONSE_SCHEMA, ["cell_id"])

    def verdicts(self) -> pd.DataFrame:
        """One line a cell and judge; see `asabench.core.records.VERDICT_SCHEMA`."""
        return read_parts(self.path / "verdicts", VERDICT_SCHEMA, ["cell_id", "judge"])

    def judged(self, judge: str) -> pd.DataFrame:
        """The responses with the columns `label` and `reason` of one judge; null where it has not judged."""
        verdicts = self.verdicts()
        own = verdicts.loc[verdicts["judge"] == judge, ["cell_id", "label", "reason"]]
        return self.responses().merge(own, on="cell_id", how="left", validate="one_to_one")

    def append_responses(self, responses: Sequence[Response]) -> None:
        """One more part; on disk, whole, when this returns."""
        self._append("responses", RESPONSE_SCHEMA, [response_columns(response) for response in responses])

    def append_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """One more part; on disk, whole, when this returns."""
        self._append("verdicts", VERDICT_SCHEMA, [verdict_columns(verdict) for verdict in verdicts])

    def write_row(self, row: Row) -> None:
        """As the row of its judge, and as the run's."""
        content = (row.model_dump_json(indent=2) + "\n").encode()
        (self.path / "rows").mkdir(exist_ok=True)
        write_whole(self.path / "rows" / f"{_file_name(row.judge.id)}.json", content)
        write_whole(self.path / "row.json", content)

    def update_manifest(self, **changes: Any) -> None:
        self.manifest = {**self.manifest, **changes}
        _write_json(self.path / "manifest.json", self.manifest)

    def _append(self, table: str, columns: Mapping[str, str], rows: Sequence[dict[str, object]]) -> None:
        if not rows:
            return
        part = next_part(self.path / table)
        with _disk_errors(part), _whole_file(part) as file:
            write_part(file, rows, columns)


def read_run(path: Path) -> Run:
    """A run that exists, for reading; it may still be running."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise UserError(
            f"{path} is not a run folder: it holds no manifest.json; give the --out folder of an evaluation"
        )
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{manifest} cannot be read: {error}") from None
    if not isinstance(content, dict) or not {"run_id", "settings"} <= content.keys():
        raise UserError(f"{manifest} is not the manifest of a run; give the --out folder of an evaluation")
    return Run(path, content)


@contextmanager
def open_run(path: Path, settings: RunSettings, context: Mapping[str, Any], prompts: pd.DataFrame) -> Iterator[Run]:
    """Makes or resumes a run folder and holds its lock while open.

    settings: what must be equal to resume; context: what may differ (versions, machine, times). Raises `UserError` if
    the folder cannot be written, belongs to a run with other settings, or is in use by another process.
    """
    with _disk_errors(path):
        for folder in ("responses", "verdicts"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("a")
    with lock:
        _lock(lock, path)
        manifest = path / "manifest.json"
        if manifest.is_file():
            run = read_run(path)
            _refuse_other_settings(run, settings)
            run.update_manifest(resumed=[*run.manifest.get("resumed", []), dict(context)])
        else:
            if any((path / "responses").iterdir()):
                raise UserError(f"{path} holds responses without a manifest; choose another --out folder")
            run = Run(path, {})
            with _disk_errors(path), _whole_file(path / "prompts.parquet") as file:
                prompts.to_parquet(file)
            run.update_manifest(
                schema_version=1, run_id=settings.id, state="running", settings=settings.as_json(), **context
            )
        for leftover in path.rglob(".unfinished-*"):
            leftover.unlink()
        yield run


@contextmanager
def reopen_run(path: Path) -> Iterator[Run]:
    """A run that exists, for writing, whatever its settings are; holds its lock while open."""
    read_run(path)
    with _disk_errors(path):
        lock = (path / "lock").open("a")
    with lock:
        _lock(lock, path)
        yield read_run(path)


def _file_name(text: str) -> str:
    """The text as a file name; a digest keeps two that look alike apart."""
    plain = re.sub(r"[^\w.-]+", "-", text)
    return plain if plain == text and len(text) <= 100 else f"{plain[:100]}-{sha256_hex(text)[:8]}"


def _lock(lock: IO[str], path: Path) -> None:
    """The system drops the lock when the process ends, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise UserError(
                f"{path} is on a file system without locks ({error.strerror}); choose a local --out"
            ) from None
        raise UserError(f"another process is writing the run in {path}; wait for it, or choose another --out") from None


def _refuse_other_settings(run: Run, settings: RunSettings) -> None:
    old, new = run.manifest["settings"], settings.as_json()
    if different := sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        what = "; ".join(f"{key} was {_short(old.get(key))}, is now {_short(new.get(key))}" for key in different)
        raise UserError(
            f"{run.path} holds a run with other settings ({what}); use the same ones, or another --out folder"
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    with _disk_errors(path), _whole_file(path) as file:
        file.write(content)


def _write_json(path: Path, value: object) -> None:
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    # The leading dot hides the unfinished file from whoever reads the folder as a Parquet data set
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unfinished-", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
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
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); free some space or give an --out folder that can be "
            "written, then run the same command again: what is finished is kept"
        ) from None
