"""Models that are large, spread or quantised: number formats, devices, attention, and what they change of an answer."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor

import harness.model.placement
from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from asabench.runs.choices import Choices
from harness.attacks import make_attacks
from harness.attacks.target_loss import loss_gradients
from harness.engine.selftest import self_test
from harness.engine.sweep import grid, sweep
from harness.evaluation.plan import make_plan
from harness.model.placement import devices_of, placement_in_words, refuse_offloaded, rows_that_fit
from harness.model.subject import Subject, load, make_subject
from tests.command_line import refused_in_one_line
from tests.conftest import chat_tokenizer, tiny_model
from tests.two_devices import Elsewhere, spread

SaveModel = Callable[..., Path]
PROTOCOL = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 5, "doses": (0.5,), "seeds": (0,)})
PROMPTS = (Prompt(id="a", goal="say hello", target="Sure"), Prompt(id="b", goal="a poem of spring", target="Sure"))
ATTACKS = "random,gradient:direction=descend,pgd:steps=1"


def answers(subject: Subject) -> dict[str, tuple[int, ...]]:
    attacks = make_attacks(ATTACKS.split(","), PROTOCOL)
    cells = grid(PROMPTS, range(subject.n_layers), list(attacks.values()), PROTOCOL)
    return {each.cell.id: each.token_ids for batch in sweep(subject, cells, PROTOCOL, attacks) for each in batch}


# Number formats


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_auto_is_the_checkpoints_own(save_model: SaveModel, tmp_path: Path, stored: str) -> None:
    folder = save_model("llama")
    dtype = getattr(torch, stored)
    tiny_model("llama").to(dtype).save_pretrained(folder)
    assert load(str(folder), dtype="auto").dtype == stored
    assert load(str(folder), dtype=None).dtype == "float32"  # the default on a CPU
    assert load(str(folder)).dtype == "float32"
    # where the configuration says nothing, the weights do
    config = json.loads((folder / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert load(str(folder), dtype="auto").dtype == stored


def test_a_checkpoint_in_another_format_wants_a_dtype(save_model: SaveModel) -> None:
    folder = save_model("llama")
    tiny_model("llama").double().save_pretrained(folder)
    with pytest.raises(UserError, match="is in float64; give --dtype: float32, bfloat16, float16"):
        load(str(folder), dtype="auto")
    assert load(str(folder), dtype="float32").dtype == "float32"


def test_a_run_records_the_resolved_dtype_under_the_same_id(save_model: SaveModel, tmp_path: Path) -> None:
    folder = save_model("llama")
    tiny_model("llama").to(torch.bfloat16).save_pretrained(folder)

    def planned(dtype: str | None) -> Any:
        return make_plan(str(folder), Choices.of(dtype=dtype, judge="rules", prompts=list(PROMPTS))).settings

    assert planned("auto") == planned("bfloat16")
    assert planned("auto").dtype == "bfloat16"
    assert planned("auto").id == planned("bfloat16").id != planned("float32").id
    assert planned(None) == planned("float32")


def test_a_dtype_that_the_device_lacks(save_model: SaveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.ones

    def lacking(*size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        if dtype == torch.bfloat16:
            raise TypeError("BFloat16 is not supported on this device")
        return whole(*size, dtype=dtype, device=device)

    folder = save_model("llama")
    monkeypatch.setattr(torch, "ones", lacking)
    with pytest.raises(UserError, match=r"dtype bfloat16 cannot be used on cpu .*; give another --dtype"):
        load(str(folder), dtype="bfloat16")


# Attention


def test_attention_is_chosen_and_recorded(save_model: SaveModel) -> None:
    folder = str(save_model("llama"))
    eager, sdpa = (load(folder, attention=name) for name in ("eager", "sdpa"))
    assert [subject.described["attention"] for subject in (eager, sdpa, load(folder))] == ["eager", "sdpa", "sdpa"]
    assert answers(eager) == answers(sdpa)


def test_attention_that_is_not_to_be_had(save_model: SaveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model("llama")
    evaluate = ("evaluate", "--model", folder)
    assert "allowed: eager, sdpa, flash_attention_2" in refused_in_one_line(*evaluate, "--attention", "flex")
    if importlib.util.find_spec("flash_attn") is None:
        assert "flash-attn, which is not installed" in refused_in_one_line(
            *evaluate, "--attention", "flash_attention_2"
        )
    monkeypatch.setattr("harness.model.attention.PACKAGE", "torch")  # as if it were there
    assert "the model is on cpu" in refused_in_one_line(*evaluate, "--attention", "flash_attention_2")


# Several devices


def hooked(family: str) -> Subject:
    """A model whose modules accelerate calls, as it does those of a model over several devices."""
    model = accelerate.dispatch_model(tiny_model(family), {"": "cpu"}, force_hooks=True)
    return make_subject(model, chat_tokenizer(), name=f"tiny-{family}", revision="random")


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox", "gpt2"])
def test_accelerates_hooks_and_ours_go_together(family: str) -> None:
    plain = make_subject(tiny_model(family), chat_tokenizer(), name=f"tiny-{family}", revision="random")
    assert hasattr(hooked(family).blocks[0], "_hf_hook")
    assert answers(hooked(family)) == answers(plain)


def test_a_device_map_gives_the_same_answers(save_model: SaveModel) -> None:
    folder = str(save_model("llama"))
    plain = answers(load(folder))
    for device_map in ("auto", "sequential", {"": "cpu"}):
        assert answers(load(folder, device_map=device_map)) == plain


def test_device_maps_that_cannot_be_used(save_model: SaveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model("llama")
    evaluate = ("evaluate", "--model", folder)
    assert "allowed: auto, balanced" in refused_in_one_line(*evaluate, "--device-map", "everywhere")
    both = refused_in_one_line(*evaluate, "--device-map", "auto", "--device", "cpu")
    assert "--device cpu and --device-map are both there" in both
    with pytest.raises(UserError, match="cannot be loaded"):
        load(str(folder), device_map={"": 99})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--device-map needs accelerate.*pip install accelerate"):
        load(str(folder), device_map="auto")


def test_parts_that_wait_elsewhere_are_refused() -> None:
    model = tiny_model("llama")
    refuse_offloaded(model)
    model.model.layers[1].to("meta")
    with pytest.raises(UserError, match="does not fit on the devices"):
        refuse_offloaded(model)
    assert devices_of(model) == (torch.device("cpu"), torch.device("meta"))
    assert placement_in_words(model.model.layers) == {"cpu": "0,2-3", "meta": "1"}


def test_the_fullest_device_bounds_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = tiny_model("llama").model.layers
    blocks[3].to("meta")  # stands for a second device
    room: Mapping[str, int] = {"cpu": 1200, "meta": 300}
    monkeypatch.setattr(harness.model.placement, "free_memory", lambda device: room[device.type])
    # a row takes 40 bytes, by its share of the blocks, and 10 everywhere: 600 / 40 on the one, 150 / 20 on the other
    assert rows_that_fit(blocks, lambda share: 40 * share + 10, part=0.5) == 7
    assert rows_that_fit(blocks[:3], lambda share: 40 * share + 10, part=0.5) == 12
    monkeypatch.setattr(harness.model.placement, "free_memory", lambda device: 0)
    assert rows_that_fit(blocks, lambda share: 1, part=0.5) == 1


# Quantised weights


@pytest.fixture
def quantised(save_model: SaveModel) -> Path:
    """A checkpoint with two-bit weights that transformers reads on a CPU (BitNet's), beside plain embeddings."""
    from transformers.integrations.bitnet import pack_weights

    folder = save_model("llama", hidden_size=64, intermediate_size=64)
    model = tiny_model("llama", hidden_size=64, intermediate_size=64)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("_proj.weight"):
            state[name] = pack_weights(torch.sign(tensor) * (tensor.abs() > 0.2))
            state[f"{name}_scale"] = torch.full((1,), 10.0)
        else:
            state[name] = tensor.contiguous()
    from safetensors.torch import save_file

    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_quantised_weights_are_loaded_and_steered(quantised: Path) -> None:
    with torch.compiler.set_stance("force_eager"):
        subject = load(str(quantised))
        assert subject.described["quantisation"] == "bitnet"
        assert subject.blocks[0].self_attn.q_proj.weight.dtype == torch.uint8
        attacks = make_attacks(["random"], PROTOCOL)
        cells = grid(PROMPTS, range(subject.n_layers), list(attacks.values()), PROTOCOL)
        found = [each for batch in sweep(subject, cells, PROTOCOL, attacks) for each in batch]
    assert len({each.token_ids for each in found}) > 2


def test_gradients_are_refused_where_quantised_layers_have_none(quantised: Path) -> None:
    with torch.compiler.set_stance("force_eager"):
        subject = load(str(quantised))
        with pytest.raises(UserError, match=r"quantised \(bitnet\) and gradients do not pass through self_attn.q_proj"):
            loss_gradients(subject, PROMPTS, PROTOCOL)


def test_quantised_layers_that_have_gradients_are_let_through() -> None:
    model = tiny_model("llama")
    model.config.quantization_config = {"quant_method": "int8-stand-in"}  # its layers are plain, and linear
    subject = make_subject(model, chat_tokenizer(), name="tiny", revision="random")
    found = loss_gradients(subject, PROMPTS, PROTOCOL)
    assert set(found) == set(PROMPTS)


def test_what_reads_quantised_weights_is_not_installed(save_model: SaveModel) -> None:
    folder = save_model("llama")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "quant_config": {}}
    for method in ("hqq", "bitsandbytes", "gptq"):
        config["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_8bit": True}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=method) as refused:
            load(str(folder))
        assert "\n" not in str(refused.value)


# Two devices, of a machine that has one


@pytest.mark.parametrize("protocol", ["asabench-v1", "gu2025"])
def test_two_devices_give_the_answers_of_one(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = PRESETS[protocol].model_copy(update={"max_new_tokens": 5, "doses": (0.5,), "seeds": (0,)})
    attacks = make_attacks([*ATTACKS.split(","), "mean_difference"], chosen)
    plain = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="random")
    cells = grid(PROMPTS, range(plain.n_layers), list(attacks.values()), chosen)

    def answered(subject: Subject) -> dict[str, tuple[int, ...]]:
        return {each.cell.id: each.token_ids for batch in sweep(subject, cells, chosen, attacks) for each in batch}

    expected, checked = answered(plain), self_test(plain, cells, chosen, attacks)
    model = tiny_model("llama")
    monkeypatch.setattr(harness.model.placement, "free_memory", lambda device: 10**9)
    with Elsewhere() as elsewhere:
        spread(model, torch.device("xpu:0"), torch.device("xpu:1"), model.model.layers)
        subject = make_subject(model, chat_tokenizer(), name="tiny", revision="random")
        assert subject.described["device_map"] == {"xpu:0": "0-1", "xpu:1": "2-3"}
        attacks = make_attacks([*ATTACKS.split(","), "mean_difference"], chosen)
        assert self_test(subject, cells, chosen, attacks).keys() == checked.keys()
        assert answered(subject) == expected
    assert elsewhere.crossings > 0
