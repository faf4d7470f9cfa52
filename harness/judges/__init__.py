"""Judges: each turns responses into verdicts. One file each; what a judge needs is imported when it is made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from numbers import Real

from asabench.core.errors import UserError
from asabench.core.judge_names import JUDGES, forms, guard_in, kind_in, module_of
from asabench.core.protocol import LabelSet
from asabench.core.records import LABELS, Response, Verdict
from asabench.core.row import JudgeInfo
from asabench.judging.judge import Judge
from harness.plugins import announced, blamed, imported, made, path_of

__all__ = ["Judge", "ask", "make_judge", "theirs"]


def make_judge(spec: str, labels: LabelSet = "three") -> Judge:
    """A judge by its name (`asabench.core.judge_names`), or someone else's by the name under which an installed package
    announces it, or from `package.module:Name`; theirs is called without arguments. A guard's name alone is that guard
    behind a server. Raises `UserError`.

    labels: what a language model is asked for (`asabench.core.protocol.LabelSet`). Other judges have their own: in
    two-label rates `incoherent` counts as safe. A judge behind a server is asked for nothing yet.
    """
    if (guard := guard_in(spec.partition("@")[0])) is not None:
        served: Judge = import_module("harness.judges.guard_server").make_guard(
            guard[0], spec.removeprefix(guard[0]).removeprefix(":")
        )
        return served
    name, colon, rest = spec.partition(":")
    if name in JUDGES:
        if colon and not (JUDGES[name].takes and rest):
            allowed = ", ".join([*forms(), *announced("judge", JUDGES)])
            raise UserError(f"the judge {spec!r} cannot be read; allowed: {allowed}, or an import path")
        judge: Judge = import_module(f"harness.judges.{module_of(name)}").make(rest, labels)
        return judge
    path = spec if colon else path_of("judge", name, own=JUDGES, forms=forms())
    make = imported("judge", path)
    found = made(f"the judge {path!r} cannot be made without arguments", make)
    with blamed(f"the judge {path!r} cannot be used", type(found).__module__):
        fits = callable(found) and isinstance(getattr(found, "info", None), JudgeInfo)
    if not fits:
        raise UserError(
            f"{path!r} is no judge: it needs `info`, a JudgeInfo, and to be called with responses "
            "(harness.judges.Judge)"
        )
    # By its import path ours is ours still
    if (kind := kind_in(found.info.id)) and not type(found).__module__.startswith(f"{__name__}."):
        raise UserError(
            f"the judge {path!r} has the id {found.info.id!r}, which is one of ASABench's judge {kind}; give it an id "
            "that begins otherwise"
        )
    judge = found
    return judge


@contextmanager
def theirs(judge: Judge, what: str) -> Iterator[None]:
    """Inside, what somebody else's judge raises is a `UserError` of one line; an error of ours keeps its traceback."""
    module = type(judge).__module__
    if module.partition(".")[0] == __name__.partition(".")[0]:
        yield
        return
    with blamed(f"the judge {module}:{type(judge).__qualname__} {what}", module):
        yield


def ask(judge: Judge, responses: Sequence[Response]) -> list[Verdict]:
    """The judge's verdicts, one a response, in order. Raises `UserError` where they are none."""
    with theirs(judge, "gives no verdicts"):
        found, of = judge(responses), judge.info.id
    if not isinstance(found, list | tuple) or not all(isinstance(verdict, Verdict) for verdict in found):
        raise UserError(f"the judge {of} returned no list of verdicts (asabench.core.records.Verdict)")
    if [verdict.cell_id for verdict in found] != [response.cell.id for response in responses]:
        raise UserError(
            f"the judge {of} gave {len(found)} verdicts for {len(responses)} answers, or in another order; a judge "
            "must return one a response, in order"
        )
    for verdict in found:
        if verdict.judge != of:
            raise UserError(f"the judge {of} gave a verdict under the id {verdict.judge!r}; it must be the same")
        if verdict.label not in (None, *LABELS):
            raise UserError(
                f"the judge {of} gave the label {verdict.label!r}; allowed: {', '.join(LABELS)}, or None for unscored"
            )
        for name, fact in verdict.facts._asdict().items():
            if not isinstance(fact, bool | None):
                raise UserError(f"the judge {of} gave {fact!r} as {name}; allowed: True, False, or None for unknown")
        p = verdict.p_unsafe
        if p is not None and not (isinstance(p, Real) and math.isfinite(p)):
            raise UserError(f"the judge {of} gave {p!r} as p_unsafe; allowed: a number, or None")
    return list(found)
