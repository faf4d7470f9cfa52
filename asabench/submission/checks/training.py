"""`training_prompts.txt`: digests of what was trained on, none of which may be tested on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from asabench.submission.checks.values import EDIT
from asabench.submission.findings import Finding, Refused
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import SUBMISSION_FILE, TRAINING_PROMPTS_FILE, Submission

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
        both = [prompt.id for prompt in manifest.prompts if prompt.sha256 in trained]
        if both:
            yield Finding(
                TRAINING_PROMPTS_FILE,
                "the digests",
                f"{len(both)} of the prompts that the model is tested on ({', '.join(both[:3])})",
                "none of them: a model that was trained on a test is not tested by it",
                "train without them, or evaluate on other prompts",
            )
