"""What stands on the board: folders with a `row.json`, and what lies beside it.

A folder with `submission.yaml` is a submission, and its slug is the entry's permanent name. A folder without one is a
bare run: it is shown, named by its model, and lacks what a ranking needs.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from asabench.card.records import ModelCard, read_card
from asabench.core.errors import UserError
from asabench.core.estimate import Rate
from asabench.core.files import read_record
from asabench.core.protocol import Protocol
from asabench.core.row import Row, read_row
from asabench.core.utility_report import UtilityReport, read_utility
from asabench.judging.certificate import Certificate, read_certificate
from asabench.submission.evidence import Evidence, faults, verdicts_digest
from asabench.submission.findings import Refused
from asabench.submission.manifest import RunManifest
from asabench.submission.safe_reading import MOST_BYTES, parsed, read_yaml
from asabench.submission.schema import (
    CARD_FILE,
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    OTHER_JUDGES_FILE,
    RERUN_FILE,
    ROW_FILE,
    SLUG,
    SUBMISSION_FILE,
    UTILITY_FILE,
    VERDICTS_FILE,
    Submission,
)
from leaderboard.text import bounds

VARIANTS = (
    "masr_conditional",
    "pasr_conditional",
    "masr_coherent",
    "pasr_coherent",
    "pasr_held_out",
    "masr_floor",
    "pasr_floor",
    "survival",
)
"""The fields of a result that rows from before may lack."""
MANY = 24
"""From so many tables on, processes of their own are worth their start."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One evaluated model on the board. `slug` is part of its link; `verdicts` is the table of its cells, if it came
    with one; `max_new_tokens` is the most tokens of an answer, and `shared_noise` whether a seed is one noise vector
    for all prompts, where its manifest says so; `other_judges` has the labels of further judges. `evidence`: what
    somebody else answered again, of the verdicts as they are; `oddities`: what is odd about those."""

    slug: str
    row: Row
    submission: Submission | None = None
    utility: UtilityReport | None = None
    card: ModelCard | None = None
    verdicts: Path | None = None
    max_new_tokens: int | None = None
    shared_noise: bool = False
    certificate: Certificate | None = None
    other_judges: Path | None = None
    evidence: Evidence | None = None
    oddities: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.row.model.name if self.submission is None else self.submission.name

    @property
    def defence(self) -> str | None:
        """None where nothing is known, or no defence was applied."""
        return None if self.submission is None or self.submission.defence == "none" else self.submission.defence

    @property
    def base_name(self) -> str | None:
        return None if self.submission is None or self.submission.base is None else self.submission.base.name


def read_entries(roots: Iterable[Path]) -> list[Entry]:
    """Every entry under `roots`, at any depth; a root may be a row's file.

    Of bare runs with one id the latest stays; a submission stands in for the bare runs it was made from. `UserError`
    that names the file when something is not readable, or the folders when two submissions have one slug.
    """
    submissions: dict[str, Entry] = {}
    folders: dict[str, Path] = {}
    bare: list[Row] = []
    for path in find_rows(roots):
        row = read_checked_row(path)
        submission = _read_submission(path.parent / SUBMISSION_FILE) if path.name == ROW_FILE else None
        if submission is None:
            bare.append(row)
            continue
        if submission.slug in folders:
            raise UserError(
                f"{folders[submission.slug]} and {path.parent} both have the slug {submission.slug!r}; "
                "a slug names one entry: rename one of them"
            )
        folders[submission.slug] = path.parent
        utility, card, certificate, verdicts, other_judges = (
            path.parent / name for name in (UTILITY_FILE, CARD_FILE, CERTIFICATE_FILE, VERDICTS_FILE, OTHER_JUDGES_FILE)
        )
        protocol = _protocol(path.parent / MANIFEST_FILE)
        submissions[submission.slug] = Entry(
            slug=submission.slug,
            row=row,
            submission=submission,
            utility=read_utility(utility) if utility.is_file() else None,
            card=read_card(card) if card.is_file() else None,
            certificate=read_certificate(certificate) if certificate.is_file() else None,
            verdicts=verdicts if verdicts.is_file() else None,
            other_judges=other_judges if other_judges.is_file() else None,
            max_new_tokens=None if protocol is None else protocol.max_new_tokens,
            shared_noise=protocol is not None and protocol.shares_noise,
            evidence=_evidence(path.parent),
        )
    submissions |= _with_oddities(submissions)
    held = {entry.row.run_id for entry in submissions.values()}
    entries = list(submissions.values())
    for row in newest_by_run(row for row in bare if row.run_id not in held):
        slug = run_slug(row.run_id)
        if slug in submissions:
            raise UserError(f"{folders[slug]} has the slug {slug!r}, which is a run's id; rename the submission")
        entries.append(Entry(slug=slug, row=row))
    return entries


def _protocol(path: Path) -> Protocol | None:
    """Of a submission's manifest; None where there is none."""
    if not path.is_file():
        return None
    manifest = read_record(RunManifest, path, "a submission's manifest", "`asabench submit` writes one")
    return manifest.runs[0].settings.protocol


def _evidence(folder: Path) -> Evidence | None:
    """None where there is none, or where it is of other verdicts, or speaks against them."""
    path, verdicts = folder / RERUN_FILE, folder / VERDICTS_FILE
    if not path.is_file() or not verdicts.is_file():
        return None
    found = read_record(Evidence, path, "what a rerun found", "`asabench validate --rerun K --out` writes it")
    return None if found.verdicts != verdicts_digest(verdicts.read_bytes()) or faults(found) else found


def _with_oddities(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Entries with what is odd about their verdicts; that of those which were answered again is known to be so."""
    wanted = [entry for entry in entries.values() if entry.verdicts is not None and entry.evidence is None]
    paths = [entry.verdicts for entry in wanted if entry.verdicts is not None]
    if len(paths) < MANY:
        found = list(map(_oddities, paths))
    else:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(_oddities, paths, chunksize=8))
    return {entry.slug: replace(entry, oddities=odd) for entry, odd in zip(wanted, found, strict=True)}


def _oddities(path: Path) -> tuple[str, ...]:
    from asabench.submission.checks.plausibility import oddities
    from asabench.submission.verdict_table import read_verdicts

    try:
        return tuple(oddities(read_verdicts(path)))
    except (OSError, Refused) as error:
        raise UserError(f"{path} cannot be read: {error}; `asabench validate` says what is wrong with it") from None


def run_slug(run_id: str) -> str:
    """The slug of a bare run: its id; an id that could not be part of a file's name is hashed."""
    return run_id if re.match(SLUG, run_id) else f"run-{hashlib.sha256(run_id.encode()).hexdigest()[:16]}"


def find_rows(roots: Iterable[Path]) -> list[Path]:
    """Every `row.json` under `roots`, each once, sorted; `UserError` for a root that is not there."""
    found: set[Path] = set()
    for root in roots:
        if root.is_dir():
            found.update(path for path in root.rglob(ROW_FILE) if path.is_file())
        elif root.is_file():
            found.add(root)
        else:
            raise UserError(f"no folder {root}; give folders that hold row.json files (runs, submissions)")
    return sorted(found)


def _read_submission(path: Path) -> Submission | None:
    if not path.is_file():
        return None
    # Read as a check reads it: a board may be built from submissions that nobody has checked
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES[SUBMISSION_FILE] + 1)
        if len(content) > MOST_BYTES[SUBMISSION_FILE]:
            raise Refused("size", "too long", f"at most {MOST_BYTES[SUBMISSION_FILE]} bytes")
        submission, findings = parsed(Submission, read_yaml(content), SUBMISSION_FILE)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; mend it") from None
    except Refused as refused:
        submission, findings = None, [refused.in_file(SUBMISSION_FILE)]
    if submission is None:
        first = findings[0]
        raise UserError(
            f"{path} is not a submission: {first.field}: {first.found}; {first.allowed}; `asabench validate` says more"
        )
    return submission


def read_checked_row(path: Path) -> Row:
    """`read_row`, and what drawing and ranking need beyond the schema; `UserError` naming the file.

    Rates and the ends of their intervals lie in [0, 1], and `lasr` is keyed by blocks that the model has.
    """
    row = read_row(path)
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
    yield from ((f"clean_facts.{name}", rate) for name, rate in row.clean_facts.items())
    for number, result in enumerate(row.results):
        yield from ((f"results.{number}.masr", result.masr), (f"results.{number}.pasr", result.pasr))
        yield from ((f"results.{number}.lasr.{layer}", rate) for layer, rate in result.lasr.items())
        yield from ((f"results.{number}.asr_at_k.{k}", rate) for k, rate in result.asr_at_k.items())
        yield from ((f"results.{number}.facts.{name}", rate) for name, rate in result.facts.items())
        for name in ("masr_readings", "pasr_readings"):
            yield from ((f"results.{number}.{name}.{k}", rate) for k, rate in getattr(result, name).items())
        for name in VARIANTS:
            if (variant := getattr(result, name)) is not None:
                yield f"results.{number}.{name}", variant


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
        if held is None or created(row) > created(held):
            newest[row.run_id] = row
    return list(newest.values())


def created(row: Row) -> tuple[datetime, str]:
    """When the row was made, to compare across time zones; what is no ISO date counts as older than any date."""
    try:
        moment = datetime.fromisoformat(row.created)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC), row.created
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), row.created
