"""The tables of docs/results that are made of the entries in submissions/: `python -m tools.docs.tables` writes them.

Nothing is measured: rates are those of the rows, the worst case first, and differences those of their verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from asabench.core.estimate import Estimate
from asabench.core.row import AttackResult, Row, read_row, worst_case
from asabench.core.text import in_words, where
from asabench.stats.paired import difference
from asabench.submission.schema import ROW_FILE, VERDICTS_FILE
from asabench.submission.validate import submission_folders
from leaderboard.differences import read_table

SUBMISSIONS = Path(__file__).parents[2] / "submissions"
MODELS = {"base": "", "RT": "refusal-", "RT+LAPT": "lapt-", "half": "lapt-half-", "RT+LAT": "lat-"}
"""How docs/results/defences.md calls the models, and their entries' names."""

Lines = tuple[list[str], list[list[str]]]
"""A table's header and lines."""


def headlines() -> Lines:
    """Each entry's headline as it was defined first, the first attack at dose 1, and as it is."""
    rows = {folder.name: read_row(folder / ROW_FILE) for folder in submission_folders(SUBMISSIONS)}
    lines = [
        [slug, _at(next(each for each in row.results if each.dose == 1)), _at(worst_case(row.results))]
        for slug, row in rows.items()
    ]
    return ["entry", "headline before", "headline now"], lines


def defences_v1() -> Lines:
    return _rates("asabench-v1", ("RT", "RT+LAPT", "half", "RT+LAT"))


def defences_gu2025() -> Lines:
    return _rates("gu2025", tuple(MODELS))


def differences_v1() -> Lines:
    """MASR of each less that of RT, paired by prompt."""
    tables = {model: read_table(_folder(model, "asabench-v1") / VERDICTS_FILE) for model in MODELS if model != "base"}
    base = tables.pop("RT")
    at = [(each.attack, each.dose) for each in _row("RT", "asabench-v1").results]
    lines = [
        [attack, f"{dose:g}", *(in_words(difference(base, own, attack, dose).masr, "-") for own in tables.values())]
        for attack, dose in at
    ]
    return ["attack", "dose", *tables], lines


ENTRY_PARTS: Mapping[str, Callable[[], Lines]] = {
    each.__name__: each for each in (headlines, defences_v1, defences_gu2025, differences_v1)
}


def _rates(protocol: str, models: tuple[str, ...]) -> Lines:
    """The worst case of each model, then one line an attack and dose: MASR, and the share of incoherent answers."""
    rows = [_row(model, protocol) for model in models]
    lines = [
        ["**worst case**", "", *(_at(worst_case(row.results)) for row in rows)],
        ["clean (INIT)", "", *(_words(row.init) for row in rows)],
    ]
    for attack, dose in dict.fromkeys((each.attack, each.dose) for row in rows for each in row.results):
        found = [[each for each in row.results if (each.attack, each.dose) == (attack, dose)] for row in rows]
        lines.append([attack, f"{dose:g}", *(_with_share(each[0]) if each else "" for each in found)])
    return ["attack", "dose", *models], lines


def _folder(model: str, protocol: str) -> Path:
    return SUBMISSIONS / f"smollm2-135m-{MODELS[model]}{protocol}"


def _row(model: str, protocol: str) -> Row:
    return read_row(_folder(model, protocol) / ROW_FILE)


def _words(rate: Estimate) -> str:
    return in_words(rate, "-")


def _at(result: AttackResult | None) -> str:
    return "-" if result is None else f"{_words(result.masr)} {where(result)}"


def _with_share(result: AttackResult) -> str:
    answers = sum(result.verdicts.model_dump().values())
    return f"{_words(result.masr)}, {result.verdicts.incoherent / max(answers, 1):.0%}"
