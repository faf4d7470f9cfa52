"""A submission beside others: whether it was copied from one, and whether the base that it names is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from asabench.core.plain_names import skeleton
from asabench.submission.findings import EDIT, Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.schema import MANIFEST_FILE, SUBMISSION_FILE, VERDICTS_FILE, Submission

SAMPLE = 2048
"""So many cells of each submission are compared, the same ones in all."""
FEWEST = 20
MOST_SPEAKERS = 2
"""An answer that stands in more cells of a sample than these says nothing of whose it is: two models that refuse every
request in the same words are alike without being copied."""
ALIKE = 0.5
"""From this share of equal answers on, two tables are of one model. Among the real entries of different models, all of
one family, it is at most 0.09; in a copy it is 1, less what was changed to hide it."""
ALIKE_RELATED = 0.9
"""The same for models of one origin, which may have been changed a little; from `ALIKE` on it is worth a word."""
ALIKE_WEIGHTS = 0.999
"""The same for equal weights under defences that act while the model answers, which may leave most answers alone."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What others are compared with. `answers`: the answers' digests of a sample of cells, by the cell's hash."""

    slug: str
    name: str
    model: str
    revision: str
    dtype: str
    n_layers: int
    d_model: int
    base_revision: str | None
    protocol: str
    judge: str
    answers: dict[int, int]


def card_of(submission: Submission, manifest: RunManifest, table: pd.DataFrame) -> Card:
    """table: the columns of `asabench.submission.verdict_table`."""
    return Card(
        slug=submission.slug,
        name=submission.name,
        dtype=manifest.model.dtype,
        n_layers=manifest.model.n_layers,
        d_model=manifest.model.d_model,
        base_revision=None if submission.base is None else submission.base.revision,
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
    findings, notices = _base(own, submission, cards)
    for other in cards:
        if other.slug == own.slug:
            continue
        if other.name != own.name and skeleton(other.name) == skeleton(own.name):
            findings.append(
                Finding(
                    SUBMISSION_FILE,
                    "name",
                    f"{shown(own.name)} reads as the name of the entry {other.slug}",
                    "a name that can be told from others",
                    EDIT,
                )
            )
        same_model = (other.model, other.revision) == (own.model, own.revision)
        same_run = same_model and (other.protocol, other.judge, other.dtype) == (own.protocol, own.judge, own.dtype)
        alike = _share(own, other, _threshold(own, other))
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
        elif not same_model and _share(own, other, ALIKE) and _are_related(own, other):
            notices.append(f"half or more of the answers that are rare are those of the entry {other.slug}")
        elif same_model and other.dtype != own.dtype and _share(own, other, 1.0):
            findings.append(
                Finding(
                    VERDICTS_FILE,
                    "response_sha256",
                    f"every answer of the entry {other.slug}, which is in {other.dtype}",
                    f"answers of weights in {own.dtype}: rounding parts some of them",
                    "submit the run as it is",
                )
            )
        elif same_model and (other.protocol, other.judge) == (own.protocol, own.judge):
            other_dtype = "" if same_run else f" in {other.dtype}"
            notices.append(f"the entry {other.slug} has the same model{other_dtype}, protocol and judge, other answers")
    return findings, notices


def _threshold(a: Card, b: Card) -> float:
    """From which share of equal answers on two tables are of one model."""
    if a.revision == b.revision and a.model != b.model:
        return ALIKE_WEIGHTS
    return ALIKE_RELATED if _are_related(a, b) and a.revision != b.revision else ALIKE


def _are_related(a: Card, b: Card) -> bool:
    """Whether one is made from the other, or both from a third."""
    origins = [{each.revision, each.base_revision} - {None} for each in (a, b)]
    return not origins[0].isdisjoint(origins[1])


def _share(a: Card, b: Card, least: float) -> bool | None:
    """Whether at least that share of the answers are equal, in cells of both whose answer is rare in either table; None
    where there are too few."""
    rare = [_rare(each) for each in (a, b)]
    common = [cell for cell in a.answers.keys() & b.answers.keys() if cell in rare[0] or cell in rare[1]]
    if len(common) < FEWEST:
        return None
    return sum(a.answers[cell] == b.answers[cell] for cell in common) >= least * len(common)


def _rare(card: Card) -> frozenset[int]:
    """The cells whose answer stands in few others."""
    number = Counter(card.answers.values())
    return frozenset(cell for cell, answer in card.answers.items() if number[answer] <= MOST_SPEAKERS)


def _base(own: Card, submission: Submission, cards: Sequence[Card]) -> tuple[list[Finding], list[str]]:
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
    base_shape, shape = ((each.n_layers, each.d_model) for each in (found[0], own))
    if base_shape != shape:
        return [
            Finding(
                MANIFEST_FILE,
                "model",
                f"{shape[0]} blocks of width {shape[1]}",
                f"{base_shape[0]} of width {base_shape[1]}, as the base {base.entry} has: rates are over blocks",
                "name the model that was defended as the base, or leave base out of a model of another size",
            )
        ], []
    return [], []
