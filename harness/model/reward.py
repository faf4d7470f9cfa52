"""A reward model: one number for an answer to a request, or for a text, from a sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from asabench.core.errors import UserError, first_line
from harness.model import architecture
from harness.model.files import locate
from harness.model.subject import pick_device

AT_ONCE = 16
MOST_TOKENS = 1024


class RewardModel:
    """The model in a local folder or of a hub id, in float32. `score` reads pairs of request and answer as the
    tokenizer joins them. Raises `UserError` for what cannot be loaded, or has several outputs."""

    def __init__(self, name: str, *, device: str = "auto", allow_pickle: bool = False) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        files = locate(name, allow_pickle=allow_pickle)
        self.name, self.revision = files.name, files.revision
        self._device = pick_device(device)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(files.folder)
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                files.folder, dtype=torch.float32, use_safetensors=None if allow_pickle else True
            )
        except Exception as error:  # a configuration is somebody's file: anything can be raised
            raise UserError(
                f"the reward model {name} cannot be loaded ({first_line(error)}); give a sequence classifier with one "
                "output, by folder or hub id"
            ) from None
        if (outputs := architecture.configuration(model).num_labels) != 1:
            raise UserError(f"the reward model {name} has {outputs} outputs; give one with a single output")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        architecture.configuration(model).pad_token_id = self._tokenizer.pad_token_id
        self._model = model.to(self._device).eval().requires_grad_(False)

    def score(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        """The reward of each answer to its request; what it means is the model's."""
        return self._rewards(requests, answers)

    def score_texts(self, texts: Sequence[str]) -> list[float]:
        """The reward of each text, which holds request and answer as its makers write them."""
        return self._rewards(texts)

    @torch.no_grad()
    def _rewards(self, *columns: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(columns[0]), AT_ONCE):
            batch = self._tokenizer(
                *(list(column[start : start + AT_ONCE]) for column in columns),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=MOST_TOKENS,
            ).to(self._device)
            found += self._model(**batch).logits.float().squeeze(-1).cpu().tolist()
        return found
