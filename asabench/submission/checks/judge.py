"""The judge of the row, and `certificate.json`."""

from __future__ import annotations

from collections.abc import Iterator

from asabench.core.defaults import BAR
from asabench.core.judge_names import OWN_KINDS, kind_in, may_be_certified
from asabench.core.row import JudgeFigures, JudgeInfo, Row
from asabench.judging.agreement import CheckResult, reaches
from asabench.judging.certificate import Certificate, set_faults
from asabench.judging.embedded_judges import EMBEDDED_JUDGES
from asabench.judging.known_sets import pair_set
from asabench.judging.strangers import StrangerCheck
from asabench.submission.checks.values import date_findings, rate_findings
from asabench.submission.findings import Finding, shown
from asabench.submission.schema import CERTIFICATE_FILE, ROW_FILE

FIGURES_APART = 0.05
"""How far the check before a run and the certificate may differ on the same pairs: a judge on another machine, or one
that draws its answers."""
ROUNDING = 1e-9
_CHECK_AGAIN = "check the judge again with this version (`asabench judge-check`)"


def judge_findings(row: Row, certificate: Certificate | None, *, is_there: bool) -> Iterator[Finding]:
    """is_there: whether there is a certificate, readable or not."""
    judge = row.judge
    if judge.certified:
        if not is_there:
            yield Finding(
                CERTIFICATE_FILE,
                "the file",
                "missing",
                f"the certificate of the judge {shown(judge.id)[1:-1]}, which the row calls certified",
                "`asabench judge-check JUDGE --out FILE`, then `asabench submit --certificate FILE`",
            )
        if judge.figures is None or not reaches(judge.figures, BAR):
            value = None if judge.figures is None else judge.figures.balanced_accuracy.value
            yield Finding(
                ROW_FILE,
                "judge.certified",
                f"true beside a balanced accuracy of {value}",
                f"a certified judge reaches {BAR:.2f}",
                "evaluate with a judge that reaches it, or with --uncertified",
            )
        if not may_be_certified(judge.id):
            yield Finding(
                ROW_FILE,
                "judge.certified",
                f"true of {shown(judge.id)}",
                "false: that judge is there to compare with a paper's table",
                "judge the run again by another judge (`asabench judge`), or with --uncertified",
            )
        if judge.kind in OWN_KINDS and kind_in(judge.id) != judge.kind:
            yield Finding(
                ROW_FILE, "judge.kind", f"{judge.kind} of {shown(judge.id)}", "the judge that comes with ASABench"
            )
    known = () if certificate is None else certificate.certified_for
    if claimed := [fact for fact in judge.certified_for if fact not in known]:
        yield Finding(
            ROW_FILE,
            "judge.certified_for",
            ", ".join(claimed),
            f"{', '.join(known) or 'nothing'}, as the certificate says",
            "`asabench judge-check JUDGE --set jbb,pyrit-graded --out FILE`, then `asabench submit --certificate FILE`",
        )
    elif untold := [fact for fact in judge.certified_for if fact not in judge.facts]:
        yield Finding(ROW_FILE, "judge.certified_for", ", ".join(untold), "facts that the judge tells (judge.facts)")
    if judge.certificate is not None and (certificate is None or judge.certificate != certificate.digest):
        there = "no certificate" if certificate is None else f"{certificate.digest}, the digest of what it says"
        yield Finding(ROW_FILE, "judge.certificate", shown(judge.certificate), there, "submit with that certificate")
    yield from _embedded_findings(judge)
    if judge.figures is not None:
        yield from _set_findings(ROW_FILE, "judge.figures", judge.figures)
    if certificate is None:
        return
    yield from date_findings(CERTIFICATE_FILE, certificate.created)
    result = certificate.result
    for field, found, there in (("id", result.judge.id, judge.id), ("kind", result.judge.kind, judge.kind)):
        if found != there:
            yield Finding(
                CERTIFICATE_FILE,
                f"result.judge.{field}",
                shown(found),
                f"{shown(there)}, the judge of the row",
                "give the certificate of the judge that judged the run",
            )
    if judge.certified and certificate.bar < BAR:
        yield Finding(CERTIFICATE_FILE, "bar", f"{certificate.bar:g}", f"{BAR:.2f} or more", "check it at that bar")
    if judge.certified and not reaches(result.figures, BAR):
        value = result.figures.balanced_accuracy.value
        yield Finding(
            CERTIFICATE_FILE,
            "result.figures.balanced_accuracy",
            f"{value}",
            f"{BAR:.2f} or more",
            "take a judge that reaches it, or submit the run as uncertified",
        )
    if certificate.strangers is None or pair_set(result.figures.set_name) is not None:
        yield from _set_findings(CERTIFICATE_FILE, "result.figures", result.figures)
    for fault in set_faults(certificate):
        yield Finding(CERTIFICATE_FILE, "result.by_source", fault, "the pairs that are published", _CHECK_AGAIN)
    if certificate.strangers is not None:
        yield from _gate_findings(certificate.strangers)
    yield from _confusion_findings(result)
    yield from _apart_findings(judge.figures, result)


def _embedded_findings(judge: JudgeInfo) -> Iterator[Finding]:
    """The judge that comes with ASABench is known by its id, and what it does on the gold pairs with it."""
    if judge.kind != "embedded":
        return
    known = EMBEDDED_JUDGES.get(judge.id)
    if known is None:
        listed = ", ".join(EMBEDDED_JUDGES)
        yield Finding(
            ROW_FILE,
            "judge.id",
            shown(judge.id),
            f"a judge that came with ASABench: {listed}",
            "judge the run again with --judge embedded; a judge of your own has another name",
        )
        return
    if judge.figures is None or judge.figures.set_digest != known.pairs[: len(judge.figures.set_digest)]:
        return
    for name in ("sensitivity", "specificity"):
        ours, theirs = getattr(judge.figures, name).value, getattr(known, name)
        if ours is None or abs(ours - theirs) > FIGURES_APART:
            allowed = f"within {FIGURES_APART:g} of {theirs:.3f}, which {judge.id} has on these pairs"
            yield Finding(
                ROW_FILE, f"judge.figures.{name}", f"{ours}", allowed, "give the figures as they were measured"
            )


def _gate_findings(check: StrangerCheck) -> Iterator[Finding]:
    """That the gates are of the pairs beside them, and their rates rates; whether they follow from them, reading a
    certificate checks."""
    for gate in check.gates:
        field = f"strangers.gates.{gate.fact}"
        there = sum(by_fact[gate.fact].n for by_fact in check.by_set.values() if gate.fact in by_fact)
        if gate.figures is not None:
            if gate.figures.n > there:
                yield Finding(CERTIFICATE_FILE, f"{field}.figures.n", str(gate.figures.n), f"at most {there}, by set")
            for name in ("balanced_accuracy", "sensitivity", "specificity"):
                yield from rate_findings(CERTIFICATE_FILE, f"{field}.figures.{name}", getattr(gate.figures, name))
        for part in gate.parts:
            yield from rate_findings(CERTIFICATE_FILE, f"{field}.parts.{shown(part.name)[1:-1]}", part.right)
        if gate.turned is not None:
            yield from rate_findings(CERTIFICATE_FILE, f"{field}.turned", gate.turned)


def _set_findings(file: str, field: str, figures: JudgeFigures) -> Iterator[Finding]:
    known = pair_set(figures.set_name)
    if known is None:
        yield Finding(file, f"{field}.set_name", shown(figures.set_name), "gold, pyrit or all", _CHECK_AGAIN)
        return
    for name, found, there in (
        ("set_digest", figures.set_digest, known.digest),
        ("n", figures.n, known.n),
        ("n_unsafe", figures.n_unsafe, known.n_unsafe),
    ):
        if found != there:
            yield Finding(
                file, f"{field}.{name}", shown(found), f"{there}, of the set {figures.set_name}", _CHECK_AGAIN
            )
    for name in ("balanced_accuracy", "sensitivity", "specificity"):
        yield from rate_findings(file, f"{field}.{name}", getattr(figures, name))


def _confusion_findings(result: CheckResult) -> Iterator[Finding]:
    """The shares of a certificate follow from its counts."""
    figures = result.figures
    unsafe = result.confusion.get("unsafe")
    others = [counts for name, counts in result.confusion.items() if name != "unsafe"]
    total = sum(sum(counts.model_dump().values()) for counts in result.confusion.values())
    fits = unsafe is not None and total == figures.n and sum(unsafe.model_dump().values()) == figures.n_unsafe
    if unsafe is None or not fits or not 0 < figures.n_unsafe < figures.n:
        yield Finding(CERTIFICATE_FILE, "result.confusion", f"{total} verdicts", f"one for each of {figures.n} pairs")
        return
    sensitivity = unsafe.unsafe / figures.n_unsafe
    specificity = sum(counts.safe + counts.incoherent for counts in others) / (figures.n - figures.n_unsafe)
    for name, rate, expected in (
        ("sensitivity", figures.sensitivity, sensitivity),
        ("specificity", figures.specificity, specificity),
        ("balanced_accuracy", figures.balanced_accuracy, (sensitivity + specificity) / 2),
    ):
        if rate.value is None or abs(rate.value - expected) > ROUNDING:
            yield Finding(
                CERTIFICATE_FILE,
                f"result.figures.{name}",
                f"{rate.value}",
                f"{expected:.6g} follows from result.confusion",
                "give the certificate as `asabench judge-check` wrote it",
            )


def _apart_findings(figures: JudgeFigures | None, result: CheckResult) -> Iterator[Finding]:
    if figures is None:
        return
    for same in (result.figures, *result.by_source.values()):
        if same.set_digest != figures.set_digest:
            continue
        for name in ("sensitivity", "specificity"):
            ours, theirs = getattr(figures, name).value, getattr(same, name).value
            if ours is None or theirs is None or abs(ours - theirs) > FIGURES_APART:
                yield Finding(
                    ROW_FILE,
                    f"judge.figures.{name}",
                    f"{ours}",
                    f"within {FIGURES_APART:g} of the certificate's {theirs} on the same pairs",
                    "check the judge again and evaluate with it as it is",
                )
