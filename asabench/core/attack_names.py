"""What attacks are called: where they are asked for, and in rows and tables. Only this module takes their names apart.

An attack is asked for by a *specification*: `name[:option=value...]` for one that comes with ASABench or that an
installed package announces, `package.module:Name[:option=value...]` for anybody's. In rows and tables it stands under
its *recorded name*. For ASABench's own that is the name and what is not the default (`pgd:steps=4`; `gradient-ascend`
is `gradient:direction=ascend`). For anybody else's it is the import path and every argument that was given, in order
of their names: a specification, with which the same attack is asked for again, and which no other module can have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from asabench.core.errors import UserError

REQUIRED_ATTACKS = ("random", "gradient-ascend", "gradient-descend", "pgd")
"""What every ranked entry was attacked with. `pgd` is the adaptive one: it works through the defence itself."""

TOWARDS = "towards"
"""What stands before a target's name in the recorded name of an attack that is run towards a list of targets:
`pgd:towards=sure-here-is`. No attack has an option of that name."""

OTHER = "other"
"""The family of an attack that states none."""

JOINT = "blocks=joint"
"""The option with which an attack of ours acts on every block at once, with the direction that it has for each:
`pgd:blocks=joint`. It is an attack of its own, with one cell where the other has one a block."""

WHOLE_DOSE = 1.0
"""The dose of an attack that has none: what it does, it does once."""


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """What readers of rows and help texts know of an attack that comes with ASABench, without loading it.

    family: what it is compared as. uses_seed: whether it draws by a run's seeds. needs_targets: whether it works
    towards a prompt's target. variants: recorded names that differ from the attack's own, and the option that each
    stands for. whole: it changes the stream at every position, the prompt's included, at no one block and no dose
    (`layers_of`, `doses_of`). control: the name of its matched control (`control_of`); None: it is one itself.
    `harness.attacks` has a module of the attack's name, and a test holds that the two say the same.
    """

    family: str
    uses_seed: bool = False
    needs_targets: bool = False
    variants: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False
    control: str | None = "random"


BUILT_IN: Mapping[str, BuiltIn] = {
    "random": BuiltIn(family="random", uses_seed=True, control=None),
    "gradient": BuiltIn(
        family="gradient",
        needs_targets=True,
        variants={"gradient-ascend": "direction=ascend", "gradient-descend": "direction=descend"},
    ),
    "pgd": BuiltIn(family="pgd", needs_targets=True),
    "mean_difference": BuiltIn(family="mean_difference"),
    "ablation": BuiltIn(family="ablation", whole=True, control="random_ablation"),
    "random_ablation": BuiltIn(family="random_ablation", uses_seed=True, whole=True, control=None),
}
"""The attacks that come with ASABench. Another is a line here and a file in `harness/attacks/`."""

RECORDED_NAME = r"^[A-Za-z_][A-Za-z0-9._:=%-]{0,159}$"
"""What a recorded name may be: too little for a text to stand in it."""

_BY_RECORDED = {recorded: known for name, known in BUILT_IN.items() for recorded in (name, *known.variants)}


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """A specification, taken apart. `name`: of an attack, or an import path `package.module:Name`; `options`: as text,
    in the order given."""

    name: str
    options: Mapping[str, str]

    @property
    def is_path(self) -> bool:
        return ":" in self.name


REQUIRED = "required"
"""Asks for the attacks of `REQUIRED_ATTACKS` in a list of specifications."""


def split_specs(text: str) -> list[str]:
    """The specifications that stand between commas; `required` stands for those of `REQUIRED_ATTACKS`."""
    return [
        spec
        for part in text.split(",")
        for spec in ([spec_of(name) for name in REQUIRED_ATTACKS] if part == REQUIRED else [part])
    ]


def read_spec(text: str) -> AttackSpec:
    """Takes a specification apart; `UserError` for one that cannot be read. Whether there is such an attack is not
    asked. In arguments of others' attacks `%3A` is a colon, `%2C` a comma, and so on, as in a URL."""
    name, *rest = text.split(":")
    own = name in BUILT_IN
    if not own and rest and "=" not in rest[0]:
        name, rest = f"{name}:{rest[0]}", rest[1:]
    options: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"the option {part!r} of attack {text!r} cannot be read; write name:option=value")
        if key in options:
            raise UserError(f"the option {key!r} of attack {text!r} is there twice; give it once")
        options[key] = value if own else unquote(value)
    return AttackSpec(name=name, options=options)


def recorded_name(path: str, options: Mapping[str, str]) -> str:
    """The recorded name of an attack that does not come with ASABench; `UserError` where it would be none."""
    if TOWARDS in options:
        raise UserError(f"the attack {path} cannot be recorded with an option {TOWARDS!r}: it names targets of a list")
    # What `quote` leaves as it is and a recorded name may not hold
    written = {key: quote(value, safe="").replace("~", "%7E") for key, value in options.items()}
    name = ":".join([path, *(f"{key}={written[key]}" for key in sorted(written))])
    if not re.fullmatch(RECORDED_NAME, name):
        raise UserError(
            f"the attack {name!r} cannot be recorded; its path and options may have 160 characters together, and the "
            "path plain letters, digits and . _ - alone"
        )
    return name


def built_in(recorded: str) -> BuiltIn | None:
    """What is known of the attack of a row or table; None for one that does not come with ASABench."""
    name, *options = recorded.split(":")
    # A class of a module that has the name of an attack of ours is no attack of ours
    return _BY_RECORDED.get(name) if all("=" in option for option in options) else None


def family_of(recorded: str) -> str:
    """The family of the attack of a row or table. Others' attacks are of the family `OTHER` here, whatever they state:
    a row must be read without their code."""
    known = built_in(recorded)
    return OTHER if known is None else known.family


AWAY = "target=away"
"""With this option `gradient` and `pgd` raise the loss of the model's own refusal instead of working on a target."""


def works_towards_target(recorded: str) -> bool:
    """Whether the attack of a row or table works on the target of a prompt."""
    known = built_in(recorded)
    return known is not None and known.needs_targets and AWAY not in recorded.split(":")[1:]


def is_whole(recorded: str) -> bool:
    """Whether the attack of a row or table changes the whole stream, at no one block and no dose."""
    known = built_in(recorded)
    return known is not None and known.whole


def is_joint(recorded: str) -> bool:
    """Whether the attack of a row or table acts on every block at once (`JOINT`)."""
    return built_in(recorded) is not None and JOINT in recorded.split(":")[1:]


def has_blocks(recorded: str) -> bool:
    """Whether the attack of a row or table has a cell a block, and so LASR and PASR."""
    return not is_whole(recorded) and not is_joint(recorded)


def layers_of(recorded: str, layers: Sequence[int]) -> Sequence[int | None]:
    """The blocks of an attack's cells: those of the run, or None once for an attack that acts on no one block."""
    return layers if has_blocks(recorded) else (None,)


def doses_of(recorded: str, doses: Sequence[float]) -> Sequence[float]:
    """The doses of an attack's cells: those of the run, or `WHOLE_DOSE` once for an attack that has none."""
    return (WHOLE_DOSE,) if is_whole(recorded) else doses


def control_of(recorded: str) -> str | None:
    """The recorded name of an attack's matched control: the same positions, norm and doses in a random direction. None
    for an attack that is one. Under equation (1) every direction has the same norm at equal dose, so that of all
    attacks at one block, others' too, is `random`; of an attack on every block it is `random` on every block."""
    recorded, _ = apart(recorded)
    known = built_in(recorded)
    if known is None:
        return "random"
    if known.control is None:
        return None
    if known.whole:
        return ":".join([known.control, *recorded.split(":")[1:]])
    return ":".join([known.control, *([JOINT] if is_joint(recorded) else [])])


def towards(recorded: str, target: str) -> str:
    """The recorded name of an attack that is run towards one target of a list. target: its short name."""
    return f"{recorded}:{TOWARDS}={target}"


def apart(recorded: str) -> tuple[str, str | None]:
    """A recorded name without its target, and the target's name; None for an attack that is run towards no list."""
    whole, mark, target = recorded.rpartition(f":{TOWARDS}=")
    return (whole, target) if mark else (recorded, None)


def spec_of(recorded: str) -> str:
    """The specification that asks for the attack of a row or table: `gradient-ascend` is
    `gradient:direction=ascend`. Of one that is run towards a list, which the protocol names, the attack alone."""
    recorded, _ = apart(recorded)
    name, *options = recorded.split(":")
    for own, known in BUILT_IN.items():
        if name in known.variants:
            return ":".join([own, known.variants[name], *options])
    return recorded


def names_without_targets() -> Sequence[str]:
    """Of the attacks that come with ASABench, those that need no target."""
    return [name for name, known in BUILT_IN.items() if not known.needs_targets]
