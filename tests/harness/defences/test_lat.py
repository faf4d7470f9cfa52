"""Targeted LAT: the inner attack stays within its bound and lowers its loss; the outer terms are what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS as PROTOCOLS
from asabench.core.records import Prompt
from harness.defences.examples import IGNORED, Example, HarmfulData, TokenBatch, answer_logits, batch_of
from harness.defences.form import Disturbed, attacker_of, perturbed_positions
from harness.defences.lat import PRESETS as LAT_PRESETS
from harness.defences.lat import Lat
from harness.defences.layer_choice import middles_of_parts
from harness.defences.perturbations import Shift, project
from harness.defences.targets import pair_batch, read
from harness.defences.terms import away_loss, summed_log_p
from harness.defences.training import Batch, Settings, fit
from harness.model.subject import Subject, make_subject
from harness.stream.injection import capture, edit
from tests.conftest import chat_tokenizer, tiny_model

EXAMPLES = [
    Example(prompt=(5, 6, 7, 8), answer=(9, 10, 2), rejected=(40, 41)),
    Example(prompt=(11, 12), answer=(12, 2), rejected=(40, 41)),
]
BENIGN = [Example(prompt=(30, 31), answer=(32, 33, 2)), Example(prompt=(34,), answer=(35, 2))]


def batch(seed: int = 0, benign: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(examples=EXAMPLES, benign=BENIGN if benign else [], generator=generator)


@pytest.fixture
def subject() -> Subject:
    return make_subject(tiny_model("llama").requires_grad_(True), chat_tokenizer(), name="tiny", revision="-")


def attacked(lat: Lat, subject: Subject, given: Batch) -> Shift:
    """What the inner attack finds."""
    shift = lat.prepare(subject, given).perturbation
    assert isinstance(shift, Shift)
    return shift


def inner_loss(lat: Lat, subject: Subject, pairs: TokenBatch, shift: Shift) -> Tensor:
    return attacker_of(lat.choices(), subject, pairs, None)(shift)


def shifted_pairs(subject: Subject, pairs: TokenBatch, shift: Shift) -> tuple[tuple[Tensor, Tensor], ...]:
    reading = read(subject, pairs, by=shift)
    return reading.half(0), reading.half(1)


def stream_radius(subject: Subject, layer: int, bound: float) -> float:
    """bound * median over prompt positions of std(h) * sqrt(d), from each request alone."""
    deviations: list[float] = []
    with torch.no_grad(), capture(subject.blocks, [layer]) as seen:
        for example in EXAMPLES:
            subject.model(torch.tensor([example.prompt]))
            deviations += seen.outputs[layer][0].std(dim=-1).tolist()
    return bound * float(torch.tensor(deviations).median()) * math.sqrt(subject.d_model)


@pytest.mark.parametrize("bound", [0.1, 0.4])
def test_the_bound_holds_at_every_position_and_is_reached(subject: Subject, bound: float) -> None:
    shift = attacked(Lat(bound=bound, inner_steps=8, layers=2), subject, batch())
    assert list(shift.by_layer) == [1, 3]
    where = perturbed_positions(pair_batch(EXAMPLES), 2, "prompt")
    for layer, each in shift.by_layer.items():
        radius = stream_radius(subject, layer, bound)
        norms = each.norm(dim=-1)
        assert (norms <= radius * (1 + 1e-4)).all()
        assert norms[where].max() == pytest.approx(radius, rel=1e-3)
        assert (norms[~where] == 0).all()


def test_an_absolute_radius(subject: Subject) -> None:
    shift = attacked(Lat(radius=0.05, inner_steps=4), subject, batch())
    assert all(each.norm(dim=-1).max() <= 0.05 * (1 + 1e-4) for each in shift.by_layer.values())


@pytest.mark.parametrize("positions", ["prompt", "all"])
def test_the_inner_loss_descends_and_weights_get_no_gradient(subject: Subject, positions: str) -> None:
    pairs = pair_batch(EXAMPLES)

    def after(steps: int) -> float:
        lat = Lat(inner_steps=steps, positions=positions)  # type: ignore[arg-type]
        with torch.no_grad():
            return float(inner_loss(lat, subject, pairs, attacked(lat, subject, batch())))

    losses = [after(steps) for steps in (1, 4, 16)]
    clean = {layer: torch.zeros(*pairs.ids[:2].shape, subject.d_model) for layer in range(4)}
    with torch.no_grad():
        unperturbed = float(inner_loss(Lat(), subject, pairs, Shift(by_layer=clean)))
    assert losses[2] < losses[1] < losses[0] < unperturbed
    assert all(parameter.grad is None for parameter in subject.model.parameters())


def test_the_attack_makes_the_harmful_start_likelier_and_the_refusal_unlikelier(subject: Subject) -> None:
    pairs = pair_batch(EXAMPLES)

    def log_p(shift: Shift) -> tuple[float, float]:
        with torch.no_grad():
            refusal, harmful = shifted_pairs(subject, pairs, shift)
            return float(summed_log_p(*refusal).mean()), float(summed_log_p(*harmful).mean())

    nothing = Shift(by_layer={1: torch.zeros(*pairs.ids[:2].shape, subject.d_model)})
    refusal, harmful = log_p(nothing)
    for toward, away in ((1.0, 0.0), (0.0, 1.0)):
        lat = Lat(inner_steps=8, toward=toward, away=away)
        after = log_p(attacked(lat, subject, batch()))
        assert after[1] > harmful + 1 if toward else after[0] < refusal - 0.1


def test_what_is_perturbed(subject: Subject) -> None:
    pairs = pair_batch(EXAMPLES)
    prompt, every = (perturbed_positions(pairs, 2, positions) for positions in ("prompt", "all"))
    assert prompt.tolist() == [[True] * 4 + [False] * 2, [False] * 2 + [True] * 2 + [False] * 2]
    assert every.tolist() == [[True] * 6, [False] * 2 + [True] * 3 + [False]]


def test_refusal_and_harmful_start_share_the_shift_of_their_request(subject: Subject) -> None:
    """Each row alone, without padding, under its own part of the shift, has the same logits."""
    pairs = pair_batch(EXAMPLES)
    shift = attacked(Lat(inner_steps=2, layers=1), subject, batch())
    with torch.no_grad():
        (refusal, _), (harmful, _) = shifted_pairs(subject, pairs, shift)
        for row, example in enumerate(EXAMPLES):
            for logits, answer in ((refusal, example.answer), (harmful, example.rejected)):
                length = len(example.prompt) + len(answer) - 1
                alone = batch_of([replace(example, answer=answer)])
                own = torch.zeros(1, length, subject.d_model)
                own[0, : len(example.prompt)] = shift.by_layer[2][row, 4 - len(example.prompt) : 4]

                def add(block_input: Tensor, block_output: Tensor, own: Tensor = own) -> Tensor:
                    return block_output + own

                with edit(subject.blocks, {2: add}):
                    expected, _ = answer_logits(subject, alone)
                assert torch.allclose(logits[row, : len(answer)], expected[0], atol=1e-4)


def test_the_shift_is_seeded(subject: Subject) -> None:
    a, b, c = (attacked(Lat(inner_steps=2), subject, batch(seed)).by_layer[1] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_projection() -> None:
    shift = torch.tensor([[[3.0, 4.0], [0.3, 0.4], [3.0, 4.0]]])
    got = project(shift, 1.0, torch.tensor([[True, True, False]]))
    assert torch.allclose(got, torch.tensor([[[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]]))


def test_the_away_loss_by_hand() -> None:
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]]])
    labels = torch.tensor([[0, 1, IGNORED]])
    expected = (-math.log(0.5) - math.log(0.2)) / 2
    assert float(away_loss(probabilities.log(), labels)) == pytest.approx(expected, abs=1e-5)


def test_the_away_loss_has_a_gradient_where_the_token_is_certain() -> None:
    logits = torch.tensor([[[60.0, 0.0, 0.0]]], requires_grad=True)
    loss = away_loss(logits, torch.tensor([[0]]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(60 - math.log(2), abs=1e-3)
    assert gradient[0, 0, 0] == pytest.approx(1.0, abs=1e-3)


def test_dpo_by_hand(subject: Subject) -> None:
    """Against its own frozen copy and without a shift the loss is log 2; raising the refusal lowers it."""
    lat = Lat(base="dpo", beta=0.3, layers=1)
    lat.begin(subject)
    pairs = pair_batch(EXAMPLES)
    still = Shift(by_layer={2: torch.zeros(*pairs.ids[:2].shape, subject.d_model)})
    nothing = Disturbed(perturbation=still, layers=[2])
    with torch.no_grad():
        terms = lat.losses(subject, batch(benign=False), nothing)
        assert float(terms["dpo"]) == pytest.approx(math.log(2), abs=1e-5)
        before = summed_log_p(*answer_logits(subject, pairs))
        for parameter in subject.model.parameters():
            parameter.add_(0.01)
        after = summed_log_p(*answer_logits(subject, pairs))
        gain = (after - before)[:2] - (after - before)[2:]
        moved = lat.losses(subject, batch(benign=False), nothing)["dpo"]
    assert float(moved) == pytest.approx(float(-torch.nn.functional.logsigmoid(0.3 * gain).mean()), abs=1e-4)


def test_the_kl_term_is_zero_at_first_and_grows(subject: Subject) -> None:
    lat = Lat(benign_loss="kl")
    lat.begin(subject)
    shift = lat.prepare(subject, batch())
    assert float(lat.losses(subject, batch(), shift)["benign"].detach()) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.add_(0.05 * parameter.std() if parameter.dim() > 1 else 0.0)
    assert float(lat.losses(subject, batch(), shift)["benign"].detach()) > 1e-3


def test_the_benign_term_sees_no_shift(subject: Subject) -> None:
    lat = Lat()
    loss = lat.losses(subject, batch(), lat.prepare(subject, batch()))["benign"]
    plain = torch.nn.functional.cross_entropy
    with torch.no_grad():
        logits, labels = answer_logits(subject, batch_of(BENIGN))
        expected = plain(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-6)
    assert Lat(benign_weight=0).pools(EXAMPLES, BENIGN).benign == ()


@pytest.mark.parametrize("base", ["refusal", "dpo"])
def test_training_lowers_the_loss_under_a_new_attack(subject: Subject, tmp_path: Path, base: str) -> None:
    lat = Lat(base=base, inner_steps=4, model_steps=2, benign_weight=0.5)  # type: ignore[arg-type]
    lat.begin(subject)

    def loss_under_attack() -> float:
        fresh = batch(seed=99)
        shift = lat.prepare(subject, fresh)
        with torch.no_grad():
            terms = lat.losses(subject, fresh, shift)
        return sum(lat.weights[name] * float(term) for name, term in terms.items())

    before = loss_under_attack()
    settings = Settings(learning_rate=3e-3, batch_size=2, steps=15, benign_batch_size=2)
    fit(subject, lat, lat.pools(EXAMPLES, BENIGN), settings, tmp_path, say=lambda line: None)
    assert loss_under_attack() < before * 0.7


@pytest.mark.parametrize(
    ("count", "n_layers", "expected"),
    [(4, 30, [3, 11, 18, 26]), (4, 32, [4, 12, 20, 28]), (4, 4, [0, 1, 2, 3]), (4, 2, [0, 1]), (1, 5, [2])],
)
def test_blocks_are_evenly_spaced(count: int, n_layers: int, expected: list[int]) -> None:
    assert middles_of_parts(count, n_layers) == expected


def test_the_published_hyper_parameters() -> None:
    settings, options = LAT_PRESETS["paper"]
    assert (settings.steps, settings.lora_rank, settings.learning_rate) == (100, 64, 2e-5)
    assert options["radius"] == 6.0
    assert (options["inner_steps"], options["model_steps"]) == (16, 4)
    made = Lat(**options)
    assert (made.toward, made.away, made.benign_weight, made.benign_loss) == (0.5, 0.5, 1.5, "sft")
    assert (Lat().bound, Lat().layers) == (0.4, 4)


def test_examples_have_a_refusal_and_the_start_of_compliance(subject: Subject) -> None:
    protocol = PROTOCOLS["asabench-v1"]
    goals = [Prompt(id=f"p{n}", goal=f"paint {n}") for n in range(2)]
    data = HarmfulData(prompts=goals, protocol=protocol, target="Sure, here is", layers=(0,))
    made = Lat().harmful_examples(subject, data)
    assert {subject.tokenizer.decode(example.rejected) for example in made} == {"Sure, here is"}
    with pytest.raises(UserError, match="no tokens"):
        Lat().harmful_examples(subject, replace(data, target=""))
