"""A submission beside others: whether it was copied from one, and whether the base that it names is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from asabench.submission.findings import Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import SUBMISSION_FILE, VERDICTS_FILE, Submission

SAMPLE = 512
"""So many cells of each submission are compared, the same ones in all."""
FEWEST = 20
ALIKE = 0.99
"""From this share of equal answers on, two tables are of one model."""
VARIED = 0.2
"""Only where so large a share of the answers differ from each other does agreement say anything: two models that
refuse every request in the same words are alike without being copied."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What others are compared with. `answers`: the answers' digests of a sample of cells, by the cell's hash."""

    slug: str
    model: str
    revision: str
    protocol: str
    judge: str
    answers: dict[int, int]


def card_of(submission: Submission, manifest: RunManifest, table: pd.DataFrame) -> Card:
    """table: the columns of `asabench.submission.verdict_table`."""
    return Card(
        slug=submission.slug,
        model=manifest.model.name,
        revision=manifest.model.revision,
        protocol=manifest.settings.protocol.digest,
        judge=manifest.runs[0].judge.id,
        answers=_sample(table, manifest),
    )


def _sample(table: pd.DataFrame, manifest: RunManifest) -> dict[int, int]:
    # By the prompt's digest: a copy may have other ids
    goals = {prompt.id: int(prompt.sha256[:15], 16) for prompt in manifest.prompts}
    attacks = {name: number for number, name in enumerate(sorted(table["attack"].unique()))}
    hashed_attack = pd.util.hash_array(np.array(sorted(attacks), dtype=object)).astype(np.uint64)
    cells = pd.DataFrame(
        {
            "goal": table["prompt_id"].map(goals).to_numpy(dtype=np.int64, na_value=-1),
            "attack": hashed_attack[table["attack"].map(attacks).to_numpy(dtype=np.int64)],
            "dose": table["dose"].to_numpy(dtype=np.float64),
            "seed": table["seed"].fillna(-1).to_numpy(dtype=np.int64),
            "layer": table["layer"].fillna(-1).to_numpy(dtype=np.int64),
        }
    )
    hashes = pd.util.hash_pandas_object(cells, index=False).to_numpy()
    chosen = np.argsort(hashes, kind="stable")[:SAMPLE]
    answers = table["response_sha256"].to_numpy()[chosen]
    return {int(key): int.from_bytes(answer[:8], "big") for key, answer in zip(hashes[chosen], answers, strict=True)}


def neighbour_findings(own: Card, submission: Submission, cards: Sequence[Card]) -> tuple[list[Finding], list[str]]:
    """What is wrong between a submission and the others, and what is worth a word."""
    findings, notices = _base(submission, cards)
    for other in cards:
        if other.slug == own.slug:
            continue
        same_model = (other.model, other.revision) == (own.model, own.revision)
        same_run = same_model and (other.protocol, other.judge) == (own.protocol, own.judge)
        alike = _alike(own, other)
        if same_run and alike is not False:
            findings.append(
                Finding(
                    SUBMISSION_FILE,
                    "model",
                    f"the same model, protocol and judge as the entry {other.slug}, with the same answers",
                    "every evaluation once",
                    "change that entry instead of adding another",
                )
            )
        elif alike and not same_model:
            findings.append(
                Finding(
                    VERDICTS_FILE,
                    "response_sha256",
                    f"the answers of the entry {other.slug}, which is {other.model}",
                    "answers of the model that is named",
                    "submit the run of your own model",
                )
            )
        elif same_run:
            notices.append(f"the entry {other.slug} has the same model, protocol and judge, and other answers")
    return findings, notices


def _alike(a: Card, b: Card) -> bool | None:
    """Whether two tables hold one model's answers; None where too little can be compared to say."""
    common = sorted(a.answers.keys() & b.answers.keys())
    if len(common) < FEWEST:
        return None
    equal = sum(a.answers[cell] == b.answers[cell] for cell in common)
    if equal < ALIKE * len(common):
        return False
    return True if len({a.answers[cell] for cell in common}) >= VARIED * len(common) else None


def _base(submission: Submission, cards: Sequence[Card]) -> tuple[list[Finding], list[str]]:
    base = submission.base
    if base is None:
        return [], []
    if base.entry is None:
        return [], ["shown as incomplete, not ranked: no entry of the base model to compare with (base.entry)"]
    found = [card for card in cards if card.slug == base.entry]
    here = ", ".join(sorted(card.slug for card in cards if card.slug != submission.slug)[:10]) or "none"
    if not found or base.entry == submission.slug:
        return [
            Finding(
                SUBMISSION_FILE,
                "base.entry",
                f"{base.entry} is not there" if not found else "the submission itself",
                f"the slug of an entry beside this one: {here}",
                "submit the base model too, or leave base.entry out",
            )
        ], []
    if (found[0].model, found[0].revision) != (base.name, base.revision):
        return [
            Finding(
                SUBMISSION_FILE,
                "base",
                f"{shown(base.name)[1:-1]} at {shown(base.revision)[1:-1]}",
                f"the model of the entry {base.entry}: {found[0].model} at {found[0].revision}",
                "name the model that the entry is of",
            )
        ], []
    return [], []
