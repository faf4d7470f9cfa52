"""`manifest.json`: that its runs belong together, and used the prompts they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from asabench.core.near_duplicates import clusters_of_digests, known_clusters
from asabench.submission.checks.values import PINNED_WORDS, date_findings, is_pinned, listed
from asabench.submission.findings import REMAKE, Finding, shown
from asabench.submission.known import prompt_set
from asabench.submission.manifest import RunManifest, RunRecord, difference
from asabench.submission.schema import MANIFEST_FILE

MOST_DOSES, MOST_SEEDS, MOST_VARIABLES = 20, 100, 20


def manifest_findings(manifest: RunManifest) -> Iterator[Finding]:
    first = manifest.runs[0]
    for number, run in enumerate(manifest.runs):
        settings, where = run.settings, f"runs.{number}"
        if run.run_id != settings.id:
            yield Finding(MANIFEST_FILE, f"{where}.run_id", run.run_id, f"{settings.id}, the hash of its settings")
        if differs := difference(first.settings, settings):
            yield Finding(
                MANIFEST_FILE,
                f"{where}.settings",
                f"differs from the first run in {shown(differs)[1:-1]}",
                "the runs of a submission differ in their attacks only",
            )
        if _judged_as(run) != _judged_as(first):
            yield Finding(
                MANIFEST_FILE,
                f"{where}.judge",
                shown(run.judge.id),
                f"the first run's, {shown(first.judge.id)}, certified as it is and for the same",
                "judge all runs by one judge (`asabench judge`)",
            )
        if run.content_rules not in (None, manifest.content_rules):
            yield Finding(
                MANIFEST_FILE,
                f"{where}.content_rules",
                f"{run.content_rules}",
                f"{manifest.content_rules}, as in the runs before it",
                "evaluate both by one version",
            )
        for name, values in (
            ("layers", settings.layers),
            ("protocol.doses", settings.protocol.doses),
            ("protocol.seeds", settings.protocol.seeds),
            ("attacks", settings.attacks),
        ):
            if not values or len(set(values)) < len(values):
                yield Finding(MANIFEST_FILE, f"{where}.settings.{name}", listed(values), "each value once")
        if not run.finished:
            yield Finding(MANIFEST_FILE, f"{where}.finished", "null", "a finished run", "let the run finish")
        for name in ("started", "finished"):
            if (moment := getattr(run, name)) is not None:
                yield from date_findings(MANIFEST_FILE, moment, f"{where}.{name}")
        for name, number, most in (
            ("protocol.doses", len(settings.protocol.doses), MOST_DOSES),
            ("protocol.seeds", len(settings.protocol.seeds), MOST_SEEDS),
            ("protocol.chat_template_variables", len(settings.protocol.chat_template_variables), MOST_VARIABLES),
        ):
            if number > most:
                yield Finding(MANIFEST_FILE, f"{where}.settings.{name}", f"{number} values", f"at most {most}")
        blocks = [layer for layer in settings.layers if layer >= manifest.model.n_layers]
        if blocks:
            allowed = f"0 to {manifest.model.n_layers - 1}, of a model of {manifest.model.n_layers}"
            yield Finding(MANIFEST_FILE, f"{where}.settings.layers", f"block {blocks[0]}", allowed)
        for dose in settings.protocol.doses:
            if not 0 <= dose <= 1e6:
                yield Finding(MANIFEST_FILE, f"{where}.settings.protocol.doses", f"{dose:g}", "from 0 to 1000000")
        for seed in settings.protocol.seeds:
            if not 0 <= seed < 2**63:
                yield Finding(MANIFEST_FILE, f"{where}.settings.protocol.seeds", str(seed), "from 0 to 2**63 - 1")
    settings = first.settings
    for name, found, there in (
        ("model.name", manifest.model.name, settings.model),
        ("model.revision", manifest.model.revision, settings.revision),
        ("model.dtype", manifest.model.dtype, settings.dtype),
        ("prompts", len(manifest.prompts), settings.prompt_count),
    ):
        if found != there:
            yield Finding(MANIFEST_FILE, name, shown(found), f"{shown(there)}, as the runs' settings say")
    if not is_pinned(manifest.model.revision):
        yield Finding(
            MANIFEST_FILE, "model.revision", shown(manifest.model.revision), PINNED_WORDS, "evaluate it again"
        )
    yield from _prompt_findings(manifest)


def _judged_as(run: RunRecord) -> tuple[object, ...]:
    return run.judge.id, run.judge.certified, run.judge.certified_for, run.judge.certificate


def _cluster_findings(manifest: RunManifest) -> Iterator[Finding]:
    """A cluster is named by its first prompt. Near-duplicates that are known by their digests are in one cluster; where
    all prompts are known, so are the clusters."""
    given = [prompt.cluster for prompt in manifest.prompts]
    there = [cluster for cluster in given if cluster is not None]
    if not there:
        return
    if len(there) < len(given):
        without = manifest.prompts[given.index(None)].id
        yield Finding(
            MANIFEST_FILE, "prompts.cluster", f"none for {without}", "a cluster for every prompt, or for none"
        )
        return
    for number, cluster in enumerate(there):
        if cluster > number or there[cluster] != cluster:
            allowed = "the place of the first prompt of the cluster"
            yield Finding(MANIFEST_FILE, f"prompts.{number}.cluster", str(cluster), allowed, REMAKE)
            return
    digests = [prompt.sha256 for prompt in manifest.prompts]
    expected = known_clusters(digests)
    whole = clusters_of_digests(digests) is not None
    for number, cluster in enumerate(there):
        first = expected[number]
        if (cluster != first) if whole else (cluster != there[first]):
            allowed = f"{first if whole else there[first]}, as its near-duplicate among AdvBench's goals"
            yield Finding(MANIFEST_FILE, f"prompts.{number}.cluster", str(cluster), allowed, REMAKE)
            return


def _prompt_findings(manifest: RunManifest) -> Iterator[Finding]:
    for name, values in (
        ("id", [prompt.id for prompt in manifest.prompts]),
        ("sha256", [prompt.sha256 for prompt in manifest.prompts]),
    ):
        if twice := next((value for value, count in Counter(values).items() if count > 1), None):
            yield Finding(MANIFEST_FILE, f"prompts.{name}", f"{twice} more than once", "every prompt once")
    yield from _cluster_findings(manifest)
    known = prompt_set(manifest.prompt_set)
    if known is None:
        return
    for number, prompt in enumerate(manifest.prompts):
        if number >= len(known) or (prompt.id, prompt.sha256) != known[number]:
            there = " ".join(known[number]) if number < len(known) else "nothing"
            yield Finding(
                MANIFEST_FILE,
                f"prompts.{number}",
                f"{prompt.id} {prompt.sha256}",
                f"{there}, which stands there in {manifest.prompt_set}",
                "evaluate on the published prompts, or under the name of your own set",
            )
            return
