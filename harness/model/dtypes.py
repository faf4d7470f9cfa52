"""The number format of a model's weights: as it was asked for, or as its checkpoint has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from asabench.core.errors import UserError, first_line
from harness.model.architecture import stated_dtype

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
ALLOWED = f"{AUTO}, {', '.join(DTYPES)}"


def check_dtype(name: str | None) -> None:
    """`UserError` for a name that is no dtype; None is the device's default."""
    if name not in (None, AUTO, *DTYPES):
        raise UserError(f"unknown dtype {name!r}; allowed: {ALLOWED}")


def resolved_dtype(
    asked: str | None, device: torch.device, config: Any, weights: Sequence[Path], name: str
) -> torch.dtype:
    """The dtype of a model's weights.

    asked: one of `DTYPES`; `auto`, the checkpoint's own; None, float32 on a CPU and the checkpoint's elsewhere. config:
    transformers' configuration. weights: its files, for a configuration that says nothing. Raises `UserError` for a
    checkpoint in another format, and for one that the device does not compute in.
    """
    check_dtype(asked)
    if asked is None:
        asked = "float32" if device.type == "cpu" else AUTO
    dtype = _own(config, weights, name) if asked == AUTO else DTYPES[asked]
    require_on(device, dtype)
    return dtype


def _own(config: Any, weights: Sequence[Path], name: str) -> torch.dtype:
    """What the configuration says, else the format of the first weights in the files."""
    found = stated_dtype(config) or _first_in(weights)
    if found is None or found not in DTYPES.values():
        said = "does not say its dtype" if found is None else f"is in {str(found).removeprefix('torch.')}"
        raise UserError(f"the checkpoint of {name} {said}; give --dtype: {', '.join(DTYPES)}")
    return found


def _first_in(weights: Sequence[Path]) -> torch.dtype | None:
    from safetensors import SafetensorError, safe_open

    for path in weights:
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - no mapping
                    held = file.get_slice(key)
                    dtype: torch.dtype = held[:0].dtype if held.get_shape() else file.get_tensor(key).dtype
                    if dtype.is_floating_point:
                        return dtype
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights in {path} cannot be read ({first_line(error)}); download them again"
            ) from None
    return None


def require_on(device: torch.device, dtype: torch.dtype) -> None:
    """`UserError` where a device does not multiply matrices of this format."""
    try:
        one = torch.ones(2, 2, dtype=dtype, device=device)
        float((one @ one).sum())
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"dtype {str(dtype).removeprefix('torch.')} cannot be used on {device} ({first_line(error)}); give another "
            f"--dtype: {', '.join(DTYPES)}"
        ) from None
