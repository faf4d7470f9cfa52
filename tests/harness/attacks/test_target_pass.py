"""Passes over a target whose rows enter at blocks of their own, and pgd that ends where the target is said."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import harness.attacks.target_loss
import harness.model.clean_states
from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS, Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks import make_attack
from harness.attacks.random import RandomAttack
from harness.attacks.target_loss import TargetPass, target_loss
from harness.engine.sweep import sweep
from harness.model.clean_states import CleanStates, enters_at_blocks
from harness.model.subject import Subject, make_subject
from tests.conftest import chat_tokenizer, tiny_model, tiny_subject

V1 = PRESETS["asabench-v1"]
GU = PRESETS["gu2025"]
PROMPTS = [
    Prompt(id="a", goal="tell me", target="Sure"),
    Prompt(id="b", goal="a longer request, please", target="Of course, here"),
    Prompt(id="c", goal="and so", target="Yes, a"),
]


def cells_at(layers: list[int | None], dose: float = 0.5) -> list[Cell]:
    """Rows of all three prompts in turn, at these layers; None is a clean row."""
    return [
        Cell(prompt=PROMPTS[n % 3])
        if layer is None
        else Cell(prompt=PROMPTS[n % 3], layer=layer, attack="random", dose=dose, seed=n)
        for n, layer in enumerate(layers)
    ]


def losses_and_gradients(
    subject: Subject, cells: list[Cell], directions: Tensor, protocol: Protocol
) -> tuple[Tensor, Tensor]:
    raw = directions.clone().requires_grad_()
    loss = TargetPass(subject, cells, protocol).loss(raw)
    (gradient,) = torch.autograd.grad(loss.sum(), [raw])
    return loss.detach(), gradient


@pytest.mark.parametrize("protocol", [V1, GU, V1.model_copy(update={"steps": (0, 2)})], ids=["v1", "gu2025", "steps"])
def test_rows_that_enter_at_their_own_blocks_have_the_loss_and_gradient_of_whole_passes(
    family_subject: Subject, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_at([0, 0, 1, 1, 2, 3, 3])
    directions = torch.randn(len(cells), family_subject.d_model, generator=torch.Generator().manual_seed(0))
    loss, gradient = losses_and_gradients(family_subject, cells, directions, protocol)
    monkeypatch.setattr(harness.attacks.target_loss, "starts_at_blocks", lambda subject: False)
    whole, expected = losses_and_gradients(family_subject, cells, directions, protocol)
    assert torch.allclose(loss, whole, atol=1e-4)
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5 + 1e-3 * float(expected.abs().max()))
    assert len(loss.unique()) == len(cells)


def test_a_block_computes_only_the_rows_that_are_perturbed_below_it() -> None:
    subject = make_subject(tiny_model("llama"), chat_tokenizer(), name="t", revision="r")
    assert enters_at_blocks(subject)
    cells = cells_at([0, 1, 1, 3, None])
    passes = TargetPass(subject, cells, V1)
    rows: dict[int, int] = {}
    for layer, block in enumerate(subject.blocks):
        block.mlp.register_forward_hook(lambda module, args, output, at=layer: rows.update({at: len(output)}))
    passes.loss(RandomAttack().directions(subject, cells[:-1] + cells[:1]))
    assert rows == {1: 1, 2: 3, 3: 3}, "layer 3 and the clean row end at the last block, which computes neither"
    rows.clear()
    # In another order all rows start at the lowest block
    cells = cells_at([3, 1])
    passes = TargetPass(subject, cells, V1)
    rows.clear()
    passes.loss(RandomAttack().directions(subject, cells))
    assert rows == {2: 2, 3: 2}


def test_a_family_that_cannot_tell_its_rows_starts_all_at_the_lowest_block(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject(tiny_model("llama"), chat_tokenizer(), name="t", revision="r")
    cells = cells_at([1, 2, 3])
    directions = RandomAttack().directions(subject, cells)
    expected = target_loss(subject, cells, directions, V1)
    other = make_subject(tiny_model("llama"), chat_tokenizer(), name="t", revision="r")
    real, entries = CleanStates.entering, []

    def broken(self: CleanStates, starts: Tensor, *others: Any) -> Any:
        entries.append(starts.tolist())
        if len(set(starts.tolist())) > 1:
            self._states = {at: state + 1 for at, state in self._states.items()}  # as if something were missing
        return real(self, starts, *others)

    monkeypatch.setattr(CleanStates, "entering", broken)
    assert torch.allclose(target_loss(other, cells, directions, V1), expected, atol=1e-4)
    assert entries == [[-1, 1, 3], [1, 1, 1]], "tried once, then all rows at the lowest"


@pytest.mark.parametrize("kept", [[0, 2, 5], [4, 5], [5], [0, 1, 2, 3, 4, 5]])
def test_rows_that_stay_keep_their_losses(llama: Subject, kept: list[int]) -> None:
    cells = cells_at([0, 1, 1, 2, 2, 3])
    directions = RandomAttack().directions(llama, cells)
    passes = TargetPass(llama, cells, V1)
    before = passes.loss(directions)
    passes.keep(torch.tensor(kept))
    assert torch.allclose(passes.loss(directions[kept]), before[kept], atol=1e-5)


def test_pgd_may_end_where_the_target_is_said(llama: Subject) -> None:
    """Then the answer begins with the target; cells that do not get there are those of pgd."""
    cells = [
        Cell(prompt=Prompt(id=str(n), goal=f"request {n}", target=target), layer=layer, attack="pgd", dose=dose)
        for n, target in enumerate(("a", "b", "cd"))
        for layer in range(4)
        for dose in (0.5, 2.0)
    ]
    early, never = (make_attack(spec, V1) for spec in ("pgd:early=target", "pgd"))
    assert (early.name, never.name) == ("pgd:early=target", "pgd")
    passes: Counter[str] = Counter()
    real = TargetPass._logits

    def counted(self: TargetPass, directions: Tensor) -> Tensor:
        passes[running] += len(directions)
        return real(self, directions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TargetPass, "_logits", counted)
        running = "early"
        found = early.directions(llama, cells)
        running = "never"
        whole = never.directions(llama, cells)
    assert passes["never"] == len(cells) * 2 * 9
    assert passes["early"] < passes["never"]
    protocol = V1.model_copy(update={"max_new_tokens": 4})

    class Found:
        name, family, uses_seed, needs_targets = "pgd", "pgd", False, True

        def directions(self, subject: Subject, asked: list[Cell]) -> Tensor:
            return torch.stack([found[cells.index(cell)] for cell in asked])

    answers = {r.cell: r.token_ids for batch in sweep(llama, cells, protocol, {"pgd": Found()}) for r in batch}
    said = {
        cell: list(answers[cell][: len(ids)]) == ids
        for cell in cells
        if (ids := llama.tokenizer(cell.prompt.target, add_special_tokens=False)["input_ids"])
    }
    assert 0 < sum(said.values()) < len(cells)
    for row, cell in enumerate(cells):
        if not said[cell]:
            assert torch.allclose(found[row], whole[row], atol=1e-3)


def test_pgd_that_works_against_the_target_does_not_end_at_it() -> None:
    with pytest.raises(UserError, match="direction=ascend"):
        make_attack("pgd:early=target:direction=ascend", V1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_stand_ins_are_gone_after_a_pass(family: str) -> None:
    subject = tiny_subject(family)
    cells = cells_at([0, 2])
    TargetPass(subject, cells, V1).loss(RandomAttack().directions(subject, cells))
    assert not any("forward" in vars(block) for block in subject.blocks)
    assert harness.model.clean_states.starts_at_blocks(subject)
