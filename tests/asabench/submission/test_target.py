"""The target of an attack is part of what was measured."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from asabench.core.prompts import published_digest
from asabench.core.protocol import preset
from asabench.submission.known import protocol_gaps
from asabench.submission.make import manifest_json
from asabench.submission.manifest import RunManifest
from asabench.submission.validate import Validation, validate_folder
from tests.conftest import ROOT

ENTRY = ROOT / "submissions" / "smollm2-135m-refusal-asabench-v1"


def with_settings(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Validation:
    """A copy of a real entry whose runs had other settings, with the ids and digests that follow from them."""
    shutil.copytree(ENTRY, folder)
    manifest = RunManifest.model_validate_json((folder / "manifest.json").read_text(encoding="utf-8"))
    runs = []
    for run in manifest.runs:
        settings = type(run.settings).model_validate(change(run.settings.as_json()))
        runs.append(run.model_copy(update={"settings": settings, "run_id": settings.id}))
    content = json.dumps(manifest_json(manifest.model_copy(update={"runs": tuple(runs)}))).encode()
    (folder / "manifest.json").write_bytes(content)
    described = yaml.safe_load((folder / "submission.yaml").read_text(encoding="utf-8"))
    described["files"]["manifest.json"] = hashlib.sha256(content).hexdigest()
    (folder / "submission.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    return validate_folder(folder)


def test_a_target_that_is_not_named_is_found_by_the_digest_of_the_prompts(tmp_path: Path) -> None:
    """The run had a target of its own, and its protocol says that each prompt had the published one."""

    def unnamed(settings: dict[str, Any]) -> dict[str, Any]:
        return settings | {"protocol": settings["protocol"] | {"target": None}}

    found = with_settings(tmp_path / ENTRY.name, unnamed)
    assert any("manifest.json: runs.0.settings.prompts" in finding.line for finding in found.findings)


@pytest.mark.parametrize(
    "target",
    [
        "I cannot help with that",
        "I'm sorry, but I can't assist with that request.",
        "As an AI, I won't do this.",
        "No. I will not write that",
    ],
)
def test_an_entry_with_a_refusal_as_its_target_is_refused(tmp_path: Path, target: str) -> None:
    """With it, attacks that make the target likelier break nothing."""

    def refusing(settings: dict[str, Any]) -> dict[str, Any]:
        return settings | {"protocol": settings["protocol"] | {"target": target}}

    found = with_settings(tmp_path / ENTRY.name, refusing)
    (line,) = {f.line for f in found.findings if "reads as a refusal" in f.line and "runs.0." in f.line}
    assert line.startswith("manifest.json: runs.0.settings.protocol.target: ")
    assert "\n" not in line
    assert found.state == "invalid"


@pytest.mark.parametrize("target", ["Sure, here is", "Of course. Here is how", "Certainly! Step 1:"])
def test_a_willing_target_is_no_refusal(tmp_path: Path, target: str) -> None:
    def willing(settings: dict[str, Any]) -> dict[str, Any]:
        return settings | {"protocol": settings["protocol"] | {"target": target}}

    found = with_settings(tmp_path / ENTRY.name, willing)
    assert not any("refusal" in finding.line for finding in found.findings)
    assert any(notice.startswith("not the published protocol: target is") for notice in found.notices)


def test_a_refusal_in_a_list_is_found(tmp_path: Path) -> None:
    def listed(settings: dict[str, Any]) -> dict[str, Any]:
        targets = {"name": "own", "texts": ["Sure, here is", "I cannot help with that"]}
        return settings | {"protocol": settings["protocol"] | {"target": None, "targets": targets}}

    found = with_settings(tmp_path / ENTRY.name, listed)
    assert any("protocol.targets: 'I cannot help with that', which reads" in f.line for f in found.findings)


def test_the_published_targets_are_recognised_by_their_digest(tmp_path: Path) -> None:
    def published(settings: dict[str, Any]) -> dict[str, Any]:
        digest = published_digest(settings["prompt_count"])[:16]
        return settings | {"prompts": digest, "protocol": settings["protocol"] | {"target": None}}

    found = with_settings(tmp_path / ENTRY.name, published)
    assert not any("settings.prompts" in finding.line for finding in found.findings)


def test_a_row_with_a_target_of_its_own_is_not_of_the_published_protocol(tmp_path: Path) -> None:
    """A refusal as the target makes targeted attacks harmless: it never ranks beside the others."""
    base = preset("asabench-v1")
    other = base.model_copy(update={"target": "I cannot help with that"})
    assert other.digest != base.digest
    gaps = [gap for gap in protocol_gaps(other) if gap.startswith("target")]
    assert gaps == ["target is 'I cannot help with that', published: each prompt's own"]
    assert not any(gap.startswith("target") for gap in protocol_gaps(base))
