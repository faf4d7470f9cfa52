"""Recipes over the common form: what each disturbs and learns, against plain loops, on a tiny model; and that each
lowers its own objective there. The losses themselves: `test_terms`; LAT: `test_lat`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from asabench.core.defaults import RECIPE_NAMES
from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS as PROTOCOLS
from asabench.core.records import Prompt
from harness.defences import RECIPES, make_recipe
from harness.defences.cat import Cat
from harness.defences.circuit_breakers import CircuitBreakers
from harness.defences.combine import Combine
from harness.defences.deep_refusal import DeepRefusal
from harness.defences.examples import Example, HarmfulData, answer_logits, answer_loss, batch_of
from harness.defences.form import Disturbed
from harness.defences.perturbations import (
    EMBEDDING,
    Ablation,
    NoiseShift,
    Shift,
    perturbed,
    refusal_directions,
    without_direction,
)
from harness.defences.repnoise import RepNoise
from harness.defences.t_vaccine import TVaccine
from harness.defences.tar import Tampered, Tar
from harness.defences.targets import real_positions
from harness.defences.training import Batch, Settings, compute_losses, fit
from harness.defences.vaccine import Vaccine
from harness.model.architecture import unembedding
from harness.model.subject import Subject, make_subject
from harness.stream.injection import capture
from harness.stream.perturbation import normalise, standardise
from tests.conftest import chat_tokenizer, tiny_model

EXAMPLES = [
    Example(prompt=(5, 6, 7, 8), answer=(9, 10, 2), rejected=(40, 41)),
    Example(prompt=(11, 12), answer=(12, 2), rejected=(42, 43)),
    Example(prompt=(13, 14, 15), answer=(9, 10, 2), rejected=(40, 43)),
]
BENIGN = [Example(prompt=(30, 31), answer=(32, 33, 2)), Example(prompt=(34,), answer=(35, 2))]


def batch(seed: int = 0, benign: bool = True, progress: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(examples=EXAMPLES, benign=BENIGN if benign else [], generator=generator, progress=progress)


@pytest.fixture
def subject() -> Subject:
    return make_subject(tiny_model("llama").requires_grad_(True), chat_tokenizer(), name="tiny", revision="-")


def begun(recipe: Any, subject: Subject) -> Any:
    recipe.pools(EXAMPLES, BENIGN)
    recipe.begin(subject)
    return recipe


def test_vaccine_pushes_every_block_along_the_gradient_of_its_own_loss(subject: Subject) -> None:
    shift = Vaccine(rho=0.5).prepare(subject, batch()).perturbation
    assert isinstance(shift, Shift)
    assert list(shift.by_layer) == [0, 1, 2, 3]
    tokens = batch_of(EXAMPLES)
    with capture(subject.blocks, range(4)) as seen:
        loss = answer_loss(subject, tokens)
    gradients = torch.autograd.grad(loss, [seen.outputs[n] for n in range(4)])
    masked = [gradient * tokens.mask.bool()[..., None] for gradient in gradients]
    norm = torch.cat([each.flatten() for each in masked]).norm()
    for layer, gradient in enumerate(masked):
        assert torch.allclose(shift.by_layer[layer], 0.5 * gradient / norm, atol=1e-5)
    with torch.no_grad(), perturbed(subject, shift):
        assert answer_loss(subject, tokens) > loss


def test_t_vaccine_draws_blocks_and_leaves_the_others_weights(subject: Subject) -> None:
    recipe = begun(TVaccine(sampled=2), subject)
    drawn = batch()
    prepared = recipe.prepare(subject, drawn)
    assert len(prepared.layers) == 2
    assert list(prepared.perturbation.by_layer) == list(prepared.layers)
    compute_losses(recipe, subject, drawn, prepared)[0].backward()
    for layer, block in enumerate(subject.blocks):
        moved = [parameter.grad is not None for parameter in block.parameters()]
        assert all(moved) if layer in prepared.layers else not any(moved)
    assert len({tuple(recipe.prepare(subject, batch(seed)).layers) for seed in range(12)}) > 1


def test_cat_moves_embeddings_of_requests_within_its_bound(subject: Subject) -> None:
    shift = Cat(eps=0.1).prepare(subject, batch()).perturbation
    assert isinstance(shift, Shift)
    (layer,) = shift.by_layer
    assert layer == EMBEDDING
    radius = 0.1 * float(subject.model.get_input_embeddings().weight.detach().norm(dim=-1).mean())
    norms = shift.by_layer[EMBEDDING].norm(dim=-1)
    assert radius / 2 < norms.max().item() <= radius * (1 + 1e-4)
    assert [[bool(cell) for cell in row] for row in norms > 0] == [
        [True] * 4 + [False] * 2,
        [False] * 2 + [True] * 2 + [False] * 2,
        [False] + [True] * 3 + [False] * 2,
    ]
    harmful = batch_of([Example(prompt=e.prompt, answer=e.rejected) for e in EXAMPLES])
    with torch.no_grad():
        clean = answer_loss(subject, harmful)
        own = Shift(by_layer={EMBEDDING: shift.by_layer[EMBEDDING][:, : harmful.ids.shape[1]]})
        with perturbed(subject, own):
            assert answer_loss(subject, harmful) < clean


def test_a_shift_of_the_embedding_is_what_other_embeddings_give(subject: Subject) -> None:
    tokens = batch_of(EXAMPLES[:1])
    moved = 0.1 * torch.randn(1, tokens.ids.shape[1], subject.d_model, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        with perturbed(subject, Shift(by_layer={EMBEDDING: moved})):
            got, _ = answer_logits(subject, tokens)
        inputs = subject.model.get_input_embeddings()(tokens.ids) + moved
        expected = subject.model(inputs_embeds=inputs).logits[:, -got.shape[1] :]
    assert torch.allclose(got, expected, atol=1e-4)


def test_the_refusal_direction_is_a_difference_of_means(subject: Subject) -> None:
    got = refusal_directions(subject, EXAMPLES, BENIGN)
    means = []
    for examples in (EXAMPLES, BENIGN):
        rows = []
        for example in examples:
            with torch.no_grad(), capture(subject.blocks, [2]) as seen:
                subject.model(torch.tensor([example.prompt]))
            rows.append(seen.outputs[2][0, -1])
        means.append(torch.stack(rows).mean(0))
    difference = means[0] - means[1]
    assert torch.allclose(got[2], difference / difference.norm(), atol=1e-4)


def test_an_ablated_state_has_nothing_along_the_direction(subject: Subject) -> None:
    unit = torch.tensor([0.6, 0.8])
    got = without_direction(torch.tensor([[1.0, 2.0], [-4.0, 3.0]]), unit)
    assert torch.allclose(got, torch.tensor([[-0.32, 0.24], [-4.0, 3.0]]), atol=1e-6)
    recipe = begun(DeepRefusal(probability=1.0), subject)
    ablation = recipe.prepare(subject, batch()).perturbation
    assert isinstance(ablation, Ablation)
    tokens = batch_of(EXAMPLES)
    with torch.no_grad(), perturbed(subject, ablation), capture(subject.blocks, range(4)) as seen:
        answer_logits(subject, tokens)
    real = real_positions(tokens)
    for layer in range(4):
        along = seen.outputs[layer] @ ablation.directions[layer]
        assert along[real].abs().max() < 1e-4


def test_ablation_is_drawn_for_blocks_and_then_for_positions(subject: Subject) -> None:
    recipe = begun(DeepRefusal(probability=0.5), subject)
    drawn = [recipe.prepare(subject, batch(seed)).perturbation for seed in range(40)]
    blocks = [len(each.where) for each in drawn]
    assert 0.35 < sum(blocks) / (4 * 40) < 0.65
    real = int(batch_of(EXAMPLES).mask.sum())
    shares = [float(where.sum()) / real for each in drawn for where in each.where.values()]
    assert 0.4 < sum(shares) / len(shares) < 0.6
    nothing = begun(DeepRefusal(probability=0.0), subject).prepare(subject, batch()).perturbation
    assert nothing.layers == []


def test_a_prefilled_answer_is_read_and_not_learnt(subject: Subject) -> None:
    goals = [Prompt(id=f"p{n}", goal=f"paint {n}") for n in range(4)]
    data = HarmfulData(prompts=goals, protocol=PROTOCOLS["asabench-v1"], target="Sure", layers=(0,))
    plain, half = (DeepRefusal(prefill=share).harmful_examples(subject, data) for share in (0.0, 0.5))
    longer = [b.prompt[len(a.prompt) :] for a, b in zip(plain, half, strict=True)]
    assert longer == [plain[0].rejected, (), plain[2].rejected, ()]
    assert [e.answer for e in plain] == [e.answer for e in half]


def test_circuit_breakers_against_a_loop(subject: Subject) -> None:
    recipe = begun(CircuitBreakers(alpha=3.0, count=2), subject)
    assert recipe.prepare(subject, batch()).layers == [1, 3]
    first = recipe.losses(subject, batch(), recipe.prepare(subject, batch()))
    assert first["reroute"].item() == pytest.approx(3.0, abs=1e-4)
    assert first["retain"].item() == pytest.approx(0.0, abs=1e-4)

    def hidden(example: Example, answer: tuple[int, ...]) -> dict[int, Tensor]:
        with capture(subject.blocks, [1, 3]) as seen:
            subject.model(torch.tensor([[*example.prompt, *answer[:-1]]]))
        return {layer: seen.outputs[layer][0] for layer in (1, 3)}

    kept = [*BENIGN, *EXAMPLES]
    with torch.no_grad():
        before = [hidden(e, e.rejected) for e in EXAMPLES], [hidden(e, e.answer) for e in kept]
        for parameter in subject.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        after = [hidden(e, e.rejected) for e in EXAMPLES], [hidden(e, e.answer) for e in kept]
        terms = recipe.losses(subject, batch(progress=0.5), recipe.prepare(subject, batch()))
    rerouted, stayed = [], []
    for layer in (1, 3):
        cosines = [
            cosine_similarity(now[layer], then[layer], dim=-1)[len(e.prompt) - 1 :]
            for e, now, then in zip(EXAMPLES, after[0], before[0], strict=True)
        ]
        rerouted.append(torch.cat(cosines).relu().mean())
        distances = [(now[layer] - then[layer]).norm(dim=-1) for now, then in zip(after[1], before[1], strict=True)]
        stayed.append(torch.cat(distances).mean())
    assert terms["reroute"].item() == pytest.approx(3 * 0.75 * float(sum(rerouted)) / 2, rel=1e-3)
    assert terms["retain"].item() == pytest.approx(3 * 0.25 * float(sum(stayed)) / 2, rel=1e-3)


@pytest.mark.parametrize("lens", [0, 2])
def test_repnoise_raises_the_loss_of_harmful_answers_at_several_depths(subject: Subject, lens: int) -> None:
    recipe = RepNoise(lens=lens)
    with torch.no_grad():
        terms = recipe.losses(subject, batch(), recipe.prepare(subject, batch()))
        losses = []
        for layer in [*[1, 3][:lens], 3]:
            nll = []
            for example in EXAMPLES:
                ids = torch.tensor([[*example.prompt, *example.rejected[:-1]]])
                with capture(subject.blocks, [layer]) as seen:
                    logits = subject.model(ids).logits
                if layer != 3 or lens:
                    logits = subject.model.lm_head(subject.model.model.norm(seen.outputs[layer]))
                nll.append(cross_entropy(logits[0, len(example.prompt) - 1 :], torch.tensor(example.rejected)))
            losses.append(float(torch.stack(nll).mean()))
        assert terms["ascent"].item() == pytest.approx(-math.log(1 + sum(losses) / len(losses)), abs=1e-3)
        assert terms["answer"].item() == pytest.approx(float(answer_loss(subject, batch_of(EXAMPLES))), abs=1e-5)
    assert recipe.weights == {"answer": 1.0, "noise": 0.001, "ascent": 1.0, "benign": 1.0}


def test_every_family_can_be_read_as_logits(family_subject: Subject) -> None:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), capture(family_subject.blocks, [family_subject.n_layers - 1]) as seen:
        logits = family_subject.model(ids).logits
    with torch.no_grad():
        got = unembedding(family_subject.model, family_subject.name)(seen.outputs[family_subject.n_layers - 1])
    assert torch.allclose(got, logits, atol=1e-3)


def test_tar_takes_its_gradient_after_the_attack_and_leaves_the_weights(subject: Subject) -> None:
    recipe = begun(Tar(inner_steps=3, inner_every=3, inner_rates="1e-2"), subject)
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    small = replace(batch(), examples=EXAMPLES[:1])
    tampered = recipe.prepare(subject, small)
    assert isinstance(tampered, Tampered)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())
    # The same attack in a plain loop
    copy = make_subject(tiny_model("llama").requires_grad_(True), chat_tokenizer(), name="tiny", revision="-")
    generator = torch.Generator().manual_seed(0)
    torch.randint(1, (), generator=generator)
    optimiser = torch.optim.AdamW(copy.model.parameters(), lr=1e-2, weight_decay=0.0)
    others = EXAMPLES[1:]
    for _ in range(3):
        drawn = [others[n] for n in torch.randint(2, (4,), generator=generator).tolist()]
        optimiser.zero_grad()
        answer_loss(copy, batch_of([Example(prompt=e.prompt, answer=e.rejected) for e in drawn])).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    optimiser.zero_grad()
    loss = recipe.tamper_loss(copy, EXAMPLES[:1])
    loss.backward()
    assert tampered.loss == pytest.approx(loss.item(), abs=1e-4)
    for parameter, gradient in zip(copy.model.parameters(), tampered.gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-4)
    # And it is what the term of the step sends back
    terms = recipe.losses(subject, replace(small, benign=[]), tampered)
    assert terms["tampered"].item() == pytest.approx(tampered.loss, abs=1e-5)
    terms["tampered"].backward()
    for parameter, gradient in zip(subject.model.parameters(), tampered.gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-5)


def test_noise_is_normalised_to_each_state(subject: Subject) -> None:
    prepared = Combine(source="noise", layers="even", count=1, dose=0.7).prepare(subject, batch())
    noise = prepared.perturbation
    assert isinstance(noise, NoiseShift)
    hidden = torch.randn(3, 6, subject.d_model, generator=torch.Generator().manual_seed(5))
    got = noise.apply(2, hidden)
    drawn = standardise(torch.randn(3, subject.d_model, generator=torch.Generator().manual_seed(0)))
    for row in range(3):
        for position in range(6):
            expected = hidden[row, position]
            if noise.where[row, position]:
                expected = expected + 0.7 * normalise(drawn[row], expected)
            assert torch.allclose(got[row, position], expected, atol=1e-5)


@pytest.mark.parametrize("source", ["none", "noise", "gradient", "pgd", "ablate"])
@pytest.mark.parametrize("target", ["safe", "pair", "dpo", "reroute", "noise"])
def test_every_source_goes_with_every_target(subject: Subject, source: str, target: str) -> None:
    spec = f"combine:source={source}:target={target}:inner_steps=1:positions=answer:layers=sampled:count=2"
    recipe, _ = make_recipe(spec)
    begun(recipe, subject)
    drawn = batch(progress=0.5)
    loss, terms = compute_losses(recipe, subject, drawn, recipe.prepare(subject, drawn))
    assert loss.isfinite()
    assert set(terms) == {"loss", *recipe.weights}
    loss.backward()  # type: ignore[no-untyped-call]


OWN: Mapping[str, dict[str, Any]] = {
    "vaccine": {"rho": 0.3},
    "t-vaccine": {"rho": 0.3, "sampled": 2},
    "circuit-breakers": {},
    "repnoise": {},
    "cat": {"inner_steps": 2},
    "deep-refusal": {},
    "tar": {"inner_steps": 2, "tamper": "dpo", "inner_rates": "1e-3"},
    "combine": {"inner_steps": 2},
}


@pytest.mark.parametrize("name", OWN)
def test_each_lowers_its_own_objective(subject: Subject, tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name].make(**OWN[name])
    pools = recipe.pools(EXAMPLES, BENIGN)

    def objective() -> float:
        """At the start of a training, when nothing has to be kept yet: states may move."""
        fresh = batch(seed=99)
        _, terms = compute_losses(recipe, subject, fresh, recipe.prepare(subject, fresh))
        return terms["loss"] - recipe.weights.get("stay", 0.0) * terms.get("stay", 0.0)

    recipe.begin(subject)
    before = objective()
    if name == "circuit-breakers":
        assert before == pytest.approx(10.0, abs=1e-3)
    settings = Settings(learning_rate=3e-3, batch_size=3, steps=15, benign_batch_size=2)
    fit(subject, recipe, pools, settings, tmp_path, say=lambda line: None)
    subject.model.requires_grad_(True)
    assert objective() < before - 0.15 * abs(before)


def test_the_command_names_every_recipe() -> None:
    assert tuple(RECIPES) == RECIPE_NAMES


@pytest.mark.parametrize("name", RECIPES)
def test_presets_make_recipes(name: str) -> None:
    for preset in RECIPES[name].presets:
        recipe, settings = make_recipe(name, preset)
        assert recipe.name == name
        assert settings.steps or settings.epochs


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("vaccine:rho=0", "greater than 0"),
        ("t-vaccine:sampled=0", "greater than or equal to 1"),
        ("circuit-breakers:layers=some", "'all', 'even' or 'given'"),
        ("repnoise:lens=-1", "greater than or equal to 0"),
        ("cat:eps=nan", "eps"),
        ("deep-refusal:probability=2", "less than or equal to 1"),
        ("tar:inner_rates=fast", "give learning rates over 0, such as 2e-5,4e-5"),
        ("combine:source=wind", "'none', 'noise', 'gradient', 'pgd' or 'ablate'"),
    ],
)
def test_options_that_cannot_be_used(spec: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        make_recipe(spec)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_frozen_copy_that_does_not_fit(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.defences.frozen.free_memory", lambda device: 10)
    for recipe in (CircuitBreakers(), Combine(benign_loss="kl")):
        with pytest.raises(UserError, match=r"keeps a frozen copy of tiny, which takes \d+\.\d GiB, and 0\.0 GiB are"):
            begun(recipe, subject)
    begun(Vaccine(), subject)
    monkeypatch.setattr("harness.defences.tar.free_memory", lambda device: 10)
    with pytest.raises(UserError, match=r"an attack of the recipe tar takes \d+\.\d GiB"):
        begun(Tar(), subject)


def test_tar_needs_other_requests_to_attack_on(subject: Subject) -> None:
    goals = [Prompt(id="p", goal="paint")]
    data = HarmfulData(prompts=goals, protocol=PROTOCOLS["asabench-v1"], target="Sure", layers=(0,))
    with pytest.raises(UserError, match="--train has 1; give 2 or more"):
        Tar().harmful_examples(subject, data)


def test_nothing_disturbed_is_the_model_itself(subject: Subject) -> None:
    prepared = Combine(source="none").prepare(subject, batch())
    assert isinstance(prepared, Disturbed)
    assert prepared.perturbation is None
