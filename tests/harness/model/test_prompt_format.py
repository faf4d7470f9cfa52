"""A request as tokens: what templates and tokenizers do to it, and what is refused."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import transformers.utils.chat_template_utils as template_utils
from tokenizers import normalizers, processors

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from harness.model.prompt_format import check_prompts, check_template, prompt_ids, raw_ids, without_mark
from tests.conftest import CHAT_TEMPLATE, byte_tokenizer, chat_tokenizer

V1, GU2025 = PRESETS["asabench-v1"], PRESETS["gu2025"]
PROMPTS = [Prompt(id="a", goal="tell me how"), Prompt(id="b", goal="tell me why")]


def with_template(template: Any) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def refusal(template: Any, prompts: list[Prompt] = PROMPTS) -> str:
    tokenizer = with_template(template)
    with pytest.raises(UserError) as caught:
        check_template(tokenizer, V1, "tiny")
        check_prompts(tokenizer, prompts, V1, "tiny")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def chat(tokenizer: Any, goal: str = "hi") -> str:
    return str(tokenizer.decode(prompt_ids(tokenizer, Prompt(id="p", goal=goal), V1, "tiny")))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("<user>...<assistant>", "does not put the whole request a into the prompt;"),
        ("{{ messages[0]['content'][:4] }}", "does not put the whole request a"),
        (
            "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}:",
            "does not put the whole request a into the prompt (it reads content that is given in parts)",
        ),
        (
            "{{ raise_exception('a system message must come first') }}",
            "TemplateError: a system message must come first",
        ),
        ("{{ messages[0]['content'] | no_such_filter }}", "TemplateAssertionError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages[0]['content'] }}{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages[0]['content'] }}{{ lipsum(n=1) }}", "another prompt each time"),
        ({"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}, "several chat templates (tool_use, rag)"),
    ],
)
def test_templates_that_do_not_ask_what_is_asked(template: Any, words: str) -> None:
    message = refusal(template)
    assert words in message
    assert "--chat-template FILE" in message


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, {"default": CHAT_TEMPLATE, "rag": "{{ 1 // 0 }}"}], ids=type)
def test_templates_that_do(template: Any) -> None:
    check_prompts(with_template(template), PROMPTS, V1, "tiny")


def test_white_space_and_json_are_no_loss() -> None:
    spaced = [Prompt(id="a", goal='  say "hi"\n twice ')]
    check_prompts(with_template("{{ messages[0]['content'] | trim }}:"), spaced, V1, "tiny")
    check_prompts(with_template("{{ messages[0] | tojson }}:"), spaced, V1, "tiny")


def test_requests_that_a_tokenizer_cannot_tell_apart() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("why", "how")
    with pytest.raises(UserError, match="the prompts a and b give the same tokens"):
        check_prompts(tokenizer, PROMPTS, V1, "tiny")
    twice = [Prompt(id="a", goal="hi"), Prompt(id="b", goal="hi ")]
    check_prompts(with_template("{{ messages[0]['content'] | trim }}"), twice, V1, "tiny")


def test_the_day_is_the_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_template("{{ strftime_now('%d %B %Y, %H:%M') }} {{ messages[0]['content'] }}")
    assert chat(tokenizer) == "26 July 2024, 00:00 hi"
    later = V1.model_copy(update={"chat_template_variables": {"date_string": "03 Feb 2025"}})
    ids = prompt_ids(tokenizer, Prompt(id="p", goal="hi"), later, "tiny")
    assert tokenizer.decode(ids) == "03 February 2025, 00:00 hi"
    assert template_utils.datetime is datetime.datetime, "transformers has its clock back"
    # A template that asks whether there is a clock, as Llama's does
    guarded = "{% if date_string is not defined %}{{ strftime_now('%Y') }}{% endif %}{{ date_string }} "
    assert chat(with_template(guarded + "{{ messages[0]['content'] }}")) == "26 Jul 2024 hi"


def test_a_clock_that_cannot_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_template("{{ strftime_now('%Y') }} {{ messages[0]['content'] }}")
    real = tokenizer.apply_chat_template

    def own_clock(messages: Any, **options: Any) -> Any:
        return "2031-01-01" if options.get("chat_template") else real(messages, **options)

    monkeypatch.setattr(tokenizer, "apply_chat_template", own_clock)
    with pytest.raises(UserError, match="today's date"):
        chat(tokenizer)


def test_byte_order_marks_go() -> None:
    tokenizer = with_template("\ufeff" + CHAT_TEMPLATE)
    without_mark(tokenizer)
    assert chat(tokenizer) == "<user>hi</><assistant>"
    several = with_template({"default": "\ufeff" + CHAT_TEMPLATE, "rag": CHAT_TEMPLATE})
    without_mark(several)
    assert several.chat_template == {"default": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}


def test_raw_text_has_no_end_and_one_start() -> None:
    tokenizer = chat_tokenizer()
    bare = tokenizer("hi")["input_ids"]

    def around(template: str) -> list[int]:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2), ("<pad>", 0), ("<unk>", 3)]
        )
        return raw_ids(tokenizer, "hi", ends=[3])

    assert around("$A") == bare
    assert around("<s> $A") == [1, *bare]
    assert around("<s> $A </s>") == around("<s> <s> $A </s> <unk>") == [1, *bare]
    assert around("$A </s>") == bare
    assert raw_ids(tokenizer, "hi</s>") == [*bare, 2], "an end in the text itself is the text's"
    assert prompt_ids(tokenizer, Prompt(id="p", goal="hi"), GU2025, "tiny") == bare
