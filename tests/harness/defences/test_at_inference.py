"""The two defences at inference time: what they leave as it is, what they bring back, and that they can be attacked."""

from __future__ import annotations

import pytest
import torch

from asabench.core.prompts import PromptSet
from asabench.core.protocol import preset
from asabench.core.records import Prompt
from harness.defences import at_inference
from harness.defences.at_inference import clamped, clean_range, held_along
from harness.model.inference_defence import defended
from harness.model.subject import Subject, make_subject
from tests.conftest import chat_tokenizer, tiny_model


def subject() -> Subject:
    return make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="-")


def test_a_clamp_by_hand() -> None:
    hidden = torch.tensor([[3.0, -4.0], [30.0, -40.0]])  # rms 3.54 and 35.4: z is (0.85, -1.13) in both
    low, high = torch.tensor([-1.0, -1.0]), torch.tensor([0.5, 0.5])
    root = 12.5**0.5
    assert torch.allclose(clamped(hidden, low, high), torch.tensor([[0.5, -1.0], [5.0, -10.0]]) * root, atol=1e-4)
    wide = torch.full((2,), 9.0)
    assert torch.allclose(clamped(hidden, -wide, wide), hidden, atol=1e-4)


def test_the_part_along_a_direction_is_held() -> None:
    unit = torch.tensor([0.6, 0.8])
    hidden = torch.tensor([[0.0, 10.0], [1.0, 1.0]])
    got = held_along(hidden, unit, -2.0, 2.0)
    assert torch.allclose(got @ unit, torch.tensor([2.0, 1.4]), atol=1e-5)
    assert torch.allclose(got[1], hidden[1])
    across = torch.tensor([-0.8, 0.6])
    assert torch.allclose(got @ across, hidden @ across, atol=1e-5)


def test_a_range_has_room() -> None:
    low, high = clean_range(torch.tensor([[0.0, 1.0], [10.0, 1.0]]), 0.1)
    assert low.tolist() == [-1.0, 1.0]
    assert high.tolist() == [11.0, 1.0]


@pytest.mark.parametrize("name", ["ActivationClamp", "RefusalMonitor"])
def test_clean_requests_pass_and_disturbed_states_come_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = [Prompt(id=f"b{n}", goal=f"sing song {n}") for n in range(6)]
    harmful = PromptSet("h", tuple(Prompt(id=f"h{n}", goal=f"break thing {n}") for n in range(6)))
    monkeypatch.setattr(at_inference, "benign_requests", lambda: clean)
    monkeypatch.setattr(at_inference, "chosen_prompts", lambda spec: harmful)
    plain = subject()
    own = defended(subject(), f"harness.defences.at_inference:{name}")
    ids = torch.tensor([own.format(clean[2], preset("asabench-v1"))])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        assert torch.allclose(own.forward(ids, mask), plain.forward(ids, mask), atol=1e-3)
    # Gradients reach what lies below
    inputs = own.model.get_input_embeddings()(ids).detach().requires_grad_()
    own.model(inputs_embeds=inputs).logits.sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()
    assert inputs.grad.abs().sum() > 0
