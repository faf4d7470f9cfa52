"""Which implementation of attention a model runs, among those that the engine's padded batches and caches go with."""

from __future__ import annotations

import importlib.util

import torch

from asabench.core.errors import UserError

ATTENTION = ("eager", "sdpa", "flash_attention_2")
FLASH = "flash_attention_2"
PACKAGE = "flash_attn"


def check_attention(name: str | None, device: torch.device, dtype: torch.dtype) -> None:
    """`UserError` for a name that is none of `ATTENTION`, and for flash attention where it cannot run. None leaves the
    choice to transformers."""
    if name is None:
        return
    if name not in ATTENTION:
        raise UserError(f"unknown --attention {name!r}; allowed: {', '.join(ATTENTION)}")
    if name != FLASH:
        return
    others = f"use --attention {' or '.join(other for other in ATTENTION if other != FLASH)}"
    # Asked here: transformers would look for a kernel on the hub instead
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"--attention {FLASH} needs the package flash-attn, which is not installed here; {others}")
    if device.type != "cuda":
        raise UserError(f"--attention {FLASH} runs on CUDA devices, and the model is on {device}; {others}")
    if dtype == torch.float32:
        raise UserError(
            f"--attention {FLASH} computes in bfloat16 and float16, not in float32; give --dtype, or {others}"
        )
