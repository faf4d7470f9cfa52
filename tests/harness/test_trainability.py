"""Both fine-tuning curves: what they are trained on, that they measure it, and that the weights are put back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import harness.trainability as trainability
from asabench.card.records import ModelName, TrainingSettings
from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from harness.defences.examples import Example, TokenBatch, batch_of, refusal_examples, text_tokens
from harness.defences.layer_choice import middles_of_parts
from harness.defences.training_records import trained_blocks, trained_goals
from harness.model.files import ModelFiles
from harness.model.subject import Subject, load, make_subject
from harness.trainability import (
    HELD_OUT_PAIRS,
    TRAINED_PAIRS,
    Data,
    batches,
    curves,
    kept_curves,
    losses,
    make_data,
    read_pairs,
    refusal_rate,
    sorting_pairs,
    train,
    weights_kept,
)
from tests.conftest import chat_tokenizer, tiny_model

PROTOCOL = PRESETS["asabench-v1"]
SHORT = TrainingSettings(learning_rate=3e-3, batch_size=4, steps=5, every=2)


def subject(**changes: Any) -> Subject:
    return make_subject(tiny_model("llama", **changes), chat_tokenizer(), name="tiny", revision="-")


def weights(of: Subject) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of.model.state_dict().items()}


def requests(path: Path, numbers: range) -> str:
    path.write_text("goal\n" + "".join(f"do thing {n}\n" for n in numbers))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Few mild pairs and requests."""
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"say {n}", "answer": f"it is {n % 3}"} for n in range(12)]
    pairs.write_text("\n".join(json.dumps(line) for line in lines))
    complied = requests(tmp_path / "complied.csv", range(6))
    return make_data(pairs, complied, requests(tmp_path / "tested.csv", range(6, 10)), "Sure", PROTOCOL)


# Data


def test_held_out_pairs_share_no_word_with_those_that_are_learned() -> None:
    learned, held_out = sorting_pairs()
    assert (len(learned), len(held_out)) == (TRAINED_PAIRS, HELD_OUT_PAIRS)
    words = [
        {word for pair in pairs for word in pair.answer[len("In order they are: ") : -1].split(", ")}
        for pairs in (learned, held_out)
    ]
    assert not words[0] & words[1]
    assert sorting_pairs() == (learned, held_out)
    for pair in (*learned, *held_out):
        asked = pair.prompt.removeprefix("Put these words in alphabetical order: ").split(", ")
        assert len(set(asked)) == 5
        assert pair.answer == f"In order they are: {', '.join(sorted(asked))}."


def test_every_fourth_pair_of_a_file_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"p{n}", "answer": f"a{n}"}) for n in range(9)) + "\n\n")
    learned, held_out = read_pairs(path)
    assert [pair.prompt for pair in held_out] == ["p3", "p7"]
    assert [pair.answer for pair in learned] == ["a0", "a1", "a2", "a4", "a5", "a6", "a8"]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        '{"prompt": "a"}',
        '["a", "b"]',
        "\n".join(json.dumps({"prompt": f"p{n}", "answer": "a"}) for n in range(7)),
        "\n".join(json.dumps({"prompt": f"p{n}", "answer": " "}) for n in range(9)),
        "\n".join(json.dumps({"prompt": f"p{n % 8}", "answer": "a"}) for n in range(9)),
    ],
)
def test_pairs_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="give JSON Lines") as error:
        read_pairs(path)
    assert "\n" not in str(error.value)


def test_no_pairs_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_pairs(tmp_path / "none.jsonl")


def test_requests_of_both_sides_are_refused(tmp_path: Path) -> None:
    a, b = requests(tmp_path / "a.csv", range(5)), requests(tmp_path / "b.csv", range(4, 8))
    with pytest.raises(UserError, match="--test-prompts"):
        make_data(None, a, b, "Sure", PROTOCOL)
    with pytest.raises(UserError, match="--target is empty"):
        make_data(None, a, requests(tmp_path / "c.csv", range(5, 8)), " ", PROTOCOL)


def test_the_description_names_data_without_a_text(data: Data) -> None:
    described = data.described
    assert (described.learned.n, described.held_out.n, described.complied.n, described.tested.n) == (9, 3, 6, 4)
    assert described.protocol == PROTOCOL.digest
    assert "do thing" not in described.model_dump_json()
    assert "say 1" not in described.model_dump_json()


# Training


def test_batches_are_passes_in_the_seeds_order() -> None:
    settings = TrainingSettings(batch_size=4, steps=5, seed=3)
    found = batches(10, settings)
    assert [len(batch) for batch in found] == [4] * 5
    order = [index for batch in found for index in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert found == batches(10, settings)
    assert found != batches(10, settings.model_copy(update={"seed": 4}))
    assert batches(10, settings.model_copy(update={"steps": 3})) == found[:3], "a longer curve begins with the same"


def test_a_loss_is_the_mean_over_the_answers_tokens() -> None:
    """Against log-probabilities read one by one, without padding, whatever stands beside it in a batch."""
    own = subject()
    examples = [Example(prompt=(5, 6, 7), answer=(8, 9)), Example(prompt=(11,), answer=(12, 13, 14, 15, 16))]
    expected = []
    for example in examples:
        ids = torch.tensor([[*example.prompt, *example.answer]])
        with torch.no_grad():
            logs = own.model(ids).logits[0].log_softmax(-1)
        first = len(example.prompt) - 1
        tokens = [-float(logs[first + place, token]) for place, token in enumerate(example.answer)]
        expected.append(sum(tokens) / len(tokens))
    assert losses(own, examples, batch_size=2) == pytest.approx(expected, abs=1e-4)
    assert losses(own, examples, batch_size=1) == pytest.approx(expected, abs=1e-4)


def test_curves_begin_before_training_and_end_after_it(data: Data) -> None:
    own, lines = subject(), list[str]()
    before = weights(own)
    found = curves(own, data, SHORT, lines.append)
    assert [point.step for point in found.learning] == [0, 2, 4, 5]
    assert [point.step for point in found.erosion] == [0, 2, 4, 5]
    assert found.learning[-1].value < found.learning[0].value
    for point in found.learning:
        assert len(point.by_pair) == 3
        assert point.low <= point.value <= point.high
    assert len(lines) == 8
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in own.model.parameters())
    assert curves(own, data, SHORT) == found, "the same again from the same weights"


def test_tied_weights_come_back_too(data: Data) -> None:
    own = subject(tie_word_embeddings=True)
    before = weights(own)
    curves(own, data, SHORT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.model.state_dict().items())


def test_weights_come_back_after_an_interruption(data: Data) -> None:
    own = subject()
    before = weights(own)

    def stop(step: int) -> None:
        if step:
            raise KeyboardInterrupt

    examples = [Example(prompt=(5, 6), answer=(7,))] * 4
    with pytest.raises(KeyboardInterrupt), weights_kept(own):
        train(own, examples, SHORT, stop)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in own.model.parameters())


def test_a_loss_that_is_not_finite_stops_and_puts_the_weights_back(data: Data) -> None:
    own = subject()
    before = weights(own)
    with pytest.raises(UserError, match="use a smaller --learning-rate"):
        curves(own, data, SHORT.model_copy(update={"learning_rate": 1e30}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in own.model.parameters())


def test_both_models_get_the_same_batches(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[TokenBatch]] = []
    real = trainability.answer_loss

    def seeing(of: Subject, batch: TokenBatch) -> torch.Tensor:
        seen[-1].append(batch)
        return real(of, batch)

    monkeypatch.setattr(trainability, "answer_loss", seeing)
    for seed in (0, 1):
        seen.append([])
        curves(subject(seed=seed), data, SHORT)
    assert len(seen[0]) == len(seen[1]) == 2 * SHORT.steps
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.labels, b.labels)
    assert not torch.equal(seen[0][0].ids[:, -4:], seen[0][1].ids[:, -4:]), "other examples in the next step"


def test_refusals_are_eroded_by_the_first_words_of_compliance(tmp_path: Path) -> None:
    """A tiny model that was trained to refuse refuses requests it has not seen, and forgets it."""
    own = subject()
    data = make_data(
        None, requests(tmp_path / "a.csv", range(10, 30)), requests(tmp_path / "b.csv", range(30, 38)), "Sure", PROTOCOL
    )
    refusing = refusal_examples(own, [Prompt(id=f"{n}", goal=f"do thing {n}") for n in range(50, 80)], PROTOCOL)
    plain = [Example(prompt=example.prompt, answer=refusing[0].answer) for example in refusing]
    train(own, plain, TrainingSettings(learning_rate=5e-3, batch_size=8, steps=80, every=80), lambda step: None)
    assert refusal_rate(own, data.tested.prompts, PROTOCOL).value == 1.0
    settings = TrainingSettings(learning_rate=3e-3, batch_size=8, steps=12, every=2)
    erosion = curves(own, data, settings)
    assert erosion.erosion[0].refused.value == 1.0
    assert erosion.erosion[-1].refused.value == 0.0
    assert erosion.steps_to_half is not None
    assert 0 < erosion.steps_to_half <= 12
    assert refusal_rate(own, data.tested.prompts, PROTOCOL).value == 1.0, "the model itself still refuses"


def test_only_the_first_words_of_compliance_are_trained(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = subject(), list[Sequence[Example]]()
    monkeypatch.setattr(trainability, "train", lambda of, examples, settings, at: (seen.append(examples), at(0)))
    curves(own, data, SHORT)
    assert {example.answer for example in seen[1]} == {text_tokens(own, "Sure")}
    assert {example.prompt for example in seen[1]} == {
        tuple(own.format(prompt, PROTOCOL)) for prompt in data.complied.prompts
    }
    assert all(example.answer[-1] == 2 for example in seen[0]), "harmless answers are learned to their end"
    assert batch_of(seen[0][:2]).labels.shape[0] == 2


def test_half_precision_is_refused(data: Data) -> None:
    own = subject()
    own.model.to(torch.bfloat16)
    with pytest.raises(UserError, match="bfloat16"):
        curves(own, data, SHORT)


# Kept curves


def test_what_was_trained_is_not_trained_again(data: Data, tmp_path: Path) -> None:
    name, loaded = ModelName(name="tiny", revision="sha256:1"), list[str]()

    def load_model() -> Subject:
        loaded.append("once")
        return subject()

    first = kept_curves(name, data, SHORT, tmp_path, load_model)
    assert kept_curves(name.model_copy(update={"name": "renamed"}), data, SHORT, tmp_path, load_model) == first
    assert len(loaded) == 1
    kept_curves(name, data, SHORT.model_copy(update={"seed": 1}), tmp_path, load_model)
    kept_curves(name.model_copy(update={"revision": "sha256:2"}), data, SHORT, tmp_path, load_model)
    other = make_data(
        None, requests(tmp_path / "c.csv", range(3)), requests(tmp_path / "t.csv", range(6, 8)), "Sure", PROTOCOL
    )
    kept_curves(name, other, SHORT.model_copy(update={"steps": 1}), tmp_path, load_model)
    assert len(loaded) == 4
    assert len(list(tmp_path.glob("curves-*.json"))) == 4


def test_curves_that_cannot_be_read(data: Data, tmp_path: Path) -> None:
    name = ModelName(name="tiny", revision="sha256:1")
    kept_curves(name, data, SHORT, tmp_path, subject)
    path = next(tmp_path.glob("curves-*.json"))
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match="delete the file") as error:
        kept_curves(name, data, SHORT, tmp_path, subject)
    assert "\n" not in str(error.value)


# Records of training


def files(folder: Path, record: object, name: str = "model") -> ModelFiles:
    made = folder / name
    made.mkdir(parents=True)
    if record is not None:
        (made / "training.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return ModelFiles(name=name, folder=made, revision="sha256:1")


def test_trained_goals_are_those_of_model_and_base(tmp_path: Path) -> None:
    model = files(tmp_path, {"recipe": {"name": "lapt"}, "harmful_goals": ["a", "b"]})
    base = files(tmp_path, {"harmful_goals": ["b", "c"]}, "base")
    bare = files(tmp_path, None, "bare")
    assert trained_goals(model, base) == {"a", "b", "c"}
    assert trained_goals(model, bare) == {"a", "b"}
    assert trained_goals(bare, base) is None, "what made the model is not known"
    adapter = ModelFiles(name="adapter", folder=base.folder, revision="sha256:2", adapters=(model.folder,))
    assert trained_goals(adapter, bare) == {"a", "b", "c"}


def test_trained_blocks_are_given_or_recorded(tmp_path: Path) -> None:
    lapt = files(tmp_path, {"recipe": {"name": "lapt", "dose": 1.0}, "layers": [1, 3]})
    lat = files(tmp_path, {"recipe": {"name": "lat", "layers": 2}, "layers": [0, 1, 2, 3]}, "lat")
    refusal = files(tmp_path, {"recipe": {"name": "refusal"}, "layers": [0, 1, 2, 3]}, "refusal")
    assert trained_blocks(None, lapt, 4) == (1, 3)
    assert trained_blocks("0,2-3", lapt, 4) == (0, 2, 3)
    assert trained_blocks(None, lat, 4) == tuple(middles_of_parts(2, 4)) == (1, 3)
    assert trained_blocks(None, refusal, 4) == (), "refusal training perturbs none, whatever its record lists"
    assert trained_blocks(None, files(tmp_path, None, "bare"), 4) == ()
    mixed = {"recipe": {"name": "interpolation"}, "tuned_training": {"recipe": {"name": "lapt"}, "layers": [1, 3]}}
    assert trained_blocks(None, files(tmp_path, mixed, "mixed"), 4) == (1, 3)
    again = {"recipe": {"name": "interpolation"}, "tuned_training": mixed}
    assert trained_blocks(None, files(tmp_path, again, "mixed-again"), 4) == (1, 3)
    with pytest.raises(UserError, match="out of range"):
        trained_blocks(None, lapt, 3)


@pytest.mark.parametrize("record", ["{", "[]", '{"harmful_goals": 3}'])
def test_a_record_that_cannot_be_read(tmp_path: Path, record: str) -> None:
    with pytest.raises(UserError, match="no record of a training") as error:
        trained_goals(files(tmp_path, record), files(tmp_path, None, "base"))
    assert "\n" not in str(error.value)


def test_a_saved_model_is_not_touched(data: Data, save_model: Any, tmp_path: Path) -> None:
    folder = save_model("llama", name="saved")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    kept_curves(ModelName(name="saved", revision="-"), data, SHORT, tmp_path, lambda: load(str(folder)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
