"""Equations (1) and (2) against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from harness.stream.perturbation import normalise, perturb, standardise


def test_standardise_by_hand() -> None:
    # mean 2, unbiased std of (1, 2, 3) is 1
    assert standardise(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)


def test_normalise_takes_mean_and_std_of_the_reference() -> None:
    unit = torch.tensor([-1.0, 0.0, 1.0])
    # mean 4, unbiased std of (2, 4, 6) is 2
    assert normalise(unit, torch.tensor([2.0, 4.0, 6.0])).tolist() == pytest.approx([2.0, 4.0, 6.0])


def test_perturb_by_hand() -> None:
    hidden = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    delta = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    dose = torch.tensor([[0.0], [0.5]])
    assert perturb(hidden, delta, dose).tolist() == [[1.0, -1.0], [17.0, 20.0]]


def test_equation_one_whole() -> None:
    h = torch.tensor([0.5, -1.5, 2.0, 3.0])
    delta = torch.tensor([3.0, 1.0, -2.0, 6.0])
    mean, std = delta.mean(), ((delta - delta.mean()) ** 2).sum().div(3).sqrt()
    expected = h.mean() + (delta - mean) / (std + 1e-6) * h.std()
    assert torch.allclose(normalise(standardise(delta), h), expected)


def test_length_at_dose_one_is_about_the_activation() -> None:
    generator = torch.Generator().manual_seed(0)
    h, delta = (torch.randn(1000, 512, generator=generator) + 0.3 for _ in range(2))
    ratio = normalise(standardise(delta), h).norm(dim=-1) / h.norm(dim=-1)
    assert 0.99 < ratio.mean() < 1.01


def test_rows_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    h, delta = (torch.randn(5, 16, generator=generator) for _ in range(2))
    together = normalise(standardise(delta), h)
    for row in range(5):
        assert torch.equal(together[row], normalise(standardise(delta[row]), h[row]))


def test_constant_direction_gives_the_mean_and_no_nan() -> None:
    h = torch.tensor([1.0, 2.0, 3.0])
    assert normalise(standardise(torch.full((3,), 7.0)), h).tolist() == pytest.approx([2.0, 2.0, 2.0])


def test_low_precision_hidden_states_are_perturbed_in_float32() -> None:
    h = torch.linspace(-3, 3, 64).to(torch.bfloat16)
    unit = standardise(torch.linspace(1, -1, 64))
    result = perturb(h, normalise(unit, h), torch.tensor(0.5))
    exact = h.double() + 0.5 * (h.double().mean() + unit.double() * h.double().std())
    assert result.dtype == torch.bfloat16
    assert torch.allclose(result.double(), exact, rtol=2**-8, atol=2**-8)
