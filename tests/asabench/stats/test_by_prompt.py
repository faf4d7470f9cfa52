"""How far single prompts held, against hand-worked shares."""

from __future__ import annotations

import pytest

from asabench.stats.by_prompt import held_by_prompt
from asabench.stats.metrics import attack_result
from tests.tables import frame, lines

# By block and seed, a letter a prompt: p000 breaks under one seed of two, p001 never, p002 under both
GRID = {(0, 0): "uss", (1, 0): "ssu", (0, 1): "ssu", (1, 1): "sss"}


def test_shares_of_single_prompts_have_the_rate_as_mean() -> None:
    table = frame(lines(GRID))
    result = attack_result(table, "random", 1.0)
    held = held_by_prompt(table, result)
    assert held == {"p000": 0.5, "p001": 1.0, "p002": 0.0}
    assert result.masr.value == pytest.approx(1 - sum(held.values()) / 3)


def test_at_one_block() -> None:
    table = frame(lines(GRID))
    held = held_by_prompt(table, attack_result(table, "random", 1.0), layer=0)
    assert held == {"p000": 0.5, "p001": 1.0, "p002": 0.5}


def test_what_is_unscored_counts_as_broken() -> None:
    table = frame(lines({(0, 0): "s", (1, 0): "?", (0, 1): "s", (1, 1): "s"}))
    assert held_by_prompt(table, attack_result(table, "random", 1.0)) == {"p000": 0.5}
