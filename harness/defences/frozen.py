"""The frozen model that a training starts from, beside the one that is trained."""

from __future__ import annotations

import copy

from asabench.core.errors import UserError
from harness.model.memory import free_memory
from harness.model.subject import Subject, find_blocks


def frozen_copy(subject: Subject, what: str) -> Subject:
    """The subject as it is now, which no training changes: as much memory as its weights.

    what: who needs it, for the message. Raises `UserError` where it does not fit.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in subject.model.parameters())
    free = free_memory(subject.device)
    if size > free:
        raise UserError(
            f"{what} keeps a frozen copy of {subject.name}, which takes {size / 2**30:.1f} GiB, and {free / 2**30:.1f} "
            f"GiB are free on {subject.device}; use a smaller --dtype, a recipe without one, or another machine"
        )
    model = copy.deepcopy(subject.model).eval().requires_grad_(False)
    return Subject(
        model=model,
        tokenizer=subject.tokenizer,
        blocks=find_blocks(model),
        name=subject.name,
        revision=subject.revision,
    )
