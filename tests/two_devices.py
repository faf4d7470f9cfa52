"""A model over two devices, where a machine has one: tensors carry the name of a device that they are said to be on.

Under `Elsewhere` every function of torch asks that name in place of the real one, and refuses tensors of two names, as
a GPU would; `.to` is the way from one to the other. Indices may be on the CPU, and so may numbers without dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
INDEXES = ("index_select", "__getitem__", "__setitem__")
MOVES = ("copy_", "to", "cpu", "new_empty", "empty_like")


def place_of(tensor: Tensor) -> torch.device:
    return getattr(tensor, "said_device", CPU)


def put(tensor: Tensor, device: torch.device) -> Tensor:
    tensor.said_device = device  # type: ignore[attr-defined]
    return tensor


class Elsewhere(TorchFunctionMode):
    """See the module. `crossings` counts the tensors that went from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = (resolve_name(function) or getattr(function, "__name__", "")).rpartition(".")[2]
        if function == Tensor.device.__get__:  # type: ignore[attr-defined]
            return place_of(args[0])
        if name in ("to", "cpu"):
            return self._moved(name, args, kwargs)
        if name == "__get__" or name.startswith("is_"):
            return function(*args, **kwargs)
        if name == "grad" and not isinstance(args[0], Tensor):  # of tensors anywhere
            return tuple(put(found, place_of(of)) for found, of in zip(function(*args, **kwargs), args[1], strict=True))
        given = kwargs.pop("device", None)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = {place_of(tensor) for tensor in tensors if tensor.dim() or place_of(tensor) != CPU}
        if len(places) > 1 and name in INDEXES:
            places.discard(CPU)  # an index
        if len(places) > 1 and name not in MOVES:
            raise AssertionError(f"{name} was given tensors on {', '.join(sorted(map(str, places)))}")
        where = torch.device(given) if given is not None else next(iter(places), CPU)
        if name in MOVES and tensors and given is None:
            where = place_of(tensors[0])
        found = function(*args, **kwargs)
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                put(leaf, where)
        return found

    def _moved(self, name: str, args: Any, kwargs: Any) -> Tensor:
        tensor, *rest = args
        kwargs = dict(kwargs)
        where = torch.device("cpu") if name == "cpu" else None
        kept = []
        for each in (*rest, *([kwargs.pop("device")] if kwargs.get("device") is not None else [])):
            if isinstance(each, torch.device | str):
                where = torch.device(each)
            elif isinstance(each, Tensor):
                where = place_of(each)
                kept.append(each.dtype)
            else:
                kept.append(each)
        before = place_of(tensor)
        where = before if where is None else where
        with torch._C.DisableTorchFunction():
            found = tensor.to(*kept, **kwargs) if kept or kwargs else tensor
            if where != before:
                found = found.clone() if found is tensor else found
                self.crossings += 1
        return put(found, where) if found is not tensor or where == before else put(found.clone(), where)


def spread(model: Any, first: torch.device, second: torch.device, blocks: Any) -> None:
    """Says that the embeddings and the lower half of the blocks are on one device and all else on another; each module
    moves what it is called with, as accelerate has it."""
    half = len(blocks) // 2
    upper = {id(module) for block in blocks[half:] for module in block.modules()}
    last = {id(module) for module in (model.get_output_embeddings(), getattr(model.get_decoder(), "norm", None))}
    for module in model.modules():
        device = second if id(module) in upper | last else first
        for tensor in _own(module):
            put(tensor, device)
    for module in (*blocks, model.get_output_embeddings(), model.get_decoder().norm):
        _moves(module, second if id(module) in upper | last else first)


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _moves(module: nn.Module, device: torch.device) -> None:
    forward = module.forward

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, tuple):
            return tuple(moved(each) for each in value)
        return value

    def on_its_device(*args: Any, **kwargs: Any) -> Any:
        return forward(*map(moved, args), **{name: moved(value) for name, value in kwargs.items()})

    module.forward = on_its_device  # type: ignore[method-assign]
