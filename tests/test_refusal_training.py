"""Refusal training on a tiny model: the loss is on the answer only, falls, and leaves a model folder that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import chat_tokenizer, tiny_model

import harness.defences.refusal_training as refusal_training
from asabench.errors import UserError
from asabench.prompts import PromptSet
from asabench.records import Prompt
from harness.defences.refusal_training import RefusalTraining, answer_loss, benign_requests, train
from harness.subject import Subject, load, make_subject

GOALS = PromptSet("goals", tuple(Prompt(id=f"g{n}", goal=f"do thing number {n}") for n in range(12)))
SMALL = RefusalTraining(harmful_rows=(4, 12), epochs=3, learning_rate=3e-3, benign_tokens=6)


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr(refusal_training, "load_prompts", lambda name: GOALS)
    monkeypatch.setattr(refusal_training, "benign_requests", lambda: benign_requests()[:8])
    return make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="-")


def test_the_loss_is_the_mean_over_answer_tokens_one_by_one(subject: Subject) -> None:
    examples = [([5, 6, 7, 8], [9, 10, 2]), ([11], [12, 2])]
    nll = []
    for prompt, answer in examples:
        logits = subject.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        nll += [-logits[len(prompt) - 1 + n, token] for n, token in enumerate(answer)]
    assert torch.allclose(answer_loss(subject, examples), torch.stack(nll).mean(), atol=1e-5)


def test_training_lowers_the_loss_and_saves_a_model(subject: Subject, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    folder = train(subject, SMALL, tmp_path / "trained")
    record = json.loads((folder / "training.json").read_text())
    assert record["examples"] == 8 + 8
    assert len(record["losses"]) == 2 * 3
    assert record["losses"][-1] < record["losses"][0]
    assert record["harmful_goals"] == [prompt.digest for prompt in GOALS.prompts[4:]]
    again = load(str(folder))
    changed = [name for name, tensor in again.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed
    assert not any(p.requires_grad for p in subject.model.parameters())


def test_the_same_seed_gives_the_same_weights(subject: Subject, tmp_path: Path) -> None:
    other = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="-")
    a, b = (load(str(train(s, SMALL, tmp_path / n))) for s, n in ((subject, "a"), (other, "b")))
    for one, two in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_folder_in_use_and_a_loss_that_diverges(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "something").write_text("here")
    with pytest.raises(UserError, match="not empty"):
        train(subject, SMALL, tmp_path)
    with pytest.raises(UserError, match="smaller learning rate"):
        train(subject, RefusalTraining(harmful_rows=(4, 12), learning_rate=1e30, benign_tokens=6), tmp_path / "out")


def test_the_benign_requests_that_come_with_asabench() -> None:
    goals = [prompt.goal for prompt in benign_requests()]
    assert len(goals) == len(set(goals)) >= 110
