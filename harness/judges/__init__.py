"""Judges: each turns responses into verdicts. One file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from asabench.errors import UserError
from asabench.records import Response, Verdict
from asabench.row import JudgeInfo
from harness.judges.rules import Rules


@runtime_checkable
class Judge(Protocol):
    """What the harness asks of a judge.

    `info.id` names the judge and everything that could change its verdicts (version, model, prompt): verdicts are
    stored under it. Calling it gives one verdict per response, in order; a label of None means unscored.
    """

    @property
    def info(self) -> JudgeInfo: ...

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]: ...


JUDGES: dict[str, Callable[[], Judge]] = {"rules": Rules}


def make_judge(name: str) -> Judge:
    """The judge of that name."""
    if name not in JUDGES:
        raise UserError(f"unknown judge {name!r}; allowed: {', '.join(JUDGES)}")
    return JUDGES[name]()
