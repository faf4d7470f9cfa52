"""The board as data: JSON and CSV for people, JavaScript for the compare page, an Atom feed for readers."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime

from asabench.core.attack_names import REQUIRED_ATTACKS
from asabench.core.estimate import Rate
from asabench.core.records import SHARES
from asabench.core.row import Eps50, Row, worst_case
from asabench.core.text import eps50_text, where
from asabench.submission.evidence import level
from leaderboard.charts.svg import dose_points
from leaderboard.entries import VARIANTS, created
from leaderboard.ranking import Placed, Track, smallest_eps50
from leaderboard.text import format_estimate, optional_eps50

MARK = "Made by `asabench leaderboard build`"
"""Stands at the head of every file that a later build may remove."""

FEED_LENGTH = 50


def render_json(tracks: Sequence[Track]) -> str:
    """All rows as they were read, a JSON list in the order of the page."""
    rows = [placed.entry.row.model_dump(mode="json") for track in tracks for placed in track.placed]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render_csv(tracks: Sequence[Track]) -> str:
    """One line per row in the order of the page: the headline numbers, flat. No rate and no rank are empty cells."""
    lines = [_csv_columns(track, placed) for track in tracks for placed in track.placed]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: csv_cell(value) for name, value in line.items()})
    return text.getvalue()


def _csv_columns(track: Track, placed: Placed) -> dict[str, object]:
    entry = placed.entry
    row = entry.row
    columns: dict[str, object] = {
        "entry": entry.slug,
        "name": entry.name,
        "run_id": row.run_id,
        "protocol": row.protocol.name,
        "judge_class": track.judge_class,
        "measures": track.measure,
        "rank": placed.rank,
        "model": row.model.name,
        "revision": row.model.revision,
        "defence": entry.defence,
        "base": entry.base_name,
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
    columns["worst_attack"] = None if placed.worst is None else placed.worst.attack
    columns["worst_dose"] = None if placed.worst is None else placed.worst.dose
    columns |= _ends("worst_masr", placed.worst_masr)
    for attack in REQUIRED_ATTACKS:
        result, name = worst_case(row.results, attack), attack.replace("-", "_")
        columns |= _ends(f"masr_{name}", None if result is None else result.masr)
        columns |= _ends(f"pasr_{name}", None if result is None else result.pasr)
        columns[f"dose_{name}"] = None if result is None else result.dose
    for name, rate in (("init", row.init), ("masr", row.masr), ("pasr", row.pasr)):
        columns |= _ends(name, rate)
    columns["peak_layer"] = row.peak_layer
    headline = worst_case(row.results)
    for name in VARIANTS:
        columns |= _ends(name, None if headline is None else getattr(headline, name))
    columns["survival_rules"] = row.content_rules
    columns |= _ends("false_alarms", row.false_alarms)
    eps50 = row.eps50.get(row.attack)
    columns |= {"eps50": None if eps50 is None else eps50.value, "eps50_text": optional_eps50(eps50)}
    smallest = smallest_eps50(row)
    columns |= {
        "smallest_eps50": None if smallest is None else smallest[1].value,
        "smallest_eps50_text": None if smallest is None else eps50_text(smallest[1]),
        "smallest_eps50_attack": None if smallest is None else smallest[0],
        "smallest_eps50_below": None if smallest is None else smallest[1].below,
        "smallest_eps50_above": None if smallest is None else smallest[1].above,
        "eps50_doses": None if smallest is None else _grid(smallest[1]),
    }
    columns["suite"] = None if row.suite is None else row.suite.id
    columns |= _ends("robust_area", None if row.suite is None else row.suite.area)
    clean = None if entry.utility is None else entry.utility.clean
    columns |= _ends("benign_answer_rate", None if clean is None else clean.benign_answer_rate)
    columns |= _ends("over_refusal", None if clean is None else clean.over_refusal)
    columns["benign_change"] = placed.change
    columns["n_layers_measured"] = len(set(row.layers))
    for name in SHARES:
        columns |= _ends(f"{name}_share", row.facts.get(name))
        columns |= _ends(f"clean_{name}_share", row.clean_facts.get(name))
    columns |= {f"steered_{label}": count for label, count in row.verdicts.model_dump().items()}
    columns |= {f"clean_{label}": count for label, count in row.clean_verdicts.model_dump().items()}
    return columns | {
        "judge": row.judge.id,
        **_ends("judge_balanced_accuracy", None if row.judge.figures is None else row.judge.figures.balanced_accuracy),
        "created": row.created,
        "flags": ";".join(placed.flags),
        "evidence": level(entry.evidence),
        "rerun_cells": None if entry.evidence is None else entry.evidence.cells,
        "protocol_digest": row.protocol.digest,
        "prompts_digest": row.prompts.digest,
        "asabench_version": row.asabench_version,
    }


def _grid(eps50: Eps50) -> str | None:
    """The doses that an eps50 was measured at: those of other doses do not compare."""
    return None if eps50.doses is None else " ".join(f"{dose:g}" for dose in eps50.doses)


def _ends(name: str, rate: Rate | None) -> dict[str, object]:
    given = (None, None, None) if rate is None else (rate.value, rate.low, rate.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), given, strict=True))


def csv_cell(value: object) -> object:
    """A spreadsheet runs a text that starts like a formula, also behind spaces or in wide letters, and names here come
    from strangers."""
    if isinstance(value, str):
        start = unicodedata.normalize("NFKC", value).lstrip()[:1]
        if value[:1] in _RUNS or start in _RUNS:
            return f"'{value}"
    return value


_RUNS = frozenset("=+-@\t\r'|%")


def render_index_script(tracks: Sequence[Track]) -> str:
    """What the compare page offers to choose from: slug, name and track of each entry. A script and not JSON, because a
    page that was opened as a file may load the one and not fetch the other."""
    entries = [[placed.entry.slug, placed.entry.name, track.name] for track in tracks for placed in track.placed]
    return f"/* {MARK} */\nconst asabenchEntries = {_script_json(entries)};\n"


def render_entry_script(track: Track, placed: Placed) -> str:
    """An entry's numbers for the compare page, as a script that hands them over under the entry's slug."""
    entry = placed.entry
    row, clean = entry.row, None if entry.utility is None else entry.utility.clean
    smallest = smallest_eps50(row)
    attacks = list(dict.fromkeys(result.attack for result in row.results))
    data = {
        "slug": entry.slug,
        "name": entry.name,
        "track": track.name,
        "measures": track.measure,
        "rank": None if placed.rank is None else f"{placed.rank}{'=' if placed.tied else ''}",
        "model": row.model.name,
        "defence": entry.defence,
        "base": entry.base_name,
        "parameters": row.model.n_parameters,
        "layers": row.model.n_layers,
        "judge": row.judge.id,
        "date": row.created.split("T")[0],
        "prompts": f"{row.prompts.n} {row.prompts.name}",
        "dose": row.dose,
        "flags": list(placed.flags),
        "init": _triple(row.init),
        "worst": None if placed.worst_masr is None else _triple(placed.worst_masr),
        "worstAttack": None if placed.worst is None else where(placed.worst),
        "eps50": None if smallest is None else f"{eps50_text(smallest[1])} ({smallest[0]})",
        "grid": None if smallest is None else _grid(smallest[1]),
        "benign": None if clean is None else _triple(clean.benign_answer_rate),
        "overRefusal": None if clean is None else _triple(clean.over_refusal),
        "change": placed.change,
        "tasks": {}
        if entry.utility is None
        else {name: _triple(score.accuracy) for name, score in entry.utility.tasks.items()},
        "attacks": {attack: _attack_data(row, attack) for attack in attacks},
    }
    return (
        f"/* {MARK} */\n(window.asabenchData = window.asabenchData || {{}})[{_script_json(entry.slug)}] = "
        f"{_script_json(data)};\n"
    )


def _attack_data(row: Row, attack: str) -> dict[str, object]:
    result = worst_case(row.results, attack)
    return {
        "masr": None if result is None else _triple(result.masr),
        "pasr": None if result is None else _triple(result.pasr),
        "peak": None if result is None else result.peak_layer,
        "doses": [[point.dose, *(_triple(point.masr) or ())] for point in dose_points(row, attack)],
        "lasr": []
        if result is None
        else [
            [int(layer), *(_triple(rate) or ())]
            for layer, rate in sorted(result.lasr.items(), key=lambda item: int(item[0]))
            if rate.value is not None
        ],
    }


def _triple(rate: Rate) -> list[float | None] | None:
    """Value, low and high with four digits, which is more than a chart or a cell shows."""
    if rate.value is None:
        return None
    return [None if number is None else round(number, 4) for number in (rate.value, rate.low, rate.high)]


def _script_json(value: object) -> str:
    # ASCII, so that the line separators of Unicode, and whatever else a name holds, are escapes
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def render_feed(tracks: Sequence[Track], url: str | None) -> str:
    """The newest entries as an Atom feed; links are relative where the page's address is not known."""
    newest = sorted(
        ((track, placed) for track in tracks for placed in track.placed),
        key=lambda item: (created(item[1].entry.row), item[1].entry.slug),
        reverse=True,
    )
    root = url or ""
    feed = ET.Element("feed", xmlns="http://www.w3.org/2005/Atom")
    _text(feed, "title", "ASABench leaderboard")
    _text(feed, "id", _feed_id("index"))
    _text(feed, "updated", _moment(newest[0][1].entry.row))
    ET.SubElement(ET.SubElement(feed, "author"), "name").text = "The ASABench authors"
    ET.SubElement(feed, "link", href=f"{root}index.html")
    ET.SubElement(feed, "link", rel="self", href=f"{root}feed.xml")
    for track, placed in newest[:FEED_LENGTH]:
        entry = placed.entry
        element = ET.SubElement(feed, "entry")
        _text(element, "title", f"{entry.name} ({track.name})")
        _text(element, "id", _feed_id(entry.slug))
        _text(element, "updated", _moment(entry.row))
        ET.SubElement(element, "link", href=f"{root}entries/{entry.slug}.html")
        worst = (
            "no worst case over the required attacks"
            if placed.worst is None
            else f"worst case MASR {format_estimate(placed.worst_masr)} under {where(placed.worst)}"
        )
        flags = f"; flags: {', '.join(placed.flags)}" if placed.flags else ""
        _text(element, "summary", f"INIT {format_estimate(entry.row.init)}; {worst}{flags}")
    ET.indent(feed)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<!-- {MARK} -->\n{ET.tostring(feed, encoding="unicode")}\n'


def _text(parent: ET.Element, tag: str, text: str) -> None:
    # XML has no way to write most control characters
    ET.SubElement(parent, tag).text = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _feed_id(name: str) -> str:
    """One and the same wherever the page is put."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"asabench leaderboard {name}").urn


def _moment(row: Row) -> str:
    moment = created(row)[0]
    return max(moment, datetime(1970, 1, 1, tzinfo=UTC)).isoformat(timespec="seconds")
