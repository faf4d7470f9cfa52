"""Where an answer ends: the stop tokens of a model, and its generation_config, which names most of them."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from functools import lru_cache
from pathlib import Path
from typing import Any

from asabench.core.errors import UserError, one_line
from asabench.core.files import parse_json
from asabench.core.protocol import PRESETS, Protocol
from harness.model.architecture import generation_settings
from harness.model.prompt_format import rendered_chat

GENERATION_CONFIG = "generation_config.json"
_ASKED, _SAID = "What is asked", "What is said"


def read_generation_config(folder: Path, name: str) -> Any:
    """The settings in a model folder's generation_config.json where loading the model would miss them, because the file
    begins with a byte order mark; else None.

    Loading a model drops a file that it cannot read, stop tokens and all, in silence: here it is a `UserError`.
    """
    from transformers import GenerationConfig

    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
        ids = content.get("eos_token_id")
        if ids is not None and not all(type(each) is int for each in (ids if isinstance(ids, list) else [ids])):
            raise ValueError(f"its eos_token_id is {json.dumps(ids)[:60]}")
        settings = GenerationConfig.from_dict(content)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"the {GENERATION_CONFIG} of {name} cannot be read ({one_line(error)}); it says where an answer ends: "
            "repair it, or remove it if the end token in config.json is all that the model needs"
        ) from None
    return settings if path.read_bytes().startswith(BOM_UTF8) else None


def check_stops(model: Any, name: str) -> None:
    """`UserError` for a stop token that no answer can hold: the answers would run on past their end."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    given = generation_settings(model).eos_token_id
    ids = [] if given is None else given if isinstance(given, list | tuple) else [given]
    if outside := [each for each in ids if not 0 <= int(each) < rows]:
        raise UserError(
            f"{name} names the token {outside[0]} as the end of an answer (eos_token_id), and has the tokens 0 to "
            f"{rows - 1}; write the right one into its {GENERATION_CONFIG}, or its config.json where it has none"
        )


def generate_stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens at which transformers' `generate` stops: those of the generation_config, else the tokenizer's own."""
    ids = generation_settings(model).eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def chat_stops(model: Any, tokenizer: Any, name: str) -> frozenset[int]:
    """The tokens that end an answer in the chat format: those of `generate`, and the one that closes a turn.

    Many models are saved with a generation_config that names the end of a text only; their answers would run on into
    turns that nobody took.
    """
    end = end_of_turn(tokenizer, name)
    return generate_stops(model, tokenizer) | (frozenset() if end is None else {end})


def end_of_turn(tokenizer: Any, name: str) -> int | None:
    """The token that the chat template puts after an answer, or None: no template, or plain text closes a turn.

    It is read off a rendered conversation: the first token after the answer, if it is one of the tokenizer's added
    tokens (those that no text is split into) and not the one that opened the answer.
    """
    template = getattr(tokenizer, "chat_template", None)
    return _end_of_turn(tokenizer, str(template), name) if template else None


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: Any, template: str, name: str) -> int | None:
    """template: what is remembered belongs to it; it is the tokenizer's."""
    turns = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}]
    try:
        text = rendered_chat(tokenizer, turns, PRESETS["asabench-v1"], name)
    except UserError:  # a template for requests alone
        return None
    before, said, after = text.rpartition(_SAID)
    after = after.lstrip()
    if not said or not after:
        return None
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    added = frozenset(tokenizer.added_tokens_decoder) | frozenset(tokenizer.all_special_ids)
    if not ids or ids[0] not in added:
        return None
    opening = tokenizer(before.rstrip(), add_special_tokens=False)["input_ids"][-1:]
    return None if opening == [ids[0]] and ids[0] != tokenizer.eos_token_id else int(ids[0])


def protocol_stops(model: Any, tokenizer: Any, name: str, protocol: Protocol) -> frozenset[int]:
    """The tokens that end an answer under a protocol: in raw text only those of `generate`, as published."""
    if protocol.prompt_format == "raw":
        return generate_stops(model, tokenizer)
    return chat_stops(model, tokenizer, name)
