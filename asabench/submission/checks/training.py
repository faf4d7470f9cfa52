"""`training_prompts.txt`: digests of what was trained on, none of which may be tested on; and near-duplicates of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from asabench.core.near_duplicates import known_goals, known_near
from asabench.core.rewritten import rewritten
from asabench.submission.findings import EDIT, REMAKE, Finding, Refused, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import SUBMISSION_FILE, TRAINING_PROMPTS_FILE, Submission, percent

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGEST_LINES = re.compile(rb"(?:[0-9a-f]{64}\n)+")


def read_training_prompts(content: bytes) -> frozenset[str]:
    """The digests of a training_prompts.txt; raises `Refused`."""
    if not _DIGEST_LINES.fullmatch(content):
        lines = content.decode("utf-8", "replace").split("\n")
        wrong = next((n for n, line in enumerate(lines, 1) if not _DIGEST.fullmatch(line)), 1)
        raise Refused(
            f"line {wrong}",
            "no digest",
            "the SHA-256 of one request a line, 64 small hex digits, and nothing else",
            "make it with `asabench submit --training-prompts`",
        )
    return frozenset(content.decode("ascii").split())


def training_findings(
    submission: Submission, trained: frozenset[str] | None, manifest: RunManifest | None
) -> Iterator[Finding]:
    declared = any(data.prompt_digests for data in submission.training_data)
    if declared and trained is None:
        yield Finding(
            TRAINING_PROMPTS_FILE,
            "the file",
            "missing or not readable",
            "training_data says that the requests' digests are in it",
            "make it with `asabench submit --training-prompts`",
        )
    if trained is not None and not declared:
        yield Finding(
            SUBMISSION_FILE,
            "training_data",
            "none has prompt_digests: true",
            "training_prompts.txt belongs to one that has",
            EDIT,
        )
    if trained is not None and manifest is not None:
        disguised = rewritten(trained, [prompt.sha256 for prompt in manifest.prompts])
        if disguised:
            ids = [prompt.id for prompt in manifest.prompts if prompt.sha256 in disguised]
            yield Finding(
                TRAINING_PROMPTS_FILE,
                "the digests",
                f"{len(ids)} of the prompts that the model is tested on, written in another way ({', '.join(ids[:3])})",
                "none of them, however they are written",
                "train without them, or evaluate on other prompts",
            )
        both = [prompt.id for prompt in manifest.prompts if prompt.sha256 in trained]
        if both:
            yield Finding(
                TRAINING_PROMPTS_FILE,
                "the digests",
                f"{len(both)} of the prompts that the model is tested on ({', '.join(both[:3])})",
                "none of them: a model that was trained on a test is not tested by it",
                "train without them, or evaluate on other prompts",
            )
        yield from _similarity_findings(submission, trained, manifest)


def _similarity_findings(submission: Submission, trained: frozenset[str], manifest: RunManifest) -> Iterator[Finding]:
    """What is declared must hold what digests alone show: AdvBench's near-duplicates are known by number."""
    declared, where = submission.training_similarity, "training_similarity"
    if declared is None:
        return
    if declared.requests != len(trained) or declared.compared > declared.requests:
        found = f"{declared.compared} of {declared.requests} compared"
        yield Finding(
            SUBMISSION_FILE, where, found, f"of the {len(trained)} digests in {TRAINING_PROMPTS_FILE}", REMAKE
        )
    ids = {prompt.sha256: prompt.id for prompt in manifest.prompts}
    given = {near.id: near.percent for near in declared.near}
    if unknown := sorted(given.keys() - set(ids.values())):
        yield Finding(
            SUBMISSION_FILE, f"{where}.near", shown(unknown[0]), "prompts that the model is tested on", REMAKE
        )
    for digest, similarity in known_near(trained, list(ids)).items():
        name, known = ids[digest], percent(similarity)
        if given.get(name, 0) < known:
            there = f"{name} at {given[name]} percent" if name in given else f"not {name}"
            yield Finding(
                SUBMISSION_FILE, f"{where}.near", there, f"{name} at {known} percent or more, by the digests", REMAKE
            )
            return


def training_notices(
    submission: Submission, trained: frozenset[str] | None, manifest: RunManifest | None
) -> Iterator[str]:
    """What was trained on that is close to the test, and what cannot be known."""
    for data in submission.training_data:
        if not data.prompt_digests:
            yield f"training data {data.name!r} has no digests: whether test prompts are in it is not known"
    if trained is None or manifest is None:
        return
    declared = submission.training_similarity
    if declared is None:
        tested = [prompt.sha256 for prompt in manifest.prompts]
        near = len(known_near(trained, tested))
        known = len(known_goals(trained)) if len(known_goals(tested)) == len(set(tested)) else 0
    else:
        near, known = len(declared.near), declared.compared
    if near:
        yield (
            f"{near} of the {len(manifest.prompts)} test prompts have a near-duplicate among the requests that were "
            "trained on"
        )
    if known < len(trained):
        yield (
            f"{len(trained) - known} of the {len(trained)} requests that were trained on are known by their digests "
            "alone: whether they are near-duplicates of test prompts is not known"
        )
