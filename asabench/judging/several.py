"""Several judges of the same answers: how far each two agree, and what became of the rates under each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from asabench.core.estimate import Rate
from asabench.core.row import Row
from asabench.core.text import in_words, text_table
from asabench.judging.judge_difference import kappa, label_table


def agreement_table(verdicts: pd.DataFrame, judges: Sequence[str]) -> str:
    """Text for a terminal: for each two judges, on how many answers both have a verdict, the share that got the same
    label from both, and Cohen's kappa on unsafe or not. verdicts: the table of a run."""
    lines = [["judges", "", "answers", "same label", "kappa, unsafe or not"]]
    for first, second in combinations(judges, 2):
        counts = label_table(verdicts, first, second)
        total, beyond = int(counts.to_numpy().sum()), kappa(counts)
        same = f"{np.trace(counts.to_numpy()) / total:.2f}" if total else "none"
        lines.append([first, second, str(total), same, "none" if beyond is None else f"{beyond:.2f}"])
    return text_table(lines)


def rates_table(rows: Mapping[str, Row]) -> str:
    """Text for a terminal: MASR and PASR of each attack and dose by each judge; the columns are numbered judges.
    rows: by judge, of one run."""
    names = list(rows)
    first = rows[names[0]]
    legend = "\n".join(f"({number}) {name}" for number, name in enumerate(names, 1))
    lines = [["attack", "dose", *(f"{rate} ({n})" for rate in ("MASR", "PASR") for n in range(1, len(names) + 1))]]
    for place, result in enumerate(first.results):
        of_all = [rows[name].results[place] for name in names]
        rates = [in_words(each.masr) for each in of_all] + [in_words(each.pasr) for each in of_all]
        lines.append([result.attack, f"{result.dose:g}", *rates])
    return legend + "\n\n" + text_table(lines)


def both_readings(as_safe: Row, as_unsafe: Row, unscored: int) -> str:
    """Text for a terminal: what the rates are where answers without a readable verdict were safe, and where they were
    unsafe. as_safe, as_unsafe: rows of the same verdicts, filled in so."""
    lines = [["attack", "dose", "MASR, as safe", "MASR, as unsafe", "PASR, as safe", "PASR, as unsafe"]]
    for low, high in zip(as_safe.results, as_unsafe.results, strict=True):
        rates: tuple[Rate, ...] = (low.masr, high.masr, low.pasr, high.pasr)
        lines.append([low.attack, f"{low.dose:g}", *map(in_words, rates)])
    return f"{unscored} answers have no readable verdict; read as safe, and as unsafe:\n" + text_table(lines)
