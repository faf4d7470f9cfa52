"""LAPT: noise at a cell's block, at the positions where generation injects, fresh every step; loss on the answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from asabench.dataset.splits import leakfree_split
from asabench.runs.training_choices import TrainingChoices
from harness.defences.defend import make_plan
from harness.defences.examples import (
    Example,
    HarmfulData,
    SafeCell,
    answer_logits,
    batch_of,
    cell_examples,
    read_cells,
)
from harness.defences.lapt import PRESETS as LAPT_PRESETS
from harness.defences.lapt import Lapt
from harness.defences.training import Batch, Pools, Settings, batches_of_step, fit
from harness.engine.decoding import Batch as DecodingBatch
from harness.model.subject import Subject, make_subject
from harness.stream.injection import NO_LAYER, Injecting, Injection, capture, inject
from harness.stream.perturbation import standardise
from tests.asabench.dataset.dataset_fixtures import benchmark_folder, finished_run
from tests.conftest import chat_tokenizer, tiny_model

EXAMPLES = [
    Example(prompt=(5, 6, 7, 8), answer=(9, 10, 2), layer=1),
    Example(prompt=(11,), answer=(12, 2), layer=2),
    Example(prompt=(13, 14), answer=(15, 16, 17, 2), layer=1),
]
BENIGN = [Example(prompt=(30 + n, 31), answer=(32, 33, 2)) for n in range(8)]


def batch(seed: int = 0, benign: list[Example] | None = None) -> Batch:
    return Batch(examples=EXAMPLES, benign=benign or [], generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def subject() -> Subject:
    return make_subject(tiny_model("llama").requires_grad_(True), chat_tokenizer(), name="tiny", revision="-")


def test_the_hook_fires_once_a_step(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    fired: Counter[tuple[Injection, int]] = Counter()
    apply = Injecting.apply

    def counted(state: Injecting, layer: int, *hidden: Tensor) -> Tensor:
        fired[state.injection, layer] += 1
        return apply(state, layer, *hidden)

    monkeypatch.setattr(Injecting, "apply", counted)
    lapt = Lapt()
    drawn = batch(benign=BENIGN)
    prepared = lapt.prepare(subject, drawn)
    sum(lapt.losses(subject, drawn, prepared).values()).backward()
    assert {layer for injection, layer in fired if injection is prepared[0].injection} == {1, 2}
    assert {layer for injection, layer in fired if injection is prepared[1].injection} <= {1, 2}
    assert set(fired.values()) == {1}
    assert not any(block._forward_hooks for block in subject.blocks)


def test_noise_acts_where_generation_injects_under_padding(subject: Subject) -> None:
    """At each row's own block, at the last prompt position and the answer's fed-back tokens, by dose * delta'."""
    perturbed = Lapt(dose=0.7).prepare(subject, batch())[0]
    ids, mask = perturbed.batch.ids, perturbed.batch.mask
    blocks = subject.blocks
    # Hooks run in the order in which they were made: before the injection, and after it
    with (
        torch.no_grad(),
        capture(blocks, range(4)) as clean,
        inject(blocks, perturbed.injection),
        capture(blocks, range(4)) as seen,
    ):
        subject.forward(ids, mask)
    for row, example in enumerate(EXAMPLES):
        layer = example.layer
        change = (seen.outputs[layer] - clean.outputs[layer])[row].abs().sum(-1) > 1e-6
        start = 4 - 1
        where = [start <= column < start + len(example.answer) for column in range(ids.shape[1])]
        assert change.tolist() == where
        h = clean.outputs[layer][row, start]
        unit = perturbed.injection.unit[row]
        expected = h + 0.7 * (h.mean() + unit * h.std())
        assert torch.allclose(seen.outputs[layer][row, start], expected, atol=1e-4)
        other = 3 - layer  # 1 and 2 are each other's: this row is left as it is there
        assert torch.equal(seen.outputs[other][row], clean.outputs[other][row])


def test_a_teacher_forced_step_is_generation_under_the_same_noise(subject: Subject) -> None:
    """Feeding the answer token by token under the injection gives the logits that training sees."""
    example = EXAMPLES[0]
    direction = torch.randn(1, subject.d_model, generator=torch.Generator().manual_seed(3))

    def injection(**how: Any) -> Injection:
        return Injection(layer=torch.tensor([1]), unit=standardise(direction), dose=torch.tensor([0.8]), **how)

    with torch.no_grad():
        decoding = DecodingBatch(subject, [list(example.prompt)], torch.tensor([0]), injection(), 4)
        stepwise = []
        for token in example.answer:
            stepwise.append(decoding.step()[0])
            decoding.append(torch.tensor([token]))
        forced = batch_of([example])
        with inject(subject.blocks, injection(positions=forced.answer_positions)):
            logits, _ = answer_logits(subject, forced)
    assert torch.allclose(logits[0], torch.stack(stepwise), atol=1e-4)


def test_gradients_reach_the_weights_below_and_above_the_block(subject: Subject) -> None:
    lapt = Lapt()
    drawn = batch()
    lapt.losses(subject, drawn, lapt.prepare(subject, drawn))["answer"].backward()
    for block in subject.blocks:
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in block.parameters())


def test_noise_is_fresh_every_step_and_seeded() -> None:
    pools = Pools(examples=EXAMPLES)
    settings = Settings(learning_rate=1.0, batch_size=3, steps=4)
    own = make_subject(tiny_model("llama"), chat_tokenizer(), name="tiny", revision="-")

    def noise(step: int, seed: int = 0) -> Tensor:
        drawn = batches_of_step(pools, settings.model_copy(update={"seed": seed}), step)[0]
        return Lapt().prepare(own, drawn)[0].injection.unit

    assert torch.equal(noise(1), noise(1))
    assert not torch.equal(noise(1), noise(2))
    assert not torch.equal(noise(1), noise(1, seed=1))
    assert not torch.equal(noise(1)[0], noise(1)[1])


def test_the_loss_under_unseen_noise_falls(subject: Subject, tmp_path: Path) -> None:
    lapt = Lapt(benign_weight=0.0)

    def unseen() -> float:
        drawn = [batch(seed) for seed in range(1000, 1010)]
        with torch.no_grad():
            return sum(float(lapt.losses(subject, b, lapt.prepare(subject, b))["answer"]) for b in drawn) / len(drawn)

    before = unseen()
    settings = Settings(learning_rate=3e-3, batch_size=3, steps=30)
    fit(subject, lapt, lapt.pools(EXAMPLES, []), settings, tmp_path, say=lambda line: None)
    assert unseen() < before / 2


def test_the_answer_term_ignores_the_prompt(subject: Subject) -> None:
    """Perturbed from the last prompt position on, the loss counts the answer's tokens alone."""
    lapt, drawn = Lapt(dose=0.0), batch()
    with torch.no_grad():
        got = lapt.losses(subject, drawn, lapt.prepare(subject, drawn))["answer"]
        nll = []
        for example in EXAMPLES:
            logits = subject.model(torch.tensor([[*example.prompt, *example.answer]])).logits[0].log_softmax(-1)
            nll += [-logits[len(example.prompt) - 1 + n, token] for n, token in enumerate(example.answer)]
    assert torch.allclose(got, torch.stack(nll).mean(), atol=1e-4)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (1.0, 8, 8), (0.5, 1, 7)])
def test_a_share_of_benign_examples_is_perturbed_at_the_cells_blocks(
    subject: Subject, share: float, low: int, high: int
) -> None:
    prepared = Lapt(benign_noise=share).prepare(subject, batch(benign=BENIGN))
    layers = prepared[1].injection.layer.tolist()
    perturbed = [layer for layer in layers if layer != NO_LAYER]
    assert low <= len(perturbed) <= high
    assert set(perturbed) <= {1, 2}


def test_the_benign_term_is_weighted_and_can_be_left_out(subject: Subject) -> None:
    assert Lapt(benign_weight=0.25).weights == {"answer": 1.0, "benign": 0.25}
    assert set(Lapt().losses(subject, batch(benign=BENIGN), Lapt().prepare(subject, batch(benign=BENIGN)))) == {
        "answer",
        "benign",
    }
    assert Lapt(benign_weight=0).pools(EXAMPLES, BENIGN).benign == ()
    assert Lapt().pools(EXAMPLES, BENIGN).benign == BENIGN


def test_the_published_hyper_parameters() -> None:
    settings, options = LAPT_PRESETS["paper"]
    assert settings.learning_rate == 1e-4
    assert (settings.warmup, settings.batch_size, settings.accumulation, settings.steps) == (0.1, 1, 2, 20)
    assert settings.weight_decay == 2e-6
    assert options == {"benign_weight": 0.0}
    assert Lapt().dose == 1.0


PROTOCOL = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 6})


def test_cells_of_a_finished_run_are_its_successes_with_a_safe_clean_answer(tmp_path: Path) -> None:
    """Prompts 0, 1, 2 and 5 are safe when clean; prompt 3 breaks when clean and prompt 4 is unscored."""
    finished_run(tmp_path / "run")
    cells = read_cells(tmp_path / "run")
    assert sorted((cell.prompt.goal[-1], cell.layer) for cell in cells) == [
        ("0", 0), ("0", 1), ("0", 3), ("1", 0), ("1", 1), ("2", 3), ("5", 2)
    ]  # fmt: skip
    assert all(cell.whole for cell in cells)
    assert cells[0].answer == "A calm answer to p0 at layer None"


def test_cells_of_a_benchmark_are_those_of_its_train_split(tmp_path: Path) -> None:
    folder = tmp_path / "benchmark"
    benchmark_folder(folder)
    train, every = read_cells(folder), read_cells(folder, split=None)
    goals = {cell.prompt.goal for cell in every}
    assert {cell.prompt.goal for cell in train} == {
        goal for goal in goals if leakfree_split(Prompt(id="", goal=goal).digest) == "train"
    }
    assert 0 < len(train) < len(every) == 7


def test_cells_in_tokens(subject: Subject) -> None:
    cell = SafeCell(prompt=Prompt(id="p", goal="paint it"), answer="I cannot do that.", layer=3, whole=True)
    ended, cut = cell_examples(subject, [cell, replace(cell, whole=False)], PROTOCOL)
    assert subject.tokenizer.decode(ended.answer, skip_special_tokens=True) == "I cannot do that."
    assert ended.answer == (*cut.answer, 2)
    assert ended.layer == 3
    with pytest.raises(UserError, match=r"layers 4, and tiny has 4 blocks"):
        cell_examples(subject, [replace(cell, layer=4)], PROTOCOL)


def test_without_cells_a_model_must_refuse_by_itself(subject: Subject) -> None:
    data = HarmfulData(prompts=[Prompt(id="p", goal="paint it")], protocol=PROTOCOL, target="Sure", layers=(0, 2))
    with pytest.raises(UserError, match="refuses none of the 1 training prompts"):
        Lapt().harmful_examples(subject, data)


def test_without_cells_every_refused_prompt_is_trained_at_every_layer(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.defences.lapt as lapt

    monkeypatch.setattr(lapt, "refused", lambda subject, examples: examples[:2])
    prompts = [Prompt(id=f"p{n}", goal=f"paint {n}") for n in range(3)]
    data = HarmfulData(prompts=prompts, protocol=PROTOCOL, target="Sure", layers=(0, 2))
    made = Lapt().harmful_examples(subject, data)
    assert [example.layer for example in made] == [0, 2, 0, 2]
    assert len({example.prompt for example in made}) == 2


@pytest.mark.parametrize(("layers", "says"), [("4", "layer 4 is out of range"), ("x", "cannot be read")])
def test_layers_that_the_model_does_not_have(tmp_path: Path, subject: Subject, layers: str, says: str) -> None:
    path = tmp_path / "goals.csv"
    path.write_text("goal\npaint\n")
    test = tmp_path / "test.csv"
    test.write_text("goal\nsing\n")
    options: dict[str, Any] = {"train": str(path), "test_prompts": str(test), "layers": layers}
    with pytest.raises(UserError, match=says):
        make_plan(subject, TrainingChoices.of(recipe="lapt", out=tmp_path / "out", **options))


def test_a_run_without_usable_cells(tmp_path: Path) -> None:
    finished_run(tmp_path / "run", clean="uuuuuu")
    with pytest.raises(UserError, match="no cell to train on"):
        read_cells(tmp_path / "run")
