"""What a judge is, whoever wrote it; those that come with ASABench are in `harness.judges`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from asabench.core.records import Response, Verdict
from asabench.core.row import JudgeInfo


@runtime_checkable
class Judge(Protocol):
    """What ASABench asks of a judge.

    `info.id` names the judge and everything that could change its verdicts (version, model, prompt): verdicts are
    stored under it. Calling it gives one verdict per response, in order; a label of None means unscored.
    """

    @property
    def info(self) -> JudgeInfo: ...

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]: ...
