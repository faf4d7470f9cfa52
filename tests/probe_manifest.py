"""The manifest of a probe's folder, field by field, as it has always been written."""

from __future__ import annotations

from typing import Any

from asabench.core.protocol import preset


def probe_manifest(**settings: Any) -> dict[str, Any]:
    """As JSON holds it; `settings` take the place of its own."""
    own = {
        "model": "tiny",
        "revision": "random",
        "dtype": "float32",
        "protocol": preset("asabench-v1").model_dump(mode="json"),
        "statistics": "current-step",
        "what": ["nll", "kl", "landscape"],
        "attack": "random",
        "doses": [0.5],
        "seeds": [0],
        "layers": [0, 3],
        "prompt_count": 4,
        "prompts": "0123456789abcdef",
        "landscape": {
            "a_attack": settings.get("attack", "random"),
            "b_attack": "random",
            "a": [-1.0, 0.0, 1.0],
            "b": [-1.0, 0.0, 1.0],
            "seeds": [0, 1],
            "layers": [0, 3],
            "prompt_count": 2,
        },
    }
    return {
        "kind": "probe",
        "schema_version": 1,
        "finished": "2026-11-25T09:00:00+00:00",
        "settings": own | settings,
        "findings": {"kl_trend": "KL rises at 1 of 2 blocks."},
        "device": "cpu",
        "python": "3.11.4",
        "packages": {"asabench": "0.1.0", "torch": "2.13.0"},
    }
