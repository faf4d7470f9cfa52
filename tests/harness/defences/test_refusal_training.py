"""Refusal training: the loss is on the answer only; harmful requests get refusals, harmless ones the model's own."""

from __future__ import annotations

import pytest
import torch

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from asabench.judging.refusals import refusal_phrase
from harness.defences.examples import (
    IGNORED,
    REFUSALS,
    Example,
    HarmfulData,
    answer_logits,
    answer_loss,
    benign_requests,
    end_token,
    own_answers,
    refused,
    teacher_forced,
)
from harness.defences.refusal import Refusal
from harness.model.subject import Subject, make_subject
from tests.conftest import chat_tokenizer, tiny_model

PROTOCOL = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 6})
GOALS = [Prompt(id=f"g{n}", goal=f"do thing number {n}") for n in range(8)]


def test_prompts_are_padded_left_and_answers_right() -> None:
    batch = teacher_forced([[5, 6, 7], [11]], [[9, 2], [12, 13, 2]])
    assert batch.ids.tolist() == [[5, 6, 7, 9, 2], [0, 0, 11, 12, 13]]
    assert batch.mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 9, 2, IGNORED], [IGNORED, IGNORED, 12, 13, 2]]
    # Where generation injects: the last prompt position, and every answer token that is fed back
    assert batch.answer_positions.tolist() == [[False, False, True, True, False], [False, False, True, True, True]]
    assert batch.prompt_positions.tolist() == [[True, True, True, False, False], [False, False, True, False, False]]


def test_the_loss_is_the_mean_over_answer_tokens_one_by_one(family_subject: Subject) -> None:
    prompts, answers = [[5, 6, 7, 8], [11]], [[9, 10, 2], [12, 2]]
    nll = []
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = family_subject.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            nll += [-logits[len(prompt) - 1 + n, token] for n, token in enumerate(answer)]
        loss = answer_loss(family_subject, teacher_forced(prompts, answers))
    assert torch.allclose(loss, torch.stack(nll).mean(), atol=1e-4)


def test_logits_are_those_of_the_answers_steps(llama: Subject) -> None:
    logits, labels = answer_logits(llama, teacher_forced([[5, 6, 7], [11]], [[9, 2], [12, 13, 2]]))
    assert logits.shape[:2] == labels.shape == (2, 3)
    assert labels.tolist() == [[9, 2, IGNORED], [12, 13, 2]]


def test_harmful_requests_get_refusals_and_harmless_ones_own_answers(llama: Subject) -> None:
    data = HarmfulData(prompts=GOALS, protocol=PROTOCOL, target="Sure", layers=(0,))
    harmful = Refusal().harmful_examples(llama, data)
    texts = [llama.tokenizer.decode(example.answer, skip_special_tokens=True) for example in harmful]
    assert texts == [REFUSALS[n % len(REFUSALS)] for n in range(len(GOALS))]
    assert all(example.answer[-1] == end_token(llama) == 2 for example in harmful)
    assert [list(example.prompt) for example in harmful] == [llama.format(prompt, PROTOCOL) for prompt in GOALS]
    benign = own_answers(llama, GOALS[:3], PROTOCOL)
    for example in benign:
        ids = torch.tensor([example.prompt])
        out = llama.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
        assert list(example.answer) == out[0, ids.shape[1] :].tolist()
    assert Refusal().pools(harmful, benign).examples == [*harmful, *benign]


def test_every_refusal_is_one() -> None:
    assert all(refusal_phrase(text) for text in REFUSALS)


def test_only_refusing_answers_are_kept(llama: Subject) -> None:
    def example(text: str) -> Example:
        return Example(prompt=(5,), answer=tuple(llama.tokenizer(text)["input_ids"]))

    refusing, answering = example("I cannot help with that."), example("Here is a song about rain.")
    assert refused(llama, [answering, refusing]) == [refusing]


def test_the_end_token(monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="-")
    own.model.generation_config.eos_token_id = [20, 25]
    assert end_token(own) == 20
    own.model.generation_config.eos_token_id = [1, 2]
    assert end_token(own) == 2
    own.model.generation_config.eos_token_id = []
    own.tokenizer.eos_token = None
    with pytest.raises(UserError, match="no stop token"):
        end_token(own)


def test_the_benign_requests_that_come_with_asabench() -> None:
    goals = [prompt.goal for prompt in benign_requests()]
    assert len(goals) == len(set(goals)) >= 110
