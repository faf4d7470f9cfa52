"""The hooks: what they change, what they leave alone, and that they go."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor

from harness.model.subject import Subject
from harness.stream.injection import NO_LAYER, Injecting, Injection, capture, edit, inject
from harness.stream.perturbation import normalise, standardise
from tests.conftest import tiny_subject

IDS = torch.tensor([[5, 6, 7, 8]] * 4)


def hooks(subject: Subject) -> int:
    return sum(len(block._forward_hooks) for block in subject.blocks)


def run(subject: Subject) -> Tensor:
    with torch.no_grad():
        return subject.forward(IDS, torch.ones_like(IDS))


def injection(layers: list[int], dose: float = 1.0, **more: object) -> Injection:
    directions = torch.randn(len(layers), 32, generator=torch.Generator().manual_seed(1))
    doses = torch.full((len(layers),), dose)
    return Injection.from_directions(layer=torch.tensor(layers), direction=directions, dose=doses, **more)


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_each_row_changes_at_its_own_block_and_only_there(family: str) -> None:
    subject = tiny_subject(family)
    plan = injection([0, 2, NO_LAYER, 2])
    with capture(subject.blocks, range(4)) as before:
        run(subject)
    with inject(subject.blocks, plan), capture(subject.blocks, range(4)) as after:
        run(subject)
    for row, layer in enumerate([0, 2, NO_LAYER, 2]):
        for block in range(4):
            same = torch.allclose(before.outputs[block][row], after.outputs[block][row], atol=1e-5)
            assert same == (layer == NO_LAYER or block < layer), (row, block)
    # At its block: earlier positions untouched, the last one h + delta'
    h = before.outputs[2][1, -1]
    expected = h + normalise(plan.unit[1], h)
    assert torch.allclose(after.outputs[2][1, -1], expected, atol=1e-5)
    assert torch.allclose(after.outputs[2][1, :-1], before.outputs[2][1, :-1], atol=1e-5)


def test_positions_choose_what_is_perturbed(llama: Subject) -> None:
    positions = torch.tensor([[False, True, False, True], [False] * 4, [True] * 4, [False, False, False, True]])
    plan = injection([1, 1, 1, 1], positions=positions)
    with capture(llama.blocks, [1]) as before:
        run(llama)
    with inject(llama.blocks, plan), capture(llama.blocks, [1]) as after:
        run(llama)
    changed = (before.outputs[1] - after.outputs[1]).abs().amax(-1) > 1e-6
    assert torch.equal(changed, positions)
    h = before.outputs[1][0, 1]
    assert torch.allclose(after.outputs[1][0, 1], h + normalise(plan.unit[0], h), atol=1e-5)


def test_what_comes_in_is_not_written_to(llama: Subject) -> None:
    state = Injecting(injection([0, 1, 2, 3]))
    before = torch.randn(4, 3, 32)
    copy = before.clone()
    after = state.apply(1, before, before)
    assert torch.equal(before, copy)
    assert not torch.equal(after, before)


def test_keep_drops_rows_and_what_was_kept_for_them(llama: Subject) -> None:
    plan = injection([1, 2, 1, 3], statistics="clean-prompt-input")
    state = Injecting(plan)
    first = torch.randn(4, 1, 32)
    state.apply(1, first, first)
    state.keep(torch.tensor([1, 2]))
    later = torch.randn(2, 1, 32)
    after = state.apply(1, later, later)
    assert torch.equal(after[0], later[0])  # row of layer 2
    # row 2 of old: still the statistics of its first input, not of `later`
    assert torch.allclose(after[1, 0], later[1, 0] + normalise(plan.unit[2], first[2, 0]), atol=1e-6)
    state.keep(torch.tensor([0]))  # no row of layer 1 is left
    assert torch.equal(state.apply(1, later[:1], later[:1]), later[:1])
    assert (len(plan.layer), len(state.injection.layer)) == (4, 1), "the plan itself stays as it was"


def test_an_injection_never_changes() -> None:
    plan = injection([1, 2], steps=frozenset([0]))
    with pytest.raises(FrozenInstanceError):
        plan.steps = None  # type: ignore[misc]
    rows = plan.of_rows(torch.tensor([1]))
    assert (rows.layers, rows.steps, plan.layers) == ([2], frozenset([0]), [1, 2])
    assert torch.equal(rows.unit, plan.unit[1:])


def test_steps_and_the_block_of_each() -> None:
    """By hand: step 0 perturbs block 2, step 1 none, step 2 block 1; a clean row never changes."""
    plan = injection([0, NO_LAYER], layer_at={0: 2, 2: 1}, steps=frozenset([0, 2]))
    assert plan.layers == [1, 2]
    state, hidden = Injecting(plan), torch.randn(2, 1, 32)
    changed = {}
    for state.step in range(3):
        for layer in plan.layers:
            after = state.apply(layer, hidden, hidden)
            changed[state.step, layer] = [not torch.equal(a, b) for a, b in zip(after, hidden, strict=True)]
    assert {at for at, rows in changed.items() if any(rows)} == {(0, 2), (2, 1)}
    assert changed[0, 2] == [True, False]


def test_what_was_kept_of_a_block_outlives_the_steps_of_others() -> None:
    plan = injection([0, 1, 0], layer_at={0: 2, 1: 1, 2: 2}, statistics="clean-prompt-input")
    state = Injecting(plan)
    first, later = torch.randn(3, 1, 32), torch.randn(2, 1, 32)
    state.apply(2, first, first)
    state.step = 1
    state.keep(torch.tensor([0, 2]))
    state.step = 2
    after = state.apply(2, later, later)
    for row, old in enumerate((0, 2)):
        expected = later[row, 0] + normalise(plan.unit[old], first[old, 0])
        assert torch.allclose(after[row, 0], expected, atol=1e-6)


def test_no_hook_stays_after_an_exception(llama: Subject) -> None:
    clean = run(llama)
    with pytest.raises(ZeroDivisionError), inject(llama.blocks, injection([0, 1, 2, 3])):
        assert hooks(llama) == 4
        raise ZeroDivisionError
    assert hooks(llama) == 0
    assert torch.equal(run(llama), clean)


def test_no_hook_stays_when_one_cannot_be_set(llama: Subject) -> None:
    with pytest.raises(IndexError), inject(llama.blocks, injection([0, 1, 2, 9])):
        pass
    assert hooks(llama) == 0


def test_the_hook_of_each_layer_fires_once_a_forward(llama: Subject) -> None:
    plan = injection([0, 1, 3, NO_LAYER])
    with inject(llama.blocks, plan) as state:
        run(llama)
        run(llama)
    assert dict(state.fired) == {0: 2, 1: 2, 3: 2}


def test_edit_replaces_the_output(llama: Subject) -> None:
    with edit(llama.blocks, {3: lambda block_input, block_output: block_output * 0}):
        zero = run(llama)
    assert torch.allclose(zero, zero[:1, :1].expand_as(zero))


def test_gradients_flow_through_an_injection(llama: Subject) -> None:
    directions = torch.randn(4, 32, requires_grad=True)
    plan = Injection(layer=torch.tensor([0, 1, 2, 3]), unit=standardise(directions), dose=torch.ones(4))
    with inject(llama.blocks, plan):
        logits = llama.forward(IDS, torch.ones_like(IDS))
    logits[:, -1].logsumexp(-1).sum().backward()
    assert directions.grad is not None
    assert (directions.grad.norm(dim=-1) > 0).all()
