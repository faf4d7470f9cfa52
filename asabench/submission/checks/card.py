"""`card.json`: whose it is, that it repeats no other file, and that its summaries follow from its curves."""

from __future__ import annotations

from collections.abc import Iterator

from asabench.card.curves import curves_of, loss_point, trainability_of
from asabench.card.making import for_submission
from asabench.card.records import ModelCard, Trainability
from asabench.submission.checks.values import MOST_LAYERS, date_findings, listed, rate_findings
from asabench.submission.findings import Finding, shown
from asabench.submission.manifest import RunManifest
from asabench.submission.row_of import differences
from asabench.submission.schema import CARD_FILE, Submission

MOST_NAME = 120
MOST_LOSS = 1e3
"""Nats a token; guessing evenly among a million tokens costs 14."""


def card_findings(card: ModelCard, manifest: RunManifest | None, submission: Submission | None) -> Iterator[Finding]:
    """Whose card it is, that it repeats no other file, and that its summaries follow from its curves."""
    again = "make the card of the model that is submitted (`asabench card`)"
    if manifest is not None and card.model.revision != manifest.model.revision:
        there = f"{shown(manifest.model.revision)}, as manifest.json says"
        yield Finding(CARD_FILE, "model.revision", shown(card.model.revision), there, again)
    if submission is not None and (submission.base is None or card.base.revision != submission.base.revision):
        there = "no card without a base" if submission.base is None else shown(submission.base.revision)
        yield Finding(CARD_FILE, "base.revision", shown(card.base.revision), f"{there}, as submission.yaml says", again)
    yield from date_findings(CARD_FILE, card.created)
    if for_submission(card) != card:
        yield Finding(CARD_FILE, "card", "parts that other files hold", "trained blocks and trainability alone")
    layers = card.generalisation.trained_layers
    n_layers = MOST_LAYERS if manifest is None else manifest.model.n_layers
    if list(layers) != sorted(set(layers)) or not all(0 <= layer < n_layers for layer in layers):
        allowed = f"blocks 0 to {n_layers - 1} in order, each once"
        yield Finding(CARD_FILE, "generalisation.trained_layers", listed(layers), allowed)
    if card.trainability is not None:
        yield from _trainability_findings(card.trainability)


def _trainability_findings(found: Trainability) -> Iterator[Finding]:
    where = "trainability"
    data = found.data
    sets = {name: getattr(data, name).name for name in ("learned", "held_out", "complied", "tested")}
    for name, text in {**{f"{each}.name": text for each, text in sets.items()}, "target": data.target}.items():
        if len(text) > MOST_NAME:
            there = f"{len(text)} characters"
            yield Finding(CARD_FILE, f"{where}.data.{name}", there, f"at most {MOST_NAME}: a name, no text")
    for name, curves in (("model", found.model), ("base", found.base)):
        field = f"{where}.{name}"
        for number, point in enumerate(curves.erosion):
            yield from rate_findings(CARD_FILE, f"{field}.erosion.{number}.refused", point.refused)
        for which, own, theirs in (
            ("learning", curves.learning, found.base.learning),
            ("erosion", curves.erosion, found.base.erosion),
        ):
            steps = [point.step for point in own]
            if steps != sorted(set(steps)) or steps != [point.step for point in theirs]:
                yield Finding(CARD_FILE, f"{field}.{which}", f"steps {listed(steps)}", "the same for both, in order")
                return
        n = found.data.held_out.n
        for number, each in enumerate(curves.learning):
            if len(each.by_pair) != n or not all(0 <= loss < MOST_LOSS for loss in each.by_pair):
                allowed = f"{n} losses from 0 to {MOST_LOSS:g} nats, as data.held_out says"
                count = f"{len(each.by_pair)} losses, or one out of range"
                yield Finding(CARD_FILE, f"{field}.learning.{number}.by_pair", count, allowed)
                return
    made = {
        name: curves_of([loss_point(point.step, point.by_pair) for point in curves.learning], curves.erosion)
        for name, curves in (("model", found.model), ("base", found.base))
    }
    expected = trainability_of(found.settings, found.data, **made)
    for path, there, recomputed in differences(found.model_dump(mode="json"), expected.model_dump(mode="json")):
        yield Finding(CARD_FILE, f"{where}.{path}", there, f"{recomputed} follows from the curves")
