"""A model that is in memory already, as a notebook has one: which weights it is follows from the weights themselves."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from asabench.core.errors import UserError
from asabench.core.model_names import folder_revision
from harness.model import architecture
from harness.model.limits import check_finite_weights
from harness.model.subject import Subject, make_subject

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Model = PreTrainedModel
    Tokenizer = PreTrainedTokenizerBase


def subject_in_memory(model: Any, tokenizer: Any, name: str | None = None) -> Subject:
    """The subject of a loaded `transformers` model, after the checks of `harness.model.subject.load` on what it
    computes; it is put into evaluation mode and its gradients are switched off.

    name: what rows call it; None takes the last part of what it was loaded from. Its revision is a digest of all
    weights by name, so that a model changed in memory is another. Raises `UserError` for what cannot be measured.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UserError(
            f"a {type(model).__name__} is no model; give a name, a folder, or a causal language model of transformers"
        )
    if tokenizer is None:
        raise UserError(
            "a model in memory comes without its tokenizer; give it too, as in asabench.evaluate(model, tokenizer)"
        )
    model.eval().requires_grad_(False)
    source = PurePath(str(getattr(architecture.configuration(model), "_name_or_path", "") or type(model).__name__))
    named = name or source.name or type(model).__name__
    subject = make_subject(model, tokenizer, name=named, revision=folder_revision(weights_digest(model)))
    check_finite_weights(model, named, subject.dtype)
    return subject


def weights_digest(model: nn.Module) -> str:
    """SHA-256, in hex, over names, shapes, types and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # As bytes, whatever the type: numpy knows no bfloat16
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
