"""How much memory there is, and keeping what was freed."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device; on a CPU, within the limit of the container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        available = min(available, int(text) - int(used.read_text()))
    return max(available, 0)


def most_room() -> int:
    """Bytes that weights can take at most: what is free on the CPU and all that GPUs have. What is free there is not
    asked: that takes memory on each of them."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return free_memory(torch.device("cpu")) + sum(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Asks glibc to keep freed blocks of up to 1 GiB instead of returning them to the system; says if it agreed.

    A decoding step allocates and frees logits of a hundred megabytes; fetched anew from the system each time, they
    cost a tenth of the step in page faults (docs/results/speed.md). Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    wishes = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 1 << 26))
    return all(mallopt(option, value) == 1 for option, value in wishes)
