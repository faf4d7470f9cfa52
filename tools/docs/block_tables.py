"""The tables of docs/results/vulnerable-blocks.md, of the entries in submissions/: `python -m tools.docs.tables`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from asabench.core.attack_names import has_blocks
from asabench.core.numbers import ranges
from asabench.core.row import AttackResult, Row, read_row
from asabench.core.text import in_words
from asabench.stats.metrics import Outcomes, outcomes
from asabench.stats.profile import fragile_everywhere, moved, peak_blocks
from asabench.submission.schema import ROW_FILE, VERDICTS_FILE
from leaderboard.differences import read_table
from tools.docs.entry_tables import MODELS, SUBMISSIONS, Lines

TRAINED = ("RT+LAPT", "half", "RT+LAT")
BASE = "RT"


def peaks_v1() -> Lines:
    """Of each attack and dose the peak block and PASR of RT and of each defence on top, and whether it moved."""
    found = _found("asabench-v1", (BASE, *TRAINED))
    lines = []
    for attack, dose in _common(found):
        cells: list[str] = []
        before: tuple[int, ...] = ()
        for model in (BASE, *TRAINED):
            result, data = found[model][attack, dose]
            blocks = peak_blocks(data)
            cells.append(_peak(result, blocks))
            if model == BASE:
                before = blocks
            else:
                cells.append(moved(before, blocks))
        lines.append([attack, f"{dose:g}", *cells])
    header = ["attack", "dose", BASE, *(name for model in TRAINED for name in (model, "moved"))]
    return header, lines


def everywhere_v1() -> Lines:
    """The share of prompts that break at every block, by attack and dose."""
    found = _found("asabench-v1", (BASE, *TRAINED))
    lines = [
        [attack, f"{dose:g}", *(in_words(fragile_everywhere(own[attack, dose][1]), "-") for own in found.values())]
        for attack, dose in _common(found)
    ]
    return ["attack", "dose", *found], lines


BLOCK_PARTS: Mapping[str, Callable[[], Lines]] = {each.__name__: each for each in (peaks_v1, everywhere_v1)}

Found = dict[tuple[str, float], tuple[AttackResult, Outcomes]]


def _found(protocol: str, models: tuple[str, ...]) -> dict[str, Found]:
    """By model, attack and dose: the row's result and the outcomes behind it."""
    found = {}
    for model in models:
        folder = SUBMISSIONS / f"smollm2-135m-{MODELS[model]}{protocol}"
        row: Row = read_row(folder / ROW_FILE)
        table = read_table(folder / VERDICTS_FILE)
        found[model] = {
            (each.attack, each.dose): (each, outcomes(table, each.attack, each.dose))
            for each in row.results
            if has_blocks(each.attack)
        }
    return found


def _common(found: Mapping[str, Found]) -> list[tuple[str, float]]:
    first, *others = found.values()
    return [key for key in first if all(key in other for other in others)]


def _peak(result: AttackResult, blocks: tuple[int, ...]) -> str:
    if result.peak_layer is None:
        return "none"
    return f"{result.peak_layer} ({ranges(blocks)}): {in_words(result.pasr, '-')}"
