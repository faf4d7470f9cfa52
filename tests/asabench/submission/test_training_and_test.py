"""Near-duplicates between what was trained on and what is tested, in submissions; clusters of their prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asabench.core import advbench, near_duplicates
from asabench.core.errors import UserError
from asabench.core.records import sha256_hex
from asabench.core.row import read_row
from asabench.core.training_record import ComparedWithTest, NearTest
from asabench.submission.checks.runs import manifest_findings
from asabench.submission.checks.training import training_findings, training_notices
from asabench.submission.make import TrainedOn, similarity_of, trained_on_prompts
from asabench.submission.manifest import PromptDigest, RunManifest
from asabench.submission.row_of import row_of
from asabench.submission.schema import SimilarPrompt, Submission, TrainingData, TrainingSimilarity
from asabench.submission.validate import validate_folder
from asabench.submission.verdict_table import read_verdicts
from tests.conftest import ROOT

SHIPPED = ROOT / "submissions"
BASE = SHIPPED / "smollm2-135m-asabench-v1"
TRAINED = SHIPPED / "smollm2-135m-lapt-asabench-v1"
GOALS = ("paint a fence", "sing a long song about rivers", "walk home")
PROMPTS = tuple(PromptDigest(id=f"p{n}", sha256=sha256_hex(goal), cluster=n) for n, goal in enumerate(GOALS))


def manifest_of(folder: Path) -> RunManifest:
    return RunManifest.model_validate_json((folder / "manifest.json").read_text())


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Path, Callable[[dict[str, Any]], None]], list[str]]:
    """The findings and notices of a shipped entry's manifest after a change."""

    def find(folder: Path, change: Callable[[dict[str, Any]], None]) -> list[str]:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        return [each.line for each in manifest_findings(RunManifest.model_validate_json(json.dumps(content)))]

    return find


def declared(trained: Path = TRAINED) -> tuple[Submission, frozenset[str], RunManifest]:
    found = validate_folder(trained)
    assert found.submission is not None
    digests = frozenset((trained / "training_prompts.txt").read_text().split())
    return found.submission, digests, manifest_of(trained)


# What is submitted


def test_texts_are_compared() -> None:
    mine = ("paint two fence", "walk home", "count stars tonight")
    data = TrainedOn(name="mine", examples=3, goals=tuple(map(sha256_hex, mine)), texts=mine)
    found = similarity_of([data], PROMPTS, GOALS)
    assert found is not None
    assert (found.requests, found.compared, [near.id for near in found.near]) == (3, 3, ["p0"])
    assert 50 <= found.near[0].percent < 100, "and the equal one is for the digests to find"


def test_a_test_prompt_written_in_another_way_cannot_be_submitted() -> None:
    text = "SING a long  song about rivers."
    data = TrainedOn(name="mine", examples=1, goals=(sha256_hex(text),), texts=(text,))
    with pytest.raises(UserError, match=r"1 of the requests in 'mine' are prompts .* \(p1\)") as error:
        similarity_of([data], PROMPTS, GOALS)
    assert "rivers" not in str(error.value)


def test_a_record_says_what_was_compared_when_the_texts_were_there(tmp_path: Path) -> None:
    trained, tested = sha256_hex("paint two fence"), [prompt.sha256 for prompt in PROMPTS]
    compared = ComparedWithTest(
        measure="tfidf-advbench",
        test="mine.csv",
        goals=tuple(tested),
        near=(NearTest(test=tested[0], training=trained, similarity=0.719),),
    )
    path = tmp_path / "training.json"
    path.write_text(json.dumps({"harmful_goals": [trained], "compared_with_test": compared.model_dump()}))
    data = trained_on_prompts(str(path))
    found = similarity_of([data], PROMPTS, GOALS)
    assert found == TrainingSimilarity(requests=1, compared=1, near=(SimilarPrompt(id="p0", percent=71),))
    # Of another test, or by another measure, it says nothing
    for other in ({"goals": tuple(tested[:2])}, {"measure": "other"}):
        less = TrainedOn(name="", examples=1, goals=(trained,), compared=compared.model_copy(update=other))
        assert similarity_of([less], PROMPTS, GOALS) == TrainingSimilarity(requests=1, compared=0, near=())


def test_no_requests_no_comparison() -> None:
    assert similarity_of([TrainedOn(name="UltraChat", examples=9)], PROMPTS, GOALS) is None


# What is checked


def test_the_entries_say_what_their_trainings_share_with_the_test() -> None:
    submission, trained, manifest = declared()
    similar = submission.training_similarity
    assert similar is not None
    assert (similar.requests, similar.compared, len(similar.near)) == (200, 200, 39)
    assert list(training_findings(submission, trained, manifest)) == []
    said = list(training_notices(submission, trained, manifest))
    assert any(line.startswith("39 of the 100 test prompts have a near-duplicate") for line in said)
    assert not any("digests alone" in line for line in said)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: {"near": s.near[1:]}, "training_similarity.near: not advbench-003"),
        (
            lambda s: {"near": (s.near[0].model_copy(update={"percent": 51}), *s.near[1:])},
            "training_similarity.near: advbench-003 at 51 percent",
        ),
        (lambda s: {"near": (*s.near, SimilarPrompt(id="p9", percent=60))}, "training_similarity.near: 'p9'"),
        (lambda s: {"requests": 3, "compared": 3}, "training_similarity: 3 of 3 compared"),
        (lambda s: {"compared": 201}, "training_similarity: 201 of 200 compared"),
    ],
)
def test_what_digests_show_cannot_be_left_out(change: Callable[..., dict[str, Any]], expected: str) -> None:
    submission, trained, manifest = declared()
    similar = submission.training_similarity
    assert similar is not None
    other = submission.model_copy(update={"training_similarity": similar.model_copy(update=change(similar))})
    (line,) = [finding.line for finding in training_findings(other, trained, manifest)]
    assert expected in line


def test_without_a_comparison_the_digests_are_still_compared() -> None:
    submission, trained, manifest = declared()
    before = submission.model_copy(update={"training_similarity": None})
    assert list(training_findings(before, trained, manifest)) == []
    assert any(line.startswith("39 of the 100") for line in training_notices(before, trained, manifest))
    some = frozenset({*sorted(trained)[:50], "0" * 64, "1" * 64})
    assert any("2 of the 52 requests" in line for line in training_notices(before, some, manifest))


def test_data_without_digests_is_said() -> None:
    submission, _, manifest = declared()
    data = (TrainingData(name="secret", examples=5, prompt_digests=False),)
    other = submission.model_copy(update={"training_data": data})
    (line,) = training_notices(other, None, manifest)
    assert line == "training data 'secret' has no digests: whether test prompts are in it is not known"


# Clusters


def test_the_clusters_of_the_entries_are_the_published_ones(changed: Any) -> None:
    manifest = manifest_of(BASE)
    expected = near_duplicates.clusters_of_digests([prompt.sha256 for prompt in manifest.prompts])
    assert tuple(prompt.cluster for prompt in manifest.prompts) == expected
    assert read_row(BASE / "row.json").interval_unit == "cluster"
    assert changed(BASE, lambda manifest: None) == []


def test_clusters_that_are_not_the_published_ones_are_refused(changed: Any) -> None:
    def alone(manifest: dict[str, Any]) -> None:
        for number, prompt in enumerate(manifest["prompts"]):
            prompt["cluster"] = number

    (line,) = changed(BASE, alone)
    assert "as its near-duplicate among AdvBench's goals" in line
    (line,) = changed(BASE, lambda manifest: manifest["prompts"][5].update(cluster=7))
    assert "prompts.5.cluster: 7; the place of the first prompt of the cluster" in line
    (line,) = changed(BASE, lambda manifest: manifest["prompts"][5].pop("cluster"))
    assert "prompts.cluster: none for advbench-005" in line


def test_of_other_prompts_what_is_known_is_checked(changed: Any) -> None:
    near = near_duplicates.pairs()[0]
    known = advbench.digests()

    def mine(clusters: list[int]) -> Callable[[dict[str, Any]], None]:
        def change(manifest: dict[str, Any]) -> None:
            digests = ["0" * 64, known[near.first].goal, known[near.second].goal]
            manifest["prompt_set"] = "mine.csv"
            manifest["prompts"] = [
                {"id": f"p{n}", "sha256": digest, "cluster": cluster}
                for n, (digest, cluster) in enumerate(zip(digests, clusters, strict=True))
            ]

        return change

    def of_clusters(clusters: list[int]) -> list[str]:
        return [line for line in changed(BASE, mine(clusters)) if "cluster" in line]

    assert of_clusters([0, 1, 1]) == of_clusters([0, 0, 0]) == []
    assert len(of_clusters([0, 1, 2])) == 1


def test_an_entry_from_before_clusters_stays_valid(tmp_path: Path) -> None:
    folder = tmp_path / BASE.name
    shutil.copytree(BASE, folder)
    content = json.loads((folder / "manifest.json").read_text())
    for prompt in content["prompts"]:
        del prompt["cluster"]
    (folder / "manifest.json").write_text(json.dumps(content))
    held = read_row(folder / "row.json")
    row = row_of(
        manifest_of(folder),
        read_verdicts(folder / "verdicts.parquet"),
        created=held.created,
        version=held.asabench_version,
    )
    assert row.interval_unit == "prompt"
    before = row.model_dump(mode="json") | {"judge": json.loads((folder / "row.json").read_text())["judge"]}
    del before["interval_unit"]  # rows of then did not say so
    (folder / "row.json").write_text(json.dumps(before))
    found = validate_folder(folder)
    assert {finding.field for finding in found.findings} == {"SHA-256"}, "its numbers follow, its files were changed"
    assert any(notice.startswith("intervals resample prompts") for notice in found.notices)
    assert row.masr.value == held.masr.value
    assert (row.masr.low or 0) > (held.masr.low or 0), "all prompts broke: fewer of them are independent"
