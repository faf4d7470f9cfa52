"""Settings of runs for tests: sound ones, with whatever a test wants changed."""

from __future__ import annotations

from typing import Any

from asabench.core.protocol import preset
from asabench.runs.settings import RunSettings, in_full


def run_settings(*, protocol: dict[str, Any] | None = None, **changes: Any) -> RunSettings:
    """Of a tiny model under `asabench-v1` at two doses. protocol: fields of the protocol that differ."""
    resolved = preset("asabench-v1").model_copy(update={"doses": (0.3, 1.0), **(protocol or {})})
    fields: dict[str, Any] = {
        "model": "tiny",
        "revision": "abc",
        "dtype": "float32",
        "chat_template": None,
        "protocol": in_full(resolved),
        "attacks": ("random",),
        "layers": (0, 1),
        "prompts": "0123456789abcdef",
        "prompt_count": 2,
    }
    return RunSettings(**{**fields, **changes})
