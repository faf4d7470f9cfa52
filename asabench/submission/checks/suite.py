"""A submission of a suite's search (`asabench.core.suite`): that it is that suite, and was searched to its end."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from asabench.core.suite import SUITES
from asabench.runs.settings import RunSettings
from asabench.stats.radius import open_lines
from asabench.submission.checks.values import listed
from asabench.submission.findings import Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import MANIFEST_FILE, VERDICTS_FILE


def suite_findings(manifest: RunManifest) -> Iterator[Finding]:
    """Attacks, doses and seeds are the suite's own."""
    for number, run in enumerate(manifest.runs):
        settings, where = run.settings, f"runs.{number}.settings"
        suite = None if settings.suite is None else SUITES.get(settings.suite)
        if suite is None:
            continue
        for name, found, own in (
            ("attacks", settings.attacks, suite.names),
            ("protocol.doses", settings.protocol.doses, suite.doses),
            ("protocol.seeds", settings.protocol.seeds, suite.seeds),
        ):
            if tuple(found) != tuple(own):
                yield Finding(
                    MANIFEST_FILE,
                    f"{where}.{name}",
                    listed(found),
                    f"those of the suite {suite.id}: {listed(own)}",
                    "submit the run of --attack auto as it is",
                )


def search_findings(table: pd.DataFrame, settings: RunSettings) -> Iterator[Finding]:
    """A line that is left open could hide a smaller radius: an answer was left out, or the judge is not the one that
    led the search. Nothing follows from the search of a suite that is not known."""
    if settings.suite is None:
        return
    suite = SUITES.get(settings.suite)
    if suite is None:
        yield Finding(MANIFEST_FILE, "runs.0.settings.suite", shown(settings.suite), f"one of {', '.join(SUITES)}")
        return
    lines = list(open_lines(table, suite, settings.layers))
    if not lines:
        return
    prompt, attack, seed, layer = lines[0]
    drawn = "" if seed is None else f", seed {seed}"
    yield Finding(
        VERDICTS_FILE,
        "cells",
        f"the search is open at {len(lines)} places: the first is prompt {prompt}, layer {layer}, {attack}{drawn}",
        "a dose that holds next to one that does not, or next to the prompt's radius, for every block and attack",
        "evaluate with --attack auto and the judge whose verdicts are submitted, then submit it again",
    )
