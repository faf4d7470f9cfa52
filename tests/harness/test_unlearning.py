"""Unlearning: made-up facts, the recipe's three losses, and the check of what is left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from asabench.runs.training_choices import TrainingChoices
from harness.defences.defend import make_plan
from harness.defences.examples import Example, HarmfulData, answer_loss, batch_of, mean_cross_entropy
from harness.defences.perturbations import Shift, perturbed
from harness.defences.targets import pair_batch, read
from harness.defences.training import Batch, Settings, compute_losses, fit
from harness.defences.unlearn import Unlearn, random_direction
from harness.model.subject import Subject, make_subject
from harness.stream.injection import capture
from harness.unlearning import (
    Question,
    made_up_facts,
    read_facts,
    relearning_curve,
    unlearn_check,
    write_training_files,
)
from tests.conftest import chat_tokenizer, tiny_model

FACTS = [
    Example(prompt=(5, 6, 7), answer=(9, 10, 2), rejected=(40, 41, 2)),
    Example(prompt=(11, 12), answer=(9, 10, 2), rejected=(42, 43, 2)),
]
KEPT = [Example(prompt=(30, 31), answer=(32, 33, 2)), Example(prompt=(34,), answer=(35, 2))]
PROTOCOL = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 4, "doses": (0.5,), "seeds": (0,)})


def batch(seed: int = 0) -> Batch:
    return Batch(examples=FACTS, benign=KEPT, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def subject() -> Subject:
    return make_subject(tiny_model("llama").requires_grad_(True), chat_tokenizer(), name="tiny", revision="-")


def test_the_made_up_facts() -> None:
    questions = made_up_facts()
    assert len({q.fact for q in questions}) == 160
    assert len({q.goal for q in questions}) == 480
    assert Counter(q.part for q in questions if q.phrasing == "other") == {"forgotten": 40, "retained": 120}
    assert all(q.word in q.answer for q in questions)
    assert not any(q.word in q.goal for q in questions)
    assert made_up_facts() == questions
    assert made_up_facts(seed=1) != questions


def test_the_files_to_train_on_leave_a_phrasing_out(tmp_path: Path) -> None:
    write_training_files(made_up_facts(), tmp_path)
    assert len((tmp_path / "forget.csv").read_text().splitlines()) == 1 + 80
    assert len((tmp_path / "retain.csv").read_text().splitlines()) == 1 + 240
    assert read_facts(str(tmp_path / "facts.csv")) == made_up_facts()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("goal,answer\na,b\n", "line 2: fact is missing"),
        ("fact,goal,answer,word,part,phrasing\nf,a,b,b,gone,trained\n", "part 'gone'"),
        ("fact,goal,answer,word,part,phrasing\nf,a,b,b,forgotten,trained\n", "does not hold facts of both parts"),
    ],
)
def test_facts_that_cannot_be_used(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "facts.csv").write_text(content)
    with pytest.raises(UserError) as error:
        read_facts(str(tmp_path / "facts.csv"))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_facts(str(tmp_path / "none.csv"))


def begun(recipe: Unlearn, subject: Subject) -> Unlearn:
    recipe.pools(FACTS, KEPT)
    recipe.begin(subject)
    return recipe


def test_gradient_ascent_and_generic_predictions(subject: Subject) -> None:
    fact = batch_of([Example(prompt=e.prompt, answer=e.rejected) for e in FACTS])
    with torch.no_grad():
        known, generic = float(answer_loss(subject, fact)), float(answer_loss(subject, batch_of(FACTS)))
        terms = Unlearn(enough=1e3).losses(subject, batch(), Unlearn().prepare(subject, batch()))
        assert terms["away"].item() == pytest.approx(-known, abs=1e-4)
        assert terms["toward"].item() == pytest.approx(generic, abs=1e-4)
        terms = Unlearn(base="whp").losses(subject, batch(), Unlearn(base="whp").prepare(subject, batch()))
        assert terms["answer"].item() == pytest.approx(generic, abs=1e-4)
        assert terms["benign"].item() == pytest.approx(float(answer_loss(subject, batch_of(KEPT))), abs=1e-4)


def test_rmu_against_a_loop(subject: Subject) -> None:
    recipe = begun(Unlearn(base="rmu", block=0.5, coefficient=3.0), subject)
    towards = 3.0 * random_direction(subject.d_model)
    assert towards.norm().item() == pytest.approx(3.0, abs=1e-5)
    squares = []
    with torch.no_grad():
        terms = recipe.losses(subject, batch(), recipe.prepare(subject, batch()))
        for example in FACTS:
            with capture(subject.blocks, [2]) as seen:
                subject.model(torch.tensor([[*example.prompt, *example.rejected[:-1]]]))
            squares.append((seen.outputs[2][0, len(example.prompt) - 1 :] - towards).square())
    assert terms["forget"].item() == pytest.approx(float(torch.cat(squares).mean()), rel=1e-4)
    assert terms["retain"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("base", ["ga", "whp", "rmu"])
@pytest.mark.parametrize("latent", [False, True])
def test_each_base_lowers_its_loss(subject: Subject, tmp_path: Path, base: str, latent: bool) -> None:
    recipe = Unlearn(base=base, latent=latent, inner_steps=2, alpha=1.0)  # type: ignore[arg-type]
    pools = recipe.pools(FACTS, KEPT)
    recipe.begin(subject)

    def objective() -> float:
        prepared = recipe.prepare(subject, batch(9))
        assert isinstance(prepared.perturbation, Shift) == latent
        return float(compute_losses(recipe, subject, batch(9), prepared)[0].detach())

    before = objective()
    settings = Settings(learning_rate=3e-3, batch_size=2, steps=12, benign_batch_size=2)
    fit(subject, recipe, pools, settings, tmp_path, say=lambda line: None)
    subject.model.requires_grad_(True)
    assert objective() < before - 0.2 * abs(before)


def test_a_latent_attack_calls_the_fact_up(subject: Subject) -> None:
    shift = Unlearn(latent=True, inner_steps=8).prepare(subject, batch()).perturbation
    pairs = pair_batch(FACTS)
    with torch.no_grad():
        clean = mean_cross_entropy(*read(subject, pairs).half(1))
        with perturbed(subject, shift):
            attacked = mean_cross_entropy(*read(subject, pairs).half(1))
    assert attacked < clean


def test_unlearning_needs_the_answers(subject: Subject, tmp_path: Path) -> None:
    data = HarmfulData(prompts=[Prompt(id="p", goal="who")], protocol=PROTOCOL, target="Sure", layers=(0,))
    with pytest.raises(UserError, match="name a file of goal,answer with --answers"):
        Unlearn().harmful_examples(subject, data)
    write_training_files(made_up_facts(places=4), tmp_path)
    (tmp_path / "test.csv").write_text("goal\nSing a song about nothing at all\n")
    made = make_plan(
        subject,
        TrainingChoices.of(
            recipe="unlearn",
            out=tmp_path / "out",
            train=str(tmp_path / "forget.csv"),
            answers=tmp_path / "forget.csv",
            benign=str(tmp_path / "retain.csv"),
            test_prompts=str(tmp_path / "test.csv"),
        ),
    )
    examples = made.recipe.harmful_examples(made.subject, made.data)
    assert subject.text(examples[0].answer) == "I do not know."
    assert subject.text(examples[0].rejected).startswith("The river ")


def question(n: int, part: str, phrasing: str = "trained") -> Question:
    return Question(fact=f"f{n}", goal=f"who {n}?", answer=f"It is {n}.", word=str(n), part=part, phrasing=phrasing)


def test_the_check_and_relearning(subject: Subject) -> None:
    subject.model.requires_grad_(False)
    questions = [question(n, "forgotten") for n in range(4)] + [question(9, "retained")]
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    report = unlearn_check(subject, questions, PROTOCOL, attack=["random"], layers=[1, 2], relearned=1, steps=(0, 2))
    assert set(report.accuracy) == {"forgotten, trained", "retained, trained"}
    assert list(report.attacked) == ["random at 0.5"]
    assert [point.step for point in report.relearning] == [0, 2]
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())
    for count in (0, 4):
        with pytest.raises(UserError, match=rf"{count} of 4 forgotten facts cannot be learnt again"):
            unlearn_check(subject, questions, PROTOCOL, attack=[], layers=[], relearned=count)


def test_what_is_learnt_again_is_right_again(subject: Subject) -> None:
    subject.model.requires_grad_(False)
    own = Question(fact="f", goal="who sings?", answer="owl", word="owl", part="forgotten", phrasing="trained")
    curve = relearning_curve(subject, [own], [own], PROTOCOL, 3e-3, (0, 25))
    assert [point.accuracy.value for point in curve] == [0.0, 1.0]
