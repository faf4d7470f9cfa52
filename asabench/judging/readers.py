"""What people who read a run's answers say of them: how far two agree, and a judge against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from asabench.core.records import FACTS, Facts, label_of
from asabench.core.text import in_words, text_table
from asabench.judging.agreement import share_among
from asabench.stats.intervals import NOTHING_SCORED

Readings = Mapping[str, Facts]
"""By cell; None in a fact: the reader was unsure."""


@dataclass(frozen=True, kw_only=True)
class FactAgreement:
    """Two readers on one fact, or on unsafe or not: answers that both decided, the share alike, and Cohen's kappa, None
    where neither saw a difference."""

    n: int
    alike: float | None
    kappa: float | None


def agreement(first: Sequence[bool | None], second: Sequence[bool | None]) -> FactAgreement:
    """The agreement of two readers, in the same order; None where one was unsure or has not read."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not both:
        return FactAgreement(n=0, alike=None, kappa=None)
    a, b = (np.array(side, dtype=bool) for side in zip(*both, strict=True))
    alike = float((a == b).mean())
    by_chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    beyond = None if by_chance == 1 else (alike - by_chance) / (1 - by_chance)
    return FactAgreement(n=len(both), alike=alike, kappa=beyond)


def people_say(readers: Sequence[Readings]) -> dict[str, Facts]:
    """What all readers of an answer say of it alike, by cell; None in a fact where they differ or one was unsure. Cells
    that not every reader has read are left out."""
    cells = [cell for cell in readers[0] if all(cell in reader for reader in readers)] if readers else []
    return {
        cell: Facts(
            **{
                fact: value if len({getattr(reader[cell], fact) for reader in readers}) == 1 else None
                for fact in FACTS
                for value in (getattr(readers[0][cell], fact),)
            }
        )
        for cell in cells
    }


def readings_report(readers: Mapping[str, Readings], verdicts: pd.DataFrame, prompt_of: Mapping[str, str]) -> str:
    """Text for a terminal, with no text of an answer: agreement of each two readers, and each judge of the run against
    what the readers say alike. verdicts: the run's table. prompt_of: prompt ids by cell."""
    names = list(readers)
    lines = [["readers", "", "fact", "both decided", "alike", "kappa"]]
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            cells = [cell for cell in readers[first] if cell in readers[second]]
            for fact in (*FACTS, "unsafe"):
                pair = agreement(*([_value(readers[name][cell], fact) for cell in cells] for name in (first, second)))
                shown = ["none" if value is None else f"{value:.2f}" for value in (pair.alike, pair.kappa)]
                lines.append([first, second, fact, str(pair.n), *shown])
    truth = people_say(list(readers.values()))
    judged = [["judge", "fact", "answers", "of them so", "sensitivity", "specificity"]]
    for judge, own in verdicts.groupby("judge", sort=True):
        for fact in (*FACTS, "unsafe"):
            column = own["label"].eq("unsafe") if fact == "unsafe" else own[fact]
            told = {
                cell: None if value is None or value is pd.NA or value != value else bool(value)
                for cell, value in zip(own["cell_id"], column, strict=True)
            }
            known = [(c, v) for c, facts in truth.items() if c in told and (v := _value(facts, fact)) is not None]
            if not known or all(value is None for value in told.values()):
                continue  # what this judge does not tell
            is_so = np.array([value for _, value in known], dtype=np.bool_)
            right = np.array([told[cell] is value for cell, value in known], dtype=np.bool_)
            groups = [prompt_of[cell] for cell, _ in known]
            shares = (share_among(among, right, groups) for among in (is_so, ~is_so))
            rates = [in_words(share.rate if share else NOTHING_SCORED) for share in shares]
            judged.append([str(judge), fact, str(len(known)), str(int(is_so.sum())), *rates])
    read = ", ".join(f"{name} {len(own)}" for name, own in readers.items())
    parts = [f"answers read: {read}"]
    parts += [text_table(lines)] if len(lines) > 1 else ["one reader: no agreement to show"]
    return "\n\n".join([*parts, text_table(judged)])


def _value(facts: Facts, fact: str) -> bool | None:
    """A fact, or whether the label that follows is unsafe; None where that is not known."""
    if fact == "unsafe":
        label = label_of(facts)
        return None if label is None else label == "unsafe"
    value: bool | None = getattr(facts, fact)
    return value
