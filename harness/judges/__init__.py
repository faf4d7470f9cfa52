"""Judges: each turns responses into verdicts. One file each; what a judge needs is imported when it is made."""

from __future__ import annotations

import re
from collections.abc import Callable

from asabench.core.errors import UserError
from asabench.core.protocol import LabelSet
from asabench.judging.judge import Judge
from harness.judges.rules import Rules
from harness.judges.verdict_cache import VerdictCache
from harness.plugins import imported

__all__ = ["JUDGES", "Judge", "make_judge"]


def _rules(rest: str, labels: LabelSet) -> Judge:
    return Rules()


def _embedded(rest: str, labels: LabelSet) -> Judge:
    from harness.judges.embedded import Embedded

    return Embedded()


def _vllm(rest: str, labels: LabelSet) -> Judge:
    from harness.judges.vllm import DEFAULT_MODEL, DEFAULT_URL, VllmJudge

    # Model names hold slashes, colons and at signs; a URL begins with its scheme
    model, url = _MODEL_AND_URL.fullmatch(rest).groups()  # type: ignore[union-attr]  # it matches any text
    return VllmJudge(model or DEFAULT_MODEL, url or DEFAULT_URL, labels, cache=VerdictCache())


def _vllm_in_process(rest: str, labels: LabelSet) -> Judge:
    from harness.judges.vllm_in_process import VllmInProcessJudge

    if not rest:
        raise UserError("the judge vllm-in-process names no model; write vllm-in-process:MODEL")
    return VllmInProcessJudge(rest, labels, cache=VerdictCache())


JUDGES: dict[str, Callable[[str, LabelSet], Judge]] = {
    "rules": _rules,
    "embedded": _embedded,
    "vllm": _vllm,
    "vllm-in-process": _vllm_in_process,
}
"""Each is made from what stands behind its name and a colon, and the labels that a language model is asked for."""

_TAKES_MORE = ("vllm", "vllm-in-process")
_MODEL_AND_URL = re.compile(r"(.*?)(?:@(https?://.*))?", re.DOTALL)


def make_judge(spec: str, labels: LabelSet = "three") -> Judge:
    """A judge from `rules`, `embedded`, `vllm[:MODEL[@URL]]` or `vllm-in-process:MODEL`, or someone else's from
    `package.module:Name`, which is called without arguments.

    labels: what a language model is asked for (`asabench.core.protocol.LabelSet`). Other judges have their own: in
    two-label rates `incoherent` counts as safe. A judge behind a server is asked for nothing yet.
    """
    name, colon, rest = spec.partition(":")
    if name in JUDGES:
        if colon and (name not in _TAKES_MORE or not rest):
            raise UserError(f"the judge {spec!r} cannot be read; {_allowed()}")
        return JUDGES[name](rest, labels)
    if "." not in name and not colon:
        raise UserError(f"unknown judge {spec!r}; {_allowed()}")
    make = imported("judge", name, rest)
    try:
        judge = make()
    except TypeError as error:
        raise UserError(f"the judge {spec!r} cannot be made without arguments: {error}") from None
    if not isinstance(judge, Judge):
        raise UserError(f"{spec!r} is no judge: it needs `info` and to be called with responses (harness.judges.Judge)")
    return judge


def _allowed() -> str:
    return "allowed: rules, embedded, vllm:MODEL@URL, vllm-in-process:MODEL, or an import path package.module:Name"
