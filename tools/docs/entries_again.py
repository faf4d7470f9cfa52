"""Writes the rows of submissions again from their manifests and verdicts, after the definition of a number changed.

    python -m tools.docs.entries_again submissions

Nothing is measured: `row.json` is what `asabench validate` makes of the same verdicts, a card's rows get the headline
that follows from their results, and `submission.yaml` gets the digests of the two. Prints the headline before and
after, one line an entry.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import yaml

from asabench.card.records import read_card
from asabench.core.files import write_whole
from asabench.core.near_duplicates import clusters_of_digests
from asabench.core.row import Row, worst_rate
from asabench.core.text import in_words, where
from asabench.runs.command import command_words
from asabench.submission.checks.training import read_training_prompts
from asabench.submission.make import TrainedOn, manifest_json, similarity_of, yaml_bytes
from asabench.submission.manifest import RunManifest
from asabench.submission.row_of import row_of
from asabench.submission.schema import (
    CARD_FILE,
    MANIFEST_FILE,
    ROW_FILE,
    SUBMISSION_FILE,
    TRAINING_PROMPTS_FILE,
    VERDICTS_FILE,
    Submission,
)
from asabench.submission.validate import submission_folders
from asabench.submission.verdict_table import read_verdicts


def write_again(folder: Path) -> str:
    """Writes the row, the card and the digests of one submission; returns its line."""
    old = Row.model_validate_json((folder / ROW_FILE).read_text(encoding="utf-8"))
    submission = Submission.model_validate(yaml.safe_load((folder / SUBMISSION_FILE).read_text(encoding="utf-8")))
    manifest = with_targets(
        RunManifest.model_validate_json((folder / MANIFEST_FILE).read_text(encoding="utf-8")), submission
    )
    manifest = with_clusters(manifest)
    table = read_verdicts(folder / VERDICTS_FILE)
    new = row_of(manifest, table, created=old.created, version=old.asabench_version)
    submission = with_similarity(submission, folder, manifest)
    _write(folder / ROW_FILE, new.model_dump(mode="json"))
    _write(folder / MANIFEST_FILE, manifest_json(manifest))
    changed = [ROW_FILE, MANIFEST_FILE]
    if (folder / CARD_FILE).exists():
        _write(folder / CARD_FILE, read_card(folder / CARD_FILE).model_dump(mode="json"))
        changed.append(CARD_FILE)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in changed}
    write_whole(
        folder / SUBMISSION_FILE, yaml_bytes(submission.model_copy(update={"files": submission.files | digests}))
    )
    return f"| {folder.name} | {_headline(old)} | {_headline(new)} |"


def with_targets(manifest: RunManifest, submission: Submission) -> RunManifest:
    """The manifest of runs from before a protocol named its target: each run's command says it."""
    runs = []
    for run, command in zip(manifest.runs, submission.reproduce, strict=True):
        words = command_words(command)
        if run.settings.protocol.target is None and "--target" in words:
            target = {"target": words[words.index("--target") + 1]}
            settings = run.settings.model_copy(update={"protocol": run.settings.protocol.model_copy(update=target)})
            run = run.model_copy(update={"settings": settings, "run_id": settings.id})
        runs.append(run)
    return manifest.model_copy(update={"runs": tuple(runs)})


def with_clusters(manifest: RunManifest) -> RunManifest:
    """The manifest of runs from before prompts had clusters: those of AdvBench are known by their digests."""
    known = clusters_of_digests([prompt.sha256 for prompt in manifest.prompts])
    if known is None:
        return manifest
    prompts = [
        prompt.model_copy(update={"cluster": cluster}) for prompt, cluster in zip(manifest.prompts, known, strict=True)
    ]
    return manifest.model_copy(update={"prompts": tuple(prompts)})


def with_similarity(submission: Submission, folder: Path, manifest: RunManifest) -> Submission:
    """The submission of a training from before requests were compared: of AdvBench's it is known by their digests."""
    path = folder / TRAINING_PROMPTS_FILE
    if submission.training_similarity is not None or not path.exists():
        return submission
    goals = read_training_prompts(path.read_bytes())
    declared = TrainedOn(name="", examples=len(goals), goals=tuple(goals))
    return submission.model_copy(update={"training_similarity": similarity_of([declared], manifest.prompts, ())})


def _write(path: Path, content: object) -> None:
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _headline(row: Row) -> str:
    result = next(each for each in row.results if (each.attack, each.dose) == (row.attack, row.dose))
    return f"{in_words(worst_rate(row))} {where(result)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.docs.entries_again", description=__doc__.split("\n\n")[0])
    parser.add_argument("collection", type=Path)
    print("| entry | headline before | headline now |\n|---|---|---|")
    for folder in submission_folders(parser.parse_args().collection):
        print(write_again(folder))


if __name__ == "__main__":
    main()
