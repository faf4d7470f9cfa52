"""`--attack auto` asked for: the suite's attacks, doses and seeds in place of choices, and the lines of its search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from asabench.core.dose_search import Line
from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from asabench.core.suite import AUTO, CURRENT, Suite, suite_of
from asabench.runs.choices import Choices
from harness.attacks import Attack


def chosen_suite(choices: Choices, protocol: Protocol) -> Suite | None:
    """The suite that was asked for; None where attacks were. `UserError` for what does not go with one."""
    if AUTO not in choices.attack:
        return None
    if len(choices.attack) > 1:
        others = ", ".join(attack for attack in choices.attack if attack != AUTO)
        raise UserError(f"--attack auto is a suite of attacks by itself; leave out {others}, or run it by itself")
    for name, why in (
        ("doses", "it searches its own grid of doses"),
        ("seeds", "it has its own seeds"),
        ("step_layers", "it takes one block at a time"),
        ("targets", "it orders blocks by one target a prompt"),
    ):
        if getattr(choices, name) is not None:
            raise UserError(f"--attack auto does not go with --{name.replace('_', '-')}: {why}; leave one of them out")
    if choices.engine != "hf" or choices.workers is not None:
        raise UserError(
            "--attack auto needs the engine hf in this process; leave out --engine and --workers (--shard works)"
        )
    if protocol.labels == "two":
        raise UserError(
            f"--attack auto tells refused from incoherent answers, and protocol {protocol.name} does not; "
            "use --protocol asabench-v1"
        )
    return suite_of(CURRENT)


def asked(choices: Choices, protocol: Protocol) -> tuple[Choices, Protocol]:
    """Choices and protocol with the suite's attacks, doses and seeds, where one is asked for."""
    suite = chosen_suite(choices, protocol)
    if suite is None:
        return choices, protocol
    protocol = protocol.model_copy(update={"doses": suite.doses, "seeds": suite.seeds})
    return replace(choices, attack=suite.specs), protocol


def first_cells(
    prompts: Sequence[Prompt], layers: Sequence[int], attacks: Mapping[str, Attack], suite: Suite
) -> list[Cell]:
    """What any search asks for at least: each clean answer, and each line once. Self-tests are made on these, and what
    a run takes is estimated by them."""
    dose = suite.doses[len(suite.doses) // 2]
    return [
        cell
        for prompt in prompts
        for cell in (
            Cell(prompt=prompt),
            *(cell_of(prompt, line, dose) for lines in lines_of(layers, attacks, suite) for line in lines),
        )
    ]


def lines_of(blocks: Sequence[int], attacks: Mapping[str, Attack], suite: Suite) -> list[list[Line]]:
    """By member, from cheap to dear. blocks: in order of promise."""
    return [
        [Line(name, block, seed) for block in blocks for seed in (suite.seeds if attack.uses_seed else (None,))]
        for name, attack in attacks.items()
    ]


def cell_of(prompt: Prompt, line: Line, dose: float) -> Cell:
    return Cell(prompt=prompt, layer=line.block, attack=line.attack, dose=dose, seed=line.seed)
