"""`utility.json`: that it is of the model that is submitted."""

from __future__ import annotations

from collections.abc import Iterator

from asabench.core.utility_report import BenignRates, UtilityReport
from asabench.submission.checks.values import rate_findings
from asabench.submission.findings import Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import UTILITY_FILE


def utility_findings(utility: UtilityReport, manifest: RunManifest | None) -> Iterator[Finding]:
    again = "measure the model that is submitted (`asabench utility`)"
    if manifest is not None:
        for name, found, there in (
            ("model", utility.model, manifest.model.name),
            ("revision", utility.revision, manifest.model.revision),
            ("dtype", utility.dtype, manifest.model.dtype),
        ):
            if found != there:
                yield Finding(UTILITY_FILE, name, shown(found), f"{shown(there)}, as manifest.json says", again)
    rates: list[tuple[str, BenignRates]] = [("clean", utility.clean)]
    rates += [(f"under_injection.{number}", each) for number, each in enumerate(utility.under_injection)]
    for field, each in rates:
        yield from rate_findings(UTILITY_FILE, f"{field}.benign_answer_rate", each.benign_answer_rate)
        yield from rate_findings(UTILITY_FILE, f"{field}.over_refusal", each.over_refusal)
    for name, task in utility.tasks.items():
        yield from rate_findings(UTILITY_FILE, f"tasks.{name}.accuracy", task.accuracy)
