"""Where a model's parts lie: on one device, or its blocks over several (accelerate's device maps)."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from asabench.core.errors import UserError, first_line
from asabench.core.numbers import ranges
from harness.model.memory import free_memory

DeviceMap: TypeAlias = str | Mapping[str, int | str]
"""`auto` and its kin spread a model over all GPUs; a mapping names a device for each module."""

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device_map(device_map: DeviceMap | None, device: str) -> None:
    """`UserError` for a map that cannot be used, beside a device that says something else, or without accelerate."""
    if device_map is None:
        return
    allowed = f"allowed: {', '.join(SPREADS)}, or in Python and in a file a device for each module"
    if isinstance(device_map, str):
        if device_map not in SPREADS:
            raise UserError(f"unknown --device-map {device_map!r}; {allowed}")
    elif not device_map or not all(
        isinstance(key, str) and isinstance(value, int | str) for key, value in device_map.items()
    ):
        raise UserError(f"the device map {dict(device_map)!r} cannot be read; {allowed}")
    if device != "auto":
        raise UserError(f"--device {device} and --device-map are both there; leave one of them out")
    require_accelerate("--device-map")


def require_accelerate(what: str) -> None:
    """`UserError` where accelerate, which places the parts of a model, is not installed."""
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(f"{what} needs accelerate, which is not installed here; run `pip install accelerate`")


def dispatched(model: Any, device_map: DeviceMap) -> Any:
    """A model that is on the CPU, its parts moved to where the map says. `UserError` where accelerate refuses."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or [])
    try:
        if isinstance(device_map, str):
            room = None
            if device_map != "sequential":
                room = get_balanced_memory(
                    model, no_split_module_classes=whole, low_zero=device_map == "balanced_low_0"
                )
            places = dict(infer_auto_device_map(model, max_memory=room, no_split_module_classes=whole))
        else:
            places = dict(device_map)
        if "disk" in places.values():
            raise UserError(_too_large("disk"))
        return dispatch_model(model, places)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"the model cannot be placed as --device-map says ({first_line(error)})") from None


def refuse_offloaded(model: Any) -> None:
    """`UserError` for a model of which parts wait on a CPU or a disk until they are needed."""
    if any(tensor.device.type == "meta" for tensor in model.parameters()):
        raise UserError(_too_large("CPU or disk"))


def _too_large(where: str) -> str:
    return (
        f"the model does not fit on the devices of --device-map: parts of it would wait on the {where}; use more GPUs, "
        "a smaller --dtype, a quantised checkpoint, or --device cpu"
    )


def devices_of(model: Any) -> tuple[torch.device, ...]:
    """The devices that hold a model's parameters and buffers, the input embedding's first."""
    first: torch.device = model.get_input_embeddings().weight.device
    held = {tensor.device: None for tensors in (model.parameters(), model.buffers()) for tensor in tensors}
    return tuple(dict.fromkeys([first, *held]))


def placement_in_words(blocks: Sequence[nn.Module]) -> dict[str, str]:
    """By device, the decoder blocks that it holds, such as `0-15`."""
    where: dict[str, list[int]] = {}
    for number, block in enumerate(blocks):
        where.setdefault(str(_device(block)), []).append(number)
    return {device: ranges(numbers) for device, numbers in where.items()}


def rows_that_fit(blocks: Sequence[nn.Module], row_bytes: Callable[[float], float], part: float) -> int:
    """Rows of a batch that this part of the free memory holds on every device that has blocks; at least one.

    row_bytes: what a row takes on a device that has this share of the blocks.
    """
    held = Counter(_device(block) for block in blocks)
    fitting = (free_memory(device) * part / row_bytes(own / len(blocks)) for device, own in held.items())
    return max(1, int(min(fitting)))


def _device(module: nn.Module) -> torch.device:
    return next(tensor.device for tensors in (module.parameters(), module.buffers()) for tensor in tensors)
