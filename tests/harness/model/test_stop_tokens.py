"""Where an answer ends, by the model's files and by its chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Cell, Prompt
from harness.engine.sweep import sweep
from harness.model.stop_tokens import end_of_turn, read_generation_config
from harness.model.subject import Subject, load, make_subject
from tests.conftest import byte_tokenizer, tiny_model

V1, GU2025 = PRESETS["asabench-v1"], PRESETS["gu2025"]


def turns(template: str, *, special: bool = True) -> Any:
    """A tokenizer with <|end|>, <|user|> and <|bot|> as added tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(name, special=special) for name in ("<|end|>", "<|user|>", "<|bot|>")])
    tokenizer.chat_template = template
    return tokenizer


def loop(turn: str, after: str = "") -> str:
    return "{% for m in messages %}" + turn + "{% endfor %}" + after


@pytest.mark.parametrize(
    ("template", "token"),
    [
        (
            loop("{{ m['role'] }}: {{ m['content'] }}<|end|>\n", "{% if add_generation_prompt %}bot:{% endif %}"),
            "<|end|>",
        ),
        (loop("{{ m['role'] }}: {{ m['content'] }}<|end|>", "<|bot|>"), "<|end|>"),
        (loop("<|user|>{{ m['content'] }} {{ eos_token }}"), "</s>"),
        (loop("{{ m['content'] }}{{ eos_token }}"), "</s>"),
        # What opens a turn does not close the one before it, where a template opens one that was not asked for
        (loop("<|bot|>{{ m['content'] }}", "<|bot|>"), None),
        (loop("<{{ m['content'] }}</>"), None),
        ("{{ messages[0]['content'] }}", None),
        (loop("{% if m['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}{{ m['content'] }}"), None),
    ],
)
def test_the_end_of_a_turn_is_read_off_the_template(template: str, token: str | None) -> None:
    tokenizer = turns(template)
    assert end_of_turn(tokenizer, "tiny") == (None if token is None else tokenizer.convert_tokens_to_ids(token))


def test_no_template_has_no_turns() -> None:
    assert end_of_turn(byte_tokenizer(), "tiny") is None


CLOSED = loop("{{ m['role'] }}: {{ m['content'] }}<|end|>", "{% if add_generation_prompt %}assistant:{% endif %}")


def subject(tokenizer: Any) -> Subject:
    return make_subject(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer, name="tiny", revision="-")


def test_the_chat_stops_there_and_raw_text_where_generate_does() -> None:
    own = subject(turns(CLOSED))
    end = own.tokenizer.convert_tokens_to_ids("<|end|>")
    generate = {2, *range(20, 30)}
    assert own.stops(V1) == own.stop_tokens == generate | {end}
    assert own.stops(GU2025) == generate
    own.model.generation_config.eos_token_id = None
    assert own.stops(GU2025) == {2}, "the tokenizer's own, where the model names none"


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("stop", ["<|end|>", "</s>"])
def test_no_stop_token_stands_in_the_text(special: bool, stop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = turns(CLOSED, special=special)
    own = subject(tokenizer)
    said = tokenizer("hm", add_special_tokens=False)["input_ids"] + [tokenizer.convert_tokens_to_ids(stop)]
    steps = iter([None, *said])  # the first forward reads the prompt

    def says(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        token = next(steps)
        return output if token is None else torch.nn.functional.one_hot(torch.tensor([[token]]), output.shape[-1]) * 9.0

    handle = own.model.lm_head.register_forward_hook(says)
    prompt = Prompt(id="p", goal="hi")
    protocol = V1.model_copy(update={"max_new_tokens": 5})
    monkeypatch.setattr("harness.engine.sweep.kv_bytes_per_position", lambda subject: 1.0)
    try:
        [[response]] = list(sweep(own, [Cell(prompt=prompt)], protocol, {}))
    finally:
        handle.remove()
    assert (response.text, response.token_ids, response.finish_reason) == ("hm", tuple(said), "stop")


@pytest.mark.parametrize(
    "content", ['{"eos_token_id": [2, 20],}', "", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [2, null]}']
)
def test_a_broken_generation_config_is_said(content: str, save_model: Callable[..., Path]) -> None:
    folder = save_model("llama")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=r"generation_config.json of .* cannot be read") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_costs_no_stop_token(save_model: Callable[..., Path]) -> None:
    folder = save_model("llama")
    path = folder / "generation_config.json"
    settings = {"eos_token_id": [2, 40, 41], "repetition_penalty": 1.5}
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert read_generation_config(folder, "tiny") is None, "loading the model reads it"
    plain = load(str(folder))
    path.write_text(json.dumps(settings), encoding="utf-8-sig")
    marked = load(str(folder))
    assert marked.stop_tokens == plain.stop_tokens == {2, 40, 41}
    assert marked.model.generation_config.repetition_penalty == 1.5
    path.unlink()
    assert load(str(folder)).stop_tokens == {2}
