"""A run on disk: a manifest and Parquet parts, each written under a temporary name and renamed when it is whole.

    RUN/manifest.json            what was asked for, with which versions, on which machine
    RUN/prompts.parquet          the prompts
    RUN/responses/part-*.parquet one line a cell
    RUN/verdicts/part-*.parquet  one line a cell and judge
    RUN/replies/part-*.parquet   what judges that are language models wrote; it stays here
    RUN/row.json                 the leaderboard row, when the run is finished: of the judge who judged it last
    RUN/rows/JUDGE.json          the row of every judge
    RUN/digests/TABLE-part-*     SHA-256 of a part as it was written
    RUN/damaged/                 what was set aside when a run with damaged files went on (asabench.runs.mending)
    RUN/certificates/JUDGE.json  the certificate by which a judge's row claims what it does, where one was given
    RUN/lock                     held by the process that writes

A process may die at any instant: what was renamed is there, the rest is not, and the next one goes on from it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import ValidationError

from asabench.core.errors import UserError
from asabench.core.files import OTHER_OUT, UNFINISHED, disk_errors, parse_json, whole_file, write_record, write_whole
from asabench.core.records import (
    LABELS,
    REPLY_SCHEMA,
    RESPONSE_SCHEMA,
    VERDICT_SCHEMA,
    Response,
    Verdict,
    response_columns,
    sha256_hex,
    verdict_columns,
)
from asabench.core.row import Row, read_row
from asabench.core.schema import first_problem
from asabench.core.similarity import clusters
from asabench.core.text import changes
from asabench.judging.certificate import Certificate, read_certificate
from asabench.runs.mending import DAMAGED, mend
from asabench.runs.settings import RunSettings
from asabench.runs.tables import next_part, read_parts, write_part, write_part_of

if TYPE_CHECKING:
    import pandas as pd

_AGAIN = f"{OTHER_OUT}, then run the same command again: what is finished is kept"


class Run:
    """An open run folder. Make one with `open_run`, which holds the lock, or `read_run`, which only reads."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.mended: tuple[str, ...] = ()
        """What was damaged and is done again, a line each, of a run that was opened for writing."""

    @property
    def id(self) -> str:
        return str(self.manifest["run_id"])

    @property
    def settings(self) -> RunSettings:
        """What decides its answers; `UserError` where the manifest holds other fields than this version knows."""
        try:
            return RunSettings.model_validate_json(json.dumps(self.manifest["settings"]))
        except ValidationError as error:
            raise UserError(
                f"{self.path}/manifest.json: settings.{first_problem(error)}; evaluate again with this version"
            ) from None

    @property
    def row(self) -> Row:
        """The row; `UserError` if the run is not finished."""
        return read_row(self.path / "row.json")

    def row_of(self, judge: str) -> Row | None:
        """The row of one judge; None if there is none."""
        path = self.path / "rows" / f"{_file_name(judge)}.json"
        return read_row(path) if path.is_file() else None

    def responses(self) -> pd.DataFrame:
        """One line a cell; see `asabench.core.records.RESPONSE_SCHEMA`."""
        return read_parts(self.path / "responses", RESPONSE_SCHEMA, ["cell_id"])

    def verdicts(self) -> pd.DataFrame:
        """One line a cell and judge; see `asabench.core.records.VERDICT_SCHEMA`."""
        table = read_parts(self.path / "verdicts", VERDICT_SCHEMA, ["cell_id", "judge"])
        if other := sorted(set(table["label"].dropna()) - set(LABELS)):
            raise UserError(
                f"{self.path}/verdicts holds the label {other[0]!r}; allowed: {', '.join(LABELS)}, or none; it was not "
                "written by ASABench alone"
            )
        return table

    def replies(self) -> pd.DataFrame:
        """One line a cell and judge whose reply was kept; see `asabench.core.records.REPLY_SCHEMA`."""
        return read_parts(self.path / "replies", REPLY_SCHEMA, ["cell_id", "judge"])

    def judged(self, judge: str) -> pd.DataFrame:
        """The responses with the columns of one judge's verdicts (`label`, `reason`, the facts...), null where it has
        not judged, and `cluster`, of the prompt's near-duplicates among the run's goals."""
        verdicts, responses = self.verdicts(), self.responses()
        own = verdicts[verdicts["judge"] == judge].drop(columns="judge")
        if unknown := sorted(set(own["cell_id"]) - set(responses["cell_id"])):
            raise UserError(
                f"{self.path}/verdicts holds {len(unknown)} verdicts on answers that {self.path}/responses does not "
                f"hold ({unknown[0]}); evaluate again in another --out folder"
            )
        table = responses.merge(own, on="cell_id", how="left", validate="one_to_one")
        goals = [str(goal) for goal in table["goal"].unique()]
        return table.assign(cluster=table["goal"].map(dict(zip(goals, clusters(goals), strict=True))).astype("int64"))

    def append_responses(self, responses: Sequence[Response]) -> None:
        """One more part; on disk, whole, when this returns."""
        self._append("responses", RESPONSE_SCHEMA, [response_columns(response) for response in responses])

    def append_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """One more part; on disk, whole, when this returns."""
        # The replies first: without its verdict one is written again, and the same cell is judged again
        self._append("replies", REPLY_SCHEMA, self._new_replies(verdicts))
        self._append("verdicts", VERDICT_SCHEMA, [verdict_columns(verdict) for verdict in verdicts])

    def append_tables(self, *, responses: pd.DataFrame, verdicts: pd.DataFrame, replies: pd.DataFrame) -> None:
        """One more part of each table that has lines, with the columns that it has here."""
        tables = (
            ("responses", RESPONSE_SCHEMA, responses),
            ("verdicts", VERDICT_SCHEMA, verdicts),
            ("replies", REPLY_SCHEMA, replies),
        )
        for name, schema, table in tables:
            if not len(table):
                continue
            (self.path / name).mkdir(exist_ok=True)
            part = next_part(self.path / name)
            with disk_errors(part, _AGAIN):
                write_part_of(part, table, schema)

    def _new_replies(self, verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
        """Lines for the replies that are not kept yet."""
        said = [verdict for verdict in verdicts if verdict.reply is not None]
        if not said:
            return []
        kept = self.replies()
        held = set(zip(kept["cell_id"], kept["judge"], strict=True))
        return [
            {"cell_id": verdict.cell_id, "judge": verdict.judge, "reply": verdict.reply}
            for verdict in said
            if (verdict.cell_id, verdict.judge) not in held
        ]

    def write_row(self, row: Row) -> None:
        """As the row of its judge, and as the run's."""
        content = (row.model_dump_json(indent=2) + "\n").encode()
        (self.path / "rows").mkdir(exist_ok=True)
        write_whole(self.path / "rows" / f"{_file_name(row.judge.id)}.json", content, fix=_AGAIN)
        write_whole(self.path / "row.json", content, fix=_AGAIN)

    def keep_certificate(self, held: Certificate) -> None:
        """Beside the run, as that of its judge, with its digest and those of its pairs in the manifest."""
        path = _certificate_path(self.path, held.result.judge.id)
        with disk_errors(path, _AGAIN):
            path.parent.mkdir(exist_ok=True)
        write_record(path, held, fix=_AGAIN)
        kept = {held.result.judge.id: {"digest": held.digest, "created": held.created, "sets": held.sets}}
        self.update_manifest(certificates={**self.manifest.get("certificates", {}), **kept})

    def update_manifest(self, **changes: Any) -> None:
        self.manifest = {**self.manifest, **changes}
        _write_json(self.path / "manifest.json", self.manifest)

    def _append(self, table: str, columns: Mapping[str, str], rows: Sequence[dict[str, object]]) -> None:
        if not rows:
            return
        with disk_errors(self.path / table, _AGAIN):
            (self.path / table).mkdir(exist_ok=True)
        part = next_part(self.path / table)
        with disk_errors(part, _AGAIN):
            write_part(part, rows, columns)


def read_run(path: str | Path) -> Run:
    """A run that exists, for reading; it may still be running."""
    path = Path(path)
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise UserError(
            f"{path} is not a run folder: it holds no manifest.json; give the --out folder of an evaluation"
        )
    try:
        content = parse_json(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{manifest} cannot be read ({error}); evaluate again in another --out folder") from None
    if not isinstance(content, dict) or not {"run_id", "settings"} <= content.keys():
        raise UserError(f"{manifest} is not the manifest of a run; give the --out folder of an evaluation")
    return Run(path, content)


@contextmanager
def open_run(path: Path, settings: RunSettings, context: Mapping[str, Any], prompts: pd.DataFrame) -> Iterator[Run]:
    """Makes or resumes a run folder and holds its lock while open.

    settings: what must be equal to resume; context: what may differ (versions, machine, times). Raises `UserError` if
    the folder cannot be written, belongs to a run with other settings, or is in use by another process.
    """
    with disk_errors(path, _AGAIN):
        for folder in ("responses", "verdicts"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("a")
    with lock:
        _lock(lock, path)
        manifest = path / "manifest.json"
        if manifest.is_file():
            run = read_run(path)
            _refuse_other_settings(run, settings)
            _refuse_other_ids(path, prompts)
            run.update_manifest(resumed=[*run.manifest.get("resumed", []), dict(context)])
        else:
            if any((path / "responses").iterdir()):
                raise UserError(f"{path} holds responses without a manifest; choose another --out folder")
            run = Run(path, {})
            with disk_errors(path, _AGAIN), whole_file(path / "prompts.parquet") as file:
                prompts.to_parquet(file)
            run.update_manifest(
                schema_version=1, run_id=settings.id, state="running", settings=settings.as_json(), **context
            )
        for leftover in path.rglob(f"{UNFINISHED}*"):
            leftover.unlink()
        run.mended = tuple(mend(path))
        yield run


@contextmanager
def reopen_run(path: Path) -> Iterator[Run]:
    """A run that exists, for writing, whatever its settings are; holds its lock while open."""
    read_run(path)
    with disk_errors(path, _AGAIN):
        lock = (path / "lock").open("a")
    with lock:
        _lock(lock, path)
        run = read_run(path)
        run.mended = tuple(mend(path))
        if (path / DAMAGED / "row.json").is_file() and not (path / "row.json").is_file():
            why = f": {run.mended[0]}" if run.mended else ""
            raise UserError(f"{path} is not finished{why}; run the same evaluation again first")
        yield run


def certificate_in(path: Path, judge: str) -> Certificate | None:
    """The certificate of that judge that a run folder keeps; None where it keeps none, or is not there yet."""
    file = _certificate_path(path, judge)
    return read_certificate(file) if file.is_file() else None


def _certificate_path(path: Path, judge: str) -> Path:
    return path / "certificates" / f"{_file_name(judge)}.json"


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
    if what := changes(run.manifest["settings"], settings.as_json()):
        raise UserError(
            f"{run.path} holds a run with other settings ({what}); use the same ones, or another --out folder"
        )


def _refuse_other_ids(path: Path, prompts: pd.DataFrame) -> None:
    """Answers that are there carry the ids of then; with others, one prompt would be two in the tables."""
    import pandas as pd

    held = path / "prompts.parquet"
    try:
        then = [str(name) for name in pd.read_parquet(held, columns=["id"])["id"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{held} cannot be read ({type(error).__name__}); start the run again in another --out folder"
        ) from None
    now = [str(name) for name in prompts["id"]]
    if then != now:
        old, new = next(((a, b) for a, b in zip(then, now, strict=False) if a != b), ("none", "none"))
        raise UserError(
            f"{path} holds a run of the same prompts under other ids ({old}, which is now {new}); give the ids that it "
            "has in an id column, or another --out folder"
        )


def _write_json(path: Path, value: object) -> None:
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), fix=_AGAIN)
