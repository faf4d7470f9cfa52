"""The engine inside a real vLLM against the engine of this project, token for token, in float32 on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.model.subject import load
from tests.conftest import CHAT_TEMPLATE, ROOT, byte_tokenizer, tiny_model

# vLLM's attention on a CPU has heads of 32 numbers at least
WIDE = dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=2, intermediate_size=96)
TINY = {
    "llama": ("llama", WIDE),
    "qwen3": ("qwen3", {**WIDE, "head_dim": 32}),
    "gemma3": ("gemma3", {**WIDE, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "phi3": ("phi3", WIDE),
    "gpt2": ("gpt2", dict(n_embd=64, n_head=2)),
    "gpt-neox": ("gpt_neox", dict(hidden_size=64, num_attention_heads=2, intermediate_size=96)),
}
PROMPTS = [
    "Say how bread rises",
    "A",
    "Write a rather long poem about the sea, the wind and a ship that comes home late",
]
CHAT = ["asabench-v1", {"doses": [0.1, 0.3, 1.0], "max_new_tokens": 12}]


def _save(folder: Path, family: str, changes: dict[str, Any]) -> str:
    model, tokenizer = tiny_model(family, **changes), byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _case(name: str, model: str, **changes: Any) -> dict[str, Any]:
    case = {"prompts": PROMPTS, "protocol": CHAT, "attacks": ["random", "gradient:direction=descend"], "layers": "all"}
    return {"name": name, "model": model, **case, **changes}


def _cases(folder: Path) -> list[dict[str, Any]]:
    tiny = {name: _save(folder / name, *family) for name, family in TINY.items()}
    refusing = load("smollm2-135m-refusal")
    refusing.model.save_pretrained(folder / "refusing")
    refusing.tokenizer.save_pretrained(folder / "refusing")
    llama = tiny["llama"]
    raw = {"max_new_tokens": 12, "doses": [0.3, 1.0]}
    return [
        *(_case(name, model) for name, model in tiny.items()),
        _case("refusing", str(folder / "refusing"), protocol=["asabench-v1", {**CHAT[1], "doses": [0.1, 0.3, 1.0]}]),
        _case("gu2025", llama, protocol=["gu2025", raw]),
        _case("later steps", llama, protocol=["asabench-v1", {**raw, "steps": [1, 3]}]),
        _case("a block a step", llama, protocol=["asabench-v1", {**raw, "steps": [0, 2], "step_layers": [1, 3]}]),
        _case("chunked prefill", llama, further={"max_num_batched_tokens": 7, "max_num_seqs": 7, "max_model_len": 256}),
        _case(
            "little memory",
            llama,
            protocol=["asabench-v1", {**raw, "max_new_tokens": 100}],
            further={"block_size": 32, "num_gpu_blocks_override": 24},
        ),
        _case("two in parallel", llama, parallel=2),
    ]


@pytest.fixture(scope="module")
def results(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "cases.json").write_text(json.dumps(_cases(folder)), encoding="utf-8")
    done = subprocess.run(
        [vllm_environment / "bin" / "python", Path(__file__).with_name("engine_cases.py"), folder / "cases.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-2_000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize(
    "name",
    [
        *TINY,
        "refusing",
        "gu2025",
        "later steps",
        "a block a step",
        "chunked prefill",
        "little memory",
        "two in parallel",
    ],
)
def test_answers_are_those_of_the_other_engine(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert "error" not in result, result["error"]
    assert result["same"] == result["cells"]
    assert result["steered away"] > 0, "no answer that steering changed: nothing was compared"
    assert result["self_test"]["every perturbed row is counted"]


def test_want_of_memory_is_seen_and_the_call_repeated(results: dict[str, dict[str, Any]]) -> None:
    assert results["little memory"]["calls_again"] > 0
    assert results["llama"]["calls_again"] == 0
