"""Judging what an engine answers: after each batch, or beside the engine while the next batch is generated.

Beside it where they do not compete: the judge is asked over the network, or the engine computes on a GPU. Either way
answers are on disk before they are judged, verdicts come in the order of the answers, and at most one batch waits: a
run that is killed has lost no answer, and judges what is left when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from asabench.core.judge_names import OWN_KINDS
from asabench.core.records import Response, Verdict
from asabench.core.row import JudgeInfo
from asabench.judging.judge import Judge
from asabench.runs.folder import Run
from harness.engine.engine import Engine, HookedEngine
from harness.judges.readings import read
from harness.model.memory import is_out_of_memory


def is_beside(engine: Engine, judge: Judge) -> bool:
    """Whether the judge reads one batch while the engine answers the next."""
    return judge.info.kind == "llm" or not engine.on_cpu


def placed(judge: Judge, device: torch.device) -> Judge:
    """The embedded judge with its model on a GPU, where `device` is one; any other judge as it is."""
    if device.type != "cuda" or judge.info.kind != "embedded":
        return judge
    move: Callable[[str], Judge] | None = getattr(judge, "on_device", None)
    return judge if move is None else move(str(device))


def judge_device(engine: Engine) -> torch.device:
    """Where a judge's model goes for an engine: beside the model in this process; vLLM and workers take the GPUs for
    themselves."""
    return engine.subject.device if isinstance(engine, HookedEngine) else torch.device("cpu")


class Once:
    """A judge of ours that reads each answer to a request once, however many cells have it. Others are asked as often
    as they always were: theirs may look at more than request and answer, and language models keep verdicts of their
    own."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: dict[tuple[str, str], Verdict] = {}

    @property
    def info(self) -> JudgeInfo:
        return self._judge.info

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        """One verdict a response, in order."""
        keys = [(response.cell.prompt.goal, response.text) for response in responses]
        new = {key: each for key, each in zip(keys, responses, strict=True) if key not in self._known}
        if new:
            self._known.update(zip(new, self._judge(list(new.values())), strict=True))
        return [replace(self._known[key], cell_id=each.cell.id) for key, each in zip(keys, responses, strict=True)]


def once(judge: Judge) -> Judge:
    return Once(judge) if judge.info.kind in OWN_KINDS else judge


def stored(batches: Iterator[list[Response]], run: Run, judge: Judge, *, beside: bool) -> Iterator[list[Response]]:
    """Stores each batch and then its verdicts, and passes it on."""
    if not beside:
        for responses in batches:
            run.append_responses(responses)
            run.append_verdicts(read(judge, responses))
            yield responses
        return
    with ThreadPoolExecutor(1, thread_name_prefix="asabench-judge", initializer=_own_stream) as pool:
        asked: Future[list[Verdict]] | None = None
        for responses in batches:
            run.append_responses(responses)
            if asked is not None:
                run.append_verdicts(asked.result())
            asked = pool.submit(_read_aside, judge, responses)
            yield responses
        if asked is not None:
            run.append_verdicts(asked.result())


def _own_stream() -> None:
    """On a GPU the judge's kernels stand in a queue of their own, not behind those of the next batch."""
    if torch.cuda.is_available():
        torch.cuda.set_stream(torch.cuda.Stream())


def _read_aside(judge: Judge, responses: Sequence[Response]) -> list[Verdict]:
    """`read`; where the batch beside it has left no memory for the judge, once more with what both have freed."""
    try:
        return read(judge, responses)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return [verdict for each in responses for verdict in read(judge, [each])]
