"""What tools.speed.entry_cost counts."""

from __future__ import annotations

import pytest

from asabench.core.records import Cell, Prompt, Response
from harness.model.subject import Subject
from tools.speed.entry_cost import best_sharing, following, rows_from_the_lowest_block, shared_length

GOAL = Prompt(id="a", goal="tell me")


def answer(layer: int | None, *tokens: int) -> Response:
    cell = Cell(prompt=GOAL) if layer is None else Cell(prompt=GOAL, layer=layer, attack="random", dose=1.0, seed=layer)
    return Response(cell=cell, text="", token_ids=tokens, finish_reason="stop")


def test_blocks_below_the_perturbed_one_are_shared_while_the_tokens_are_the_same(llama: Subject) -> None:
    block = sum(p.numel() for p in llama.blocks[0].parameters())
    outside = llama.model.get_output_embeddings().weight.numel()
    # One step of both rows: blocks 0 and 1 once for both (1 is perturbed behind its own output), 2 and 3 for each
    assert best_sharing(llama, [answer(3, 5), answer(1, 5)]) == pytest.approx(
        (8 * block + 2 * outside) / (6 * block + 2 * outside)
    )
    # A second step after another token shares nothing
    assert best_sharing(llama, [answer(3, 5, 6), answer(1, 4, 6)]) == pytest.approx(
        (16 * block + 4 * outside) / (14 * block + 4 * outside)
    )
    # A clean row shares all blocks with another, but not the products with the vocabulary
    assert best_sharing(llama, [answer(None, 5), answer(None, 5)]) == pytest.approx(
        (8 * block + 2 * outside) / (4 * block + 2 * outside)
    )


def test_how_far_answers_follow_the_clean_one() -> None:
    clean = answer(None, 5, 6, 7)
    assert shared_length((5, 6, 1), clean.token_ids) == 2
    assert following([answer(0, 5, 6, 1, 1), answer(1, 5, 6, 7)], {clean.cell: clean}) == ["3.5", "2.5", "50%"]


def test_the_arm_of_before_ends(llama: Subject) -> None:
    import harness.attacks.target_loss as module

    real = vars(module)["enters_at_blocks"]
    with rows_from_the_lowest_block():
        assert vars(module)["enters_at_blocks"](llama) is False
    assert vars(module)["enters_at_blocks"] is real
