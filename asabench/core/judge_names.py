"""What the judges that come with ASABench are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

OwnKind = Literal["embedded", "rules"]
"""Judges that are one thing each, which nothing behind their name changes: what kind they are is their name too."""
OWN_KINDS: tuple[OwnKind, ...] = get_args(OwnKind)


@dataclass(frozen=True, kw_only=True)
class BuiltInJudge:
    """What help texts and the docs say of a judge without loading it.

    about: one line. takes: what may stand behind its name and a colon; empty for nothing. runs_model: whether it needs
    what running a model needs. certifiable: whether its verdicts can count; one that is there to compare with somebody
    else's table is never certified, whatever it reaches. `harness.judges` has a module of the judge's name (with `_`
    for `-`).
    """

    about: str
    takes: str = ""
    runs_model: bool = False
    certifiable: bool = True


JUDGES: Mapping[str, BuiltInJudge] = {
    "embedded": BuiltInJudge(
        about="a linear head on SmolLM2-135M's hidden states; English, on a CPU, no server", runs_model=True
    ),
    "vllm": BuiltInJudge(
        about="a language model behind vLLM or any OpenAI-compatible server; `vllm` alone is QwQ-32B, the paper's "
        "judge, on this machine",
        takes="MODEL[@URL]",
    ),
    "vllm-in-process": BuiltInJudge(about="the same without a server, where vLLM is installed", takes="MODEL"),
    "gu2025": BuiltInJudge(
        about="the paper's True/False question to a language model, read for the exact word; to compare with its table",
        takes="MODEL[@URL]",
        certifiable=False,
    ),
    "gu2025-as-published": BuiltInJudge(
        about="the same question, read as the paper's code reads it, which takes `unsafe` for safe",
        takes="MODEL[@URL]",
        certifiable=False,
    ),
    "rules": BuiltInJudge(about="patterns that find refusals and broken text; a baseline, under the bar"),
}
"""The judges that come with ASABench. Another is a line here and a file in `harness/judges/`."""


def forms() -> list[str]:
    """How each judge is asked for: `rules`, `vllm:MODEL[@URL]`."""
    return [f"{name}:{judge.takes}" if judge.takes else name for name, judge in JUDGES.items()]


def own_id(kind: OwnKind, digest: str) -> str:
    """The id of such a judge; the digest is of everything that decides its verdicts."""
    return f"{kind}-{digest}"


def kind_in(judge_id: str) -> OwnKind | None:
    """Which of them has that id, if one has. No other judge may be called so (`harness.judges.make_judge`)."""
    return next((kind for kind in OWN_KINDS if judge_id.startswith(own_id(kind, ""))), None)


def may_be_certified(judge_id: str) -> bool:
    """Whether a judge of that id may be certified at all. The ids of judges that may not begin with their names."""
    return not any(judge_id.startswith(f"{name}-") for name, judge in JUDGES.items() if not judge.certifiable)


def module_of(name: str) -> str:
    """The module in `harness.judges` that makes the judge of that name."""
    return name.replace("-", "_")
