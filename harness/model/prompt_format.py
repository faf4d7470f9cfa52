"""A request as the token ids that the model reads, and the checks that those are the request that was meant.

A template is somebody's program. What is checked, before anything is generated: it renders at all; it puts the whole
request into the prompt; it says the same each time it is asked, on every day; and two requests give two prompts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from asabench.core.errors import UserError, with_type
from asabench.core.protocol import Protocol
from asabench.core.records import Prompt

BYTE_ORDER_MARK = "\ufeff"
FIXED_DATE = datetime(2024, 7, 26)
"""The day that a template is told where the protocol's variables name none."""
MOST_WRITTEN = 2**20
"""Characters that a template may make of a request."""
_DATE_FORMAT = "%d %b %Y"


def prompt_text(prompt: Prompt, protocol: Protocol) -> str:
    """The goal, and the suffix after the protocol's separator if there is one."""
    if prompt.suffix and prompt.suffix.strip():
        return prompt.goal + protocol.suffix_separator + prompt.suffix
    return prompt.goal


def prompt_ids(tokenizer: Any, prompt: Prompt, protocol: Protocol, name: str, ends: Collection[int] = ()) -> list[int]:
    """The token ids of a prompt, up to where the answer starts.

    name: the model's, for the line of a `UserError`: a template that raises, or a prompt without tokens. ends: the
    tokens that end an answer (`raw_ids`).
    """
    text = prompt_text(prompt, protocol)
    if protocol.prompt_format == "raw":
        ids = raw_ids(tokenizer, text, ends)
    else:
        ids = list(_rendered(tokenizer, _request(text), protocol, name, tokenize=True, return_dict=True)["input_ids"])
    if not ids:
        raise UserError(f"the prompt {prompt.id} has no tokens for {name}; give it some text")
    return ids


def prefix_ids(tokenizer: Any, prompt: Prompt, protocol: Protocol, name: str) -> list[int]:
    """The tokens that the answer to a prompt is given to start with. `UserError` for a target that has too few: one
    token or more must be left for the model."""
    count = protocol.prefix_tokens
    ids = list(tokenizer(prompt.target or "", add_special_tokens=False)["input_ids"])
    if len(ids) <= count:
        raise UserError(
            f"--prefix {count}: the target of prompt {prompt.id} has {len(ids)} tokens for {name}; give fewer, or a "
            "longer --target"
        )
    return ids[:count]


def raw_ids(tokenizer: Any, text: str, ends: Collection[int] = ()) -> list[int]:
    """The text with what the tokenizer puts before it, its start token once, and without an end after it.

    Some tokenizers are saved so that they end every text (`add_eos_token`) or start it twice: what a model says after
    its own end token is no answer to the text. ends: tokens that count as an end besides the tokenizer's own.
    """
    ids = list(tokenizer(text)["input_ids"])
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    after = {*ends, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    while len(ids) > len(bare) and ids[-1] in after and ids[-len(bare) :] != bare:
        ids.pop()
    start = tokenizer.bos_token_id
    while start is not None and len(ids) - len(bare) > 1 and ids[:2] == [start, start]:
        ids.pop(0)
    return ids


def check_template(tokenizer: Any, protocol: Protocol, name: str) -> None:
    """`UserError` when the protocol formats prompts as a chat and there is no one chat template to do it with."""
    if protocol.prompt_format != "chat":
        return
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise UserError(
            f"protocol {protocol.name} formats prompts with the chat template, and {name} has none; "
            "give one with --chat-template FILE, or use --protocol gu2025, which takes prompts as raw text"
        )
    if isinstance(template, Mapping) and "default" not in template:
        raise UserError(
            f"{name} has several chat templates ({', '.join(map(str, template))}) and none is the default; "
            "give the one to use with --chat-template FILE"
        )


def check_prompts(tokenizer: Any, prompts: Sequence[Prompt], protocol: Protocol, name: str) -> None:
    """`UserError` unless every request is in its prompt, known to the tokenizer and always the same, and no two of them
    give one prompt."""
    seen: dict[tuple[int, ...], Prompt] = {}
    for prompt in prompts:
        _check_known(tokenizer, prompt, protocol, name)
        if protocol.prompt_format == "chat":
            _check_rendering(tokenizer, prompt, protocol, name)
        ids = tuple(prompt_ids(tokenizer, prompt, protocol, name))
        other = seen.setdefault(ids, prompt)
        if _plain(prompt_text(other, protocol)) != _plain(prompt_text(prompt, protocol)):
            raise UserError(
                f"the prompts {other.id} and {prompt.id} give the same tokens for {name}; its tokenizer "
                "cannot tell them apart: leave one out, or choose a model that reads this text"
            )


def _check_known(tokenizer: Any, prompt: Prompt, protocol: Protocol, name: str) -> None:
    """`UserError` for a request in which the tokenizer has its token for unknown text: the model would not read it."""
    text, unknown = prompt_text(prompt, protocol), getattr(tokenizer, "unk_token", None)
    if unknown is None or unknown in text:
        return
    if tokenizer.unk_token_id in tokenizer(text, add_special_tokens=False)["input_ids"]:
        raise UserError(
            f"the tokenizer of {name} does not know all of the prompt {prompt.id}, and would read {unknown} in its "
            "place; leave the prompt out, or choose a model that reads this text"
        )


def _check_rendering(tokenizer: Any, prompt: Prompt, protocol: Protocol, name: str) -> None:
    text = prompt_text(prompt, protocol)
    rendered, again = (_rendered(tokenizer, _request(text), protocol, name, tokenize=False) for _ in range(2))
    if not isinstance(rendered, str):
        return  # a tokenizer that formats chats by itself and shows no text
    if rendered != again:
        raise UserError(
            f"the chat template of {name} gives another prompt each time for {prompt.id}; "
            "give a template without chance in it with --chat-template FILE"
        )
    if not _holds(rendered, text):
        raise UserError(
            f"the chat template of {name} does not put the whole request {prompt.id} into the prompt"
            f"{_parts_hint(tokenizer, text, protocol, name)}; give a template that takes a message's content as text "
            "with --chat-template FILE"
        )


def _parts_hint(tokenizer: Any, text: str, protocol: Protocol, name: str) -> str:
    """What is found when the content is given in parts, as templates of models that see pictures take it."""
    parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    try:
        rendered = _rendered(tokenizer, parts, protocol, name, tokenize=False)
    except UserError:
        return ""
    return " (it reads content that is given in parts)" if isinstance(rendered, str) and _holds(rendered, text) else ""


def _holds(rendered: str, text: str) -> bool:
    """Whether the text is there, up to white space; as a JSON string it is there too."""
    whole = _plain(rendered)
    return _plain(text) in whole or _plain(json.dumps(text, ensure_ascii=False)[1:-1]) in whole


def _plain(text: str) -> str:
    return " ".join(text.split())


def _request(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _rendered(tokenizer: Any, messages: Any, protocol: Protocol, name: str, **options: Any) -> Any:
    """`apply_chat_template` of these messages, on the protocol's day; `UserError` where the template raises."""
    variables = protocol.chat_template_variables
    try:
        with _calendar_at(fixed_date(variables), tokenizer):
            made = tokenizer.apply_chat_template(messages, **{"add_generation_prompt": True, **options}, **variables)
    except UserError:
        raise
    except Exception as error:  # a template is a program: it can raise anything
        raise UserError(
            f"the chat template of {name} cannot format a request ({with_type(error)}); "
            "give another one with --chat-template FILE"
        ) from None
    if isinstance(made, str) and len(made) > MOST_WRITTEN:
        raise UserError(
            f"the chat template of {name} writes {len(made)} characters for one request; at most {MOST_WRITTEN} are "
            "taken: give another one with --chat-template FILE"
        )
    return made


def rendered_chat(tokenizer: Any, messages: list[dict[str, str]], protocol: Protocol, name: str) -> str:
    """A whole conversation as text, with nothing opened after it."""
    return str(_rendered(tokenizer, messages, protocol, name, tokenize=False, add_generation_prompt=False))


def fixed_date(variables: Mapping[str, str | bool]) -> datetime:
    """The day that the protocol's `date_string` names ("26 Jul 2024"), else `FIXED_DATE`."""
    try:
        return datetime.strptime(str(variables.get("date_string")), _DATE_FORMAT)
    except ValueError:
        return FIXED_DATE


@contextmanager
def _calendar_at(date: datetime, tokenizer: Any) -> Iterator[None]:
    """While open, `strftime_now` in the tokenizer's chat template writes `date` (midnight), not today. `UserError`
    where this transformers takes the day from elsewhere: numbers would drift with the calendar."""
    if "strftime_now" not in str(getattr(tokenizer, "chat_template", "")):
        yield
        return
    from transformers.utils import chat_template_utils as utils

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return date

    # Templates see plain data only: a function of ours cannot be given to them as a variable
    before = getattr(utils, "datetime", None)
    utils.datetime = Fixed  # type: ignore[attr-defined]
    try:
        day = "{{ strftime_now('%Y-%m-%d') }}"
        written = tokenizer.apply_chat_template(_request("-"), chat_template=day, tokenize=False)
        if written != date.strftime("%Y-%m-%d"):
            raise UserError(
                "the chat template writes today's date, which cannot be held fixed with this version of transformers; "
                "give a template without strftime_now with --chat-template FILE"
            )
        yield
    finally:
        utils.datetime = before  # type: ignore[attr-defined]


def without_mark(tokenizer: Any) -> None:
    """Takes a byte order mark, which editors leave at the start of files, from the tokenizer's chat templates."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str) and template.startswith(BYTE_ORDER_MARK):
        tokenizer.chat_template = template.removeprefix(BYTE_ORDER_MARK)
    elif isinstance(template, Mapping) and any(str(each).startswith(BYTE_ORDER_MARK) for each in template.values()):
        tokenizer.chat_template = {name: each.removeprefix(BYTE_ORDER_MARK) for name, each in template.items()}
