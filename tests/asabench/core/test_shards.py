"""Shares of a run: how prompts are dealt out, and how a process learns which share is its own."""

from __future__ import annotations

import hashlib

import pytest

from asabench.core.errors import UserError
from asabench.core.shards import Shard, read_shard, shard_here


def test_every_prompt_is_in_one_share_and_the_shares_are_alike() -> None:
    names = [f"advbench-{number}" for number in range(520)]
    for count in (1, 3, 32):
        shares = [Shard(number=number, count=count) for number in range(1, count + 1)]
        held = [sum(share.holds(name) for share in shares) for name in names]
        assert held == [1] * len(names)
    sizes = [sum(Shard(number=number, count=4).holds(name) for name in names) for number in range(1, 5)]
    assert min(sizes) > 90


def test_the_share_is_a_hash_of_the_id() -> None:
    first = int.from_bytes(hashlib.sha256(b"p7").digest()[:8], "big") % 5
    assert Shard(number=first + 1, count=5).holds("p7")


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/5", "", "1.0/3"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"cannot be read; give I/N with I from 1 to N, such as 3/8"):
        read_shard(text)


def test_the_option_wins_over_the_variable_and_that_over_slurm() -> None:
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}
    assert shard_here(None, {}) is None
    assert shard_here(None, array) == Shard(number=8, count=8)
    assert shard_here(None, {**array, "ASABENCH_SHARD": "2/4"}) == Shard(number=2, count=4)
    assert shard_here("1/1", {**array, "ASABENCH_SHARD": "2/4"}) == Shard(number=1, count=1)


def test_an_array_need_not_begin_at_0_or_go_in_steps_of_1() -> None:
    array = {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}
    assert shard_here(None, {**array, "SLURM_ARRAY_TASK_STEP": "2"}) == Shard(number=4, count=4)
    with pytest.raises(UserError, match="the place in the array of jobs cannot be read"):
        shard_here(None, {**array, "SLURM_ARRAY_TASK_STEP": "4"})
    with pytest.raises(UserError, match="give --shard I/N"):
        shard_here(None, {"SLURM_ARRAY_TASK_ID": "9"})


def test_a_variable_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UserError, match="ASABENCH_SHARD: the shard '3 of 8' cannot be read"):
        shard_here(None, {"ASABENCH_SHARD": "3 of 8"})
