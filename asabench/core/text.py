"""Numbers and tables as the terminal and the pages write them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from asabench.core.attack_names import is_whole
from asabench.core.estimate import Change, Estimate
from asabench.core.row import AttackResult, Censored, Eps50, SuiteResult

FACT_WORDS = {"refused": "refused", "coherent": "coherent", "harmful": "harmful", "onset": "begin willingly"}
"""The facts of an answer, and its onset, in the terminal."""


def in_words(estimate: Estimate | None, none: str = "none scored", *, digits: int = 2) -> str:
    """`0.42 [0.31, 0.53]`, a change with its sign; without the brackets where there is no interval, `none` where there
    is no value."""
    if estimate is None or estimate.value is None:
        return none
    return " ".join(filter(None, [_number(estimate.value, estimate, digits), interval_text(estimate, digits=digits)]))


def interval_text(estimate: Estimate, *, digits: int = 2) -> str:
    """`[0.31, 0.53]`, or nothing where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{_number(estimate.low, estimate, digits)}, {_number(estimate.high, estimate, digits)}]"


def _number(value: float, estimate: Estimate, digits: int) -> str:
    # z: a rounding error below 0 is no minus
    return f"{value:+z.{digits}f}" if isinstance(estimate, Change) else f"{value:z.{digits}f}"


def eps50_text(eps50: Eps50) -> str:
    """`0.34 (0.3 to 1) [0.1, > 1]`: the value, the measured doses that it lies between, and the interval; `< 0.1` and
    `0` say that the first dose, or none at all, breaks half."""
    if eps50.first is None or eps50.last is None:
        return "none scored"
    below = f"< {eps50.first:g}" if eps50.first > 0 else "0"

    def text(dose: float | None, censored: Censored | None) -> str:
        if dose is not None:
            return f"{dose:.3g}"
        return below if censored == "below" else f"> {eps50.last:g}"

    value, low, high = (
        text(eps50.value, eps50.censored),
        text(eps50.low, eps50.low_censored),
        text(eps50.high, eps50.high_censored),
    )
    bracket = "" if eps50.below is None or eps50.above is None else f" ({eps50.below:g} to {eps50.above:g})"
    return f"{value}{bracket} [{low}, {high}]"


def suite_text(suite: SuiteResult, width: int = 60, bar: str = "#") -> list[str]:
    """A suite's robustness curve as lines for a terminal, what broke the prompts, and what it cost. width: of a line;
    bar: what a bar is drawn with."""
    longest = max(width - 35, 8)
    lines = ["share of prompts that hold, by dose:"]
    for dose, rate in zip(suite.doses, suite.held, strict=True):
        lines.append(f"{dose:>8g}  {bar * round(longest * (rate.value or 0.0)):{longest}}  {in_words(rate)}")
    lines.append(f"area under it: {in_words(suite.area)}")
    broke = Counter((each.attack, each.layer) for each in suite.radii if each.attack is not None)
    for (attack, layer), number in sorted(broke.items(), key=lambda item: (-item[1], str(item[0]))):
        lines.append(f"  {number} broken first by {attack} at block {layer}")
    if clean := sum(each.dose == 0 for each in suite.radii):
        lines.append(f"  {clean} broken without an attack")
    if held := sum(each.dose is None for each in suite.radii):
        lines.append(f"  {held} held to the largest dose")
    share = suite.answers / suite.grid_answers
    lines.append(
        f"cost: {suite.answers} answers, {share:.1%} of the {suite.grid_answers} of the whole grid; "
        f"{suite.forwards} forwards of one row"
    )
    if suite.open_lines:
        lines.append(f"{suite.open_lines} places are not searched to their end by this judge's verdicts")
    return lines


def where(result: AttackResult) -> str:
    """`pgd at dose 0.3`; the name alone of an attack that has no dose."""
    return result.attack if is_whole(result.attack) else f"{result.attack} at dose {result.dose:g}"


def changes(old: Mapping[str, Any], new: Mapping[str, Any], *, most: int = 60) -> str:
    """What is not the same in two sets of JSON values, by name; nothing if all is. most: characters of a value."""
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return "; ".join(
        f"{key} was {_shortened(old.get(key), most)}, is now {_shortened(new.get(key), most)}" for key in different
    )


def _shortened(value: object, most: int) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
