"""What a probe was asked, as it stands in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asabench.core.errors import UserError
from asabench.core.protocol import preset
from asabench.runs.probe_settings import read_probe, write_probe
from tests.probe_manifest import probe_manifest


def test_a_manifest_is_read_and_written_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(probe_manifest()))
    found = read_probe(tmp_path)
    assert found.settings.protocol == preset("asabench-v1")
    assert found.settings.landscape is not None
    assert (found.settings.landscape.seeds, found.settings.layers) == ((0, 1), (0, 3))
    write_probe(tmp_path, found)
    assert json.loads((tmp_path / "manifest.json").read_text()) == probe_manifest()


def test_manifests_written_before_are_read(tmp_path: Path) -> None:
    """Without a landscape they did not name it, and older protocols had fewer fields."""
    before = probe_manifest(what=["kl"])
    del before["settings"]["landscape"], before["settings"]["protocol"]["target"]
    (tmp_path / "manifest.json").write_text(json.dumps(before))
    settings = read_probe(tmp_path).settings
    assert (settings.what, settings.landscape, settings.protocol.target) == (("kl",), None, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": ["first"]}, "settings.layers.0"),
        ({"what": ["entropy"]}, "settings.what.0"),
        ({"landscape": {"a": [1.0]}}, "settings.landscape.a_attack"),
        ({"colour": "red"}, "settings.colour"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named_in_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(probe_manifest(**change)))
    with pytest.raises(UserError, match="is not the manifest of a finished probe") as error:
        read_probe(tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
