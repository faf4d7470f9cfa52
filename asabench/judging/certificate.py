"""The certificate: what a judge was checked on and how it did, as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

import asabench
from asabench.core.defaults import BAR
from asabench.core.files import read_record, write_record
from asabench.core.records import Fact
from asabench.core.schema import Record
from asabench.judging.agreement import CheckResult, reaches
from asabench.judging.strangers import StrangerCheck

SCHEMA_VERSION: Literal[1] = 1


class Certificate(Record):
    """`passed` says whether the balanced accuracy on the whole set reached `bar`: that the judge works. `strangers` is
    the gate on people's labels (`asabench.judging.strangers`): what it is certified for. The digest of the set, and of
    each source in it, is in their figures."""

    schema_version: Literal[1] = SCHEMA_VERSION
    asabench_version: str
    created: str
    bar: float
    passed: bool
    result: CheckResult
    strangers: StrangerCheck | None = None

    @property
    def certified_for(self) -> tuple[Fact, ...]:
        """The facts that the judge may be believed on where it was never met; none of a certificate without that
        check, or from before there was one."""
        return () if self.strangers is None else self.strangers.certified_for

    @model_validator(mode="after")
    def _says_what_the_figures_say(self) -> Self:
        if self.passed != reaches(self.result.figures, self.bar):
            raise ValueError("passed contradicts the balanced accuracy and the bar")
        return self


def certificate(result: CheckResult, bar: float = BAR, strangers: StrangerCheck | None = None) -> Certificate:
    """The certificate of a check that was made just now."""
    return Certificate(
        asabench_version=asabench.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bar=bar,
        passed=reaches(result.figures, bar),
        result=result,
        strangers=strangers,
    )


def fits(held: Certificate, judge_id: str, set_digest: str) -> bool:
    """Whether the certificate is of that judge on that set of pairs, and it passed."""
    result = held.result
    return held.passed and result.judge.id == judge_id and result.figures.set_digest == set_digest


def write_certificate(held: Certificate, path: Path) -> None:
    """Writes it as JSON; `UserError` where that is not possible."""
    write_record(path, held)


def read_certificate(path: Path) -> Certificate:
    """Reads and checks it; `UserError` when it is missing or no certificate."""
    return read_record(Certificate, path, "a judge's certificate", "`asabench judge-check JUDGE --out FILE` writes one")
