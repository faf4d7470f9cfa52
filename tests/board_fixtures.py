"""Entries of the board for tests: complete ones, with whatever a test wants changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from asabench.card.records import ModelCard
from asabench.core.estimate import Kappa, Rate
from asabench.core.protocol import PROMPT_SET, published_digests
from asabench.core.row import Eps50, JudgeFigures, Row
from asabench.core.utility_report import BenignRates, RequestSet, TaskScore, UtilityReport
from asabench.submission.schema import CARD_FILE, ROW_FILE, SUBMISSION_FILE, UTILITY_FILE, Submission
from tests.rows import make_result, make_row, rate, write_row

HOSTILE = '<script>alert("1")</script>\'"><img src=x onerror=alert(2)>{{ 7*7 }}'


FIGURES = JudgeFigures(
    set_name="gold",
    set_digest="0011223344556677",
    n=173,
    n_unsafe=52,
    unscored=0,
    balanced_accuracy=rate(0.91, 0.87, 0.94),
    sensitivity=rate(0.93, 0.84, 0.98),
    specificity=rate(0.89, 0.82, 0.93),
    kappa=Kappa(value=0.8, low=0.7, high=0.9),
    label_recall={},
)


def complete_row(**changes: Any) -> Row:
    """A row that has what a ranking needs: each required attack, all layers, 100 prompts of AdvBench, the published
    protocol, a certified judge."""
    given: dict[str, Any] = {"prompts": {}, "judge": {}, "protocol": {}, **changes}
    given["prompts"] = {"name": PROMPT_SET, "n": 100, **given["prompts"]}
    digests = published_digests(given["protocol"].get("name", "asabench-v1"))
    given["protocol"] = {"digest": digests.get("standard", "0" * 16), **given["protocol"]}
    given["judge"] = {"kind": "llm", "figures": FIGURES, **given["judge"]}
    given.setdefault(
        "results",
        (
            make_result(),
            make_result(attack="gradient-ascend", masr=rate(0.71, 0.6, 0.8), pasr=rate(0.41, 0.3, 0.5)),
            make_result(attack="gradient-descend", masr=rate(0.55, 0.45, 0.66), pasr=rate(0.35, 0.25, 0.46)),
            make_result(attack="pgd", masr=rate(0.83, 0.71, 0.91), pasr=rate(0.53, 0.41, 0.61)),
        ),
    )
    given.setdefault(
        "eps50",
        {
            "random": Eps50(value=0.6, low=0.5, high=0.7, first=0.0, last=1.0),
            "pgd": Eps50(value=0.21, low=0.1, high=0.4, first=0.0, last=1.0),
        },
    )
    return make_row(**given)


def row_with_worst_case(value: float, **changes: Any) -> Row:
    """A complete row whose attacks all have that MASR, with an interval of 0.02 to either side."""
    masr = Rate(value=value, low=max(0.0, value - 0.02), high=min(1.0, value + 0.02))
    results = tuple(result.model_copy(update={"masr": masr}) for result in complete_row().results)
    return complete_row(**{"results": results, "masr": masr, **changes})


def make_utility(benign: float, **changes: Any) -> UtilityReport:
    """A report with that benign-answer rate, and over-refusal what is left of 1."""
    clean = BenignRates(
        benign_answer_rate=Rate(value=benign, low=benign - 0.05, high=min(1.0, benign + 0.05)),
        over_refusal=Rate(value=round(1 - benign, 4), low=0.0, high=0.3),
    )
    fields: dict[str, Any] = {
        "created": "2025-07-01T10:00:00+00:00",
        "asabench_version": "0.1.0",
        "model": "tiny-llama",
        "revision": "1",
        "dtype": "float32",
        "benign_set": RequestSet(name="benign", digest="aabbccddeeff0011", n=60),
        "over_refusal_set": RequestSet(name="looks-unsafe", digest="1100ffeeddccbbaa", n=40),
        "refusal_detector": "refusals-1",
        "clean": clean,
        "under_injection": (clean.model_copy(update={"attack": "random", "dose": 0.3}),),
        "tasks": {
            "gsm8k": TaskScore(accuracy=rate(0.31, 0.2, 0.42), n=80, chance=0.01, source="a package", digest="ff00")
        },
    }
    return UtilityReport(**{**fields, **changes})


def make_submission(slug: str, **changes: Any) -> Submission:
    fields: dict[str, Any] = {
        "slug": slug,
        "name": slug,
        "model": {"name": slug, "revision": "1" * 40},
        "authors": ("A. Person", "B. Person"),
        "licence": "Apache-2.0",
        "protocol": "asabench-v1",
        "created": "2025-07-01",
        "asabench_version": "0.1.0",
        "files": {ROW_FILE: "0" * 64},
    }
    return Submission.model_validate({**fields, **changes})


def write_entry(
    folder: Path,
    row: Row,
    submission: Submission | str,
    utility: UtilityReport | None = None,
    card: ModelCard | None = None,
) -> Path:
    """A submission's folder: its row, its `submission.yaml` (of that slug, if only one is given), and the others."""
    write_row(folder, row)
    given = make_submission(submission) if isinstance(submission, str) else submission
    (folder / SUBMISSION_FILE).write_text(yaml.safe_dump(given.model_dump(mode="json")), encoding="utf-8")
    if utility is not None:
        (folder / UTILITY_FILE).write_text(utility.model_dump_json(), encoding="utf-8")
    if card is not None:
        (folder / CARD_FILE).write_text(card.model_dump_json(), encoding="utf-8")
    return folder
