"""Attacks: each proposes raw directions. One file each.

An attack does not normalise, dose or apply what it proposes: `harness.stream.perturbation` and
`harness.stream.injection` do, the same way for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol as Interface

from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell
from harness.attacks.gradient import GradientAttack
from harness.attacks.mean_difference import MeanDifferenceAttack
from harness.attacks.pgd import PgdAttack
from harness.attacks.random import RandomAttack
from harness.model.subject import Subject
from harness.plugins import imported


class Attack(Interface):
    """What the harness asks of an attack. `name` stands in the `attack` column; `uses_seed` is False when every seed
    would give the same directions (then there is one cell per dose and layer, with no seed). An attack may also have
    `needs_targets = True`: then prompts without a target are refused before anything runs."""

    @property
    def name(self) -> str: ...

    @property
    def uses_seed(self) -> bool: ...

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """Raw directions (cell, d_model), float32 on the CPU, in the order of `cells`."""
        ...


Options = dict[str, str]
"""What stands behind the name on the command line: `gradient:direction=descend:at=reference`."""

ATTACKS: dict[str, Callable[..., Attack]] = {
    "random": lambda protocol: RandomAttack(noise=protocol.noise),
    "gradient": GradientAttack,
    "pgd": PgdAttack,
    "mean_difference": MeanDifferenceAttack,
}


def make_attack(spec: str, protocol: Protocol) -> Attack:
    """An attack from `name[:option=value...]`, or someone else's from `package.module:Name[:option=value...]`.

    Theirs is called as ours are: with the protocol, and the options by keyword.
    """
    name, *rest = spec.split(":")
    make = ATTACKS.get(name)
    if make is None:
        if "." not in name and not (rest and "=" not in rest[0]):
            raise UserError(
                f"unknown attack {name!r}; allowed: {', '.join(ATTACKS)}, or an import path such as package.module:Name"
            )
        make, rest = imported("attack", name, rest[0] if rest else ""), rest[1:]
    options: Options = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"the option {part!r} of attack {spec!r} cannot be read; write name:option=value")
        options[key] = value
    try:
        return make(protocol, **options)
    except TypeError as error:
        raise UserError(f"the attack {spec!r} cannot be made: {error}") from None


def make_attacks(specs: Sequence[str], protocol: Protocol) -> dict[str, Attack]:
    """The attacks of several specifications, by name; `UserError` when two have the same name."""
    attacks: dict[str, Attack] = {}
    for spec in specs:
        attack = make_attack(spec, protocol)
        if attack.name in attacks:
            raise UserError(f"the attack {attack.name} is there twice; give each once")
        attacks[attack.name] = attack
    if not attacks:
        raise UserError(f"no attack was given; allowed: {', '.join(ATTACKS)}")
    return attacks
