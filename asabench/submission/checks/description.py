"""`submission.yaml`: whose entry it is, and that it speaks of what the other files hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from asabench.core.row import Row
from asabench.submission.checks.values import MOST_LAYERS, PINNED_WORDS, date_findings, is_pinned
from asabench.submission.findings import EDIT, Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import ROW_FILE, SUBMISSION_FILE, Submission

MOST = {"n_layers": MOST_LAYERS, "d_model": 1_000_000, "n_parameters": 10**14}


def submission_findings(
    submission: Submission, folder: str, row: Row | None, manifest: RunManifest | None
) -> Iterator[Finding]:
    if submission.slug != folder:
        yield Finding(
            SUBMISSION_FILE,
            "slug",
            submission.slug,
            f"the name of its folder, {shown(folder)[1:-1]}",
            "rename the folder, or change the slug",
        )
    for field, revision in (
        ("model.revision", submission.model.revision),
        *((("base.revision", submission.base.revision),) if submission.base is not None else ()),
    ):
        if not is_pinned(revision):
            yield Finding(SUBMISSION_FILE, field, shown(revision), PINNED_WORDS, "pin it: a branch moves")
    yield from date_findings(SUBMISSION_FILE, submission.created)
    yield from _defence_findings(submission)
    if manifest is not None:
        for field, found, there in (
            ("model.name", submission.model.name, manifest.model.name),
            ("model.revision", submission.model.revision, manifest.model.revision),
            ("protocol", submission.protocol, manifest.runs[0].settings.protocol.name),
        ):
            if found != there:
                yield Finding(SUBMISSION_FILE, field, shown(found), f"{shown(there)}, as manifest.json says", EDIT)
    if row is not None:
        yield from date_findings(ROW_FILE, row.created)
        if not re.fullmatch(r"\d+\.\d+[0-9A-Za-z.+]{0,30}", row.asabench_version):
            yield Finding(ROW_FILE, "asabench_version", shown(row.asabench_version), "a version such as 0.1.0")
        for name, most in MOST.items():
            if not 1 <= getattr(row.model, name) <= most:
                yield Finding(ROW_FILE, f"model.{name}", shown(getattr(row.model, name)), f"from 1 to {most}")
        if max(row.layers, default=0) >= row.model.n_layers:
            yield Finding(ROW_FILE, "layers", f"block {max(row.layers)}", f"0 to {row.model.n_layers - 1}")


def _defence_findings(submission: Submission) -> Iterator[Finding]:
    if (submission.defence == "none") != (submission.where == "none"):
        yield Finding(
            SUBMISSION_FILE,
            "where",
            f"{submission.where} beside the defence {shown(submission.defence)[1:-1]}",
            "none without a defence; training or inference with one",
            EDIT,
        )
    if submission.where == "training":
        if submission.base is None:
            yield Finding(
                SUBMISSION_FILE, "base", "missing", "a trained defence names the model it was trained from", "add it"
            )
        if not submission.training_data:
            yield Finding(
                SUBMISSION_FILE, "training_data", "missing", "a trained defence names its training data", "add it"
            )
    itself = (
        submission.base is not None and submission.base.model_dump(exclude={"entry"}) == submission.model.model_dump()
    )
    # A defence that acts while the model answers leaves the weights as they were
    if itself and submission.where != "inference":
        yield Finding(
            SUBMISSION_FILE,
            "base",
            "the model itself",
            "what the defence was applied to; for weights as they were, no base",
            "leave base out, or name the model before the defence",
        )
