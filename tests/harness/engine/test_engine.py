"""Which engine answers, and what is refused in one line before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import harness.engine.vllm_engine as vllm_engine
from asabench.core.errors import UserError
from harness.engine.engine import HookedEngine, check_engine, make_engine
from harness.engine.generation_config import only_repetition_penalty
from harness.evaluation.evaluate import evaluate
from harness.model.architecture import set_generation_settings
from harness.model.subject import Subject, load, make_subject
from tests.conftest import chat_tokenizer, tiny_model
from tests.harness.evaluation.test_evaluate import PROMPTS


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment that has a vLLM of a version that was tried; nothing here starts it."""
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_engine, "_version", lambda: "0.32.0")


def test_the_default_is_the_model_in_this_process(llama: Subject) -> None:
    engine = make_engine("hf", llama)
    assert isinstance(engine, HookedEngine)
    assert engine.described == {"engine": "hf"}


def test_an_unknown_engine() -> None:
    with pytest.raises(UserError, match=r"unknown engine 'vlm'; allowed: hf, vllm"):
        check_engine("vlm")


def test_an_environment_without_vllm(tmp_path: Path) -> None:
    """Said before the model is looked for."""
    with pytest.raises(UserError, match=r"needs vLLM in this environment, and it is not there; .* or use --engine hf"):
        evaluate(str(tmp_path / "nowhere"), engine="vllm")


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch, with_vllm: None) -> None:
    monkeypatch.setattr(vllm_engine, "_version", lambda: "0.41.2")
    with pytest.raises(UserError, match=r"is made for vLLM 0\.32 and 0\.33, and 0\.41\.2 is installed"):
        check_engine("vllm")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tensor_parallel": 3}, r"--tensor-parallel 3 does not divide the 4 attention heads of tiny-llama"),
        ({"tensor_parallel": 0}, r"--tensor-parallel 0 does not divide"),
        ({"gpu_memory": 1.5}, r"--gpu-memory 1\.5 is no share of a GPU's memory"),
    ],
)
def test_options_that_cannot_be(llama: Subject, with_vllm: None, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_engine("vllm", llama, **options)


def test_what_lives_in_the_other_engine(llama: Subject, with_vllm: None, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "prompts": PROMPTS,
        "judge": "rules",
        "uncertified": True,
        "out": tmp_path,
        "engine": "vllm",
    }
    with pytest.raises(UserError, match=r"--defence .* acts inside the model of the engine hf"):
        evaluate("smollm2-135m", defence="tests.inference_defences:Nothing", **asked)
    with pytest.raises(UserError, match=r"a model in memory is for the engine hf in this process"):
        evaluate(llama, **asked)


def test_weights_stay_on_disk_where_no_attack_needs_them(save_model: Any) -> None:
    folder = save_model("llama")
    whole, bare = load(str(folder)), load(str(folder), weights=False)
    assert bare.device.type == "meta"
    assert bare.folder == folder
    for name in ("n_layers", "d_model", "family", "dtype", "n_parameters", "revision", "name", "vocabulary_size"):
        assert getattr(bare, name) == getattr(whole, name)
    assert bare.stop_tokens == whole.stop_tokens


def test_what_the_generation_config_may_ask_for() -> None:
    from transformers import GenerationConfig

    subject = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="random")
    assert only_repetition_penalty(subject) == 1.0
    set_generation_settings(subject.model, GenerationConfig(repetition_penalty=1.3))
    assert only_repetition_penalty(subject) == 1.3
    set_generation_settings(subject.model, GenerationConfig(no_repeat_ngram_size=3))
    with pytest.raises(UserError, match=r"sets no_repeat_ngram_size, which .* the engine vllm does not support"):
        only_repetition_penalty(subject)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"device": "cuda:1"},
            r"--device cuda:1 is for the model of --engine hf; vLLM takes the GPUs that CUDA_VISIBLE",
        ),
        ({"device_map": "auto"}, r"--device-map auto is for the model of --engine hf"),
        ({"attention": "eager"}, r"--attention eager is for the model of --engine hf"),
    ],
)
def test_vllm_places_its_model_itself(tmp_path: Path, with_vllm: None, options: dict[str, Any], said: str) -> None:
    how: dict[str, Any] = {"engine": "vllm", "judge": "rules", "uncertified": True, "prompts": PROMPTS}
    with pytest.raises(UserError, match=said):
        evaluate(str(tmp_path / "nowhere"), **how, **options)


@pytest.mark.parametrize("options", [{"tensor_parallel": 2}, {"gpu_memory": 0.5}])
def test_what_is_vllms_alone(llama: Subject, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"is for --engine vllm; the engine hf spreads a model with --device-map auto"):
        evaluate(llama, prompts=PROMPTS, judge="rules", uncertified=True, **options)
