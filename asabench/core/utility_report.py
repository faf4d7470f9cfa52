"""What a model still does for harmless requests, as `utility.json`: the other half of a defence's worth.

`asabench utility` measures it (`harness.utility`); submissions carry it, and the leaderboard does not rank an entry
without it: a model that refuses everything would win.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from asabench.core.estimate import Rate
from asabench.core.files import read_record
from asabench.core.schema import Record
from asabench.core.text import in_words

SCHEMA_VERSION: Literal[1] = 1


class RequestSet(Record):
    """The requests a rate is over. `digest` is of the requests' texts in order, 16 hex digits."""

    name: str
    digest: str
    n: int = Field(ge=1)


class BenignRates(Record):
    """`benign_answer_rate`: the share of plainly harmless requests that got an answer, neither a refusal nor broken
    text. `over_refusal`: the share of safe requests that look unsafe which were refused. Under an injection, or none:
    then `attack` is "none" and `dose` 0."""

    attack: str = "none"
    dose: float = Field(0.0, ge=0, allow_inf_nan=False)
    benign_answer_rate: Rate
    over_refusal: Rate


class TaskScore(Record):
    """Accuracy on a task. `chance` is what guessing reaches; a score whose interval holds it shows no ability."""

    accuracy: Rate
    n: int = Field(ge=1)
    chance: float = Field(ge=0, le=1)
    source: str
    digest: str


class UtilityReport(Record):
    """`clean` is without injection; `under_injection` repeats its rates for harmless requests under noise, as means
    over `layers` and `seeds`. `tasks` is keyed by name: `gsm8k`, `csqa`, `csqa_norm`, ..."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    asabench_version: str
    model: str
    revision: str
    dtype: str
    protocol: str = "asabench-v1"
    max_new_tokens: int = Field(32, ge=1)
    layers: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    benign_set: RequestSet
    over_refusal_set: RequestSet
    refusal_detector: str
    clean: BenignRates
    under_injection: tuple[BenignRates, ...] = ()
    tasks: dict[str, TaskScore] = Field(default_factory=dict)


def near_chance(score: TaskScore) -> bool:
    """Whether the score shows no ability: its interval holds chance, or lies below it."""
    return score.accuracy.low is not None and score.accuracy.low <= score.chance


def utility_table(report: UtilityReport) -> str:
    """The report as lines for a terminal of 100 columns."""
    benign, over = report.benign_set, report.over_refusal_set
    lines = [
        f"{report.model} ({report.revision}), {report.dtype}",
        f"harmless requests {benign.name} ({benign.n}), safe requests that look unsafe {over.name} ({over.n}), "
        f"{report.max_new_tokens} tokens",
        *(
            [f"under injection: means over layers {_listed(report.layers)}, seeds {_listed(report.seeds)}"]
            if report.under_injection
            else []
        ),
        "",
        f"{'attack':18}{'dose':>6}  {'benign answers':22}over-refusal",
    ]
    for rates in (report.clean, *report.under_injection):
        name, dose = ("clean", "") if rates is report.clean else (rates.attack, f"{rates.dose:g}")
        lines.append(f"{name:18}{dose:>6}  {in_words(rates.benign_answer_rate):22}{in_words(rates.over_refusal)}")
    names = max([18, *map(len, report.tasks)])
    if report.tasks:
        lines += ["", f"{'task':{names}}{'n':>6}  {'accuracy':22}{'chance':8}"]
    for task, score in report.tasks.items():
        note = "near chance: shows no ability" if near_chance(score) else ""
        lines.append(f"{task:{names}}{score.n:>6}  {in_words(score.accuracy):22}{score.chance:<8.2g}{note}".rstrip())
    return "\n".join(lines)


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def read_utility(path: Path) -> UtilityReport:
    """Reads and checks a `utility.json`; `UserError` when it is missing or not one."""
    return read_record(UtilityReport, path, "a utility report", "`asabench utility MODEL` writes one")
