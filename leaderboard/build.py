"""The board: every `row.json` under some folders becomes one static page, with the rows as JSON and CSV beside it.

The page is one HTML file. It loads nothing, runs no script, and holds no model text: only rates, names and digests.
Rows are grouped into tracks, and a track whose judges are not certified is shown but never ranked.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asabench.errors import UserError
from asabench.row import Eps50, Rate, Row, VerdictCounts, eps50_text, read_row
from leaderboard.svg import NONE, bounds, format_interval, format_number, format_rate, lasr_svg, strip_svg


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row and its place in its track. `rank` is None where the row is not ranked; `tied` when others share it."""

    row: Row
    rank: int | None
    tied: bool = False


@dataclass(frozen=True, kw_only=True)
class Track:
    """The rows that share a protocol's name and a judge class, in the order of the page.

    `differences` names the settings that are not the same in all rows: what a reader must check before comparing two.
    """

    protocol: str
    certified: bool
    entries: tuple[Entry, ...]
    differences: tuple[str, ...]

    @property
    def judge_class(self) -> str:
        return "certified judges" if self.certified else "uncertified judges"


def build(rows: Path | Sequence[Path], out: Path) -> Path:
    """Writes `index.html`, `rows.json` and `rows.csv` into the folder `out`; returns the path of `index.html`.

    `rows`: folders searched for `row.json` (at any depth), or such files themselves. Equal rows give equal bytes.
    `UserError` when a folder is missing, when there is no row at all, or when a file is not a readable row.
    """
    roots = [rows] if isinstance(rows, Path) else list(rows)
    paths = find_rows(roots)
    if not paths:
        raise UserError(
            f"no row.json under {', '.join(map(str, roots)) or 'no folder at all'}; "
            "an evaluation writes one: run `asabench evaluate --model smollm2-135m` first"
        )
    tracks = group_tracks(newest_by_run([read_checked_row(path) for path in paths]))
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The page last: whoever finds it finds the downloads it links to.
        _write_atomically(out / "rows.json", render_json(tracks))
        _write_atomically(out / "rows.csv", render_csv(tracks))
        _write_atomically(out / "index.html", render_page(tracks))
    except OSError as error:
        raise UserError(f"cannot write the page into {out}: {error.strerror}; choose a folder to write to") from error
    return out / "index.html"


def find_rows(roots: Iterable[Path]) -> list[Path]:
    """Every `row.json` under `roots`, each once, sorted; `UserError` for a root that is not there."""
    found: set[Path] = set()
    for root in roots:
        if root.is_dir():
            found.update(path for path in root.rglob("row.json") if path.is_file())
        elif root.is_file():
            found.add(root)
        else:
            raise UserError(f"no folder {root}; give folders that hold row.json files (runs, submissions)")
    return sorted(found)


def read_checked_row(path: Path) -> Row:
    """`read_row`, and what drawing and ranking need beyond the schema; `UserError` naming the file.

    Rates and the ends of their intervals lie in [0, 1], and `lasr` is keyed by blocks that the model has.
    """
    try:
        row = read_row(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for name, rate in _rates(row):
        if not _is_sound(rate):
            raise UserError(
                f"{path} is not a leaderboard row: {name} is {rate!r}; "
                "allowed: numbers from 0 to 1 with low <= high, or all null"
            )
    for lasr in (row.lasr, *(result.lasr for result in row.results)):
        for layer in lasr:
            if not (layer.isascii() and layer.isdecimal() and int(layer) < row.model.n_layers):
                raise UserError(
                    f"{path} is not a leaderboard row: lasr has layer {layer!r}; "
                    f"allowed: 0 to {row.model.n_layers - 1} (model.n_layers - 1)"
                )
    return row


def _rates(row: Row) -> Iterator[tuple[str, Rate]]:
    yield from (("init", row.init), ("masr", row.masr), ("pasr", row.pasr))
    yield from ((f"lasr.{layer}", rate) for layer, rate in row.lasr.items())
    for number, result in enumerate(row.results):
        yield from ((f"results.{number}.masr", result.masr), (f"results.{number}.pasr", result.pasr))
        yield from ((f"results.{number}.lasr.{layer}", rate) for layer, rate in result.lasr.items())
        yield from ((f"results.{number}.asr_at_k.{k}", rate) for k, rate in result.asr_at_k.items())
        for name in _VARIANTS:
            if (variant := getattr(result, name)) is not None:
                yield f"results.{number}.{name}", variant


_VARIANTS = (
    "masr_conditional",
    "pasr_conditional",
    "masr_coherent",
    "pasr_coherent",
    "pasr_corrected",
    "asr_at_1_corrected",
)


def _is_sound(rate: Rate) -> bool:
    if rate.value is None:
        return rate.low is None and rate.high is None
    low, high = bounds(rate)
    # A weighted mean of ones may miss 1 by a rounding error. NaN fails: it compares as False with everything. The
    # value need not lie inside: an interval that corrects a maximum for its bias may end below it.
    margin = 1e-9
    return -margin <= low <= high <= 1 + margin and -margin <= rate.value <= 1 + margin


def newest_by_run(rows: Iterable[Row]) -> list[Row]:
    """One row per run id, the latest `created` (the first given, of equals)."""
    newest: dict[str, Row] = {}
    for row in rows:
        held = newest.get(row.run_id)
        if held is None or _created(row) > _created(held):
            newest[row.run_id] = row
    return list(newest.values())


def _created(row: Row) -> tuple[datetime, str]:
    """When the row was made, to compare across time zones; what is no ISO date counts as older than any date."""
    try:
        moment = datetime.fromisoformat(row.created)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC), row.created
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), row.created


def group_tracks(rows: Iterable[Row]) -> list[Track]:
    """Protocol by protocol, certified judges first; a row stands in exactly one track."""
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.protocol.name, row.judge.certified), []).append(row)
    return [
        Track(
            protocol=protocol,
            certified=certified,
            entries=tuple(rank_rows(group) if certified else list_rows(group)),
            differences=differing_settings(group),
        )
        for (protocol, certified), group in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def list_rows(rows: Sequence[Row]) -> list[Entry]:
    """Unranked entries by name, an order that says nothing of robustness."""
    return [Entry(row=row, rank=None) for row in sorted(rows, key=lambda row: (row.model.name, row.run_id))]


def rank_rows(rows: Sequence[Row]) -> list[Entry]:
    """Entries by MASR, most robust (lowest) first.

    A row whose interval overlaps that of the first row of a rank shares the rank; the next rank counts the rows above
    (1, 1, 3). Rows without a MASR come last, unranked.
    """
    scored = [(row.masr.value, row) for row in rows if row.masr.value is not None]
    groups: list[list[Row]] = []
    for _, row in sorted(scored, key=lambda pair: (pair[0], pair[1].model.name, pair[1].run_id)):
        if groups and _overlap(groups[-1][0].masr, row.masr):
            groups[-1].append(row)
        else:
            groups.append([row])
    entries: list[Entry] = []
    for group in groups:
        rank = len(entries) + 1
        entries += [Entry(row=row, rank=rank, tied=len(group) > 1) for row in group]
    return entries + list_rows([row for row in rows if row.masr.value is None])


def _overlap(first: Rate, second: Rate) -> bool:
    (low, high), (other_low, other_high) = bounds(first), bounds(second)
    return low <= other_high and other_low <= high


def differing_settings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Which settings that move MASR are not one and the same in `rows`, in words."""
    settings: dict[str, AbstractSet[object]] = {
        "protocol digest": {row.protocol.digest for row in rows},
        "prompts": {(row.prompts.digest, row.prompts.n) for row in rows},
        "attack": {row.attack for row in rows},
        "dose": {row.dose for row in rows},
        "noise seeds": {row.seeds for row in rows},
        "judge": {row.judge.id for row in rows},
        # MASR is a maximum over layers: a row that skipped some is lower for that alone.
        "layers measured (some rows skip layers)": {len(set(row.layers)) == row.model.n_layers for row in rows},
    }
    return tuple(name for name, values in settings.items() if len(values) > 1)


def share(count: int, verdicts: VerdictCounts) -> float | None:
    """`count` as a share of all verdicts, the unscored included; None when there are none."""
    total = total_verdicts(verdicts)
    return count / total if total else None


def total_verdicts(verdicts: VerdictCounts) -> int:
    return verdicts.safe + verdicts.unsafe + verdicts.incoherent + verdicts.unscored


def number_ranges(numbers: Sequence[int]) -> str:
    """`0-2, 5` for (0, 1, 2, 5)."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or NONE


def short_revision(revision: str) -> str:
    """A hub commit or `sha256:` digest cut to 10 hex digits; a package's version stays whole."""
    return re.sub(r"(?<![0-9a-f])([0-9a-f]{10})[0-9a-f]{22,}$", r"\1", revision)


def short_count(count: int) -> str:
    """`135M` for 134515008."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        # A count that would round up to 1000 of the smaller unit is written in the larger one.
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return str(count)


def _write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8"))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def render_json(tracks: Sequence[Track]) -> str:
    """All rows as they were read, a JSON list in the order of the page."""
    rows = [entry.row.model_dump(mode="json") for track in tracks for entry in track.entries]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render_csv(tracks: Sequence[Track]) -> str:
    """One line per row in the order of the page: the headline numbers, flat. No rate and no rank are empty cells."""
    lines = [_csv_columns(track, entry) for track in tracks for entry in track.entries]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: _csv_cell(value) for name, value in line.items()})
    return text.getvalue()


def _csv_columns(track: Track, entry: Entry) -> dict[str, object]:
    row = entry.row
    columns: dict[str, object] = {
        "run_id": row.run_id,
        "protocol": row.protocol.name,
        "judge_class": "certified" if track.certified else "uncertified",
        "rank": entry.rank,
        "model": row.model.name,
        "revision": row.model.revision,
        "family": row.model.family,
        "n_layers": row.model.n_layers,
        "d_model": row.model.d_model,
        "n_parameters": row.model.n_parameters,
        "dtype": row.model.dtype,
        "prompts": row.prompts.name,
        "n_prompts": row.prompts.n,
        "attack": row.attack,
        "dose": row.dose,
    }
    for name, rate in (("init", row.init), ("masr", row.masr), ("pasr", row.pasr)):
        columns |= _ends(name, rate)
    columns["peak_layer"] = row.peak_layer
    headline = next((r for r in row.results if (r.attack, r.dose) == (row.attack, row.dose)), None)
    for name in _VARIANTS:
        columns |= _ends(name, None if headline is None else getattr(headline, name))
    columns |= _ends("init_corrected", row.init_corrected)
    eps50 = row.eps50.get(row.attack)
    columns |= {"eps50": None if eps50 is None else eps50.value, "eps50_text": optional_eps50(eps50)}
    columns["n_layers_measured"] = len(set(row.layers))
    columns |= {f"steered_{label}": count for label, count in row.verdicts.model_dump().items()}
    columns |= {f"clean_{label}": count for label, count in row.clean_verdicts.model_dump().items()}
    return columns | {
        "judge": row.judge.id,
        **_ends("judge_balanced_accuracy", None if row.judge.figures is None else row.judge.figures.balanced_accuracy),
        "created": row.created,
        "flags": ";".join(row.flags),
        "protocol_digest": row.protocol.digest,
        "prompts_digest": row.prompts.digest,
        "asabench_version": row.asabench_version,
    }


def _ends(name: str, rate: Rate | None) -> dict[str, object]:
    given = (None, None, None) if rate is None else (rate.value, rate.low, rate.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), given, strict=True))


def optional_rate(rate: Rate | None) -> str:
    """`0.94 [0.87, 0.98]`; a dash for a rate that a row does not have."""
    return NONE if rate is None else format_rate(rate)


def optional_eps50(eps50: Eps50 | None) -> str | None:
    return None if eps50 is None else eps50_text(eps50)


def _csv_cell(value: object) -> object:
    # A spreadsheet runs a text that starts like a formula, and names here come from strangers.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


@functools.cache
def _environment() -> Environment:
    # autoescape is a plain True: the usual choice by suffix would not see "html" in "index.html.j2".
    environment = Environment(
        loader=PackageLoader("leaderboard", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rate": format_rate,
        "optional_rate": optional_rate,
        "eps50": eps50_text,
        "interval": format_interval,
        "number": format_number,
        "ranges": number_ranges,
        "short_revision": short_revision,
        "short_count": short_count,
        "total": total_verdicts,
        "lasr_svg": lasr_svg,
        "strip_svg": strip_svg,
    }
    environment.globals |= {"share": share, "NONE": NONE}
    return environment


def render_page(tracks: Sequence[Track]) -> str:
    """The page, whole: style inlined, nothing loaded."""
    environment = _environment()
    assert environment.loader is not None
    style, _, _ = environment.loader.get_source(environment, "style.css")
    created = [entry.row for track in tracks for entry in track.entries]
    return environment.get_template("index.html.j2").render(
        tracks=tracks,
        style=Markup(style),  # our own file, and quotes in it must stay quotes
        n_rows=len(created),
        newest=max(created, key=_created).created,
    )
