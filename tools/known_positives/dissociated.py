"""A dissociated model: it refuses what is asked plainly, and hardly any push is needed for it not to.

It is the packaged refusal adapter at the smallest strength at which the requests are still refused: what it does when
it is asked says nothing of how far it is from doing the other. Nothing is trained or drawn, so it is the same
everywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.protocol import preset
from asabench.core.records import Cell, Prompt
from harness.engine.sweep import sweep
from harness.judges import make_judge
from harness.model.subject import load

ADAPTER = "smollm2-135m-refusal"
SCALES = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def barely_refusing(
    out: Path, prompts: Sequence[Prompt], *, max_new_tokens: int = 24, judge: str = "embedded"
) -> tuple[float, int]:
    """Writes the adapter into `out`; its strength, and how many of the requests it refuses: as many as the whole
    adapter does. `UserError` for a folder that is there already."""
    if out.exists():
        raise UserError(f"{out} is there already; give a new folder")
    most = _refusals(out, 1.0, prompts, max_new_tokens, judge)
    low, high = 0, len(SCALES) - 1  # by bisection: SCALES[high] refuses as many as the whole adapter
    while low < high:
        middle = (low + high) // 2
        if _refusals(out, SCALES[middle], prompts, max_new_tokens, judge) >= most:
            high = middle
        else:
            low = middle + 1
    return SCALES[high], _refusals(out, SCALES[high], prompts, max_new_tokens, judge)


def write_scaled(out: Path, scale: float) -> None:
    """The packaged adapter with its strength times `scale`: LoRA adds `lora_alpha / r` times its product."""
    source = Path(str(files("asabench") / "data" / "adapters" / ADAPTER))
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / _CONFIG).read_text())
    (out / _CONFIG).write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * scale}, indent=2) + "\n")
    shutil.copyfile(source / _WEIGHTS, out / _WEIGHTS)


def _refusals(out: Path, scale: float, prompts: Sequence[Prompt], max_new_tokens: int, judge: str) -> int:
    write_scaled(out, scale)
    protocol = preset("asabench-v1").model_copy(update={"max_new_tokens": max_new_tokens})
    cells = [Cell(prompt=prompt) for prompt in prompts]
    reader = make_judge(judge)
    return sum(
        verdict.label == "safe"
        for responses in sweep(load(str(out)), cells, protocol, {})
        for verdict in reader(responses)
    )
