"""`--defence package.module:Name`: it acts, is attacked as part of the model, and stands in the row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from asabench.core.errors import UserError
from asabench.core.records import Prompt
from asabench.runs.choices import Choices
from harness.attacks.target_loss import loss_gradients
from harness.evaluation.evaluate import evaluate
from harness.evaluation.plan import make_plan
from harness.model.inference_defence import defended
from harness.model.subject import Subject, make_subject
from tests.conftest import chat_tokenizer, tiny_model

HERE = "tests.inference_defences"
GOALS = [Prompt(id=f"p{n}", goal=f"paint fence {n}", target="Sure") for n in range(2)]


def subject() -> Subject:
    return make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="-")


def choices(**changes: Any) -> dict[str, Any]:
    chosen = dict(prompts=GOALS, layers="1", doses=[0.5], max_new_tokens=4, judge="rules", uncertified=True)
    return {**chosen, **changes}


def test_it_changes_the_answers_and_the_row_names_it(tmp_path: Any) -> None:
    goals = [
        Prompt(id=f"q{n}", goal=goal) for n, goal in enumerate(("sing", "paint a fence", "why", "Tell me a story"))
    ]
    plain = evaluate(subject(), out=tmp_path / "plain", **choices(prompts=goals))
    other = evaluate(subject(), out=tmp_path / "other", **choices(prompts=goals, defence=f"{HERE}:HalvedLastBlock"))
    assert other.row.model.name == f"tiny+{HERE}:HalvedLastBlock"
    assert other.row.run_id != plain.row.run_id
    clean = [set(each.responses.loc[each.responses["layer"].isna(), "text"]) for each in (plain, other)]
    assert clean[0] != clean[1]


def test_gradients_flow_through_it() -> None:
    protocol = make_plan(subject(), Choices.of(**choices())).protocol
    plain = loss_gradients(subject(), GOALS, protocol)
    through = loss_gradients(defended(subject(), f"{HERE}:HalvedLastBlock"), GOALS, protocol)
    assert all(torch.isfinite(through[goal]).all() for goal in GOALS)
    assert not torch.allclose(plain[GOALS[0]][1], through[GOALS[0]][1])


def test_without_one_the_settings_are_as_they_were() -> None:
    assert "defence" not in make_plan(subject(), Choices.of(**choices())).settings.as_json()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("FewerBlocks", "must return a Subject with the 4 blocks"),
        ("LooksAhead", "not causal"),
        ("NeedsMore", "cannot be made without arguments"),
        ("NotCallable", "is no defence"),
        ("Missing", "cannot be imported"),
        ("", "names no class"),
    ],
)
def test_what_is_no_defence(spec: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_plan(subject(), Choices.of(**choices(defence=f"{HERE}:{spec}" if spec else HERE)))
