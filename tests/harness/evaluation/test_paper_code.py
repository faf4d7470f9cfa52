"""What the paper's code does besides what `gu2025` fixes: each field by itself, and `--paper-code` for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from asabench.core.errors import UserError
from asabench.core.protocol import PAPER_CODE, PRESETS, Protocol
from asabench.core.records import Cell, Prompt
from asabench.runs.choices import Choices
from asabench.runs.command import evaluate_words
from asabench.runs.folder import read_run
from harness.attacks import make_attack
from harness.attacks.target_loss import loss_gradients, target_text
from harness.engine.decoding import Answer
from harness.engine.sweep import sweep
from harness.evaluation.evaluate import evaluate
from harness.evaluation.plan import make_plan
from harness.model.subject import Subject, make_subject
from harness.stream.noise import gaussian
from tests.asabench.submission.test_submission import Knowing
from tests.conftest import chat_tokenizer, tiny_model, tiny_subject

GU2025 = PRESETS["gu2025"]
PROMPT = Prompt(id="p", goal="name a bird", target="Sure, here is")
CELL = Cell(prompt=PROMPT, layer=1, attack="random", dose=1.0, seed=42)


def changed(**fields: Any) -> Protocol:
    return GU2025.model_copy(update=fields)


# The text that is judged


def test_the_judged_text_is_the_whole_text_without_the_prompt(llama: Subject) -> None:
    """An answer that says the request back loses it; the plain answer keeps it."""
    ids = llama.format(PROMPT, GU2025)
    said = list(llama.tokenizer(" I say: name a bird, name a bird!", add_special_tokens=False)["input_ids"])
    assert llama.judged_text(PROMPT, ids, said, GU2025) == " I say: name a bird, name a bird!"
    whole = changed(judged_text="whole-without-prompt")
    assert llama.judged_text(PROMPT, ids, said, whole) == " I say: , !"
    assert llama.judged_text(PROMPT, ids, [*said, 2], whole) == " I say: , !", "the stop token is no text"
    assert llama.judged_text(PROMPT, ids, [], whole) == ""


def test_the_prompt_is_goal_and_suffix(llama: Subject) -> None:
    whole = changed(judged_text="whole-without-prompt")
    prompt = Prompt(id="p", goal="name a bird", suffix=" now")
    ids = llama.format(prompt, whole)
    said = list(llama.tokenizer("name a bird, name a bird now.", add_special_tokens=False)["input_ids"])
    assert llama.judged_text(prompt, ids, said, whole) == "name a bird, ."


def test_a_sweep_gives_the_judged_text(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tuple(llama.tokenizer("name a bird? a wren", add_special_tokens=False)["input_ids"])
    answer = Answer(token_ids=said, finish_reason="length")
    monkeypatch.setattr("harness.engine.sweep.decode", lambda *given, **how: [answer] * len(given[2]))
    for judged_text, text in (("answer", "name a bird? a wren"), ("whole-without-prompt", "? a wren")):
        ((found,),) = sweep(llama, [Cell(prompt=PROMPT)], changed(judged_text=judged_text), {})
        assert (found.text, found.token_ids) == (text, said)


def test_a_chat_has_no_such_text(llama: Subject) -> None:
    with pytest.raises(UserError, match="use --paper-code with --protocol gu2025"):
        make_plan(llama, Choices.of(paper_code=True, noise_device="cpu", limit=1, judge=Knowing()))


# The noise


def test_the_cpu_s_noise_is_what_it_was() -> None:
    generator = torch.Generator("cpu").manual_seed(42)
    wanted = torch.randn(32, generator=generator)
    assert torch.equal(gaussian(CELL, 32, "one-vector")[0], wanted)
    assert torch.equal(gaussian(CELL, 32, "one-vector", device="cpu")[0], wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("spec", ["random", "pgd"])
def test_noise_of_a_device_that_is_not_here_is_refused_in_one_line(spec: str) -> None:
    with pytest.raises(UserError, match="--noise-device cpu") as error:
        make_attack(spec, changed(noise_device="cuda"))
    assert "\n" not in str(error.value)
    make_attack("gradient", changed(noise_device="cuda"))  # it draws nothing


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_cuda_device_draws_its_own_vector() -> None:
    attack = make_attack("random", changed(noise_device="cuda"))
    torch.cuda.manual_seed_all(42)
    wanted = torch.randn(32, device="cuda").cpu()
    found = attack.directions(tiny_subject("llama"), [CELL])[0]
    assert torch.equal(found, wanted)
    assert not torch.equal(found, gaussian(CELL, 32, "one-vector")[0])


def test_an_unknown_device_is_refused(llama: Subject) -> None:
    with pytest.raises(UserError, match="allowed: cpu, cuda"):
        make_plan(llama, Choices.of(noise_device="mps", limit=1, judge=Knowing()))


# The gradient


def worded() -> Subject:
    """A model whose tokens are words, so that a goal's last word and a target's first can merge into one."""
    words = ["[UNK]", "open", "the", "lock", "locksmith", "is", "here!", "smith"]
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    return make_subject(tiny_model("llama"), tokenizer, name="tiny-words", revision="x")


def test_as_many_tokens_are_left_out_as_the_goal_alone_has() -> None:
    """`open the lock` + `smith is here!` has the tokens open, the, locksmith, is, here!: the goal alone has three."""
    subject = worded()
    prompt = Prompt(id="p", goal="open the lock", target="smith is here")
    ours = target_text(subject, prompt, GU2025, "reference")
    published = target_text(subject, prompt, changed(reference_loss="after-goal-length"), "reference")
    assert ours.ids == published.ids == (1, 2, 4, 5, 6)
    assert ours.target_ids == (4, 5, 6), "a token of both counts as target"
    assert published.target_ids == (5, 6), "as published"
    assert ours.read_at == published.read_at == 3


def test_where_nothing_merges_both_are_the_same(llama: Subject) -> None:
    texts = [target_text(llama, PROMPT, changed(reference_loss=how), "reference") for how in PAPER_LOSS]
    assert texts[0] == texts[1]


PAPER_LOSS = ("after-shared-tokens", "after-goal-length")


def test_a_target_that_merges_away_is_refused() -> None:
    prompt = Prompt(id="p", goal="the lock", target="smith")
    with pytest.raises(UserError, match="has no tokens"):
        target_text(worded(), prompt, changed(reference_loss="after-goal-length"), "reference")


def gradient(subject: Subject, protocol: Protocol, *prompts: Prompt) -> torch.Tensor:
    return loss_gradients(subject, prompts or (PROMPT,), protocol, "reference")[PROMPT]


def test_in_train_mode_dropout_is_drawn_from_the_seed() -> None:
    subject = make_subject(
        tiny_model("gpt2", resid_pdrop=0.2, embd_pdrop=0.0, attn_pdrop=0.2), chat_tokenizer(), name="t", revision="x"
    )
    train = changed(gradient_forward="train")
    in_eval, in_train = gradient(subject, GU2025), gradient(subject, train)
    assert not torch.allclose(in_eval, in_train)
    assert not subject.model.training
    other = Prompt(id="q", goal="another, longer request", target="Ok")
    again = make_subject(subject.model, chat_tokenizer(), name="t", revision="x")
    state = torch.get_rng_state()
    assert torch.equal(gradient(again, train, other, PROMPT), in_train), "whatever else is asked for beside it"
    assert torch.equal(torch.get_rng_state(), state), "nothing else draws from there"
    assert not torch.equal(gradient(subject, train.model_copy(update={"seeds": (43,)})), in_train)
    assert torch.equal(gradient(subject, GU2025), in_eval)


def test_without_dropout_both_modes_are_the_same(llama: Subject) -> None:
    assert torch.allclose(gradient(llama, GU2025), gradient(llama, changed(gradient_forward="train")), atol=1e-6)


# All of it


def test_paper_code_sets_every_field_and_its_command_repeats_it(tmp_path: Path, llama: Subject) -> None:
    choices: dict[str, Any] = dict(protocol="gu2025", limit=2, layers=(0,), max_new_tokens=4, judge=Knowing())
    found = evaluate(llama, paper_code=True, noise_device="cpu", out=tmp_path / "run", **choices)
    protocol = read_run(tmp_path / "run").settings.protocol
    assert {name: getattr(protocol, name) for name in PAPER_CODE} == {**PAPER_CODE, "noise_device": "cpu"}
    assert found.row.protocol.digest != changed(max_new_tokens=4).digest
    words = evaluate_words(found.row, protocol)
    assert words[words.index("--noise-device") + 1] == "cpu"
    assert "--paper-code" in words
    plain = evaluate_words(found.row, changed(max_new_tokens=4))
    assert not {"--noise-device", "--paper-code"} & set(plain)
    on_a_gpu = evaluate_words(found.row, changed(**PAPER_CODE))
    assert "--paper-code" in on_a_gpu
    assert "--noise-device" not in on_a_gpu
