"""A run whose files were damaged goes on: what is not as it was written is set aside and done again.

Whoever opens a run for writing calls `mend` while holding its lock. A part that cannot be read, or is not as it was
written, moves to `RUN/damaged/`; so its cells are answered or judged again. A verdict belongs to the answer that was
read: where the answer is gone it goes too. Cells that are there twice, and verdicts that are, are done again as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asabench.core.files import OTHER_OUT, disk_errors
from asabench.core.records import REPLY_SCHEMA, RESPONSE_SCHEMA, VERDICT_SCHEMA
from asabench.runs.tables import PARTS, DamagedPart, digest_file, read_part, write_part_of

if TYPE_CHECKING:
    import pandas as pd

DAMAGED = "damaged"


class _Table(NamedTuple):
    columns: Mapping[str, str]
    key: tuple[str, ...]


_TABLES: Mapping[str, _Table] = {
    "responses": _Table(RESPONSE_SCHEMA, ("cell_id",)),
    "verdicts": _Table(VERDICT_SCHEMA, ("cell_id", "judge")),
    "replies": _Table(REPLY_SCHEMA, ("cell_id", "judge")),
}


def mend(path: Path) -> list[str]:
    """Sets aside what is damaged in a run's tables, and drops what then has no place; a line for each thing that was
    done, none for a run that is whole. `UserError` where the folder cannot be written."""
    said: list[str] = []
    with disk_errors(path, OTHER_OUT):
        tables = {name: _whole_parts(path, name, said) for name in _TABLES}
        answers = [cell for part in tables["responses"].values() for cell in part["cell_id"]]
        held = {cell for cell, number in Counter(answers).items() if number == 1}
        answers_lost = any(line.startswith(str(path / "responses")) for line in said)
        for name, parts in tables.items():
            if dropped := _drop(name, parts, held):
                of_what = "there twice" if name == "responses" else "there twice, or of answers that are not there"
                said.append(f"{path / name}: {dropped} lines were {of_what}: done again")
                answers_lost |= name == "responses"
        row = path / "row.json"
        if answers_lost and row.is_file():
            # It is of answers that are not there: until they are, the run is not finished
            (path / DAMAGED).mkdir(exist_ok=True)
            row.replace(path / DAMAGED / row.name)
    return said


def _whole_parts(path: Path, name: str, said: list[str]) -> dict[Path, pd.DataFrame]:
    """The parts of a table that are as they were written."""
    parts = {}
    for part in sorted((path / name).glob(PARTS)):
        try:
            parts[part] = read_part(part, _TABLES[name].columns)
        except DamagedPart as damaged:
            aside = _place(path / DAMAGED, f"{name}-{part.stem}")
            aside.parent.mkdir(exist_ok=True)
            part.rename(aside)
            digest_file(part).unlink(missing_ok=True)
            said.append(f"{part} is damaged ({damaged}): it is set aside as {aside}, and done again")
    return parts


def _place(folder: Path, name: str) -> Path:
    number = 0
    while (place := folder / f"{name}{f'-{number}' if number else ''}.parquet").exists():
        number += 1
    return place


def _drop(name: str, parts: Mapping[Path, pd.DataFrame], held: set[str]) -> int:
    """Rewrites the parts that hold lines without a place; how many lines there were."""
    import pandas as pd

    columns, key = _TABLES[name]
    if not parts:
        return 0
    frames: list[pd.DataFrame] = [part[list(key)].assign(part=str(place)) for place, part in parts.items()]
    keys = pd.concat(frames, ignore_index=True)
    stays = keys["cell_id"].isin(held) & ~keys.duplicated(list(key), keep=False)
    for place, part in parts.items():
        kept = stays[keys["part"] == str(place)].to_numpy()
        if kept.all():
            continue
        if kept.any():
            write_part_of(place, part[kept], columns)
        else:
            place.unlink()
            digest_file(place).unlink(missing_ok=True)
    return int((~stays).sum())
