"""`utility.json`: that it is of the model that is submitted."""

from __future__ import annotations

from collections.abc import Iterator

from asabench.core.request_sets import own_requests, requests_digest
from asabench.core.utility_report import BenignRates, RequestSet, UtilityReport
from asabench.submission.checks.values import MOST_LAYERS, date_findings, listed, rate_findings
from asabench.submission.findings import Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import UTILITY_FILE

MOST_TOKENS = 100_000
MOST_PARTS = 100
MOST_REQUESTS = 10_000
MOST_DOSE = 1e6
_ROUNDING = 1e-6


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
        n_layers = manifest.model.n_layers
        if wrong := [layer for layer in utility.layers if not 0 <= layer < n_layers]:
            yield Finding(UTILITY_FILE, "layers", listed(wrong[:5]), f"blocks 0 to {n_layers - 1}", again)
    yield from date_findings(UTILITY_FILE, utility.created)
    for name, numbers, allowed in (
        ("layers", utility.layers, range(MOST_LAYERS)),
        ("seeds", utility.seeds, range(2**63)),
        ("max_new_tokens", (utility.max_new_tokens,), range(1, MOST_TOKENS)),
        ("under_injection", (len(utility.under_injection),), range(MOST_PARTS)),
        ("tasks", (len(utility.tasks),), range(MOST_PARTS)),
    ):
        outside = [number for number in numbers if number not in allowed]
        if outside or len(set(numbers)) < len(numbers) or len(numbers) > MOST_LAYERS:
            words = f"{allowed.start} to {allowed.stop - 1}, each once"
            yield Finding(UTILITY_FILE, name, listed((outside or list(numbers))[:5]), words, again)
    yield from _set_findings("benign_set", utility.benign_set, again)
    yield from _set_findings("over_refusal_set", utility.over_refusal_set, again)
    for name, rate, n in (
        ("benign_answer_rate", utility.clean.benign_answer_rate, utility.benign_set.n),
        ("over_refusal", utility.clean.over_refusal, utility.over_refusal_set.n),
    ):
        if rate.value is not None and not _is_share(rate.value, n):
            yield Finding(UTILITY_FILE, f"clean.{name}", f"{rate.value}", f"a share of at most {n} requests", again)
    for number, part in enumerate(utility.under_injection):
        if not 0 <= part.dose <= MOST_DOSE:
            yield Finding(
                UTILITY_FILE, f"under_injection.{number}.dose", f"{part.dose:g}", f"0 to {MOST_DOSE:g}", again
            )
    rates: list[tuple[str, BenignRates]] = [("clean", utility.clean)]
    rates += [(f"under_injection.{number}", each) for number, each in enumerate(utility.under_injection)]
    for field, each in rates:
        yield from rate_findings(UTILITY_FILE, f"{field}.benign_answer_rate", each.benign_answer_rate)
        yield from rate_findings(UTILITY_FILE, f"{field}.over_refusal", each.over_refusal)
    for name, task in utility.tasks.items():
        yield from rate_findings(UTILITY_FILE, f"tasks.{name}.accuracy", task.accuracy)


def _set_findings(field: str, found: RequestSet, again: str) -> Iterator[Finding]:
    """A set that comes with ASABench is recognised by name: then it, or its first requests, are what was asked."""
    requests = own_requests(found.name)
    if requests is None:
        return
    if found.n > len(requests) or found.digest != requests_digest(requests[: found.n]):
        allowed = f"the first {min(found.n, len(requests))} of the {len(requests)} requests of that set"
        yield Finding(
            UTILITY_FILE, field, f"{shown(found.name)[1:-1]} with the digest {shown(found.digest)}", allowed, again
        )


def _is_share(value: float, n: int) -> bool:
    """Whether it is k of m for some m up to n: a request whose answer was not read leaves the share."""
    return any(abs(value * m - round(value * m)) <= _ROUNDING * m for m in range(1, min(n, MOST_REQUESTS) + 1))
