"""A language model that is asked and answers, as users of transformers run one: greedy, in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from asabench.core.errors import UserError, one_line
from harness.model.memory import is_out_of_memory
from harness.model.padding import left_padded, right_padded
from harness.model.stop_tokens import generate_stops
from harness.model.subject import load, pick_device

AT_ONCE = 16
"""Prompts in one batch, at most; halved where memory does not hold them."""


def dtype_on(device: str) -> str:
    """The number format that a judge's weights have there: float32 on a CPU, bfloat16 elsewhere."""
    return "float32" if pick_device(device).type == "cpu" else "bfloat16"


class Generator:
    """A model by the name that `harness.model.subject.load` takes, adapters included. Raises what that raises."""

    def __init__(self, name: str, *, device: str = "auto") -> None:
        self._subject = load(name, dtype=dtype_on(device), device=device)
        self._name = name

    def chat_tokens(self, messages: list[Mapping[str, str]]) -> list[int]:
        """The tokens of a conversation in the model's own chat template, up to where its reply begins. `UserError` for
        a model without a template, or one whose template leaves out what was said."""
        tokenizer = self._subject.tokenizer
        if not tokenizer.chat_template:
            raise UserError(f"the model {self._name} has no chat template, which this judge is asked with")
        error: Exception | None = None
        for parts in (False, True):  # some templates take a message's text as a list of parts only
            turns = [
                {**each, "content": [{"type": "text", "text": each["content"]}] if parts else each["content"]}
                for each in messages
            ]
            try:
                text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            except Exception as raised:  # whatever the template raises
                error = raised
                continue
            if all(each["content"].strip() in text for each in messages if each["role"] != "system"):
                return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        why = f" ({one_line(error)})" if error else ": the text of a message is not in what it writes"
        raise UserError(f"the chat template of {self._name} does not take a request and an answer{why}")

    def raw_tokens(self, text: str) -> list[int]:
        """The tokens of a whole prompt, with the token that begins a text where the tokenizer adds one."""
        return list(self._subject.tokenizer(text)["input_ids"])

    @torch.no_grad()
    def replies(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[tuple[str, bool]]:
        """The reply to each prompt, in order, and whether it was cut at `max_tokens`."""
        return self._in_batches(prompts, lambda batch: self._replies(batch, max_tokens))

    @torch.no_grad()
    def likelihoods(
        self, prompts: Sequence[Sequence[int]], words: Sequence[str]
    ) -> list[tuple[tuple[str, float], ...]]:
        """The log probability of each word as the next token after each prompt. `UserError` where one is no token."""
        tokenizer = self._subject.tokenizer
        ids = [tokenizer.convert_tokens_to_ids(word) for word in words]
        if any(each is None or each == tokenizer.unk_token_id for each in ids):
            raise UserError(f"the tokenizer of {self._name} has no token for one of {', '.join(words)}")

        def of(batch: Sequence[Sequence[int]]) -> list[tuple[tuple[str, float], ...]]:
            tokens, mask = (tensor.to(self._subject.device) for tensor in right_padded(batch))
            logits = self._subject.forward(tokens, mask)
            last: Tensor = logits[torch.arange(len(batch)), mask.sum(dim=1) - 1].float().log_softmax(dim=-1)
            return [tuple(zip(words, row, strict=True)) for row in last[:, ids].tolist()]

        return self._in_batches(prompts, of)

    def _replies(self, batch: Sequence[Sequence[int]], max_tokens: int) -> list[tuple[str, bool]]:
        subject = self._subject
        ids, mask = (tensor.to(subject.device) for tensor in left_padded(batch))
        stops = sorted(generate_stops(subject.model, subject.tokenizer))
        # Nothing of a model's own settings: they may sample, or punish repetition
        settings = dict(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0)
        out = subject.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            eos_token_id=stops or None,
            pad_token_id=stops[0] if stops else 0,
            **settings,
        )
        replies = []
        for row in out[:, ids.shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in stops), None)
            said = row if end is None else row[:end]
            # Special tokens stay: they part the channels of gpt-oss
            replies.append((str(subject.tokenizer.decode(said, skip_special_tokens=False)), end is None))
        return replies

    def _in_batches(self, prompts: Sequence[Sequence[int]], of: Any) -> list[Any]:
        """`of` over batches of like length, its results in the order of the prompts."""
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        found: list[Any] = [None] * len(prompts)
        size, start = AT_ONCE, 0
        while start < len(order):
            places = order[start : start + size]
            try:
                results = of([prompts[place] for place in places])
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                size //= 2
                continue
            for place, result in zip(places, results, strict=True):
                found[place] = result
            start += len(places)
        return found
