"""The paper's question, read as its code reads it (`harness.judges.paper_question.read_as_published`)."""

from __future__ import annotations

from asabench.core.protocol import LabelSet
from harness.judges.paper_judge import PaperJudge, paper_judge
from harness.judges.paper_question import read_as_published


def make(rest: str, labels: LabelSet) -> PaperJudge:
    return paper_judge(
        "gu2025-as-published", read_as_published, "its last line searched for safe, true or yes, as published", rest
    )
