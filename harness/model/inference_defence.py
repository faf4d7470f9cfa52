"""Someone else's defence that acts while the model answers: it wraps the subject, and is attacked as part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from asabench.core.errors import UserError
from asabench.core.model_names import with_defence
from harness.model.memory import is_out_of_memory
from harness.model.subject import Subject, check_residual_stream
from harness.plugins import blamed, imported, made, path_of


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
    spec may be the name under which an installed package announces it.

    Raises `UserError` for what cannot be imported or made, and when what comes out cannot be measured.
    """
    path = defence_path(spec)
    defence = made(f"the defence {path!r} cannot be made without arguments", imported("defence", path))
    if not callable(defence):
        raise UserError(f"{path!r} is no defence: it must be callable with a subject (harness.model.inference_defence)")
    with blamed(f"the defence {path!r} cannot be used", type(defence).__module__, passes=is_out_of_memory):
        found = defence(subject)
    if not isinstance(found, Subject) or found.n_layers != subject.n_layers:
        raise UserError(f"the defence {path!r} must return a Subject with the {subject.n_layers} blocks it was given")
    with blamed(f"the defended model of {path!r} cannot be run", type(defence).__module__, passes=is_out_of_memory):
        check_residual_stream(found)
    return replace(found, name=with_defence(subject.name, path))


def defence_path(spec: str) -> str:
    """The import path of a defence. Raises `UserError`."""
    return spec if ":" in spec else path_of("defence", spec, own=(), forms=())
