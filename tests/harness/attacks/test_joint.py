"""Attacks on every block at once: their answers, pgd through all blocks, and what a run makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS, Protocol
from asabench.core.records import Cell, Prompt
from asabench.runs.choices import Choices
from harness.attacks import make_attack, make_attacks, on_every_block, with_controls
from harness.attacks.target_loss import TargetPass, target_loss, target_text
from harness.engine.decoding import Batch
from harness.engine.selftest import SelfTestFailed, self_test
from harness.engine.sweep import grid, injection_of, sweep
from harness.evaluation.cost import estimate
from harness.evaluation.plan import make_plan
from harness.evaluation.run import run_plan
from harness.model.subject import Subject, make_subject
from harness.stream.injection import Injection, edit
from harness.stream.perturbation import normalise, perturb, standardise
from tests.conftest import chat_tokenizer, tiny_model

V1, GU2025 = (PRESETS[name].model_copy(update={"max_new_tokens": 6}) for name in ("asabench-v1", "gu2025"))
PROMPTS = [
    Prompt(id="a", goal="tell me", target="Sure, here"),
    Prompt(id="b", goal="a rather longer request", target="Ok", suffix="now"),
    Prompt(id="c", goal="why?", target="Yes, of course it is"),
]
NEW = 6


def naive_answer(subject: Subject, cell: Cell, directions: Tensor, protocol: Protocol) -> list[int]:
    """Batch 1 without a cache. directions: (block, d_model). Under gu2025 a block's statistics are those of what it
    reads at the last prompt position, the blocks below it perturbed."""
    ids, answer = subject.format(cell.prompt, protocol), []
    for _ in range(NEW):

        def change(layer: int, block_input: Tensor, block_output: Tensor) -> Tensor:
            result = block_output.clone()
            for position in range(len(ids) - 1, block_output.shape[1]):
                hidden = block_output[0, position]
                reference = hidden if protocol.statistics == "current-step" else block_input[0, len(ids) - 1]
                delta = normalise(standardise(directions[layer]), reference)
                result[0, position] = perturb(hidden, delta, torch.tensor(cell.dose))
            return result

        edits = {at: (lambda i, o, at=at: change(at, i, o)) for at in range(subject.n_layers)}
        with torch.no_grad(), edit(subject.blocks, edits):
            tokens = torch.tensor([ids + answer])
            logits = subject.forward(tokens, torch.ones_like(tokens))[0, -1]
        answer.append(int(logits.argmax()))
        if answer[-1] in subject.stops(protocol):
            break
    return answer


@pytest.mark.parametrize("protocol", [V1, GU2025], ids=lambda protocol: protocol.name)
def test_answers_are_those_of_a_loop_without_a_cache(family_subject: Subject, protocol: Protocol) -> None:
    """Every family; beside cells of one block and clean ones, which keep their answers."""
    protocol = protocol.model_copy(update={"generation_config": "greedy-only"})
    attacks = make_attacks(["random", "random:blocks=joint"], protocol.model_copy(update={"doses": (0.1, 0.5)}))
    cells = grid(PROMPTS, [1], list(attacks.values()), protocol.model_copy(update={"doses": (0.1, 0.5)}))
    found = {r.cell: list(r.token_ids) for batch in sweep(family_subject, cells, protocol, attacks) for r in batch}
    assert len(found) == len(cells) == 3 * (1 + 2 + 2)
    joint = [cell for cell in cells if cell.attack == "random:blocks=joint"]
    assert {cell.layer for cell in joint} == {None}
    for cell in joint:
        directions = attacks[cell.attack].directions(family_subject, [cell])[0]
        alone = [replace(cell, layer=at, attack="random") for at in range(4)]
        assert torch.equal(directions, attacks["random"].directions(family_subject, alone)), "each block's own"
        assert found[cell] == naive_answer(family_subject, cell, directions, protocol)
    others = [cell for cell in cells if cell not in joint]
    apart = {r.cell: list(r.token_ids) for batch in sweep(family_subject, others, protocol, attacks) for r in batch}
    assert apart == {cell: found[cell] for cell in others}


def stepwise_loss(subject: Subject, cells: list[Cell], directions: Tensor, protocol: Protocol) -> Tensor:
    """Generation's own batch, fed the target's tokens instead of its choices."""
    texts = [target_text(subject, cell.prompt, protocol, "last_prompt") for cell in cells]
    losses: list[list[Tensor]] = [[] for _ in cells]
    with torch.no_grad():
        injection = injection_of(cells, directions, protocol)
        batch = Batch(subject, [text.prompt_ids for text in texts], torch.arange(len(cells)), injection, 40)
        for step in range(max(text.scored for text in texts)):
            log_p = batch.step().log_softmax(-1)
            tokens = torch.zeros(len(cells), dtype=torch.long)
            for row, text in enumerate(texts):
                if step < text.scored:
                    tokens[row] = text.target_ids[step]
                    losses[row].append(-log_p[row, text.target_ids[step]])
            batch.append(tokens)
    return torch.stack([torch.stack(row).mean() for row in losses])


@pytest.mark.parametrize("protocol", [V1, GU2025], ids=lambda protocol: protocol.name)
def test_the_loss_that_pgd_climbs_is_that_of_generation(family_subject: Subject, protocol: Protocol) -> None:
    cells = [Cell(prompt=p, attack="pgd:blocks=joint", dose=dose) for p in PROMPTS for dose in (0.1, 0.5)]
    directions = torch.randn(len(cells), 4, 32, generator=torch.Generator().manual_seed(1))
    found = target_loss(family_subject, cells, directions, protocol)
    assert torch.allclose(found, stepwise_loss(family_subject, cells, directions, protocol), atol=1e-4)


def test_its_gradient_equals_finite_differences() -> None:
    subject = make_subject(tiny_model("gpt2").double(), chat_tokenizer(), name="gpt2", revision="x")
    cells = [Cell(prompt=PROMPTS[0], attack="pgd:blocks=joint", dose=0.3)]
    passes = TargetPass(subject, cells, V1)
    raw = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(passes.loss(raw).sum(), [raw])
    step = 1e-2
    for block, coordinate in ((0, 3), (1, 0), (2, 17), (3, 31)):
        nudge = torch.zeros(1, 4, 32)
        nudge[0, block, coordinate] = step
        with torch.no_grad():
            up, down = (float(passes.loss(raw + sign * nudge)) for sign in (1, -1))
        assert float(gradient[0, block, coordinate]) == pytest.approx((up - down) / (2 * step), rel=0.05, abs=2e-4)


def test_joint_pgd_is_no_weaker_than_its_start_and_moves_every_block(llama: Subject) -> None:
    protocol = V1
    cells = [Cell(prompt=p, attack="pgd:blocks=joint", dose=0.2) for p in PROMPTS]
    start = make_attack("gradient:direction=descend:blocks=joint", protocol).directions(llama, cells)
    found = make_attack("pgd:steps=3:blocks=joint", protocol).directions(llama, cells)
    assert start.shape == found.shape == (3, 4, 32)
    before, after = (target_loss(llama, cells, directions, protocol) for directions in (start, found))
    assert (after < before).all()
    changed = (standardise(found) - standardise(start)).abs().amax(dim=-1)
    assert (changed > 0.1).all()


def test_names_controls_and_what_joint_stands_for() -> None:
    assert make_attack("gradient:blocks=joint:direction=descend", V1).name == "gradient-descend:blocks=joint"
    assert on_every_block(["random", "pgd:steps=2", "ablation", "gradient:blocks=joint"]) == [
        "random:blocks=joint",
        "pgd:steps=2:blocks=joint",
        "ablation",
        "gradient:blocks=joint",
    ]
    assert with_controls(["pgd", "mean_difference"], V1) == ["pgd", "mean_difference", "random"]
    assert with_controls(["pgd", "random", "pgd:blocks=joint", "ablation:act=add"], V1) == [
        "pgd",
        "random",
        "pgd:blocks=joint",
        "ablation:act=add",
        "random:blocks=joint",
        "random_ablation:act=add",
    ]
    with pytest.raises(UserError, match="random: blocks=all cannot be used; allowed: joint"):
        make_attack("random:blocks=all", V1)
    with pytest.raises(UserError, match="proposes directions for one block"):
        on_every_block(["some.module:Attack"])


def asked(tmp_path: Path, **given: Any) -> Choices:
    return Choices.of(
        **{
            "prompts": PROMPTS,
            "max_new_tokens": 6,
            "doses": [0.1, 0.5],
            "judge": "rules",
            "uncertified": True,
            "out": tmp_path / "run",
            **given,
        }
    )


def test_a_run_beside_one_block_at_a_time(tmp_path: Path) -> None:
    subject = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="x")
    plan = make_plan(subject, asked(tmp_path, layers="0,2,joint", attack="pgd:steps=1", control=True))
    assert list(plan.attacks) == ["pgd:steps=1", "pgd:steps=1:blocks=joint", "random", "random:blocks=joint"]
    assert plan.layers == (0, 2)
    assert len(plan.cells) == 3 * (1 + 2 * (2 * 2 + 2 * 1))
    done = run_plan(plan)
    by_name = {(result.attack, result.dose): result for result in done.row.results}
    for dose in (0.1, 0.5):
        joint = by_name["pgd:steps=1:blocks=joint", dose]
        assert (joint.lasr, joint.peak_layer, joint.pasr.value, joint.asr_at_k) == ({}, None, None, {})
        assert joint.masr.value is not None
        assert joint.against_control is not None
        assert joint.against_control.attack == "random:blocks=joint"
        assert joint.against_control.pasr.value is None
        one = by_name["pgd:steps=1", dose]
        assert set(one.lasr) == {"0", "2"}
        assert one.against_control is not None
        assert one.against_control.attack == "random"
        assert one.against_control.pasr.value is not None
    assert done.row.eps50["pgd:steps=1:blocks=joint"].doses == (0.0, 0.1, 0.5)


def test_joint_alone_means_every_block(tmp_path: Path) -> None:
    subject = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="x")
    plan = make_plan(subject, asked(tmp_path, layers="joint", attack="random"))
    assert (list(plan.attacks), plan.layers) == (["random:blocks=joint"], (0, 1, 2, 3))
    assert len(plan.cells) == 3 * (1 + 2)
    assert estimate(plan).cells == 9
    spelled = make_plan(subject, asked(tmp_path, layers="all", attack="random:blocks=joint"))
    assert spelled.settings.id == plan.settings.id


def test_what_has_no_place_for_it_says_so(tmp_path: Path, llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.evaluation.plan.check_engine", lambda name: None)
    with pytest.raises(UserError, match="acts on every block at once, which the engine vllm does not do"):
        make_plan(llama, asked(tmp_path, layers="joint", engine="vllm"))
    with pytest.raises(UserError, match="the attack ablation acts on every block at once"):
        make_plan(llama, asked(tmp_path, attack="ablation", engine="vllm"))
    with pytest.raises(UserError, match="--step-layers names one block a step"):
        make_plan(llama, asked(tmp_path, layers="joint", steps="0,1", step_layers="1,2"))


def test_an_injection_that_does_nothing_stops_the_run(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = make_attacks(["random:blocks=joint"], V1)
    cells = grid(PROMPTS, [0], list(attacks.values()), V1)
    found = self_test(llama, cells, V1, attacks)
    assert found["random:blocks=joint: dose 0 gives the clean answer"] == "2 of 2"
    monkeypatch.setattr(Injection, "unit_of", lambda self, rows, layer: torch.zeros(len(rows), 32))
    monkeypatch.setattr("harness.stream.injection.perturb", lambda hidden, delta, dose: hidden)
    with pytest.raises(SelfTestFailed, match="random:blocks=joint changes no logit"):
        self_test(llama, cells, V1, attacks)
