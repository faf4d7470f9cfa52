"""Is a submission what it says it is? Everything that can be recomputed is recomputed; what differs is listed.

`validate` never raises for what a submission contains. Findings make it invalid; notices say what keeps a valid one out
of the ranking. What cannot be checked on this machine is neither valid nor invalid.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from asabench.card.records import ModelCard
from asabench.core.errors import NotAtHand, UserError, one_line
from asabench.core.protocol import MIN_TOKENS
from asabench.core.row import SHORT_ANSWERS, Row
from asabench.core.utility_report import UtilityReport
from asabench.judging.certificate import Certificate
from asabench.submission.cells import cell_count, cell_findings
from asabench.submission.checks.card import card_findings
from asabench.submission.checks.description import submission_findings
from asabench.submission.checks.evidence import evidence_findings
from asabench.submission.checks.judge import judge_findings
from asabench.submission.checks.plausibility import impossible, oddities
from asabench.submission.checks.runs import manifest_findings
from asabench.submission.checks.suite import search_findings, suite_findings
from asabench.submission.checks.targets import target_findings
from asabench.submission.checks.training import read_training_prompts, training_findings, training_notices
from asabench.submission.checks.utility import utility_findings
from asabench.submission.checks.verdicts import line_findings
from asabench.submission.columns import MOST_ROWS
from asabench.submission.evidence import Evidence
from asabench.submission.findings import REMAKE, Finding, Refused, shown
from asabench.submission.known import protocol_gaps, published_goals
from asabench.submission.manifest import RunManifest
from asabench.submission.neighbours import Card, card_of, neighbour_findings
from asabench.submission.other_judges import other_judge_findings, parse_other_judges
from asabench.submission.row_of import row_differences, row_of
from asabench.submission.safe_reading import MOST_BYTES, parsed, read_files, read_json, read_yaml
from asabench.submission.schema import (
    CARD_FILE,
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    OTHER_JUDGES_FILE,
    RERUN_FILE,
    ROW_FILE,
    SUBMISSION_FILE,
    TRAINING_PROMPTS_FILE,
    UTILITY_FILE,
    VERDICTS_FILE,
    Submission,
)
from asabench.submission.tracks import COLLAPSED, ODD, collapse, missing
from asabench.submission.tree import Changes, changes, entry_digests, evidence_changes, read_tree
from asabench.submission.verdict_table import parse_verdicts

MOST_RESULTS = 300
"""Attacks times doses of a submission: every one is a result with intervals that are computed again."""
MOST_DIFFERENCES = 5
"""So many differing fields of a row are listed; the others are counted."""

State = Literal["valid", "invalid", "not checked"]
STATE_WORDS: Mapping[State, str] = {
    "valid": "valid",
    "invalid": "INVALID",
    "not checked": "could not be checked here",
}


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What was found of one folder. `not_checked`: why it could not be checked here, if so. `card` is what other
    submissions are compared with; it and the records are there as far as they could be read."""

    path: str
    findings: tuple[Finding, ...] = ()
    not_checked: str | None = None
    notices: tuple[str, ...] = ()
    submission: Submission | None = None
    row: Row | None = None
    utility: UtilityReport | None = None
    max_new_tokens: int | None = None
    evidence: Evidence | None = None
    is_odd: bool = False
    card: Card | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        return not self.problem

    @property
    def state(self) -> State:
        if self.findings:
            return "invalid"
        return "valid" if self.not_checked is None else "not checked"

    @property
    def problem(self) -> str | None:
        """Why it is not valid, in a line; None if it is."""
        return self.findings[0].line if self.findings else self.not_checked

    @property
    def slug(self) -> str:
        return Path(self.path).name


def validate(paths: Sequence[Path], *, jobs: int = 1) -> list[Validation]:
    """Checks submissions, each in itself and against each other and those beside it. A path is a submission, or a
    folder of submissions. `UserError` only for a path that is neither."""
    folders = list(dict.fromkeys(folder for path in paths for folder in submission_folders(path)))
    beside = [each for parent in dict.fromkeys(f.parent for f in folders) for each in _submissions_in(parent)]
    return _validated(folders, [each for each in beside if each not in set(folders)], jobs)


def _validated(folders: Sequence[Path], beside: Sequence[Path], jobs: int) -> list[Validation]:
    """The folders, checked each in itself and against each other and those beside them."""
    if jobs > 1 and len(folders) > 1:
        with ProcessPoolExecutor(min(jobs, len(folders))) as pool:
            done = list(pool.map(validate_folder, folders))
            cards = [card for card in pool.map(_card, beside, chunksize=8) if card is not None]
    else:
        done = [validate_folder(folder) for folder in folders]
        cards = [card for card in map(_card, beside) if card is not None]
    cards += [each.card for each in done if each.card is not None]
    return [_with_neighbours(each, cards) for each in done]


def validate_whole(
    collection: Path, *, before: Path | None = None, jobs: int = 1, maintainer: bool = True
) -> tuple[list[Validation], Changes | None]:
    """Checks the folder of all entries as it stands: every folder in it is an entry, and anything else is a finding of
    the folder's own. before: the same folder before a change; with it comes what was done to the entries. An entry that
    was taken out is refused by those that name it as their base. maintainer: whether whoever makes the change may bring
    evidence (`asabench.submission.evidence`)."""
    collection = Path(os.path.abspath(collection))
    tree = read_tree(collection)
    known = None if before is None else entry_digests(before)
    changed = None if known is None else changes(known, entry_digests(collection))
    done = _validated([collection / slug for slug in tree.slugs], (), jobs)
    findings = [*tree.findings]
    if before is not None and not maintainer:
        findings += evidence_changes(before, collection)
    if findings:
        done.append(Validation(path=str(collection), findings=tuple(findings)))
    return done, changed


def submission_folders(path: Path) -> list[Path]:
    """The submission at `path`, or those in it; `UserError` where there is neither."""
    try:
        if not path.is_dir():
            raise UserError(f"{path} is no folder; give a submission such as submissions/my-model, or submissions")
        names = {entry.name: entry for entry in os.scandir(path)}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a submission's folder") from None
    absolute = Path(os.path.abspath(path))
    if names.keys() & MOST_BYTES.keys():
        return [absolute]
    inner = [absolute / name for name in sorted(names) if not name.startswith(".") and names[name].is_dir()]
    if not inner:
        raise UserError(f"{path} holds no submission; give a folder that `asabench submit` wrote")
    return inner


def _submissions_in(collection: Path) -> list[Path]:
    try:
        with os.scandir(collection) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [collection / name for name in inner if (collection / name / SUBMISSION_FILE).is_file()]


def beside_others(own: Validation, collection: Path) -> Validation:
    """What was found of a submission that is not in the collection yet, and between it and those that are; the one
    whose place it takes does not count."""
    others = [each for each in _submissions_in(collection) if each.name != own.slug]
    return _with_neighbours(own, [card for card in map(_card, others) if card is not None])


def validate_folder(folder: Path) -> Validation:
    """Everything that can be said of a submission by itself."""
    try:
        return _checked(folder)
    except NotAtHand as error:
        return Validation(path=str(folder), not_checked=str(error))
    except Exception as error:  # a fault of ours: neither a verdict on this entry nor the end of the others' check
        said = f"its check failed ({shown(type(error).__name__)[1:-1]}: {shown(one_line(error))[1:-1]})"
        return Validation(path=str(folder), not_checked=f"{said}; report it with the folder, as SECURITY.md says")


def _checked(folder: Path) -> Validation:
    if folder.is_symlink():
        finding = Finding(folder.name, "the folder", "a link", "a folder of its own", "put the folder itself there")
        return Validation(path=str(folder), findings=(finding,))
    contents, findings = read_files(folder)
    reader = _Reader(contents, findings)
    submission = reader.record(Submission, SUBMISSION_FILE)
    manifest = reader.record(RunManifest, MANIFEST_FILE)
    row = reader.record(Row, ROW_FILE)
    utility = reader.record(UtilityReport, UTILITY_FILE)
    certificate = reader.record(Certificate, CERTIFICATE_FILE)
    model_card = reader.record(ModelCard, CARD_FILE)
    evidence = reader.record(Evidence, RERUN_FILE)
    trained = reader.training_prompts()
    notices: list[str] = []
    if submission is not None:
        findings += submission_findings(submission, folder.name, row, manifest)
        findings += _digest_findings(submission, contents)
        findings += training_findings(submission, trained, manifest)
        notices += training_notices(submission, trained, manifest)
    card = None
    odd: list[str] = []
    if manifest is not None:
        findings += manifest_findings(manifest)
        findings += suite_findings(manifest)
        findings += target_findings(manifest)
        card = _check_verdicts(reader, manifest, row, submission, odd)
        notices += [f"flagged {ODD}, not ranked until its answers are given again: {each}" for each in odd]
        notices += _notices(manifest)
    if row is not None:
        findings += judge_findings(row, certificate, is_there=CERTIFICATE_FILE in contents)
        notices += [f"shown as incomplete, not ranked: lacks {lack}" for lack in missing(row, utility)]
        if (why := collapse(row)) is not None:
            notices.append(f"flagged {COLLAPSED}, not ranked: {why[0].lower()}{why[1:-1]}")
        if not row.judge.certified:
            notices.append("shown as uncertified, not ranked: the judge has not reached the bar")
    if utility is not None:
        findings += utility_findings(utility, manifest)
    if evidence is not None:
        findings += evidence_findings(evidence, contents.get(VERDICTS_FILE), manifest)
    if model_card is not None:
        findings += card_findings(model_card, manifest, submission)
    return Validation(
        path=str(folder),
        findings=tuple(findings),
        notices=tuple(notices),
        submission=submission,
        row=row,
        utility=utility,
        max_new_tokens=None if manifest is None else manifest.runs[0].settings.protocol.max_new_tokens,
        evidence=evidence,
        is_odd=bool(odd),
        card=card,
    )


class _Reader:
    """Reads a folder's contents into records; what is wrong goes to the findings."""

    def __init__(self, contents: dict[str, bytes], findings: list[Finding]) -> None:
        self.contents = contents
        self.findings = findings

    def record(self, kind: Any, name: str) -> Any:
        if name not in self.contents:
            return None
        read = read_yaml if name == SUBMISSION_FILE else read_json
        try:
            value = read(self.contents[name])
        except Refused as refused:
            self.findings.append(refused.in_file(name))
            return None
        fix = "put it right in that file" if name == SUBMISSION_FILE else REMAKE
        record, found = parsed(kind, value, name, fix)
        self.findings += found
        return record

    def training_prompts(self) -> frozenset[str] | None:
        if TRAINING_PROMPTS_FILE not in self.contents:
            return None
        try:
            return read_training_prompts(self.contents[TRAINING_PROMPTS_FILE])
        except Refused as refused:
            self.findings.append(refused.in_file(TRAINING_PROMPTS_FILE))
            return None


def _digest_findings(submission: Submission, contents: dict[str, bytes]) -> Iterator[Finding]:
    there = contents.keys() - {SUBMISSION_FILE, RERUN_FILE}
    for name in sorted(there - submission.files.keys()):
        yield Finding(SUBMISSION_FILE, f"files.{name}", "missing", "the SHA-256 of every file of the folder")
    for name, digest in sorted(submission.files.items()):
        if name not in there:
            yield Finding(
                SUBMISSION_FILE, f"files.{shown(name)[1:-1]}", "of no file here", f"only {', '.join(sorted(there))}"
            )
        elif (found := hashlib.sha256(contents[name]).hexdigest()) != digest:
            yield Finding(name, "SHA-256", found, f"{digest}, as submission.yaml says: the file was changed")


def _check_verdicts(
    reader: _Reader, manifest: RunManifest, row: Row | None, submission: Submission | None, odd: list[str]
) -> Card | None:
    """Checks the table and the row that follows from it; None where the table cannot be read. What is odd about it is
    added to `odd`."""
    findings = reader.findings
    try:
        settings = manifest.settings
        if VERDICTS_FILE not in reader.contents:
            return None
        if (results := len(settings.attacks) * len(settings.protocol.doses)) > MOST_RESULTS:
            allowed = f"at most {MOST_RESULTS}: each attack at each dose is a result of its own"
            raise Refused("attacks and doses", f"{results} by manifest.json", allowed, "submit fewer doses or attacks")
        if (cells := cell_count(settings, len(manifest.prompts))) > MOST_ROWS:
            raise Refused(
                "cells", f"up to {cells} by manifest.json", f"at most {MOST_ROWS}", "submit fewer doses or seeds"
            )
        table = parse_verdicts(reader.contents[VERDICTS_FILE])
    except Refused as refused:
        findings.append(refused.in_file(VERDICTS_FILE))
        return None
    except NotAtHand:
        raise
    except UserError as error:
        findings.append(Finding(MANIFEST_FILE, "runs", str(error), "each attack in one run"))
        return None
    wrong = [
        *cell_findings(table, settings, [prompt.id for prompt in manifest.prompts]),
        *line_findings(table, settings.protocol.max_new_tokens),
        *search_findings(table, settings),
    ]
    if not wrong:
        at_inference = submission is not None and submission.where == "inference"
        wrong += impossible(table, manifest.runs[0].judge.id, at_inference=at_inference)
        odd += oddities(table)
    findings += wrong
    if not wrong and OTHER_JUDGES_FILE in reader.contents:
        try:
            others = parse_other_judges(reader.contents[OTHER_JUDGES_FILE], len(table))
            findings += other_judge_findings(others, table, manifest.runs[0].judge.id)
        except Refused as refused:
            findings.append(refused.in_file(OTHER_JUDGES_FILE))
    if not wrong and row is not None:
        findings += _row_findings(row, row_of(manifest, table, created=row.created, version=row.asabench_version))
    return None if wrong or submission is None else card_of(submission, manifest, table)


def _row_findings(row: Row, expected: Row) -> list[Finding]:
    found = [
        Finding(ROW_FILE, path, there, f"{recomputed} follows from verdicts.parquet and manifest.json")
        for path, there, recomputed in row_differences(row, expected)
    ]
    if len(found) > MOST_DIFFERENCES:
        others = Finding(
            ROW_FILE,
            "other fields",
            f"{len(found) - MOST_DIFFERENCES} more differ",
            "all follow from verdicts.parquet and manifest.json",
        )
        return [*found[:MOST_DIFFERENCES], others]
    return found


def _notices(manifest: RunManifest) -> Iterator[str]:
    if any(prompt.cluster is None for prompt in manifest.prompts):
        yield "intervals resample prompts, not clusters of near-duplicates, as in entries made before clusters were"
    protocol = manifest.settings.protocol
    for gap in protocol_gaps(protocol):
        yield f"not the published protocol: {gap}"
    if protocol.max_new_tokens < MIN_TOKENS:
        yield f"flagged {SHORT_ANSWERS}: {protocol.max_new_tokens} tokens hold no content; {MIN_TOKENS} or more do"
    if not published_goals([prompt.sha256 for prompt in manifest.prompts]):
        yield f"the prompts {manifest.prompt_set!r} are no published set: not comparable with other entries"


def _card(folder: Path) -> Card | None:
    """The card of a submission that is only compared with; None where it cannot be read."""
    try:
        contents, _ = read_files(folder)
    except NotAtHand:
        return None
    reader = _Reader(contents, [])
    submission, manifest = reader.record(Submission, SUBMISSION_FILE), reader.record(RunManifest, MANIFEST_FILE)
    if submission is None or manifest is None or VERDICTS_FILE not in contents:
        return None
    try:
        return card_of(submission, manifest, parse_verdicts(contents[VERDICTS_FILE]))
    except Exception:  # whatever is wrong with it: it is not what is checked here
        return None


def _with_neighbours(own: Validation, cards: Sequence[Card]) -> Validation:
    if own.card is None or own.submission is None:
        return own
    findings, notices = neighbour_findings(own.card, own.submission, cards)
    return replace(own, findings=(*own.findings, *findings), notices=(*own.notices, *notices))


# In words


def report(done: Sequence[Validation]) -> str:
    """For a terminal: each folder, its findings and notices, and a last line."""
    lines: list[str] = []
    for each in done:
        lines.append(f"{each.path}: {STATE_WORDS[each.state]}")
        if each.not_checked is not None:
            lines.append(f"  {each.not_checked}")
        lines += [f"  {finding.line}" for finding in each.findings]
        lines += [f"  notice: {notice}" for notice in each.notices]
    states = Counter(each.state for each in done)
    unknown = f", {states['not checked']} could not be checked here" if states["not checked"] else ""
    lines.append(
        f"{len(done) - states['not checked']} checked, {states['valid']} valid, {states['invalid']} invalid{unknown}"
    )
    return "\n".join(lines)


def as_json(done: Sequence[Validation]) -> list[dict[str, Any]]:
    return [
        {
            "path": each.path,
            "ok": each.ok,
            "state": each.state,
            "not_checked": each.not_checked,
            "findings": [finding._asdict() for finding in each.findings],
            "notices": list(each.notices),
        }
        for each in done
    ]
