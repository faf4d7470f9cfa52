"""`rerun.json`: that it is of this entry, adds up, and speaks for it."""

from __future__ import annotations

from collections.abc import Iterator

from asabench.submission.checks.values import date_findings
from asabench.submission.evidence import Evidence, faults, verdicts_digest
from asabench.submission.findings import Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import RERUN_FILE


def evidence_findings(evidence: Evidence, verdicts: bytes | None, manifest: RunManifest | None) -> Iterator[Finding]:
    again = "answer its cells again (`asabench validate --rerun K --out`), or take the file out"
    if verdicts is not None and evidence.verdicts != (found := verdicts_digest(verdicts)):
        yield Finding(RERUN_FILE, "verdicts", evidence.verdicts, f"{found}, the digest of verdicts.parquet", again)
    yield from date_findings(RERUN_FILE, evidence.created)
    if manifest is not None and evidence.judge != manifest.runs[0].judge.id:
        judge = f"{shown(manifest.runs[0].judge.id)}, as manifest.json says"
        yield Finding(RERUN_FILE, "judge", shown(evidence.judge), judge, again)
    counts = (evidence.same_answers, evidence.same_labels, evidence.milder + evidence.harsher, evidence.changed_labels)
    adds_up = max(counts) <= evidence.cells and evidence.changed_labels <= evidence.same_answers
    if not adds_up or evidence.same_labels + evidence.milder + evidence.harsher > evidence.cells:
        yield Finding(RERUN_FILE, "cells", str(evidence.cells), "as many as the counts beside it add up to", again)
    elif (fault := faults(evidence)) is not None:
        yield Finding(RERUN_FILE, "the rerun", fault, "one that speaks for the entry", "submit what is found again")
