"""The check of a GPU, all of it, on this CPU with a tiny shape: what it finds, what a failing part costs, its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.docs.gpu_page import page
from tools.speed import gpu_check
from tools.speed.gpu_check import PARTS, Setting, apart, check, guarded, main

TINY = Setting(device=torch.device("cpu"), shape="tiny", prompts=2, tokens=4)


def test_every_part_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--shape", "tiny", "--prompts", "2", "--tokens", "4", "--in-process"]
    main([*words, "--out", str(out)])
    report = json.loads(out.read_text())
    assert list(report["parts"]) == list(PARTS)
    failed = {name: part["failed"] for name, part in report["parts"].items() if "failed" in part}
    # what needs weights or packages of others may lack them
    assert set(failed) <= {"judge"}, failed
    found = {name: part["found"] for name, part in report["parts"].items() if "found" in part}
    assert found["equality"]["holds"]
    assert found["out of memory"]["halved"]
    assert found["out of memory"]["same"]
    assert found["bench"]["cells"] == 2 * (1 + 4)
    assert found["bench"]["tokens"] == 2 * (1 + 4) * 4
    shown = page(report)
    assert all(f"## {name.capitalize()}" in shown for name in PARTS)
    assert "| holds | yes |" in shown


def test_a_part_that_fails_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(setting: Setting) -> Any:
        raise RuntimeError("the device is gone")

    parts = {"first": (broken, 10.0), "second": (lambda setting: {"fine": True}, 10.0)}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    report = check(TINY, lambda name, seconds: guarded(name, TINY))
    assert report["parts"]["first"]["failed"] == "RuntimeError: the device is gone"
    assert report["parts"]["second"]["found"] == {"fine": True}
    assert "Failed after" in page(report)
    assert "the device is gone" in page(report)
    # nothing is begun for which there is no time
    assert check(TINY, lambda name, seconds: guarded(name, TINY), seconds=0)["parts"]["second"]["failed"]


def test_a_part_in_a_process_of_its_own_is_ended() -> None:
    assert apart("equality", ["--device", "cpu"], 0.01)["failed"] == "not done within 0 s"
    assert sum(most for _, most in PARTS.values()) < 620
