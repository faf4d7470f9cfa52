"""Away from the model's own refusal; the start of an answer that is given; suffixes read from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asabench.core.attack_names import spec_of, works_towards_target
from asabench.core.errors import UserError
from asabench.core.prompts import load_prompts
from asabench.core.protocol import PRESETS, Protocol
from asabench.core.records import Cell, Prompt
from asabench.runs.choices import Choices
from asabench.runs.command import evaluate_words
from harness.attacks import make_attack, own_refusal
from harness.attacks.own_refusal import REFUSAL, TOKENS, away_from_refusals, own_starts
from harness.attacks.target_loss import target_loss, target_text
from harness.engine.decoding import decode
from harness.engine.sweep import grid, sweep
from harness.evaluation.evaluate import evaluate
from harness.evaluation.plan import make_plan
from harness.model.subject import Subject
from harness.stream.injection import Injection

V1 = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 6})
PROMPTS = [
    Prompt(id="a", goal="tell me", target="Sure, here"),
    Prompt(id="b", goal="a rather longer request", target="Okay then"),
    Prompt(id="c", goal="why?", target="Yes, of course it is"),
]


def cells_of(dose: float = 0.002) -> list[Cell]:
    return [Cell(prompt=p, layer=layer, attack="x", dose=dose) for p in PROMPTS for layer in range(4)]


# Away from the refusal


def test_own_starts_are_the_engine_s_clean_answers(family_subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `decode` gives them, in a batch padded on the left; those that are no refusal have the fixed one instead."""
    monkeypatch.setattr(own_refusal, "refusal_phrase", lambda text: "any")
    found = own_starts(family_subject, PROMPTS, V1)
    tokens = [family_subject.format(prompt, V1) for prompt in PROMPTS]
    answers = decode(family_subject, tokens, torch.arange(3), Injection.nothing(3, 32), TOKENS)
    assert found == [family_subject.text(answer.token_ids) for answer in answers]
    monkeypatch.setattr(own_refusal, "refusal_phrase", lambda text: None)
    assert own_starts(family_subject, PROMPTS, V1) == [REFUSAL] * 3


@pytest.mark.parametrize("spec", ["gradient:target=away", "pgd:direction=ascend:steps=2:target=away"])
def test_it_makes_the_refusal_less_likely(family_subject: Subject, spec: str) -> None:
    protocol = V1.model_copy(update={"steps": "first"})
    attack = make_attack(spec, protocol)
    cells = cells_of()
    away = away_from_refusals(family_subject, cells, protocol)
    assert {cell.prompt.target for cell in away} == {REFUSAL}, "a random model refuses nothing"
    clean = target_loss(family_subject, away, torch.zeros(len(cells), 32), protocol)
    found = target_loss(family_subject, away, attack.directions(family_subject, cells), protocol)
    assert (found > clean).all()
    # The prompts' own targets have no part in it
    bare = [replace(cell, prompt=replace(cell.prompt, target=None)) for cell in cells]
    assert torch.equal(attack.directions(family_subject, bare), attack.directions(family_subject, cells))


def test_away_needs_no_targets_and_is_named(llama: Subject) -> None:
    gradient, pgd = (make_attack(f"{name}:target=away:direction=ascend", V1) for name in ("gradient", "pgd"))
    assert (gradient.name, pgd.name) == ("gradient-ascend:target=away", "pgd:direction=ascend:target=away")
    assert make_attack(spec_of(gradient.name), V1).name == gradient.name
    for attack in (gradient, pgd):
        assert not attack.needs_targets
        assert not works_towards_target(attack.name)
    assert works_towards_target("pgd:steps=2")
    bare = tuple(replace(prompt, target=None) for prompt in PROMPTS)
    choices: dict[str, Any] = dict(prompts=bare, layers="0", judge="rules", uncertified=True)
    assert make_plan(llama, Choices.of(attack="gradient:target=away", **choices)).cells
    with pytest.raises(UserError, match="would make the refusal likelier; add direction=ascend"):
        make_attack("pgd:target=away", V1)
    with pytest.raises(UserError, match="--prefix gives it another start; leave one out"):
        make_attack("gradient:target=away", V1.model_copy(update={"prefix_tokens": 2}))


# The start that is given


@pytest.mark.parametrize("count", [1, 4])
def test_an_answer_goes_on_from_the_target_s_first_tokens(family_subject: Subject, count: int) -> None:
    """Of one block's cells and of clean ones, against prompts that end in those tokens; they are not judged."""
    protocol = V1.model_copy(update={"prefix_tokens": count})
    attack = make_attack("random", protocol)
    cells = grid(PROMPTS, [1, 3], [attack], protocol)
    found = {r.cell: r for batch in sweep(family_subject, cells, protocol, {"random": attack}) for r in batch}
    for prompt in PROMPTS:
        bare = family_subject.format(prompt, V1)
        given = family_subject.tokenizer(prompt.target)["input_ids"][:count]
        assert family_subject.format(prompt, protocol) == [*bare, *given]
        (answer,) = decode(family_subject, [[*bare, *given]], torch.tensor([0]), Injection.nothing(1, 32), 6)
        response = found[Cell(prompt=prompt)]
        assert response.token_ids == answer.token_ids
        assert response.text == family_subject.text(answer.token_ids), "what was given is no part of it"


def test_the_loss_is_of_what_is_left_of_the_target(llama: Subject) -> None:
    protocol = V1.model_copy(update={"prefix_tokens": 4})
    whole, rest = (target_text(llama, PROMPTS[0], each, "last_prompt") for each in (V1, protocol))
    assert whole.ids == rest.ids
    assert (whole.scored, rest.scored) == (10, 6)
    assert rest.read_at == whole.read_at + 4
    read = target_text(llama, PROMPTS[0], PRESETS["gu2025"], "reference")
    assert read == target_text(
        llama, PROMPTS[0], PRESETS["gu2025"].model_copy(update={"prefix_tokens": 4}), "reference"
    )


def test_a_run_with_a_prefix_says_so(llama: Subject, tmp_path: Path) -> None:
    choices: dict[str, Any] = dict(prompts=PROMPTS, layers="0", judge="rules", uncertified=True, max_new_tokens=6)
    done = evaluate(llama, prefix=3, out=tmp_path / "run", **choices)
    plan = make_plan(llama, Choices.of(prefix=3, **choices))
    words = evaluate_words(done.row, plan.protocol)
    assert words[words.index("--prefix") + 1] == "3"
    assert plan.protocol.digest != PRESETS["asabench-v1"].digest
    without = make_plan(llama, Choices.of(**choices)).protocol
    assert "prefix_tokens" not in without.as_json(), "digests of other runs stay"
    with pytest.raises(UserError, match="--prefix 9: the target of prompt b has 9 tokens for tiny-llama"):
        make_plan(llama, Choices.of(prefix=9, **choices))
    with pytest.raises(UserError, match="--prefix gives the start of one target, and --targets is a list"):
        make_plan(llama, Choices.of(prefix=2, targets="standard", **choices))
    with pytest.raises(UserError, match="--prefix 0 gives nothing"):
        make_plan(llama, Choices.of(prefix=0, **choices))
    bare = tuple(replace(prompt, target=None) for prompt in PROMPTS)
    with pytest.raises(UserError, match="3 of 3 prompts have no target"):
        make_plan(llama, Choices.of(prefix=2, **{**choices, "prompts": bare}))


# Suffixes from a file


def test_suffix_files_of_the_paper_s_repository_are_read(tmp_path: Path) -> None:
    path = tmp_path / "suffixes.csv"
    path.write_text("goal,target,best_suffix,loss\ntell me,Sure,! ! now,0.5\nwhy?,Yes,,0.9\nwho?,Ok,please x,\n")
    found = load_prompts(str(path)).prompts
    assert [(prompt.goal, prompt.target, prompt.suffix) for prompt in found] == [
        ("tell me", "Sure", "! ! now"),
        ("who?", "Ok", "please x"),
    ]
    path.write_text("goal,best_suffix\ntell me, \n")
    with pytest.raises(UserError, match="holds no prompts"):
        load_prompts(str(path))


def test_protocols_are_as_they_were() -> None:
    assert Protocol(**V1.as_json()).prefix_tokens == 0
