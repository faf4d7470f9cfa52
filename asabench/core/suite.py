"""`--attack auto`: the suite of attacks without parameters, and the doses it searches. docs/decisions/0018 says why.

For each prompt it looks for the smallest dose at which any member breaks it at any block: its radius.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asabench.core.errors import UserError

AUTO = "auto"
"""What the suite is asked for as (`--attack auto`), and the name that its results stand under in rows."""

PUBLISHED_DOSES = (0.1, 0.3, 1.0)
"""The doses of the published sizes: the suite's rates are given at them too."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """An attack of the suite. spec: how it is asked for; name: as it is recorded. passes: forwards over the target that
    it takes to find the direction of one answer; prompt_passes: those that all answers of a prompt share."""

    spec: str
    name: str
    passes: int = 0
    prompt_passes: int = 0


@dataclass(frozen=True, kw_only=True)
class Suite:
    """members: from cheap to dear, which is the order of the search. doses: ascending, each `step` times the one
    before. Another suite has another id: its radii do not compare with this one's."""

    id: str
    members: tuple[Member, ...]
    doses: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def specs(self) -> tuple[str, ...]:
        return tuple(member.spec for member in self.members)

    def forwards(self, answers: Mapping[str, int], tokens: int, prompts: int) -> int:
        """What was paid, in forwards of one row: one a token, and those of the attacks. answers: by recorded attack."""
        by_name = {member.name: member for member in self.members}
        found = [(by_name.get(attack), number) for attack, number in answers.items()]
        own = sum(member.passes * number + member.prompt_passes * prompts for member, number in found if member)
        return tokens + own


def dose_grid(first: float, octaves: int, halvings: int) -> tuple[float, ...]:
    """`first * 2**k` for k up to `octaves`, and every gap halved (at its geometric mean) `halvings` times."""
    parts = 2**halvings
    # Short numbers: a dose stands in tables and in the ids of cells
    return tuple(round(first * 2 ** (place / parts), 4) for place in range(octaves * parts + 1))


SUITES: dict[str, Suite] = {
    "auto-1": Suite(
        id="auto-1",
        members=(
            Member(spec="gradient:direction=descend", name="gradient-descend", prompt_passes=1),
            Member(spec="random", name="random"),
            Member(spec="gradient:direction=ascend", name="gradient-ascend", prompt_passes=1),
            Member(spec="mean_difference", name="mean_difference"),
            Member(spec="pgd", name="pgd", passes=18, prompt_passes=1),
            Member(spec="pgd:steps=16:starts=3", name="pgd:steps=16:starts=3", passes=51, prompt_passes=1),
        ),
        # To a resolution of the fourth root of 2: neighbours differ by a fifth
        doses=dose_grid(0.02, octaves=6, halvings=2),
        seeds=(0, 1, 2),
    )
}
CURRENT = "auto-1"
"""The suite that `--attack auto` is today."""


def suite_of(suite_id: str) -> Suite:
    """`UserError` for a suite that this version does not know."""
    if suite_id not in SUITES:
        raise UserError(f"unknown suite {suite_id!r}; this version knows {', '.join(SUITES)}; install a newer one")
    return SUITES[suite_id]
