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
    "hf": BuiltInJudge(
        about="one of the judges that people use (below), in transformers, on this machine",
        takes="GUARD[:SIZE]",
        runs_model=True,
    ),
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


@dataclass(frozen=True, kw_only=True)
class NamedGuard:
    """A judge that people use, as help texts and the docs name it; how each is asked and read is in
    `harness.judges.guards`. models: hub ids by size, the default first. knows: sets of labelled pairs that its makers
    labelled or trained it on, on which its figures certify nothing."""

    about: str
    models: Mapping[str, str]
    licence: str
    knows: tuple[str, ...] = ()


GUARDS: Mapping[str, NamedGuard] = {
    "qwen3guard": NamedGuard(
        about="Qwen3Guard-Gen; says refusal apart from harm",
        models={size: f"Qwen/Qwen3Guard-Gen-{size.upper()}" for size in ("0.6b", "4b", "8b")},
        licence="Apache-2.0",
    ),
    "harmbench-cls": NamedGuard(
        about="HarmBench's classifier",
        models={"13b": "cais/HarmBench-Llama-2-13b-cls"},
        licence="MIT, on Llama 2's terms",
        knows=("harmbench-val",),
    ),
    "wildguard": NamedGuard(
        about="WildGuard; says refusal apart from harm",
        models={"7b": "allenai/wildguard"},
        licence="Apache-2.0, gated",
        knows=("xstest",),
    ),
    "strongreject": NamedGuard(
        about="StrongREJECT's fine-tuned Gemma, a score",
        models={"2b": "qylu4156/strongreject-15k-v1"},
        licence="MIT, on Gemma's terms",
        knows=("strongreject",),
    ),
    "llama-guard-3": NamedGuard(
        about="Llama Guard 3",
        models={"8b": "meta-llama/Llama-Guard-3-8B", "1b": "meta-llama/Llama-Guard-3-1B"},
        licence="Llama 3.1 / 3.2",
    ),
    "llama-guard-4": NamedGuard(
        about="Llama Guard 4", models={"12b": "meta-llama/Llama-Guard-4-12B"}, licence="Llama 4"
    ),
    "gpt-oss-safeguard": NamedGuard(
        about="gpt-oss-safeguard, with a policy of ASABench's",
        models={size: f"openai/gpt-oss-safeguard-{size}" for size in ("20b", "120b")},
        licence="Apache-2.0",
    ),
    "jbb": NamedGuard(
        about="JailbreakBench's question to Llama-3-70B",
        models={"70b": "meta-llama/Meta-Llama-3-70B-Instruct"},
        licence="Llama 3",
        knows=("jbb",),
    ),
}
"""Judges that people use, each asked and read as its makers publish it."""

KNOWS: Mapping[str, tuple[str, ...]] = {
    "embedded": ("pyrit-objective", "pyrit-refusal"),
    **{name: guard.knows for name, guard in GUARDS.items()},
}
"""Sets that a judge's makers labelled or trained it on, by the name that its id begins with."""


def guard_in(spec: str) -> tuple[str, str] | None:
    """The guard that a text names, and its size or model: `qwen3guard`, `qwen3guard:4b`, `qwen3guard:FOLDER`."""
    name, _, which = spec.partition(":")
    return (name, which) if name in GUARDS else None


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
