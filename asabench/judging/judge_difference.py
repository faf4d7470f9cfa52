"""How two judges of the same answers differ."""

from __future__ import annotations

import numpy as np
import pandas as pd

from asabench.core.records import LABELS
from asabench.core.row import Row
from asabench.core.text import in_words, text_table
from asabench.judging.agreement import cohens_kappa

COLUMNS = (*LABELS, "unscored")


def label_table(verdicts: pd.DataFrame, before: str, after: str) -> pd.DataFrame:
    """How many cells one judge (rows) and the other (columns) gave each label; of cells that both have judged.

    verdicts: the table of a run. before, after: judges' ids.
    """
    first, second = (
        verdicts[verdicts["judge"] == judge].set_index("cell_id")["label"].fillna("unscored")
        for judge in (before, after)
    )
    both = pd.DataFrame({"before": first, "after": second}).dropna()
    counts = pd.crosstab(both["before"], both["after"])
    return counts.reindex(index=COLUMNS, columns=COLUMNS, fill_value=0)


def kappa(counts: pd.DataFrame) -> float | None:
    """Cohen's kappa on unsafe or not, from `label_table`; None where one of them saw no difference among the cells."""
    cells = counts.to_numpy(dtype=float)
    unsafe = np.array([column == "unsafe" for column in COLUMNS])
    total, positive = cells.sum(), cells[unsafe].sum()
    if not 0 < positive < total:
        return None
    sensitivity = cells[np.ix_(unsafe, unsafe)].sum() / positive
    specificity = cells[np.ix_(~unsafe, ~unsafe)].sum() / (total - positive)
    return float(cohens_kappa(sensitivity, specificity, positive / total))


def difference_table(verdicts: pd.DataFrame, before: Row, after: Row) -> str:
    """Text for a terminal: labels side by side, and what became of the rates."""
    counts = label_table(verdicts, before.judge.id, after.judge.id)
    total = int(counts.to_numpy().sum())
    same = int(np.trace(counts.to_numpy()))
    beyond = kappa(counts)
    labels = [["", *COLUMNS], *([label, *(str(counts.loc[label, column]) for column in COLUMNS)] for label in COLUMNS)]
    rates = [["attack", "dose", "MASR before", "MASR after", "PASR before", "PASR after"]]
    rates.append(["clean", "", f"INIT {in_words(before.init)}", f"INIT {in_words(after.init)}", "", ""])
    for old, new in zip(before.results, after.results, strict=True):
        rates.append([new.attack, f"{new.dose:g}", *map(in_words, (old.masr, new.masr, old.pasr, new.pasr))])
    agreement = f"{same / total:.2f} of {total} answers" if total else "no answer judged by both"
    return "\n\n".join(
        [
            f"before: {before.judge.id}\nafter:  {after.judge.id}\nsame label: {agreement}"
            + ("" if beyond is None else f"; Cohen's kappa on unsafe or not: {beyond:.2f}"),
            "Labels before (rows) and after (columns)\n" + text_table(labels),
            text_table(rates),
        ]
    )
