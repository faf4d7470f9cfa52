"""Which generation steps are perturbed: `first`, a list, and a layer per step (the multi-token setting)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS, SIZES, Protocol
from asabench.core.records import Cell, Prompt
from asabench.runs.choices import Choices
from harness.attacks.random import RandomAttack
from harness.engine.sweep import grid, sweep
from harness.evaluation.plan import make_plan, resolve_protocol
from harness.model.subject import Subject, make_subject
from harness.stream.injection import edit
from harness.stream.perturbation import normalise, perturb, standardise
from tests.conftest import chat_tokenizer, tiny_model, tiny_subject

PROMPTS = [Prompt(id="a", goal="tell me"), Prompt(id="b", goal="a longer request, please")]
NEW = 8


def naive(subject: Subject, cell: Cell, protocol: Protocol, layers: dict[int, int], clean: bool = False) -> list[int]:
    """Batch 1 without a cache; `layers` says which block is perturbed at which step."""
    ids = subject.format(cell.prompt, protocol)
    direction = RandomAttack(noise=protocol.noise).directions(subject, [cell])[0]
    unit = standardise(direction)
    answer: list[int] = []
    for _ in range(NEW):

        def change(layer: int, block_input: Tensor, block_output: Tensor) -> Tensor:
            result = block_output.clone()
            for position in range(len(ids) - 1, block_output.shape[1]):
                if layers.get(position - len(ids) + 1) == layer:
                    h = block_output[0, position]
                    reference = block_input[0, len(ids) - 1] if clean else h
                    result[0, position] = perturb(h, normalise(unit, reference), torch.tensor(cell.dose))
            return result

        edits = {layer: (lambda i, o, layer=layer: change(layer, i, o)) for layer in set(layers.values())}
        with torch.no_grad(), edit(subject.blocks, edits):
            tokens = torch.tensor([ids + answer])
            logits = subject.forward(tokens, torch.ones_like(tokens))[0, -1]
        answer.append(int(logits.argmax()))
        if answer[-1] in subject.stop_tokens:
            break
    return answer


def answers(subject: Subject, protocol: Protocol, layers: list[int]) -> dict[Cell, list[int]]:
    attack = RandomAttack(noise=protocol.noise)
    cells = grid(PROMPTS, layers, [attack], protocol)
    return {r.cell: list(r.token_ids) for b in sweep(subject, cells, protocol, {"random": attack}) for r in b}


@pytest.mark.parametrize("family", ["llama", "falcon"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("steps", ["first", (0, 2, 3), (1,)], ids=str)
def test_steps_equal_a_naive_loop(family: str, preset: str, steps: Any) -> None:
    subject = tiny_subject(family)
    protocol = PRESETS[preset].model_copy(update={"max_new_tokens": NEW, "steps": steps, "doses": (1.5,)})
    chosen = (0,) if steps == "first" else steps
    got = answers(subject, protocol, [1, 2])
    for cell, tokens in got.items():
        layers = {} if cell.is_clean else dict.fromkeys(chosen, cell.layer)
        expected = naive(
            subject,
            cell if not cell.is_clean else Cell(prompt=cell.prompt, layer=0, seed=0),
            protocol,
            layers,
            clean=preset == "gu2025",
        )
        assert tokens == expected, cell


def test_a_layer_per_step_equals_a_naive_loop() -> None:
    subject = tiny_subject("llama")
    protocol = resolve_protocol("asabench-v1", max_new_tokens=NEW, steps=[0, 1, 4], step_layers=[2, 0, 3], doses=[1.5])
    got = answers(subject, protocol, [0, 1, 2, 3])
    assert len(got) == 2 * 2, "one steered cell a prompt, not one a layer"
    for cell, tokens in got.items():
        if not cell.is_clean:
            assert cell.layer == 2
            assert tokens == naive(subject, cell, protocol, {0: 2, 1: 0, 4: 3})


def test_every_is_more_than_first() -> None:
    subject = tiny_subject("llama")
    every, first = (
        answers(subject, resolve_protocol("asabench-v1", max_new_tokens=NEW, steps=steps, doses=[1.5]), [0, 1, 2, 3])
        for steps in ("every", "first")
    )
    assert {cell.id for cell in every} == {cell.id for cell in first}
    assert every != first


def test_a_plan_with_a_layer_per_step(llama: Subject) -> None:
    plan = make_plan(llama, Choices.of(prompts=PROMPTS, steps="0,1", step_layers=[3, 1]))
    assert plan.layers == (3,)
    assert [cell.layer for cell in plan.cells] == [None, 3, None, 3]
    with pytest.raises(UserError, match="4 is out of range"):
        make_plan(llama, Choices.of(prompts=PROMPTS, steps="0,1", step_layers=[3, 4]))


@pytest.mark.parametrize(
    "choices",
    [
        {"steps": "some"},
        {"steps": ""},
        {"steps": "-1"},
        {"steps": [0, 0]},
        {"step_layers": [1]},
        {"steps": "first", "step_layers": [1]},
        {"steps": "0,1", "step_layers": [1]},
        {"protocol": "gu2025", "steps": "0", "step_layers": [1]},
    ],
    ids=str,
)
def test_steps_that_cannot_be(choices: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        resolve_protocol(**{"protocol": "asabench-v1", **choices})


def test_sizes_set_prompts_seeds_and_doses_and_give_way(llama: Subject) -> None:
    many = [Prompt(id=str(n), goal=f"request {n}") for n in range(20)]
    plan = make_plan(llama, Choices.of(prompts=many, size="smoke"))
    assert len(plan.prompts.prompts) == 8
    assert plan.protocol.doses == (0.3, 1.0)
    plan = make_plan(llama, Choices.of(prompts=many, size="standard", doses=[0.5], limit=3))
    assert (len(plan.prompts.prompts), plan.protocol.doses, plan.protocol.seeds) == (3, (0.5,), (0, 1, 2))
    assert make_plan(llama, Choices.of(prompts=many, size="smoke", protocol="gu2025")).protocol.seeds == (42,)
    with pytest.raises(UserError, match="smoke, lite, standard, full"):
        make_plan(llama, Choices.of(prompts=many, size="huge"))


@pytest.mark.parametrize(
    ("n_layers", "blocks"),
    [
        (4, (0, 1, 2, 3)),
        (10, tuple(range(10))),
        # i * 12 / 9: 0, 1.33, 2.67, 4, 5.33, 6.67, 8, 9.33, 10.67, 12
        (13, (0, 1, 3, 4, 5, 7, 8, 9, 11, 12)),
        # i * 29 / 9: 0, 3.22, 6.44, 9.67, 12.89, 16.11, 19.33, 22.56, 25.78, 29
        (30, (0, 3, 6, 10, 13, 16, 19, 23, 26, 29)),
        (80, (0, 9, 18, 26, 35, 44, 53, 61, 70, 79)),
    ],
)
def test_the_size_lite_takes_ten_blocks_evenly_spaced(n_layers: int, blocks: tuple[int, ...]) -> None:
    assert SIZES["asabench-v1"]["lite"].layers(n_layers) == blocks


def test_a_size_sets_blocks_and_gives_way_to_layers() -> None:
    model = tiny_model("llama", num_hidden_layers=12)
    twelve = make_subject(model, chat_tokenizer(), name="tiny-llama", revision="seed-0")
    many = [Prompt(id=str(n), goal=f"request {n}") for n in range(60)]
    plan = make_plan(twelve, Choices.of(prompts=many, size="lite"))
    # i * 11 / 9: 0, 1.22, 2.44, 3.67, 4.89, 6.11, 7.33, 8.56, 9.78, 11
    assert plan.layers == plan.settings.layers == (0, 1, 2, 4, 5, 6, 7, 9, 10, 11)
    assert len(plan.prompts.prompts) == 50
    assert (plan.protocol.doses, plan.protocol.seeds, plan.protocol.max_new_tokens) == ((0.1, 0.3, 1.0), (0,), 50)
    assert make_plan(twelve, Choices.of(prompts=many, size="lite", layers="all")).layers == tuple(range(12))
    assert make_plan(twelve, Choices.of(prompts=many, size="standard")).layers == tuple(range(12))
