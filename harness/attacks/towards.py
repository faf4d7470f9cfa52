"""An attack that is run towards one target of a list, whatever target its prompts have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from asabench.core.attack_names import towards
from asabench.core.records import Cell
from asabench.core.targets import TargetList
from harness.model.subject import Subject

if TYPE_CHECKING:
    from harness.attacks import Attack


@dataclass(frozen=True, kw_only=True)
class TowardsTarget:
    """`inner` is the attack; `target` the text, and `target_name` its short name in the list."""

    inner: Attack
    target_name: str
    target: str

    needs_targets = False  # of its prompts

    @property
    def name(self) -> str:
        return towards(self.inner.name, self.target_name)

    @property
    def family(self) -> str:
        return self.inner.family

    @property
    def uses_seed(self) -> bool:
        return self.inner.uses_seed

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """(cell, d_model), float32 on the CPU: what `inner` gives for the same prompts with this target."""
        given = {cell.prompt: replace(cell.prompt, target=self.target, target_sha256=None) for cell in cells}
        own = [replace(cell, prompt=given[cell.prompt], attack=self.inner.name) for cell in cells]
        return self.inner.directions(subject, own)


def towards_each(attacks: Mapping[str, Attack], targets: TargetList | None) -> dict[str, Attack]:
    """The attacks by name, each that works towards a target once for every target of the list; as they are without a
    list."""
    if targets is None:
        return dict(attacks)
    found: dict[str, Attack] = {}
    for attack in attacks.values():
        of_list: list[Attack] = [
            TowardsTarget(inner=attack, target_name=name, target=text) for name, text in targets.by_name.items()
        ]
        found |= {each.name: each for each in (of_list if attack.needs_targets else [attack])}
    return found
