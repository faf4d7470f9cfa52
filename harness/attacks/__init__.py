"""Attacks: each proposes raw directions. One file each.

An attack does not normalise, dose or apply what it proposes: `harness.stream.perturbation` and
`harness.stream.injection` do, the same way for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol as Interface

from torch import Tensor

from asabench.core.attack_names import BUILT_IN, read_spec
from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell
from harness.attacks.options import read_options
from harness.attacks.plugin import plugin_attack
from harness.attacks.towards import towards_each
from harness.model.subject import Subject
from harness.plugins import path_of


class Attack(Interface):
    """What the harness asks of an attack.

    name: what stands in the `attack` column (`asabench.core.attack_names`). family: what it is compared as.
    uses_seed: False when every seed would give the same directions; then there is one cell per dose and layer, with no
    seed. needs_targets: prompts without a target are refused before anything runs.
    """

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def uses_seed(self) -> bool: ...

    @property
    def needs_targets(self) -> bool: ...

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        """Raw directions (cell, d_model), float32 on the CPU, in the order of `cells`."""
        ...


def stated(attack: Attack) -> dict[str, str | bool]:
    """What an attack says of itself, by name: recorded with a run."""
    return {"family": attack.family, "uses_seed": attack.uses_seed, "needs_targets": attack.needs_targets}


def needs_weights(attack: Attack) -> bool:
    """Whether an attack looks at the model: all do but those that say what the generator of a cell's draws starts at
    (`generator_seeds`), so that an engine in another process can draw the same there."""
    return not hasattr(attack, "generator_seeds")


ATTACKS: dict[str, Callable[..., Attack]] = {name: import_module(f"harness.attacks.{name}").make for name in BUILT_IN}
"""What makes each attack that comes with ASABench: called with the protocol, and its options by keyword."""


def make_attack(spec: str, protocol: Protocol) -> Attack:
    """The attack of a specification (`asabench.core.attack_names`). Raises `UserError`.

    Somebody else's is made as ours are: called with the protocol, and the options by keyword, as its constructor
    declares them (`harness.attacks.options`).
    """
    asked = read_spec(spec)
    if asked.name in ATTACKS:
        make = ATTACKS[asked.name]
        return make(protocol, **read_options(asked.name, make, asked.options))
    path = asked.name if asked.is_path else path_of("attack", asked.name, own=ATTACKS, forms=ATTACKS)
    return plugin_attack(path, asked.options, protocol)


def make_attacks(specs: Sequence[str], protocol: Protocol) -> dict[str, Attack]:
    """The attacks of several specifications, by name, those that need a target once for each of the protocol's
    `targets`; `UserError` when two have the same name."""
    attacks: dict[str, Attack] = {}
    for spec in specs:
        attack = make_attack(spec, protocol)
        if attack.name in attacks:
            raise UserError(f"the attack {attack.name} is there twice; give each once")
        attacks[attack.name] = attack
    if not attacks:
        raise UserError(f"no attack was given; allowed: {', '.join(ATTACKS)}")
    return towards_each(attacks, protocol.targets)
