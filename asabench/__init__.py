"""ASABench: how well does a language model's refusal survive a nudge of its hidden states?

    import asabench
    evaluation = asabench.evaluate("smollm2-135m", layers="0,10,20", limit=4)  # needs asabench[eval]
    evaluation                                       # a line; in a notebook, a table
    evaluation.worst, evaluation.rates, evaluation.row
    evaluation.frame                                 # answers and verdicts, a pandas table
    evaluation.plot(); evaluation.compare(other)
    asabench.read_run("runs/...")                    # a run on disk
    asabench.load_benchmark("Llama-31-8B-Instruct")  # the published instances as a pandas table

This package holds what the benchmark *is*: records, protocols, prompt sets, run folders, metrics, submissions. It
imports no torch, so that reading results and downloading data stay light. The package `harness` runs models;
`leaderboard` draws. What stands in `__all__` is what users may rely on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asabench.core.protocol import Protocol
    from asabench.core.row import Row
    from asabench.dataset.load import load_benchmark
    from asabench.runs.folder import read_run
    from harness.evaluation.evaluate import Evaluation, evaluate

__version__ = "0.1.0"

__all__ = ["Evaluation", "Protocol", "Row", "evaluate", "load_benchmark", "read_run"]

_HOMES = {
    "Evaluation": "harness.evaluation.evaluate",
    "Protocol": "asabench.core.protocol",
    "Row": "asabench.core.row",
    "evaluate": "harness.evaluation.evaluate",
    "load_benchmark": "asabench.dataset.load",
    "read_run": "asabench.runs.folder",
}


def __getattr__(name: str) -> Any:
    # Lazily: `import asabench` stays light, and only `evaluate` needs torch
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
