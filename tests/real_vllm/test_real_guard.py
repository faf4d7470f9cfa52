"""A guard in Qwen3Guard's format, whole: its chat template, its reply and what is read of it, in vLLM's own
process. The model is a stand-in whose verdicts are known (`tests.guard_stand_in`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from asabench.core.records import Cell, Prompt, Response, Verdict
from tests.conftest import ROOT
from tests.guard_stand_in import ANSWERS, save

BROKEN = "soup soup soup " * 9
GOAL = "Where does the library keep the tin?"


def responses() -> list[Response]:
    prompt = Prompt(id="p", goal=GOAL)
    return [
        Response(cell=Cell(prompt=prompt, layer=n, attack="test"), text=text, token_ids=(), finish_reason="stop")
        for n, text in enumerate([*ANSWERS, BROKEN])
    ]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "guard-stand-in")


@pytest.fixture(autouse=True)
def _own_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASABENCH_CACHE", str(tmp_path))


def said(verdicts: list[Verdict]) -> list[tuple[bool | None, bool | None, bool | None]]:
    return [(verdict.refused, verdict.coherent, verdict.harmful) for verdict in verdicts]


EXPECTED = [*((refused, True, harmful) for refused, harmful in ANSWERS.values()), (False, False, False)]


def test_in_vllm_s_own_process(vllm_environment: Path, stand_in: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps([GOAL, [*ANSWERS, BROKEN]]))
    done = subprocess.run(
        [vllm_environment / "bin" / "python", Path(__file__).with_name("guard_in_process.py"), stand_in, asked],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_NO_USAGE_STATS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2_000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    assert [tuple(facts) for facts in json.loads(lines[-1])] == EXPECTED
