"""Attacks: each proposes raw directions. One file each.

An attack does not normalise, dose or apply what it proposes: `harness.stream.perturbation` and
`harness.stream.injection` do, the same way for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol as Interface
from typing import runtime_checkable

from torch import Tensor

from asabench.core.attack_names import BUILT_IN, JOINT, AttackSpec, control_of, is_whole, read_spec
from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks.jointly import Jointly
from harness.attacks.options import read_options
from harness.attacks.plugin import plugin_attack
from harness.attacks.towards import towards_each
from harness.model.subject import Subject
from harness.plugins import path_of
from harness.stream.rewrite import Rewrite


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
        """Raw directions (cell, d_model), float32 on the CPU, in the order of `cells`. For cells without a layer, which
        only attacks that come with ASABench are asked for: (cell, block, d_model), one of each block."""
        ...


@runtime_checkable
class WholeAttack(Interface):
    """An attack that changes the whole stream (`asabench.core.attack_names.is_whole`): it says what is done to it.

    check_prompts: `UserError` where it cannot be tried on these prompts.
    """

    def rewrite(self, subject: Subject, cells: Sequence[Cell]) -> Rewrite: ...

    def check_prompts(self, prompts: Sequence[Prompt]) -> None: ...

    def found(self, subject: Subject) -> dict[str, str]:
        """What it was fitted to, for the record of a run."""
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
        return _own_attack(asked, protocol)
    path = asked.name if asked.is_path else path_of("attack", asked.name, own=ATTACKS, forms=ATTACKS)
    return plugin_attack(path, asked.options, protocol)


def _own_attack(asked: AttackSpec, protocol: Protocol) -> Attack:
    """One that comes with ASABench, on every block at once where that is asked."""
    make, options = ATTACKS[asked.name], dict(asked.options)
    option, value = JOINT.split("=")
    if (given := options.pop(option, None)) is None:
        return make(protocol, **read_options(asked.name, make, options))
    if given != value:
        raise UserError(f"{asked.name}: {option}={given} cannot be used; allowed: {value}, or leave it out")
    if BUILT_IN[asked.name].whole:
        raise UserError(f"{asked.name} acts on every block as it is; leave {JOINT} out")
    return Jointly(inner=make(protocol, **read_options(asked.name, make, options)))


def on_every_block(specs: Sequence[str]) -> list[str]:
    """The specifications of the same attacks on every block at once. `UserError` for an attack that does not come with
    ASABench: it is asked for one block at a time."""
    found = []
    for spec in specs:
        name = read_spec(spec).name
        if name not in BUILT_IN:
            raise UserError(f"the attack {name} proposes directions for one block; leave it out beside --layers joint")
        found.append(spec if BUILT_IN[name].whole or JOINT in spec.split(":") else f"{spec}:{JOINT}")
    return found


def with_controls(specs: Sequence[str], protocol: Protocol) -> list[str]:
    """The specifications, and those of the matched controls that are not among them
    (`asabench.core.attack_names.control_of`)."""
    names = {spec: make_attack(spec, protocol).name for spec in specs}
    wanted: dict[str, str] = {}
    for spec, name in names.items():
        if (control := control_of(name)) is not None and control not in names.values():
            # With the options as they were given: a recorded name has files by their digests
            options = spec.split(":")[1:] if is_whole(name) else control.split(":")[1:]
            wanted[control] = ":".join([control.split(":")[0], *options])
    return [*specs, *wanted.values()]


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
