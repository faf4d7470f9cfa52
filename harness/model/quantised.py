"""Whether gradients that pass through quantised weights mean anything; measured, since each method differs.

Kernels without a backward put out a tensor that autograd does not know. In a decoder that goes unnoticed: the residual
stream carries a gradient past them, one without the layers. Others round what comes in and pass a gradient of the scale
alone. So a block's layers are tried one by one: they are linear, and what a step changes is what the gradient says.
"""

from __future__ import annotations

from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from asabench.core.attack_names import names_without_targets
from asabench.core.errors import UserError
from harness.model import architecture
from harness.model.subject import Subject
from harness.stream.injection import edit

WITHIN = 0.5
"""How far the change that the gradient says may lie from the change there is, as a share of it: rounding to 8 bits is
far below, a gradient of something else far above."""

_found: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def require_gradients(subject: Subject) -> None:
    """`UserError` where the model's weights are quantised and gradients do not pass them; tried once a model."""
    how = architecture.quantisation(architecture.configuration(subject.model))
    if how is None:
        return
    if subject.model not in _found:
        _found[subject.model] = layer_without_gradient(subject) or ""
    if layer := _found[subject.model]:
        raise UserError(
            f"the weights of {subject.name} are quantised ({how}) and gradients do not pass through {layer}; use "
            f"weights that are not quantised, or the attacks {' and '.join(names_without_targets())}"
        )


def layer_without_gradient(subject: Subject) -> str | None:
    """The first layer of the middle block whose gradient is not what it does; None where all are."""
    block = subject.blocks[subject.n_layers // 2]
    layers = {name: module for name, module in block.named_modules() if _is_matrix(module)}
    given: dict[int, Tensor] = {}

    def keep(index: int, layer_input: Tensor, layer_output: Tensor) -> None:
        given[index] = layer_input.detach()

    ids = torch.arange(4, device=subject.device)[None] % (subject.vocabulary_size - 1) + 1
    modules = list(layers.values())
    with torch.no_grad(), edit(modules, {index: partial(keep, index) for index in range(len(modules))}):
        subject.forward(ids, torch.ones_like(ids))
    for index, name in enumerate(layers):
        if index in given and not _gradient_holds(modules[index], given[index]):
            return name
    return None


def _is_matrix(module: nn.Module) -> bool:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return not list(module.children()) and any(tensor.dim() > 1 for tensor in own)


def _gradient_holds(layer: nn.Module, at: Tensor) -> bool:
    """Whether a step of the input's own size changes the output as the gradient says."""
    step = torch.randn(at.shape, generator=torch.Generator().manual_seed(0)).to(at)
    step = step * (at.float().norm() / step.float().norm()).to(at.dtype)
    with torch.no_grad():
        change = (layer(at + step) - layer(at)).float()
    try:
        with torch.enable_grad():
            wanted = at.clone().requires_grad_()
            (gradient,) = torch.autograd.grad((layer(wanted).float() * change).sum(), [wanted])
    except RuntimeError:
        return False
    there = float(change.square().sum())
    return bool(abs(float((gradient.float() * step.float()).sum()) - there) <= WITHIN * there)
