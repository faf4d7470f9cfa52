"""Where, when and with what a run was made: recorded beside its settings, never compared."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import asabench

PACKAGES = ("asabench", "torch", "transformers", "tokenizers", "pandas", "pyarrow", "numpy", "scipy")
"""Those whose versions may change an answer or a number."""


def now() -> str:
    """The time in UTC, such as `2025-07-01T10:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(device: torch.device) -> dict[str, Any]:
    """Fields of a run's manifest; none of them decides whether it may be resumed. device: where the model is."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "hardware": {"machine": platform.machine(), "system": platform.system(), "threads": torch.get_num_threads()},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the source that runs, when it runs from a clone."""
    source = Path(asabench.__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
