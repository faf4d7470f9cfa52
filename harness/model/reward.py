"""A reward model: one number for a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from asabench.core.errors import UserError, first_line
from harness.model.files import locate
from harness.model.padding import right_padded
from harness.model.subject import pick_device


def load_reward(name: str, *, device: str = "auto") -> Callable[[Sequence[str]], list[float]]:
    """A function from texts to rewards, of a sequence classifier with one label. Raises `UserError`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    files = locate(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder)
        model = AutoModelForSequenceClassification.from_pretrained(files.folder)
    except Exception as error:  # a configuration is somebody's file
        raise UserError(f"the reward model {name} cannot be loaded: {first_line(error)}") from None
    if model.config.num_labels != 1:
        raise UserError(f"{name} has {model.config.num_labels} labels; a reward model is a classifier with one")
    # Without one the model cannot tell where a text in a batch ends; padding is masked all the same
    model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    model.to(pick_device(device)).eval()

    @torch.no_grad()
    def reward(texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for text in texts:
            ids, mask = right_padded([tokenizer(text)["input_ids"]])
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
            found.append(float(logits[0, 0]))
        return found

    return reward
