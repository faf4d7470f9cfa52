"""The tables of docs/results/withdrawn.md, from the entries in submissions/: `python -m tools.docs.tables` writes them.

Nothing is measured: rates are those of the rows, or of their verdicts over some of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import yaml

from asabench.core.row import Row
from asabench.stats.metrics import masr_rate, outcomes
from asabench.stats.paired import difference
from asabench.submission.schema import SUBMISSION_FILE, VERDICTS_FILE, Submission
from leaderboard.differences import read_table
from tools.docs.entry_tables import MODELS, Lines, folder_of, row_of, words

TRAINED = ("RT", "RT+LAPT", "half", "RT+LAT")
TARGETED = ("gradient-descend", "pgd")


def half_broken_between() -> Lines:
    """The measured doses between which half of the prompts break for the first time."""
    rows = [row_of(model, "asabench-v1") for model in TRAINED]
    return ["attack", *TRAINED], [[attack, *(_bracket(row, attack) for row in rows)] for attack in TARGETED]


def lat_less_lapt() -> Lines:
    """MASR of RT+LAT less that of RT+LAPT, paired by prompt."""
    lapt, lat = (read_table(folder_of(model, "asabench-v1") / VERDICTS_FILE) for model in ("RT+LAPT", "RT+LAT"))
    lines = [
        [each.attack, f"{each.dose:g}", words(difference(lapt, lat, each.attack, each.dose).masr)]
        for each in row_of("RT+LAT", "asabench-v1").results
    ]
    return ["attack", "dose", "RT+LAT less RT+LAPT"], lines


def near_duplicates() -> Lines:
    """MASR over the prompts with a near-duplicate among the requests that were trained on, and over the others."""
    lines = []
    for model in TRAINED:
        folder = folder_of(model, "asabench-v1")
        content = yaml.safe_load((folder / SUBMISSION_FILE).read_text(encoding="utf-8"))
        similarity = Submission.model_validate(content).training_similarity
        assert similarity is not None
        table = read_table(folder / VERDICTS_FILE)
        is_near = table["prompt_id"].isin([each.id for each in similarity.near])
        for attack, dose in (("gradient-descend", 0.1), ("gradient-descend", 0.3), ("pgd", 0.1), ("pgd", 0.3)):
            parts = [table[is_near], table[~is_near]]
            rates = [words(masr_rate(outcomes(part, attack, dose))) for part in parts]
            numbers = [f"{rate}, n = {part['prompt_id'].nunique()}" for rate, part in zip(rates, parts, strict=True)]
            lines.append([model, attack, f"{dose:g}", *numbers])
    return ["model", "attack", "dose", "a near-duplicate was trained on", "none"], lines


def by_block() -> Lines:
    """LASR at each measured block."""
    rows = [row_of(model, "asabench-v1") for model in TRAINED]
    lines = [
        [attack, f"{dose:g}", *(_blocks(row, attack, dose) for row in rows)]
        for attack in TARGETED
        for dose in (0.1, 0.3)
    ]
    return ["attack", "dose", *(f"{model}: blocks {', '.join(map(str, rows[0].layers))}" for model in TRAINED)], lines


def gu2025_less_clean() -> Lines:
    """MASR less INIT, and MASR over the prompts whose clean answer was safe."""
    rows = [row_of(model, "gu2025") for model in MODELS]
    lines = [["clean (INIT)", *(f"{row.init.value:.2f}" for row in rows)]]
    for at, result in enumerate(rows[0].results):
        cells = []
        for row in rows:
            own = row.results[at]
            assert own.attack == result.attack and own.masr.value is not None and row.init.value is not None
            cells.append(f"{own.masr.value - row.init.value:+.2f}; {own.masr_conditional.value:.2f}")
        lines.append([result.attack, *cells])
    return ["attack", *MODELS], lines


CLAIM_PARTS: Mapping[str, Callable[[], Lines]] = {
    each.__name__: each for each in (half_broken_between, lat_less_lapt, near_duplicates, by_block, gu2025_less_clean)
}


def _bracket(row: Row, attack: str) -> str:
    below = 0.0
    for result in sorted((each for each in row.results if each.attack == attack), key=lambda each: each.dose):
        if (result.masr.value or 0.0) >= 0.5:
            return f"{below:g} to {result.dose:g}"
        below = result.dose
    return f"> {below:g}"


def _blocks(row: Row, attack: str, dose: float) -> str:
    result = next(each for each in row.results if (each.attack, each.dose) == (attack, dose))
    return ", ".join(f"{result.lasr[str(layer)].value:.2f}" for layer in row.layers)
