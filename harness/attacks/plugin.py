"""Somebody else's attack as the harness uses it: under its recorded name, and with what it gives checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asabench.core.attack_names import OTHER, recorded_name
from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell
from harness.attacks.options import read_options
from harness.model.memory import is_out_of_memory
from harness.model.subject import Subject
from harness.plugins import blamed, imported, made


@dataclass(frozen=True, kw_only=True)
class PluginAttack:
    """`inner` is theirs. Its own `name`, if it has one, is not used: another attack may have the same."""

    name: str
    family: str
    uses_seed: bool
    needs_targets: bool
    inner: Any

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU. Raises `UserError` for whatever `inner` raises, and for what is no
        direction for each cell."""
        what = f"the attack {self.name} gives no directions"
        # Out of memory is the sweep's to handle: it takes smaller batches
        with blamed(what, type(self.inner).__module__, passes=is_out_of_memory):
            found = self.inner.directions(subject, cells)
        wanted = (len(cells), subject.d_model)
        if not isinstance(found, Tensor):
            raise UserError(f"{what}: it returned a {type(found).__name__}, and a tensor (cell, d_model) is needed")
        if found.shape != wanted or found.is_complex():
            raise UserError(
                f"{what}: it returned a tensor {tuple(found.shape)} of {found.dtype}, and real numbers "
                f"(cell, d_model), here {wanted}, are needed"
            )
        found = found.detach().to("cpu", torch.float32)
        if bad := int((~found.isfinite()).any(dim=1).sum()):
            raise UserError(f"{what}: {bad} of the {len(cells)} that it returned hold NaN or infinite numbers")
        return found


def plugin_attack(path: str, options: Mapping[str, str], protocol: Protocol) -> PluginAttack:
    """The attack of the import path `package.module:Name`, with its options as text. Raises `UserError`.

    What it may leave out: `uses_seed` (True: a cell a seed is right for every attack), `needs_targets` (False) and
    `family` (`other`).
    """
    name = recorded_name(path, options)
    make = imported("attack", path)
    inner = made(f"the attack {name} cannot be made", make, protocol, **read_options(name, make, options))
    with blamed(f"the attack {name} cannot be used", type(inner).__module__):
        directions = getattr(inner, "directions", None)
        stated: dict[str, Any] = {
            "family": getattr(inner, "family", OTHER),
            "uses_seed": getattr(inner, "uses_seed", True),
            "needs_targets": getattr(inner, "needs_targets", False),
        }
    if not callable(directions):
        raise UserError(f"{name} is no attack: it has no `directions(subject, cells)` (harness.attacks.Attack)")
    for key, kind in (("family", str), ("uses_seed", bool), ("needs_targets", bool)):
        if not isinstance(stated[key], kind):
            raise UserError(
                f"the attack {name} states {key} as a {type(stated[key]).__name__}; "
                f"allowed: {'a text' if kind is str else 'True or False'}"
            )
    return PluginAttack(name=name, inner=inner, **stated)
