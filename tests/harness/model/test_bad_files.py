"""Files of a model that are broken, or hold something other than what they are named for: one line, before anything
is generated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from harness.engine.generation_config import active_processors
from harness.model.files import locate
from harness.model.subject import check_prompt_format, load, make_subject
from tests.conftest import chat_tokenizer, tiny_model

SaveModel = Callable[..., Path]


def refusal(name: object) -> str:
    with pytest.raises(UserError) as caught:
        load(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reconfigure(folder: Path, file: str = "config.json", **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(path: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    save_file({key: change(key, each) for key, each in load_file(path).items()}, path, metadata={"format": "pt"})


# Configurations: each library raises its own errors for them


@pytest.mark.parametrize(
    "changes",
    [
        {"max_position_embeddings": None},
        {"max_position_embeddings": "256"},
        {"num_hidden_layers": "4"},
        {"num_attention_heads": 5},
        {"rms_norm_eps": "small"},
        {"rope_scaling": [1]},
        {"dtype": "float99"},
        {"pad_token_id": 9999},
        {"hidden_act": "unheard-of"},
    ],
    ids=str,
)
def test_a_configuration_with_values_that_cannot_be(changes: dict[str, Any], save_model: SaveModel) -> None:
    folder = save_model("llama")
    reconfigure(folder, **changes)
    assert "cannot be loaded" in refusal(folder)


def test_a_configuration_that_is_nested_too_deeply_or_no_object(save_model: SaveModel) -> None:
    folder = save_model("llama")
    for content in ("null", "[" * 100_000):
        (folder / "config.json").write_text(content)
        refusal(folder)


def test_an_index_that_is_nested_too_deeply(save_model: SaveModel) -> None:
    folder = save_model("llama")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)
    assert "cannot be read" in refusal(folder)


def test_a_name_that_no_file_can_have() -> None:
    for name in ("a" * 5000, "b/" * 3000):
        with pytest.raises(UserError, match="unknown model"):
            locate(name)


# Weights


def test_whole_numbers_without_their_scale_are_other_weights(save_model: SaveModel) -> None:
    folder = save_model("llama")
    rewrite(
        folder / "model.safetensors",
        lambda key, each: (each * 100).to(torch.int8) if key.endswith("q_proj.weight") else each,
    )
    assert "whole numbers in model.safetensors (model.layers.0.self_attn.q_proj.weight: int8)" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"])
def test_weights_that_are_not_numbers_wherever_they_are(key: str, value: float, save_model: SaveModel) -> None:
    # The row of one letter that the checks' plain tokens do not reach, and queries, of which attention makes numbers
    folder = save_model("llama")

    def changed(name: str, each: Tensor) -> Tensor:
        if name == key:
            each[24, 3] = value
        return each

    rewrite(folder / "model.safetensors", changed)
    assert "finite numbers" in refusal(folder)


# Where an answer ends


@pytest.mark.parametrize("ids", [-1, 99_999, [2, 160], True], ids=str)
def test_an_end_token_that_no_answer_can_hold(ids: Any, save_model: SaveModel) -> None:
    folder = save_model("llama")
    reconfigure(folder, "generation_config.json", eos_token_id=ids)
    assert "eos_token_id" in refusal(folder)


def test_an_end_token_of_the_configuration_counts_where_nothing_else_names_one(save_model: SaveModel) -> None:
    folder = save_model("llama")
    (folder / "generation_config.json").unlink()
    reconfigure(folder, eos_token_id=500)
    assert "the token 500 as the end of an answer" in refusal(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": "high"},
        {"repetition_penalty": -1.0},
        {"no_repeat_ngram_size": "3"},
        {"bad_words_ids": "x"},
        {"suppress_tokens": "x"},
        {"sequence_bias": 5},
        {"num_beams": 4},
        {"stop_strings": ["\n\n"]},
        {"penalty_alpha": 0.6},
        {"dola_layers": "high"},
    ],
    ids=str,
)
def test_generation_settings_that_cannot_be_kept(settings: dict[str, Any]) -> None:
    model = tiny_model("llama")
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    subject = make_subject(model, chat_tokenizer(), name="odd", revision="-")
    with pytest.raises(UserError, match=next(iter(settings))):
        active_processors(subject)


# The prompt


def test_text_that_the_tokenizer_does_not_know_is_no_prompt() -> None:
    subject = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="-")
    for protocol in PRESETS.values():
        check_prompt_format(subject, protocol, [Prompt(id="p", goal="paint a fence"), Prompt(id="q", goal="an <unk>")])
        with pytest.raises(UserError, match="does not know all of the prompt q, and would read <unk>"):
            check_prompt_format(subject, protocol, [Prompt(id="q", goal="paint 柵")])


# Adapters


@pytest.fixture
def adapter(save_model: SaveModel, tmp_path: Path) -> Path:
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(tmp_path / "adapter")
    reconfigure(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=str(save_model("llama")))
    return tmp_path / "adapter"


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_an_adapter_that_changes_nothing_is_said(part: str, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = "changes none of its base's weights"
    assert what not in load(str(adapter)).checks["the adapter adapter is merged as trained"]
    assert what not in capsys.readouterr().err
    rewrite(adapter / "adapter_model.safetensors", lambda key, each: each * 0 if part in key else each)
    assert what in load(str(adapter)).checks["the adapter adapter is merged as trained"]
    assert what in capsys.readouterr().err


def test_an_adapter_of_whole_numbers(adapter: Path) -> None:
    rewrite(adapter / "adapter_model.safetensors", lambda key, each: (each * 10).int())
    assert "whole numbers in place of weights" in refusal(adapter)


def test_an_adapter_that_is_not_a_number(adapter: Path) -> None:
    def changed(key: str, each: Tensor) -> Tensor:
        return each * torch.nan if key.endswith("layers.0.self_attn.q_proj.lora_A.weight") else each

    rewrite(adapter / "adapter_model.safetensors", changed)
    assert "finite" in refusal(adapter) or "another model" in refusal(adapter)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "("},
        {"megatron_config": {"tensor_model_parallel_size": 1}},
        {"rank_pattern": [1]},
        {"lora_alpha": None},
        {"r": "2"},
        {"target_modules": [1]},
    ],
    ids=str,
)
def test_an_adapter_whose_fields_cannot_be(changes: dict[str, Any], adapter: Path) -> None:
    reconfigure(adapter, "adapter_config.json", **changes)
    refusal(adapter)
