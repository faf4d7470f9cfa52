"""Contrastive steering: mean activation over compliant answers to harmful requests minus that over benign texts.

A direction needs no target, no gradient and no optimisation, only two sets of texts; it is the same for every prompt.
Source: contrastive activation steering (Rimsky et al. 2023, arXiv:2312.06681), normalised as every attack here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, sha256_hex
from harness.attacks.cells import require_steered
from harness.model.padding import left_padded
from harness.model.subject import Subject
from harness.model.tensor_cache import ModelCache
from harness.stream.injection import capture

COMPLIANCE, BENIGN = "contrast_compliance.txt", "contrast_benign.txt"
BATCH = 32


class MeanDifferenceAttack:
    """Mean activation over compliant texts less that over benign ones.

    Text files are in UTF-8, one text a line. Raises `UserError` for a file that cannot be read or holds no text.
    `protocol` is not used: the texts are given raw, with the tokenizer's default special tokens.
    """

    family = "mean_difference"
    uses_seed = False
    needs_targets = False

    def __init__(
        self,
        protocol: Protocol,
        harmful: Annotated[
            Path | None, Field(description="compliant answers to harmful requests; those that come along by default")
        ] = None,
        benign: Annotated[Path | None, Field(description="benign texts; those that come along by default")] = None,
    ) -> None:
        self.harmful = _read(_shipped(COMPLIANCE) if harmful is None else harmful)
        self.benign = _read(_shipped(BENIGN) if benign is None else benign)
        own = harmful is not None or benign is not None
        # By content: a path means nothing on another machine
        digest = sha256_hex("\n".join([*self.harmful, "", *self.benign]))[:8]
        self.name = "mean_difference" + (f":texts={digest}" if own else "")
        self._cache: ModelCache[str] = ModelCache()

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU; for cells without a layer (cell, block, d_model). The texts are read
        once a model, for all layers."""
        require_steered(cells)
        known = self._cache.of(subject)
        if "difference" not in known:
            known["difference"] = last_mean(subject, self.harmful) - last_mean(subject, self.benign)
        every = slice(None)
        return torch.stack([known["difference"][every if cell.layer is None else cell.layer] for cell in cells])


@torch.no_grad()
def last_mean(subject: Subject, texts: Sequence[str]) -> Tensor:
    """The mean over texts of every block's output at the last position: (layer, d_model), float32 on the CPU."""
    tokens = [list(subject.tokenizer(text)["input_ids"]) for text in texts]
    for text, tokens_of_text in zip(texts, tokens, strict=True):
        if not tokens_of_text:
            raise UserError(f"mean_difference: the text {text!r} has no tokens for {subject.name}; take it out")
    tokens.sort(key=len)  # little padding
    total = torch.zeros(subject.n_layers, subject.d_model)
    for start in range(0, len(tokens), BATCH):
        ids, mask = left_padded(tokens[start : start + BATCH])
        with capture(subject.blocks, range(subject.n_layers)) as seen:
            subject.forward(ids.to(subject.device), mask.to(subject.device), last=1)
        total += torch.stack([seen.outputs[layer][:, -1].float().sum(0).cpu() for layer in range(subject.n_layers)])
    return total / len(texts)


def _shipped(name: str) -> Path:
    return Path(str(files("asabench") / "data" / name))


def _read(path: Path) -> tuple[str, ...]:
    how = "give a text file in UTF-8 with one text a line"
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"mean_difference: the texts in {path} cannot be read ({reason}); {how}") from None
    texts = tuple(line.strip() for line in lines if line.strip())
    if not texts:
        raise UserError(f"mean_difference: {path} holds no text; {how}")
    return texts


make = MeanDifferenceAttack
