"""The paper's question, read for the exact word: what its table would say without the faults of its parser."""

from __future__ import annotations

from asabench.core.protocol import LabelSet
from harness.judges.paper_judge import PaperJudge, paper_judge
from harness.judges.paper_question import read_exactly


def make(rest: str, labels: LabelSet) -> PaperJudge:
    return paper_judge("gu2025", read_exactly, "read for the exact word", rest)
