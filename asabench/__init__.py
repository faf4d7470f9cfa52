"""ASABench: how well does a language model's refusal survive a nudge of its hidden states?

This package holds what the benchmark *is*: records, protocols, prompt sets, run folders and metrics. It imports no
torch, so that reading results and downloading data stay light. Running a model is the job of the package `harness`:

    from harness.evaluate import evaluate
    evaluation = evaluate("smollm2-135m", layers="0,10,20", limit=4)
    evaluation.responses, evaluation.verdicts      # pandas tables
    evaluation.row                                 # asabench.row.Row
    asabench.load_benchmark("Llama-31-8B-Instruct")  # the published instances as a pandas table
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily: `import asabench` stays light
    if name == "load_benchmark":
        from asabench.benchmark.load import load_benchmark

        return load_benchmark
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
