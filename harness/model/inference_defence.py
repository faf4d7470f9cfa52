"""Someone else's defence that acts while the model answers: it wraps the subject, and is attacked as part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from asabench.core.errors import UserError
from harness.model.subject import Subject, check_residual_stream
from harness.plugins import imported


class InferenceDefence(Protocol):
    """What the harness asks of a defence that acts at inference time: called with a subject, it returns the defended
    one. It may put hooks of its own on `subject.model` or return another model around it; `blocks` must stay the
    decoder blocks, where attacks inject. Attacks see the whole: gradients flow through the defence.

    A hook that the defence leaves on a block runs before the injection there, and after that of the blocks below: so
    noise at a block is met by what the defence does further up.
    """

    def __call__(self, subject: Subject) -> Subject: ...


def defended(subject: Subject, spec: str) -> Subject:
    """The subject inside the defence `package.module:Name`, which is made without arguments; its name then says so.

    Raises `UserError` for what cannot be imported or made, and when what comes out cannot be measured.
    """
    module, _, name = spec.partition(":")
    try:
        defence: InferenceDefence = imported("defence", module, name)()
    except TypeError as error:
        raise UserError(f"the defence {spec!r} cannot be made without arguments: {error}") from None
    if not callable(defence):
        raise UserError(f"{spec!r} is no defence: it must be callable with a subject (harness.model.inference_defence)")
    found = defence(subject)
    if not isinstance(found, Subject) or found.n_layers != subject.n_layers:
        raise UserError(f"the defence {spec!r} must return a Subject with the {subject.n_layers} blocks it was given")
    check_residual_stream(found)
    return replace(found, name=f"{subject.name}+{spec}")
