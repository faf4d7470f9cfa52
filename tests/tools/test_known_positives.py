"""Models that look safe and are not: that they are made as they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from asabench.core.protocol import preset
from asabench.core.records import Cell, Prompt
from harness.attacks.target_loss import loss_gradients, target_loss
from harness.model.inference_defence import defended
from harness.model.subject import Subject, make_subject
from tests.conftest import ROOT, chat_tokenizer, tiny_model
from tools.known_positives.dissociated import ADAPTER, write_scaled

PROMPT = Prompt(id="p", goal="count to nine", target="one two")
PROTOCOL = preset("asabench-v1")


@pytest.fixture
def masked() -> Subject:
    whole = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="random")
    return defended(whole, "tools.known_positives.masked:Rounded")


def test_a_masked_models_gradients_vanish_and_noise_still_moves_it(masked: Subject) -> None:
    gradients = loss_gradients(masked, [PROMPT], PROTOCOL, "last_prompt")[PROMPT]
    assert not gradients.any()
    noise = torch.randn(2, masked.d_model, generator=torch.Generator().manual_seed(0))
    cells = [Cell(prompt=PROMPT, layer=1, attack="random", dose=dose, seed=0) for dose in (0.0, 1.0)]
    still, moved = target_loss(masked, cells, noise, PROTOCOL)
    assert abs(float(moved - still)) > 0.01


def test_a_masked_model_says_nearly_what_it_said(masked: Subject) -> None:
    whole = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="random")
    cells = [Cell(prompt=PROMPT, layer=1, attack="random", dose=0.0, seed=0)]
    direction = torch.ones(1, whole.d_model)
    with_rounding, without = (float(target_loss(each, cells, direction, PROTOCOL)[0]) for each in (masked, whole))
    assert with_rounding == pytest.approx(without, rel=0.02)


def test_the_dissociated_adapter_is_the_packaged_one_at_part_of_its_strength(tmp_path: Path) -> None:
    write_scaled(tmp_path / "half", 0.5)
    source = ROOT / "asabench" / "data" / "adapters" / ADAPTER
    config, whole = (json.loads((each / "adapter_config.json").read_text()) for each in (tmp_path / "half", source))
    assert config == whole | {"lora_alpha": whole["lora_alpha"] / 2}
    name = "adapter_model.safetensors"
    assert (tmp_path / "half" / name).read_bytes() == (source / name).read_bytes()
