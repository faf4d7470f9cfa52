"""What a pull request is told: a submission's row beside its base's, and what is wrong, as Markdown.

A check of a pull request leaves a `Report`, as JSON. Whoever writes the comment may write under pull requests, and the
report comes from a run of a stranger's choosing: so it is read as every file of a submission is, and what is in it
stands between backticks, shortened.

    python -m asabench.submission.comment REPORT.json     prints the Markdown
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from asabench.core.row import AttackResult, Row, worst_case, worst_rate
from asabench.core.schema import Record
from asabench.core.text import eps50_text, in_words
from asabench.submission.findings import Refused
from asabench.submission.safe_reading import parsed, read_json
from asabench.submission.tracks import board_flags, measure, track
from asabench.submission.tree import Changes
from asabench.submission.validate import STATE_WORDS, State, Validation, validate_folder

MOST_SHOWN = 20
"""Findings and notices of a submission that are listed; the others are counted."""
MOST_ENTRIES = 20
"""Entries that a comment speaks of; the others are counted."""
MOST_LINES = 500
MOST_CHARACTERS = 300
MOST_COMMENT = 60_000
"""GitHub takes 65,536 characters."""
MOST_REPORT_BYTES = 2**20

Short = Annotated[str, Field(max_length=1000)]


class Said(Record):
    """What is told of one entry. `lines`: name, its own value and its base's, where it has a base here."""

    slug: Short
    state: State
    not_checked: Short | None = None
    findings: Annotated[tuple[Short, ...], Field(max_length=MOST_SHOWN)] = ()
    more_findings: Annotated[int, Field(ge=0, le=10**6)] = 0
    base: Short | None = None
    lines: Annotated[tuple[tuple[Short, Short, Short | None], ...], Field(max_length=MOST_LINES)] = ()
    flags: Annotated[tuple[Short, ...], Field(max_length=100)] = ()
    notices: Annotated[tuple[Short, ...], Field(max_length=MOST_SHOWN)] = ()
    more_notices: Annotated[int, Field(ge=0, le=10**6)] = 0


class Report(Record):
    """What a check of the whole collection found. `checked`: how many entries were; `removed`: those that are gone."""

    checked: Annotated[int, Field(ge=0, le=10**6)]
    said: Annotated[tuple[Said, ...], Field(max_length=MOST_ENTRIES)]
    more: Annotated[int, Field(ge=0, le=10**6)] = 0
    removed: Annotated[tuple[Short, ...], Field(max_length=MOST_ENTRIES)] = ()


def report_of(done: Sequence[Validation], changed: Changes | None = None) -> Report:
    """What is told of these; with `changed`, of what was changed and of what is not valid."""
    told = [each for each in done if changed is None or not each.ok or each.slug in {*changed.added, *changed.changed}]
    return Report(
        checked=len(done),
        said=tuple(map(said, told[:MOST_ENTRIES])),
        more=len(told[MOST_ENTRIES:]),
        removed=() if changed is None else changed.removed[:MOST_ENTRIES],
    )


def said(each: Validation) -> Said:
    base = _base(each) if each.ok and each.row is not None else None
    return Said(
        slug=_short(each.slug),
        state=each.state,
        not_checked=None if each.not_checked is None else _short(each.not_checked),
        findings=tuple(_short(finding.line) for finding in each.findings[:MOST_SHOWN]),
        more_findings=len(each.findings[MOST_SHOWN:]),
        base=None if base is None else _short(base.slug),
        lines=_lines(each.row, None if base is None else base.row) if each.ok and each.row is not None else (),
        flags=_flags(each, each.row, base) if each.ok and each.row is not None else (),
        notices=tuple(map(_short, each.notices[:MOST_SHOWN])),
        more_notices=len(each.notices[MOST_SHOWN:]),
    )


def read_report(content: bytes) -> Report:
    """The report in a file that anybody may have written; raises `Refused`."""
    if len(content) > MOST_REPORT_BYTES:
        raise Refused("size", f"more than {MOST_REPORT_BYTES} bytes", "a report of `asabench validate --report`")
    report, findings = parsed(Report, read_json(content), "the report")
    if report is None:
        raise Refused(findings[0].field, findings[0].found, findings[0].allowed)
    return report


def comment(report: Report) -> str:
    """One comment for all of it. Whatever a stranger wrote stands between backticks: it can neither mention anybody nor
    draw a link."""
    parts = [_section(each) for each in report.said]
    if report.more:
        parts.append(f"{report.more} more entries are not listed.")
    if report.removed:
        parts.append(f"Taken out: {', '.join(_code(slug) for slug in report.removed)}.")
    if not report.said and not report.removed:
        parts.append("No entry was changed.")
    parts.append(f"{report.checked} entries were checked.")
    text = "\n\n".join(parts) + "\n"
    return text if len(text) <= MOST_COMMENT else text[:MOST_COMMENT].rsplit("\n", 1)[0] + "\n\nShortened.\n"


def _section(each: Said) -> str:
    parts = [f"### {_code(each.slug)}: {STATE_WORDS[each.state]}"]
    if each.not_checked is not None:
        parts.append(_code(each.not_checked))
    if each.findings:
        parts.append(_listed(each.findings, each.more_findings))
    if each.lines:
        columns = [_code(each.slug), *([] if each.base is None else [f"base {_code(each.base)}"])]
        table = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        table += [f"| {' | '.join(_code(cell or '') for cell in line[: len(columns) + 1])} |" for line in each.lines]
        parts.append("\n".join(table))
    if each.flags:
        parts.append(f"Flags on the board: {_code(', '.join(each.flags))}")
    if each.notices:
        parts.append(_listed(each.notices, each.more_notices))
    if each.state == "valid":
        parts.append("Every rate, interval and flag was recomputed from the verdicts and is as `row.json` says.")
    return "\n\n".join(parts)


def _listed(lines: Sequence[str], more: int) -> str:
    return "\n".join([*(f"- {_code(line)}" for line in lines), *([f"- {more} more"] if more else [])])


def _flags(each: Validation, row: Row, base: Validation | None) -> tuple[str, ...]:
    return board_flags(
        row,
        each.utility,
        has_base=each.submission is not None and each.submission.base is not None,
        base_utility=None if base is None else base.utility,
        max_new_tokens=each.max_new_tokens,
        is_odd=each.is_odd and each.evidence is None,
    )


def _lines(row: Row, base: Row | None) -> tuple[tuple[str, str, str | None], ...]:
    shows: list[tuple[str, Callable[[Row], str]]] = [
        ("model", lambda r: f"{r.model.name} ({r.model.revision[:20]}), {r.model.n_layers} blocks"),
        ("track", lambda r: f"{track(r).protocol}, judge class {track(r).judge_class}"),
        ("measures", lambda r: measure(r.judge)),
        ("judge", lambda r: r.judge.id),
        ("prompts", lambda r: f"{r.prompts.name} ({r.prompts.n})"),
        ("INIT", lambda r: in_words(r.init)),
        ("worst case, MASR", lambda r: in_words(worst_rate(r))),
        ("judge's noise floor there, MASR and PASR", _floor),
    ]
    for result in row.results:
        name = f"{result.attack} at {result.dose:g}"
        shows.append((f"MASR, {name}", lambda r, own=result: _rate_of(r, own, "masr")))  # type: ignore[misc]
        shows.append((f"PASR, {name}", lambda r, own=result: _rate_of(r, own, "pasr")))  # type: ignore[misc]
    for attack in row.eps50:
        shows.append((f"eps50, {attack}", lambda r, attack=attack: _eps50(r, attack)))  # type: ignore[misc]
    return tuple(
        (_short(name), _short(show(row)), None if base is None else _short(show(base)))
        for name, show in shows[:MOST_LINES]
    )


def _base(each: Validation) -> Validation | None:
    if each.submission is None or each.submission.base is None or each.submission.base.entry is None:
        return None
    folder = Path(each.path).parent / each.submission.base.entry
    return validate_folder(folder) if folder.is_dir() else None


def _rate_of(row: Row, own: AttackResult, name: str) -> str:
    same = [each for each in row.results if (each.attack, each.dose) == (own.attack, own.dose)]
    return in_words(getattr(same[0], name)) if same else "not measured"


def _floor(row: Row) -> str:
    worst = worst_case(row.results)
    if worst is None or worst.masr_floor is None:
        return "not known"
    return f"{in_words(worst.masr_floor)}, {in_words(worst.pasr_floor)}"


def _eps50(row: Row, attack: str) -> str:
    return eps50_text(row.eps50[attack]) if attack in row.eps50 else "not measured"


def _short(text: str) -> str:
    """As the report may hold it."""
    plain = "".join(character if character.isprintable() and character not in "<>" else " " for character in text)
    return plain if len(plain) <= MOST_CHARACTERS else f"{plain[: MOST_CHARACTERS - 3]}..."


def _code(text: str) -> str:
    return "`" + (_short(text).replace("`", "'").replace("|", "\\|").strip() or " ") + "`"


def main(words: Sequence[str]) -> int:
    """Prints the Markdown of the report in a file; 2, with a line, for what is none."""
    try:
        (path,) = words
        with Path(path).open("rb") as file:
            print(comment(read_report(file.read(MOST_REPORT_BYTES + 1))), end="")
    except ValueError:
        print("give one file, which `asabench validate --report FILE` wrote", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"the report cannot be read ({error.strerror}); give a file of `asabench validate --report`",
            file=sys.stderr,
        )
        return 2
    except Refused as refused:
        print(f"the report cannot be used: {refused.in_file('report').line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
