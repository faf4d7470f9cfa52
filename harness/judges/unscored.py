"""Answers that no judge is asked about."""

from __future__ import annotations

from collections.abc import Sequence

from asabench.core.records import Response, Verdict
from harness.judges import Judge, ask

NOT_FINITE = "logits are not finite"
"""The reason of a verdict on an answer that the model did not give."""


def judged(judge: Judge, responses: Sequence[Response]) -> list[Verdict]:
    """A verdict for each response, in order: the judge's, or unscored where the model's logits were not finite.
    Raises as `harness.judges.ask` does."""
    given = [response for response in responses if response.finish_reason != "not-finite"]
    verdicts = {verdict.cell_id: verdict for verdict in (ask(judge, given) if given else ())}
    name = judge.info.id
    return [
        verdicts[response.cell.id]
        if response.finish_reason != "not-finite"
        else Verdict(cell_id=response.cell.id, judge=name, label=None, reason=NOT_FINITE)
        for response in responses
    ]
