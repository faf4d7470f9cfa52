"""One number for a model's utility, to choose an interpolation by: from what `asabench utility` measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.estimate import Rate
from harness.model.subject import load
from harness.utility.csqa import csqa_scores, read_questions
from harness.utility.measure import make_choices, measure

KEPT = ("benign", "over-refusal", "csqa")


def scorer(
    what: str, *, csqa: str | None = None, limit: int | None = None, dtype: str = "float32", device: str = "auto"
) -> Callable[[Path], float]:
    """A function from a model folder to its score, larger is better.

    what: `benign`, the share of harmless requests that are answered; `over-refusal`, the share of safe requests that
    look unsafe and are not refused; `csqa`, CommonsenseQA's accuracy on the data that `csqa` names. limit: the first
    requests or questions only. Raises `UserError`.
    """
    if what not in KEPT:
        raise UserError(f"--keep {what!r} is unknown; allowed: {', '.join(KEPT)}, each with a margin as {KEPT[0]}:0.05")
    if what == "csqa":
        if csqa is None:
            raise UserError("--keep csqa needs the questions; name them with --csqa, as for `asabench utility`")
        questions = read_questions(csqa, limit)
        return lambda folder: _value(
            csqa_scores(load(str(folder), dtype=dtype, device=device), questions)["csqa"].accuracy
        )
    choices = make_choices(attack=(), limit=limit)

    def score(folder: Path) -> float:
        clean = measure(load(str(folder), dtype=dtype, device=device), choices).clean
        return _value(clean.benign_answer_rate) if what == "benign" else 1.0 - _value(clean.over_refusal)

    return score


def _value(rate: Rate) -> float:
    if rate.value is None:
        raise UserError("nothing could be scored on this model; choose another --keep")
    return rate.value
