"""What a pull request is told: a submission's row beside its base's, and what is wrong, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from asabench.core.row import AttackResult, Row, worst_case, worst_rate
from asabench.core.text import eps50_text, in_words
from asabench.submission.tracks import board_flags, measure, track
from asabench.submission.validate import State, Validation, validate_folder

MOST_SHOWN = 20
"""Findings and notices of a submission that are listed; the others are counted."""
_STATES: Mapping[State, str] = {"valid": "valid", "invalid": "not valid", "not checked": "could not be checked"}


def comment(done: Sequence[Validation]) -> str:
    """One comment for all submissions of a pull request. Whatever a stranger wrote stands between backticks: it can
    neither mention anybody nor draw a link."""
    return "\n\n".join(_section(each) for each in done) + "\n"


def _section(each: Validation) -> str:
    parts = [f"### {_code(each.slug)}: {_STATES[each.state]}"]
    if each.not_checked is not None:
        parts.append(_code(each.not_checked))
    if each.findings:
        parts.append(
            _listed(
                [
                    f"{_code(f.file)}: {_code(f.field)}: {_code(f.found)}; {_code(f.allowed)}; {_code(f.fix)}"
                    for f in each.findings
                ]
            )
        )
    if each.ok and each.row is not None:
        parts.append(_table(each, each.row))
    if each.notices:
        parts.append(_listed([_code(notice) for notice in each.notices]))
    if each.ok:
        parts.append("Every rate, interval and flag was recomputed from the verdicts and is as `row.json` says.")
    return "\n\n".join(parts)


def _listed(lines: Sequence[str]) -> str:
    more = [f"{len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
    return "\n".join(f"- {line}" for line in [*lines[:MOST_SHOWN], *more])


def _table(each: Validation, row: Row) -> str:
    base = _base(each)
    columns: list[tuple[str, Row]] = [(_code(each.slug), row)]
    if base is not None and base.row is not None:
        columns.append((f"base {_code(base.slug)}", base.row))
    has_base = each.submission is not None and each.submission.base is not None
    flags = board_flags(
        row,
        each.utility,
        has_base=has_base,
        base_utility=None if base is None else base.utility,
        max_new_tokens=each.max_new_tokens,
    )
    lines: list[tuple[str, Callable[[Row], str]]] = [
        ("model", lambda r: _code(f"{r.model.name} ({r.model.revision[:20]}), {r.model.n_layers} blocks")),
        ("track", lambda r: _code(f"{track(r).protocol}, judge class {track(r).judge_class}")),
        ("measures", lambda r: measure(r.judge)),
        ("judge", lambda r: _code(r.judge.id)),
        ("prompts", lambda r: _code(f"{r.prompts.name} ({r.prompts.n})")),
        ("INIT", lambda r: in_words(r.init)),
        ("worst case, MASR", lambda r: in_words(worst_rate(r))),
        ("judge's noise floor there, MASR and PASR", _floor),
    ]
    for result in row.results:
        name = _code(f"{result.attack} at {result.dose:g}")
        lines.append((f"MASR, {name}", lambda r, own=result: _rate_of(r, own, "masr")))  # type: ignore[misc]
        lines.append((f"PASR, {name}", lambda r, own=result: _rate_of(r, own, "pasr")))  # type: ignore[misc]
    for attack in row.eps50:
        lines.append((f"eps50, {_code(attack)}", lambda r, attack=attack: _eps50(r, attack)))  # type: ignore[misc]
    table = [f"| | {' | '.join(name for name, _ in columns)} |", "|---" * (len(columns) + 1) + "|"]
    table += [f"| {name} | {' | '.join(show(r) for _, r in columns)} |" for name, show in lines]
    return "\n".join(table) + (f"\n\nFlags on the board: {_code(', '.join(flags))}" if flags else "")


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
    return _code(eps50_text(row.eps50[attack])) if attack in row.eps50 else "not measured"


def _code(text: str) -> str:
    plain = "".join(character if character.isprintable() else " " for character in text)
    return "`" + plain.replace("`", "'").replace("|", "\\|").strip() + "`"
