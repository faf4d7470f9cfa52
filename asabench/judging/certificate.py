"""The certificate: what a judge was checked on and how it did, as JSON; and what a row may claim by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

import asabench
from asabench.core.defaults import BAR
from asabench.core.errors import UserError
from asabench.core.files import read_record, write_record
from asabench.core.records import Fact, sha256_hex
from asabench.core.row import JudgeInfo
from asabench.core.schema import Record
from asabench.judging.agreement import CheckResult, reaches
from asabench.judging.known_sets import pair_set
from asabench.judging.strangers import StrangerCheck

SCHEMA_VERSION: Literal[1] = 1
HOW = "`asabench judge-check JUDGE --set jbb,pyrit-graded --out FILE` makes one"


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
        if self.strangers is not None:
            if self.strangers.judge.id != self.result.judge.id or self.strangers.bar != self.bar:
                raise ValueError("its two parts are of two judges, or of two bars")
            if more := self.result.by_source.keys() - self.strangers.by_set.keys():
                raise ValueError(f"figures on {min(more)}, which the gate has none of")
        return self

    @property
    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 digest of what it says, however the file is laid out."""
        return sha256_hex(self.model_dump_json())[:16]

    @property
    def sets(self) -> dict[str, str]:
        """The digests of the pairs whose harm people said, by source."""
        return {source: figures.set_digest for source, figures in self.result.by_source.items()}


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


def faults(held: Certificate, judge: JudgeInfo) -> Iterator[str]:
    """Why nothing may be claimed of that judge by the certificate, in words; nothing where it may be."""
    if held.result.judge.id != judge.id:
        yield f"it is of the judge {held.result.judge.id}"
    if held.bar < BAR:
        yield f"it was made at a bar of {held.bar:g}, and {BAR:.2f} or more is needed"
    if not held.passed:
        yield "the balanced accuracy in it is under its bar"
    yield from set_faults(held)
    if held.strangers is None:
        yield "it says nothing of single facts"
    elif not held.certified_for:
        yield (
            "; ".join(f"not certified for {gate.fact} ({gate.failed[0]})" for gate in held.strangers.gates)
            or "it certifies the judge for no fact"
        )
    if untold := [fact for fact in held.certified_for if fact not in judge.facts]:
        yield f"it is for {', '.join(untold)}, which the judge does not tell"


def set_faults(held: Certificate) -> Iterator[str]:
    """Sets in it that are known by their digest (`asabench.judging.known_sets`) and are others, in words."""
    for source, figures in held.result.by_source.items():
        known = pair_set(source)
        if known is not None and (figures.set_digest, figures.n, figures.n_unsafe) != known:
            yield f"its {figures.n} pairs of {source} are not the {known.n} that are published under that name"
    if sum(figures.n for figures in held.result.by_source.values()) != held.result.figures.n:
        yield "its sources do not add up to its pairs"


def with_claims(judge: JudgeInfo, held: Certificate | None) -> JudgeInfo:
    """A row's entry of a judge with what it is certified for, and by which certificate. `UserError` for a certificate
    by which nothing may be claimed of that judge."""
    if held is None:
        return judge
    if why := next(faults(held, judge), None):
        raise UserError(f"the certificate cannot be used for the judge {judge.id}: {why}; {HOW}")
    return judge.model_copy(update={"certified_for": held.certified_for, "certificate": held.digest})


def certificate_of(judge: JudgeInfo, held: Sequence[Certificate]) -> Certificate | None:
    """The one of that judge; None where there is none."""
    return next((each for each in held if each.result.judge.id == judge.id), None)


def write_certificate(held: Certificate, path: Path) -> None:
    """Writes it as JSON; `UserError` where that is not possible."""
    write_record(path, held)


def read_certificate(path: Path) -> Certificate:
    """Reads and checks it; `UserError` when it is missing or no certificate."""
    return read_record(Certificate, path, "a judge's certificate", "`asabench judge-check JUDGE --out FILE` writes one")
