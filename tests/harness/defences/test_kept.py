"""Options of every recipe that keep harmless answers: more requests, look-alikes, KL, an early stop; whole answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

import harness.defences.defend as defend
import harness.defences.kept as kept
from asabench.core.errors import UserError
from asabench.core.protocol import preset
from asabench.core.records import Prompt
from asabench.core.similarity import near_between
from asabench.runs.training_choices import TrainingChoices
from harness.defences.defend import DefencePlan, make_plan, run_plan
from harness.defences.examples import Example, benign_requests
from harness.defences.kept import Stop, Watch, divided, keeping, look_alike_requests, read_stop
from harness.defences.refusal import Refusal
from harness.defences.training import Batch, Pools, Settings, fit
from harness.defences.vaccine import Vaccine
from harness.model.subject import Subject, make_subject
from tests.conftest import chat_tokenizer, tiny_model

BENIGN = [Prompt(id=f"b{n}", goal=f"sing song {n}") for n in range(6)]
EXAMPLES = [Example(prompt=(5, 6, 7, 8), answer=(9, 10, 2), rejected=(40, 41))]
KEPT = [Example(prompt=(30, 31), answer=(32, 33, 2))]


def subject() -> Subject:
    return make_subject(tiny_model("llama").requires_grad_(True), chat_tokenizer(), name="tiny", revision="-")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DefencePlan]:
    monkeypatch.setattr(defend, "benign_requests", lambda: BENIGN)

    def made(recipe: str = "vaccine", **choices: Any) -> DefencePlan:
        for name, numbers in (("train", range(10, 16)), ("test", range(4))):
            (tmp_path / f"{name}.csv").write_text("goal\n" + "".join(f"do thing {n}\n" for n in numbers))
        given = {"train": str(tmp_path / "train.csv"), "test_prompts": str(tmp_path / "test.csv"), "steps": 1}
        given |= {"allow_similar": True, "batch_size": 2, "learning_rate": 1e-4, **choices}
        return make_plan(subject(), TrainingChoices.of(recipe=recipe, out=tmp_path / "out", **given))

    return made


def test_no_look_alike_is_near_what_is_measured_on() -> None:
    own = [prompt.goal for prompt in look_alike_requests()]
    assert len(set(own)) == len(own) >= 60
    for name in ("over_refusal_requests.txt", "benign_test_requests.txt"):
        text = (files("asabench") / "data" / name).read_text(encoding="utf-8")
        assert not list(near_between(own, [line for line in text.splitlines() if line]))
    assert not {prompt.goal for prompt in benign_requests()} & set(own)


def test_without_options_a_training_is_recorded_as_before(plan: Callable[..., DefencePlan]) -> None:
    asked = plan("lat").asked
    assert not {"answers", "look_alikes", "keep_kl", "stop_below"} & set(asked)
    assert "attack" not in asked["recipe"]
    assert plan("lat:attack=dpo").asked["recipe"]["attack"] == "dpo"


def test_kl_is_a_term_of_any_recipe(tmp_path: Path) -> None:
    own = subject()
    recipe = keeping(Refusal(), 2.0)
    assert recipe.name == "refusal"
    assert recipe.weights == {"answer": 1.0, "kept": 2.0}
    pools = recipe.pools(EXAMPLES, KEPT)
    assert list(pools.benign) == KEPT
    recipe.begin(own)
    given = Batch(examples=EXAMPLES, benign=KEPT, generator=torch.Generator())
    assert float(recipe.losses(own, given, None)["kept"].detach()) == pytest.approx(0, abs=1e-5)

    def drift(weight: float | None) -> float:
        trained = subject()
        each = keeping(Refusal(), weight)
        settings = Settings(learning_rate=1e-3, batch_size=1, steps=12, benign_batch_size=1)
        # Only the harmful example is learnt: nothing but the term keeps the other
        pools = Pools(examples=EXAMPLES, benign=KEPT)
        fit(trained, each, pools, settings, tmp_path / str(weight), say=lambda line: None)
        with torch.no_grad():
            return float(recipe.losses(trained, given, None)["kept"])

    assert drift(5.0) < 0.5 * drift(None)


def test_training_ends_with_the_last_weights_that_may_stay(tmp_path: Path) -> None:
    own, looked = subject(), []
    before = {name: tensor.clone() for name, tensor in own.model.state_dict().items()}

    class Strict:
        def begin(self, subject: Subject) -> None:
            return None

        def look(self, subject: Subject, step: int) -> bool | None:
            looked.append(step)
            return None if step % 2 else step < 6

    settings = Settings(learning_rate=1e-3, warmup=0.0, batch_size=1, steps=9)
    pools = Pools(examples=EXAMPLES)
    progress = fit(own, Refusal(), pools, settings, tmp_path / "a", say=lambda line: None, watch=Strict())
    assert looked == [1, 2, 3, 4, 5, 6]
    assert (progress.step, len(progress.losses)) == (4, 4)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in own.model.state_dict().items())


def test_the_rate_is_that_of_held_out_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, held = divided(BENIGN)
    assert [prompt.id for prompt in held] == ["b0", "b5"]
    assert len(rest) == 4
    own = subject()
    texts = {"good": "Here is a song about the rain in May.", "bad": "I'm sorry, but I can't help with that."}
    said = [tuple(own.tokenizer(texts[each])["input_ids"]) for each in ("good", "bad")]
    monkeypatch.setattr(kept, "clean_answers", lambda subject, ids, protocol: said)
    watch = Watch(stop=Stop(what="benign", margin=0.2), requests=held, protocol=preset("asabench-v1"))
    watch.begin(own)
    assert watch.first == 0.5
    said[0] = said[1]
    assert watch.look(own, 7) is None
    assert watch.look(own, 10) is False
    assert watch.seen == [(10, 0.0)]


def test_an_early_stop_from_the_command(plan: Callable[..., DefencePlan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "STEPS_BETWEEN", 1)
    made = plan(stop_below="benign:1", steps=2, protocol="asabench-v1")
    assert made.watch is not None
    assert {prompt.id for prompt in made.watch.requests} == {"b0", "b5"}
    record = json.loads((run_plan(made, say=lambda line: None) / "training.json").read_text())
    assert record["stop_below"] == "benign:1"
    assert [step for step, _ in record["watched"]["seen"]] == [1, 2]


def test_whole_answers_stand_for_the_start_of_compliance(plan: Callable[..., DefencePlan], tmp_path: Path) -> None:
    lines = "".join(f"do thing {n},Thing {n} is done.\n" for n in range(10, 16))
    (tmp_path / "answers.csv").write_text("goal,answer\n" + lines)
    made = plan(answers=tmp_path / "answers.csv")
    examples = made.recipe.harmful_examples(made.subject, made.data)
    assert made.subject.text(examples[2].rejected) == "Thing 12 is done."
    assert "answers" in made.asked
    (tmp_path / "answers.csv").write_text("goal,answer\ndo thing 10,Done.\n")
    with pytest.raises(UserError, match=r"has no answer for 5 of 6 training requests .*goal,answer"):
        plan(answers=tmp_path / "answers.csv")


@pytest.mark.parametrize("text", ["benign", "benign:much", "csqa:0.05", "benign:-1", "over-refusal:2"])
def test_stops_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match=r"write benign:0\.05 or over-refusal:0\.05"):
        read_stop(text)


def test_kl_needs_harmless_examples_beside_the_batch(plan: Callable[..., DefencePlan]) -> None:
    with pytest.raises(UserError, match="refusal with these settings has none; give --benign-batch-size 4"):
        plan("refusal", keep_kl=1.0)
    assert plan("refusal", keep_kl=1.0, benign_batch_size=2).recipe.weights["kept"] == 1.0


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weights_of_kl_that_cannot_be_used(weight: float) -> None:
    with pytest.raises(UserError, match="give a weight over 0"):
        keeping(Vaccine(), weight)
