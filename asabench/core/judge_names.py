"""What the judges that come with ASABench are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BuiltInJudge:
    """What help texts and the docs say of a judge without loading it.

    about: one line. takes: what may stand behind its name and a colon; empty for nothing. runs_model: whether it needs
    what running a model needs. `harness.judges` has a module of the judge's name (with `_` for `-`).
    """

    about: str
    takes: str = ""
    runs_model: bool = False


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
    "rules": BuiltInJudge(about="patterns that find refusals and broken text; a baseline, under the bar"),
}
"""The judges that come with ASABench. Another is a line here and a file in `harness/judges/`."""


def forms() -> list[str]:
    """How each judge is asked for: `rules`, `vllm:MODEL[@URL]`."""
    return [f"{name}:{judge.takes}" if judge.takes else name for name, judge in JUDGES.items()]


def module_of(name: str) -> str:
    """The module in `harness.judges` that makes the judge of that name."""
    return name.replace("-", "_")
