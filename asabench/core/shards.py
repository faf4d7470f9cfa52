"""Shares of a run for many workers: prompts are dealt out by a hash of their ids.

All cells of a prompt stay together, so that a worker reads each prompt once and its clean answer lies beside the
steered ones. The share of a prompt depends on nothing but its id and the number of shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from asabench.core.errors import UserError
from asabench.core.records import sha256_hex

VARIABLE = "ASABENCH_SHARD"
ARRAY = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Share `number`, from 1 on, of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, prompt_id: str) -> bool:
        """Whether a prompt belongs to this share."""
        return int(sha256_hex(prompt_id)[:16], 16) % self.count == self.number - 1


def read_shard(text: str) -> Shard:
    """The share that a text such as `3/8` names; `UserError` for any other text."""
    if found := re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text):
        number, count = int(found[1]), int(found[2])
        if 1 <= number <= count:
            return Shard(number=number, count=count)
    raise UserError(f"the shard {text!r} cannot be read; give I/N with I from 1 to N, such as 3/8")


def shard_here(asked: str | None, environment: Mapping[str, str]) -> Shard | None:
    """The share that this process is to work on: what was asked for, else `ASABENCH_SHARD`, else the place in an array
    of jobs as Slurm tells it; None where none of them says anything. `UserError` for what cannot be read."""
    if asked is not None:
        return read_shard(asked)
    if VARIABLE in environment:
        try:
            return read_shard(environment[VARIABLE])
        except UserError as error:
            raise UserError(f"{VARIABLE}: {error}") from None
    if f"{ARRAY}ID" not in environment:
        return None
    try:
        task, count = int(environment[f"{ARRAY}ID"]), int(environment[f"{ARRAY}COUNT"])
        first, step = int(environment.get(f"{ARRAY}MIN", "0")), int(environment.get(f"{ARRAY}STEP", "1"))
    except (KeyError, ValueError):
        task, count, first, step = -1, 0, 0, 1
    place, rest = divmod(task - first, step) if step > 0 else (-1, 0)
    if rest or not 0 <= place < count:
        raise UserError(
            f"the place in the array of jobs cannot be read from {ARRAY}ID, COUNT, MIN and STEP; give --shard I/N, or "
            "--shard 1/1 for the whole run"
        )
    return Shard(number=place + 1, count=count)
