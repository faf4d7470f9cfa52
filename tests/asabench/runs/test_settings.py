"""What decides a run's answers: the JSON that it is on disk, and the id that is made of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.protocol import LATER as PROTOCOL_LATER
from asabench.core.protocol import PRESETS, Protocol
from asabench.runs.folder import open_run, read_run
from asabench.runs.settings import RunSettings, in_full
from asabench.submission.manifest import SubmittedSettings
from tests.conftest import ROOT
from tests.run_settings import run_settings

# As `asabench evaluate` wrote it into a manifest.json when settings were no record yet, and the id that it had
KNOWN = (
    '{"model": "tiny-gpt2", "revision": "sha256:67d5b7cc9d0f8fe6", "dtype": "float32", '
    '"chat_template": "d6a3cdff5239d1ca", "protocol": {"name": "asabench-v1", "prompt_format": "chat", '
    '"chat_template_variables": {"date_string": "26 Jul 2024", "enable_thinking": false}, "suffix_separator": " ", '
    '"max_new_tokens": 5, "generation_config": "greedy-only", "statistics": "current-step", "noise": "per-cell", '
    '"gradient_at": "last_prompt", "labels": "three", "steps": "every", "step_layers": null, "doses": [0.3, 1.0], '
    '"seeds": [0, 1], "headline_dose": 1.0}, "attacks": ["random", "gradient-descend"], "layers": [0, 2, 3], '
    '"prompts": "60919344fcab3206", "prompt_count": 3}'
)
KNOWN_ID = "7b6f9dcd20740dd4"
LATER = ("gradient_at", "labels", "step_layers")
"""Fields of a protocol that the first runs did not have."""


def hashed(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def made_anew() -> RunSettings:
    """The same settings as a plan makes them."""
    protocol = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 5, "doses": (0.3, 1.0), "seeds": (0, 1)})
    return RunSettings(
        model="tiny-gpt2",
        revision="sha256:67d5b7cc9d0f8fe6",
        dtype="float32",
        chat_template="d6a3cdff5239d1ca",
        protocol=in_full(protocol),
        attacks=("random", "gradient-descend"),
        layers=(0, 2, 3),
        prompts="60919344fcab3206",
        prompt_count=3,
    )


@pytest.mark.parametrize("kind", [RunSettings, SubmittedSettings])
def test_known_settings_keep_their_bytes_and_their_id(kind: type[RunSettings]) -> None:
    read = kind.model_validate_json(KNOWN)
    assert json.dumps(read.as_json()) == KNOWN
    assert read.id == KNOWN_ID
    assert (read.protocol.doses, read.attacks[0], read.layers) == ((0.3, 1.0), "random", (0, 2, 3))


def test_a_new_run_has_the_bytes_and_the_id_of_the_known_one() -> None:
    assert json.dumps(made_anew().as_json()) == KNOWN
    assert made_anew().id == KNOWN_ID


def test_the_protocol_of_a_new_run_is_written_in_full() -> None:
    for preset in PRESETS.values():
        written = run_settings().model_copy(update={"protocol": in_full(preset)}).as_json()["protocol"]
        # All but what came later and says what held then: runs from before keep their ids
        assert set(written) == set(Protocol.model_fields) - set(PROTOCOL_LATER)


def test_a_run_from_before_a_field_was_there_keeps_its_id(tmp_path: Path) -> None:
    old = json.loads(KNOWN)
    for field in LATER:
        del old["protocol"][field]
    manifest = {"schema_version": 1, "run_id": hashed(old), "state": "finished", "settings": old}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    run = read_run(tmp_path)
    assert run.settings.as_json() == old
    assert run.settings.id == run.id == hashed(old) != KNOWN_ID
    assert run.settings.protocol == made_anew().protocol, "what it did not name was what is the default since"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "submissions").glob("*/manifest.json")), ids=lambda path: path.parent.name
)
def test_the_runs_of_the_entries_keep_their_ids(path: Path) -> None:
    for record in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        settings = RunSettings.model_validate_json(json.dumps(record["settings"]))
        assert json.dumps(settings.as_json()) == json.dumps(record["settings"])
        assert settings.id == record["run_id"]


def test_every_setting_is_part_of_the_id() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"model": "other"},
        {"revision": "abd"},
        {"dtype": "bfloat16"},
        {"chat_template": "0" * 16},
        {"attacks": ("random", "pgd")},
        {"layers": (1, 0)},
        {"prompts": "f" * 16},
        {"prompt_count": 3},
        *({"protocol": change} for change in ({"seeds": (1,)}, {"doses": (0.3,)}, {"max_new_tokens": 49})),
    ]
    assert set(run_settings().as_json()) == {name for change in changes for name in change}
    assert len({run_settings(**change).id for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 1}, "settings.temperature: Extra inputs are not permitted"),
        ({"layers": "all"}, "settings.layers: "),
        ({"protocol": {"name": "asabench-v1"}}, "settings.protocol.prompt_format: Field required"),
    ],
)
def test_settings_that_cannot_be_read_are_named_in_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with open_run(tmp_path, run_settings(), {}, pd.DataFrame({"id": ["a"]})) as run:
        run.update_manifest(settings={**run.manifest["settings"], **change})
    with pytest.raises(UserError) as error:
        _ = read_run(tmp_path).settings
    assert words in str(error.value)
    assert str(tmp_path / "manifest.json") in str(error.value)
    assert "\n" not in str(error.value)
