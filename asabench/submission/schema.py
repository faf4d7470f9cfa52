"""`submission.yaml`: who made what from what, under which protocol, and the digests of the files beside it.

A submission is a folder `submissions/<slug>/`:

    submission.yaml         this schema
    row.json                asabench.core.row.Row, recomputed from the verdicts by whoever checks
    verdicts.parquet        one line a cell, no text (asabench.submission.verdict_table)
    utility.json            asabench.core.utility_report.UtilityReport
    certificate.json        the judge's certificate, asabench.judging.certificate.Certificate
    manifest.json           how the runs were made: settings, versions, devices
    other_judges.parquet    optional: labels of further judges, no text (asabench.submission.other_judges)
    card.json               optional: asabench.card.records.ModelCard, without what the other files hold
    training_prompts.txt    optional: SHA-256 of each goal that was trained on, one a line
    rerun.json              optional, of a maintainer: asabench.submission.evidence.Evidence
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from asabench.core.plain_names import fault
from asabench.core.schema import Record
from asabench.core.similarity import MEASURE, NEAR
from asabench.runs.command import ALLOWED_OPTIONS, command_words

SCHEMA_VERSION: Literal[1] = 1
SUBMISSION_FILE = "submission.yaml"
ROW_FILE = "row.json"
VERDICTS_FILE = "verdicts.parquet"
UTILITY_FILE = "utility.json"
CERTIFICATE_FILE = "certificate.json"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "card.json"
OTHER_JUDGES_FILE = "other_judges.parquet"
TRAINING_PROMPTS_FILE = "training_prompts.txt"
RERUN_FILE = "rerun.json"
"""Of whoever answered some of the entry's cells again, not of its authors: their digests leave it out."""

LINK = r"^https://[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+(?::[0-9]{1,5})?(?:[/?#][!#-;=?-Z_a-z~]*)?$"
"""A host by name, in ASCII: no user before it, who would pass for the host."""
SLUG = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"
"""A folder's name: small letters, digits and dashes; it is part of the entry's permanent link."""


def _plain_text(text: str) -> str:
    """Names come from strangers and stand on a page: no markup, no control characters, no line breaks, and nothing that
    passes for what it is not."""
    if (found := fault(text)) is not None:
        raise ValueError(found)
    return text


def _plain_ascii(text: str) -> str:
    """What machines compare and people copy: names of models, revisions, licences."""
    if not text.isascii() or any(character in _NOT_IN_A_NAME for character in text):
        raise ValueError("use ASCII letters, digits, spaces and .,:;/@=+-_()[]")
    return text


_NOT_IN_A_NAME = frozenset("\"'`$&|\\*?!#%^~{}")

Line = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(_plain_text)]
Name = Annotated[Line, AfterValidator(_plain_ascii)]
Text = Annotated[str, Field(min_length=1, max_length=600), AfterValidator(_plain_text)]


def _evaluation(command: str) -> str:
    """It stands on a page for people to paste into a shell."""
    words = command_words(command)
    unknown = [word for word in words[2:] if word.startswith("-") and word not in ALLOWED_OPTIONS]
    if unknown:
        raise ValueError(f"the option {unknown[0][:40]!r} is none that `asabench submit` writes; leave it out")
    if any("://" in word for word in words):
        raise ValueError("no addresses: whoever repeats it names a server of their own")
    return command


Command = Annotated[str, Field(max_length=2000), AfterValidator(_plain_text), AfterValidator(_evaluation)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelRef(Record):
    """Which weights. `revision`: a hub commit of 40 hex digits, `sha256:...` of a local folder, or a package version
    as the run wrote it; never a branch."""

    name: Name
    revision: Name


class BaseModelRef(ModelRef):
    """What the defence was applied to. `entry` is the slug of that model's own submission, to compare with."""

    entry: Annotated[str, Field(pattern=SLUG)] | None = None


class TrainingData(Record):
    """What a defence was trained on. `prompt_digests`: whether the requests' digests are in training_prompts.txt;
    data without harmful requests need none."""

    name: Line
    examples: Annotated[int, Field(ge=0, le=10**9)]
    prompt_digests: bool


class SimilarPrompt(Record):
    """A test prompt with a near-duplicate among the requests that were trained on, and the highest similarity."""

    id: Line
    percent: Annotated[int, Field(ge=100 * NEAR, le=100)]


def percent(similarity: float) -> int:
    """In hundredths, rounded down: YAML is read here without fractions."""
    return math.floor(100 * similarity + 1e-9)


class TrainingSimilarity(Record):
    """How the requests that were trained on compare with the test prompts (`asabench.core.similarity`). Of `requests`
    digests, `compared` are of requests whose text was at hand or is AdvBench's; `near` are in the manifest's order."""

    measure: Literal["tfidf-advbench"] = MEASURE
    requests: Annotated[int, Field(ge=0, le=10**9)]
    compared: Annotated[int, Field(ge=0, le=10**9)]
    near: Annotated[tuple[SimilarPrompt, ...], Field(max_length=10_000)]


class Submission(Record):
    """`defence` is a short name such as `LAPT`, or `none`; `where` says whether it changed the weights or acts while
    the model answers. `files` are SHA-256 digests of the other files of the folder, by name.
    `reproduce`: a command a run (`asabench.runs.command`)."""

    schema_version: Literal[1] = SCHEMA_VERSION
    slug: Annotated[str, Field(pattern=SLUG)]
    name: Line
    model: ModelRef
    base: BaseModelRef | None = None
    defence: Line = "none"
    where: Literal["none", "training", "inference"] = "none"
    description: Text | None = None
    training_data: Annotated[tuple[TrainingData, ...], Field(max_length=50)] = ()
    training_similarity: TrainingSimilarity | None = None
    authors: Annotated[tuple[Line, ...], Field(min_length=1, max_length=100)]
    link: Annotated[str, Field(max_length=300, pattern=LINK)] | None = None
    licence: Name
    protocol: Name
    created: Name
    asabench_version: Name
    reproduce: Annotated[tuple[Command, ...], Field(max_length=50)] = ()
    files: dict[Line, Digest]
