"""The losses of recipes, on tensors worked by hand and against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.defences.examples import IGNORED
from harness.defences.layer_choice import fixed_layers, sampled_layers
from harness.defences.terms import (
    ascent_loss,
    away_loss,
    dpo_loss,
    floored_cross_entropy,
    kl_to_frozen,
    mean_discrepancy,
    negative_entropy,
    reroute_loss,
    stay_loss,
)

HALVES = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]).log()
LABELS = torch.tensor([[0, 1, IGNORED]])
EVERYWHERE = torch.ones(1, 2, dtype=torch.bool)


def states(*rows: list[float]) -> Tensor:
    return torch.tensor([rows])


def test_rerouting_counts_what_still_points_the_same_way() -> None:
    frozen = states([1.0, 0.0], [0.0, 2.0])
    assert reroute_loss(states([3.0, 0.0], [0.0, -1.0]), frozen, EVERYWHERE).item() == pytest.approx(0.5)
    first = torch.tensor([[True, False]])
    assert reroute_loss(states([3.0, 3.0], [0.0, -1.0]), frozen, first).item() == pytest.approx(math.sqrt(0.5))


def test_staying_is_a_distance_with_a_gradient_at_zero() -> None:
    frozen = states([1.0, 0.0], [0.0, 2.0])
    assert stay_loss(states([4.0, 4.0], [0.0, 2.0]), frozen).item() == pytest.approx(2.5, abs=1e-5)
    still = frozen.clone().requires_grad_()
    stay_loss(still, frozen).backward()  # type: ignore[no-untyped-call]
    assert still.grad is not None
    assert still.grad.isfinite().all()


def test_the_discrepancy_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator) + 1
    both = [*x, *y]
    squared = [[float((a - b).square().sum()) for b in both] for a in both]
    middle = sum(map(sum, squared)) / (6 * 5)

    def kernel(i: int, j: int) -> float:
        return sum(math.exp(-squared[i][j] / (middle * factor)) for factor in (0.25, 0.5, 1, 2, 4))

    total = sum(
        kernel(i, j) + kernel(3 + i, 3 + j) - kernel(i, 3 + j) - kernel(3 + i, j) for i in range(3) for j in range(3)
    )
    assert mean_discrepancy(x, y).item() == pytest.approx(total / 9, abs=1e-5)
    assert mean_discrepancy(x, x.clone()).item() == pytest.approx(0, abs=1e-6)
    assert mean_discrepancy(x, x + 5).item() > mean_discrepancy(x, x + 0.5).item()


def test_entropy_by_hand() -> None:
    expected = (0.5 * math.log(0.5) + 0.5 * math.log(0.25) + 0.2 * math.log(0.1) + 0.8 * math.log(0.8)) / 2
    assert negative_entropy(HALVES, LABELS).item() == pytest.approx(expected, abs=1e-6)


def test_dpo_by_hand() -> None:
    now, then = ([torch.tensor([value]) for value in values] for values in ((-1.0, -3.0), (-2.0, -2.5)))
    got = dpo_loss(now, then, beta=0.5)
    assert got.item() == pytest.approx(math.log(1 + math.exp(-0.5 * (1.0 + 0.5))), abs=1e-6)


def test_enough_is_enough() -> None:
    loss = (-math.log(0.5) - math.log(0.8)) / 2
    assert floored_cross_entropy(HALVES, LABELS, 0.1).item() == pytest.approx(loss, abs=1e-6)
    assert floored_cross_entropy(HALVES, LABELS, 1.0).item() == pytest.approx(1 + 0.001 * (loss - 1), abs=1e-6)
    assert ascent_loss(HALVES, LABELS, 5.0).item() == pytest.approx(-loss, abs=1e-6)
    assert ascent_loss(HALVES, LABELS, 0.2).item() == pytest.approx(-(0.2 + 0.001 * (loss - 0.2)), abs=1e-6)


def test_unlikely_tokens_lose_their_gradient_below_the_cutoff() -> None:
    logits = HALVES.clone().requires_grad_()
    loss = away_loss(logits, LABELS, cutoff=math.log(0.6))
    assert loss.item() == pytest.approx((-math.log(0.5) - math.log(0.2)) / 2, abs=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() == 0
    assert logits.grad[0, 1].abs().sum() > 0


def test_kl_by_hand() -> None:
    other = torch.tensor([[[0.25, 0.5, 0.25], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]]]).log()
    expected = (0.5 * math.log(2) + 0.25 * math.log(0.5)) / 2
    assert kl_to_frozen(other, HALVES, LABELS).item() == pytest.approx(expected, abs=1e-6)


def test_blocks_are_drawn_by_their_gradients() -> None:
    gradients = {n: torch.full((2, 3), float(n == 2)) for n in range(5)}
    drawn = [sampled_layers(gradients, 1, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert drawn == [[2]] * 20
    flat = {n: torch.zeros(2) for n in range(5)}
    assert len({n for seed in range(20) for n in sampled_layers(flat, 2, torch.Generator().manual_seed(seed))}) == 5
    assert sampled_layers(flat, 9, torch.Generator().manual_seed(0)) == [0, 1, 2, 3, 4]


def test_fixed_choices_of_blocks() -> None:
    assert fixed_layers("all", 2, 5, [3]) == [0, 1, 2, 3, 4]
    assert fixed_layers("even", 2, 8, [3]) == [2, 6]
    assert fixed_layers("given", 2, 8, [3, 5]) == [3, 5]
