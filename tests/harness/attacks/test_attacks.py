"""The attacks' directions against finite differences, naive loops and what they promise."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from asabench.core.errors import UserError
from asabench.core.prompts import quickstart
from asabench.core.protocol import PRESETS, GradientPosition, Protocol
from asabench.core.records import Cell, Prompt
from harness.attacks import make_attack
from harness.attacks.gradient import GradientAttack
from harness.attacks.mean_difference import MeanDifferenceAttack
from harness.attacks.pgd import PgdAttack
from harness.attacks.random import RandomAttack
from harness.attacks.target_loss import TargetPass, loss_gradients, target_loss, target_text
from harness.engine.decoding import Batch
from harness.engine.sweep import grid, injection_of
from harness.model.clean_states import enters_at_blocks
from harness.model.subject import Subject, make_subject
from harness.model.tensor_cache import ModelCache
from harness.stream.injection import edit, hidden_state
from harness.stream.noise import gaussian, portable_seed
from harness.stream.perturbation import normalise, perturb, standardise
from tests.conftest import chat_tokenizer, tiny_model, tiny_subject

V1, GU2025 = PRESETS["asabench-v1"], PRESETS["gu2025"]
SUFFIX = GU2025.model_copy(update={"suffix_separator": " | "})
# Lengths of prompts and of targets differ, so that every batch is padded at both ends
PROMPTS = [
    Prompt(id="a", goal="tell me", target="Sure, here"),
    Prompt(id="b", goal="a rather longer request", target="Ok", suffix="now"),
    Prompt(id="c", goal="why?", target="Yes, of course it is"),
]


def cells_of(doses: list[float], prompts: list[Prompt] = PROMPTS, seed: int | None = 0) -> list[Cell]:
    return [Cell(prompt=p, layer=i, attack="x", dose=d, seed=seed) for p in prompts for d in doses for i in range(4)]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)


def naive_tokens(subject: Subject, prompt: Prompt, protocol: Protocol, at: str) -> tuple[list[int], int, int]:
    """Token ids, where the target starts in them, and the position to read, worked out with letters for tokens."""
    if at == "last_prompt":
        ids = subject.format(prompt, protocol)
        return ids + subject.tokenizer(prompt.target)["input_ids"], len(ids), len(ids) - 1
    goal = prompt.goal + (protocol.suffix_separator + prompt.suffix if prompt.suffix else "")
    ids = subject.tokenizer(goal + str(prompt.target) + "!")["input_ids"]
    return ids, len(goal), len(ids) - 2


def naive_loss(subject: Subject, ids: list[int], start: int, edits: dict[int, Any]) -> Tensor:
    with edit(subject.blocks, edits):
        logits = subject.model(torch.tensor([ids]), use_cache=False).logits[0]
    log_p = logits.log_softmax(-1)
    return -torch.stack([log_p[position - 1, ids[position]] for position in range(start, len(ids))]).mean()


def naive_gradient(subject: Subject, prompt: Prompt, protocol: Protocol, at: str, layer: int) -> Tensor:
    """One forward and backward a layer, at batch 1."""
    ids, start, position = naive_tokens(subject, prompt, protocol, at)
    leaf: list[Tensor] = []

    def cut(block_input: Tensor, block_output: Tensor) -> Tensor:
        leaf.append(block_output.detach().requires_grad_())
        return leaf[0]

    with torch.enable_grad():
        naive_loss(subject, ids, start, {layer: cut}).backward()
    assert leaf[0].grad is not None
    return leaf[0].grad[0, position]


@contextmanager
def counted(subject: Subject) -> Iterator[list[int]]:
    """The number of rows of every forward of the whole model."""
    rows: list[int] = []

    def count(module: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(kwargs["input_ids"]))

    handle = subject.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def fresh(family: str = "llama", seed: int = 0) -> Subject:
    """A subject that no test has left anything in the caches for."""
    return make_subject(tiny_model(family, seed), chat_tokenizer(), name=f"tiny-{family}", revision="x")


class _Double:
    """`torch`, for a module that computes some things in float32 whatever its model's dtype is."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("at", get_args(GradientPosition))
def test_gradients_equal_finite_differences(family: str, at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module(f"transformers.models.{family}.modeling_{family}"), "torch", _Double())
    subject = make_subject(tiny_model(family).double(), chat_tokenizer(), name=family, revision="x")
    gradients = loss_gradients(subject, PROMPTS, V1, at)
    step = 1e-5
    for prompt in PROMPTS:
        ids, start, position = naive_tokens(subject, prompt, V1, at)
        for layer in range(4):
            for coordinate in (0, 13, 31):

                def moved(by: float, position: int = position, coordinate: int = coordinate) -> Any:
                    def change(block_input: Tensor, block_output: Tensor) -> Tensor:
                        result = block_output.clone()
                        result[0, position, coordinate] += by
                        return result

                    return change

                with torch.no_grad():
                    up, down = (naive_loss(subject, ids, start, {layer: moved(by)}) for by in (step, -step))
                found = gradients[prompt][layer, coordinate]
                assert found.dtype == torch.float64
                assert float(found) == pytest.approx(float(up - down) / (2 * step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("protocol", [V1, SUFFIX], ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("at", get_args(GradientPosition))
def test_one_backward_equals_a_backward_a_layer(family_subject: Subject, at: Any, protocol: Protocol) -> None:
    """In a batch padded on the left, for every family: of all prompts and layers what a naive loop finds."""
    gradients = loss_gradients(family_subject, PROMPTS, protocol, at)
    for prompt in PROMPTS:
        assert gradients[prompt].shape == (4, 32)
        for layer in range(4):
            expected = naive_gradient(family_subject, prompt, protocol, at, layer)
            assert torch.allclose(
                gradients[prompt][layer], expected, rtol=1e-3, atol=2e-5 * float(expected.abs().max())
            )


def test_batches_of_prompts_equal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    together = loss_gradients(fresh(), PROMPTS, V1)
    monkeypatch.setattr("harness.attacks.target_loss._PROMPTS_ON_CPU", 2)
    with counted(subject := fresh()) as rows:
        pairs = loss_gradients(subject, PROMPTS, V1)
    assert rows[1:] == [2, 1]
    monkeypatch.setattr("harness.model.placement.free_memory", lambda device: 0)
    with counted(subject := fresh()) as rows:
        alone = loss_gradients(subject, PROMPTS, V1)
    assert rows[1:] == [1, 1, 1]
    for prompt in PROMPTS:
        assert torch.allclose(together[prompt], alone[prompt], atol=1e-7)
        assert torch.allclose(together[prompt], pairs[prompt], atol=1e-7)


def test_reference_text_has_no_spaces_and_ends_in_an_exclamation_mark(llama: Subject) -> None:
    for protocol, expected in ((GU2025, "a rather longer requestnowOk!"), (SUFFIX, "a rather longer request | nowOk!")):
        for chat in (protocol, protocol.model_copy(update={"prompt_format": "chat"})):
            text = target_text(llama, PROMPTS[1], chat, "reference")
            assert llama.tokenizer.decode(text.ids) == expected
            assert llama.tokenizer.decode(text.target_ids) == "Ok!"
            assert text.read_at == len(text.ids) - 2


def test_a_token_across_goal_and_target_counts_as_target(llama: Subject) -> None:
    class Pairs:
        """Two letters a token."""

        bos_token_id = eos_token_id = sep_token_id = pad_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [int.from_bytes(text[i : i + 2].encode(), "big") for i in range(0, len(text), 2)]}

    subject = replace(llama, tokenizer=Pairs())
    text = target_text(subject, Prompt(id="x", goal="abc", target="Sure"), GU2025, "reference")
    assert [token.to_bytes(2, "big") for token in text.ids] == [b"ab", b"cS", b"ur", b"e!"]
    assert text.scored == 3
    one = target_text(subject, Prompt(id="x", goal="a", target="Sure"), GU2025, "reference")
    assert one.scored == len(one.ids) - 1, "nothing predicts the first token"


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_descend_lowers_the_loss_and_ascend_raises_it(family: str) -> None:
    """A small dose, injected as in generation but at the one position where the gradient was read."""
    subject = tiny_subject(family)
    first = V1.model_copy(update={"steps": "first"})
    cells = cells_of([0.002], seed=None)
    clean = target_loss(subject, cells, torch.zeros(len(cells), 32), first)
    ascend, descend = (GradientAttack(first, sign).directions(subject, cells) for sign in ("ascend", "descend"))
    assert torch.equal(ascend, -descend)
    assert set(ascend.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert (ascend.dtype, ascend.device.type, ascend.shape) == (torch.float32, "cpu", (12, 32))
    assert (target_loss(subject, cells, descend, first) < clean).all()
    assert (target_loss(subject, cells, ascend, first) > clean).all()


def test_rows_are_of_their_own_prompt_and_layer(llama: Subject) -> None:
    cells = cells_of([0.1, 1.0])[::-1]
    found = GradientAttack(V1, at="reference").directions(llama, cells)
    for cell, row in zip(cells, found, strict=True):
        assert cell.layer is not None
        assert torch.equal(row, loss_gradients(llama, [cell.prompt], V1, "reference")[cell.prompt][cell.layer].sign())


def test_gradient_names() -> None:
    assert GradientAttack(V1).name == "gradient-ascend"
    assert GradientAttack(V1, direction="descend", at="reference").name == "gradient-descend:at=reference"
    assert GradientAttack(GU2025).at == "reference", "as published, without being asked"
    assert GradientAttack(GU2025).name == "gradient-ascend"
    assert GradientAttack(GU2025, at="last_prompt").name == "gradient-ascend:at=last_prompt"
    assert not GradientAttack(V1).uses_seed


def test_a_prompt_s_gradient_is_computed_once_for_all_doses_signs_and_pgd() -> None:
    subject = fresh()
    cells = cells_of([0.1, 0.3, 1.0])
    with counted(subject) as rows:
        GradientAttack(V1).directions(subject, cells)
        assert rows == [1, 3], "the cache's probe, then all prompts in one batch"
        GradientAttack(V1, "descend").directions(subject, cells)
        PgdAttack(V1, steps=0, starts=1).directions(subject, cells)
        assert rows[2:] == [1, 1], "only probes"
        GradientAttack(V1, at="reference").directions(subject, cells)
        assert rows[4:] == [1, 3], "another position is another gradient"


def test_what_was_cached_goes_when_the_model_changes() -> None:
    subject = fresh()
    cells = cells_of([1.0])
    before = loss_gradients(subject, PROMPTS, V1)[PROMPTS[0]]
    difference = MeanDifferenceAttack(V1)
    earlier = difference.directions(subject, cells)
    subject.model.lm_head.weight.data.mul_(1.5)  # through .data: no version counter moves
    subject.blocks[0].mlp.down_proj.weight.data.mul_(1.5)
    after = loss_gradients(subject, PROMPTS, V1)[PROMPTS[0]]
    assert torch.allclose(after[2], naive_gradient(subject, PROMPTS[0], V1, "last_prompt", 2), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(before, after, rtol=1e-2)
    assert not torch.allclose(earlier, difference.directions(subject, cells), rtol=1e-2)


def test_the_cache_keeps_no_model_alive() -> None:
    cache: ModelCache[str] = ModelCache()
    subject = fresh()
    cache.of(subject)["x"] = torch.ones(1)
    assert "x" in cache.of(subject)
    del subject
    gc.collect()
    assert not cache._tables


# --- the loss under injection ----------------------------------------------------------------------------------------


def stepwise_loss(subject: Subject, cells: list[Cell], directions: Tensor, protocol: Protocol) -> Tensor:
    """Generation's own batch, fed the target's tokens instead of its choices."""
    texts = {prompt: target_text(subject, prompt, protocol, "last_prompt") for prompt in PROMPTS}
    rows = torch.tensor([PROMPTS.index(cell.prompt) for cell in cells])
    ids = [texts[prompt].prompt_ids for prompt in PROMPTS]
    losses: list[list[Tensor]] = [[] for _ in cells]
    with torch.no_grad():
        batch = Batch(subject, ids, rows, injection_of(cells, directions, protocol), 40)
        for step in range(max(text.scored for text in texts.values())):
            log_p = batch.step().log_softmax(-1)
            tokens = torch.zeros(len(cells), dtype=torch.long)
            for row, cell in enumerate(cells):
                target = texts[cell.prompt].target_ids
                if step < len(target):
                    tokens[row] = target[step]
                    losses[row].append(-log_p[row, target[step]])
            batch.append(tokens)
    return torch.stack([torch.stack(row).mean() for row in losses])


@pytest.mark.parametrize("protocol", [V1, GU2025], ids=lambda protocol: protocol.name)
def test_target_loss_is_that_of_generation(family_subject: Subject, protocol: Protocol) -> None:
    """Every family, rows of all layers, two doses and clean ones, in one batch."""
    cells = cells_of([0.3, 1.0]) + [Cell(prompt=prompt) for prompt in PROMPTS]
    directions = torch.randn(len(cells), 32, generator=torch.Generator().manual_seed(1))
    found = target_loss(family_subject, cells, directions, protocol)
    assert torch.allclose(found, stepwise_loss(family_subject, cells, directions, protocol), atol=1e-4)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize(
    "changes",
    [
        {"steps": "first"},
        {"steps": (0, 2, 3)},
        {"steps": (1,)},
        {"steps": (0, 1, 4), "step_layers": (2, 0, 3)},
        {"steps": (1, 2, 90), "step_layers": (2, 2, 3)},
    ],
    ids=str,
)
def test_target_loss_is_that_of_generation_at_chosen_steps(llama: Subject, preset: str, changes: Any) -> None:
    protocol = PRESETS[preset].model_copy(update=changes)
    cells = cells_of([1.0])
    if "step_layers" in changes:  # one cell a prompt, under the first step's layer, as `grid` makes them
        cells = [Cell(prompt=p, layer=2, attack="x", dose=1.0) for p in PROMPTS] + [Cell(prompt=PROMPTS[0])]
    directions = torch.randn(len(cells), 32, generator=torch.Generator().manual_seed(1))
    found = target_loss(llama, cells, directions, protocol)
    assert torch.allclose(found, stepwise_loss(llama, cells, directions, protocol), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("protocol", [V1, GU2025], ids=lambda protocol: protocol.name)
def test_target_loss_equals_one_worked_out_by_hand(family: str, protocol: Protocol) -> None:
    subject = tiny_subject(family)
    cell = Cell(prompt=PROMPTS[2], layer=1, attack="x", dose=0.7, seed=0)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(5))
    ids, start, last = naive_tokens(subject, cell.prompt, protocol, "last_prompt")

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        hidden = hidden_state(output).clone()
        given = args[0] if args else kwargs["hidden_states"]
        for position in range(last, len(ids)):
            h = hidden[0, position]
            reference = h if protocol is V1 else given[0, last]
            noise = (direction - direction.mean()) / (direction.std() + 1e-6)
            hidden[0, position] = h + cell.dose * (reference.mean() + noise * reference.std())
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = subject.blocks[1].register_forward_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            expected = naive_loss(subject, ids, start, {})
    finally:
        handle.remove()
    assert torch.allclose(target_loss(subject, [cell], direction[None], protocol), expected, atol=1e-5)


def test_a_prompt_of_one_token(llama: Subject) -> None:
    prompt = Prompt(id="x", goal="a", target="Sure")
    cell = Cell(prompt=prompt, layer=1, attack="x", dose=0.5, seed=0)
    other = replace(cell, prompt=PROMPTS[1])
    directions = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    alone = target_loss(llama, [cell], directions[:1], GU2025)
    assert torch.allclose(alone, target_loss(llama, [cell, other], directions, GU2025)[:1], atol=1e-5)
    ids = [*llama.format(prompt, GU2025), *llama.tokenizer("Sure")["input_ids"]]
    with torch.no_grad():
        clean = naive_loss(llama, ids, 1, {})
    assert torch.allclose(target_loss(llama, [replace(cell, dose=0.0)], directions[:1], GU2025), clean, atol=1e-5)


# --- pgd -------------------------------------------------------------------------------------------------------------

DOSES = [0.0, 0.1, 0.3, 1.0, 3.0]
SLACK = 1e-5  # losses of one direction in two batches differ by rounding


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("direction", ["ascend", "descend"])
@pytest.mark.parametrize("protocol", [V1, GU2025], ids=lambda protocol: protocol.name)
def test_pgd_is_never_weaker_than_gradient_or_random(family: str, direction: Any, protocol: Protocol) -> None:
    subject = tiny_subject(family)
    cells = cells_of(DOSES)
    sign = {"ascend": -1, "descend": 1}[direction]

    def loss(directions: Tensor) -> Tensor:
        return sign * target_loss(subject, cells, directions, protocol)

    pgd = loss(PgdAttack(protocol, steps=4, direction=direction).directions(subject, cells))
    gradient = loss(GradientAttack(protocol, direction).directions(subject, cells))
    assert (pgd <= gradient + SLACK).all()
    assert (pgd <= loss(RandomAttack(protocol.noise).directions(subject, cells)) + SLACK).all()
    steered = torch.tensor([cell.dose >= 0.3 for cell in cells])
    assert (pgd < gradient - 0.01)[steered].float().mean() > 0.8, "nor would doing nothing pass"


def test_more_steps_and_starts_are_never_weaker(llama: Subject) -> None:
    cells = cells_of([0.3, 1.0])
    losses = [
        target_loss(llama, cells, PgdAttack(V1, steps, starts).directions(llama, cells), V1)
        for steps, starts in ((0, 1), (2, 1), (2, 2), (5, 2), (5, 4))
    ]
    for weaker, stronger in pairwise(losses):
        assert (stronger <= weaker + SLACK).all()
        assert stronger.mean() < weaker.mean() - 0.01


def naive_pgd(subject: Subject, cell: Cell, steps: int, size: float) -> Tensor:
    """One cell and its two starts, one step after the other, without a cache."""
    assert cell.layer is not None
    ids, start, last = naive_tokens(subject, cell.prompt, V1, "last_prompt")

    def loss(direction: Tensor) -> Tensor:
        def change(block_input: Tensor, block_output: Tensor) -> Tensor:
            result = block_output.clone()
            h = block_output[0, last:]
            result[0, last:] = perturb(h, normalise(standardise(direction), h), torch.tensor(cell.dose))
            return result

        return naive_loss(subject, ids, start, {cell.layer: change})

    tried = []
    for first in (
        -naive_gradient(subject, cell.prompt, V1, "last_prompt", cell.layer).sign(),
        RandomAttack().directions(subject, [cell])[0],
    ):
        direction = first
        for _ in range(steps + 1):
            direction = direction.detach().requires_grad_()
            value = loss(direction)
            (gradient,) = torch.autograd.grad(value, [direction])
            tried.append((float(value.detach()), direction.detach()))
            direction = standardise(direction.detach()) - size * gradient.sign()
    return min(tried, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_pgd_equals_a_naive_loop(family: str) -> None:
    subject = tiny_subject(family)
    cells = cells_of([0.3, 1.0])
    found = PgdAttack(V1, steps=3, step_size=0.3).directions(subject, cells)
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    for cell, direction in zip(cells, found, strict=True):
        # A gradient's entry next to zero may round to either sign; more than that is a difference
        assert float(cosine(direction, naive_pgd(subject, cell, 3, 0.3))) > 0.99, cell


def test_pgd_is_the_same_for_a_seed_of_its_own_and_another_for_another(llama: Subject) -> None:
    cells = cells_of([1.0], seed=None)
    found = PgdAttack(V1, steps=2).directions(llama, cells)
    assert torch.equal(found, PgdAttack(V1, steps=2, seed=0).directions(llama, cells))
    assert not torch.equal(found, PgdAttack(V1, steps=2, seed=1).directions(llama, cells))


def test_pgd_has_one_cell_for_all_seeds_of_a_run(llama: Subject) -> None:
    protocol = V1.model_copy(update={"seeds": (0, 1, 2)})
    cells = grid(PROMPTS[:1], [1, 2], [PgdAttack(protocol)], protocol)
    assert [(cell.layer, cell.seed) for cell in cells] == [(None, None), (1, None), (2, None)]


def test_pgd_does_not_depend_on_the_batch(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = PgdAttack(V1, steps=2, starts=3)
    cells = cells_of([0.3, 1.0])
    together = attack.directions(llama, cells)
    backwards = attack.directions(llama, cells[::-1]).flip(0)
    monkeypatch.setattr("harness.attacks.target_loss._ROWS_ON_CPU", 1)
    alone = attack.directions(llama, cells)
    for other in (backwards, alone):
        assert (cosine(together, other) > 0.99).all()


def test_pgd_at_dose_zero_is_the_gradient_s_direction(llama: Subject) -> None:
    cells = cells_of([0.0])
    with counted(llama) as rows:
        found = PgdAttack(V1).directions(llama, cells)
    assert torch.equal(found, GradientAttack(V1, "descend").directions(llama, cells))
    assert len(rows) <= 2, "nothing was searched for"


def test_pgd_s_cost() -> None:
    subject = fresh()
    cells = cells_of([0.3, 1.0], PROMPTS[:1])
    with counted(subject) as rows:
        PgdAttack(V1, steps=3, starts=2).directions(subject, cells)
    # The cache's probe, the gradient, whether passes may start at a block (tried on all four) and rows at blocks of
    # their own (two forwards of three), the prompt once, and
    # steps + 1 passes of both starts of every cell
    assert rows == [1, 1, *[1] * 6, 3, 3, 1, 16, 16, 16, 16]


def test_pgd_names_and_options() -> None:
    assert PgdAttack(V1).name == make_attack("pgd:steps=08:step_size=0.250:starts=2", V1).name == "pgd"
    assert (
        PgdAttack(V1, step_size=0.1, direction="ascend", steps=20, starts=5).name
        == "pgd:steps=20:starts=5:step_size=0.1:direction=ascend"
    )
    assert PgdAttack(V1, seed=3).name == "pgd:seed=3"
    close = [PgdAttack(V1, step_size=size).name for size in (0.25, 0.2500001, 1e7)]
    assert close == ["pgd", "pgd:step_size=0.2500001", "pgd:step_size=1e07"], "no two values share a name"


def test_passes_start_at_the_lowest_perturbed_block() -> None:
    """Block 0 runs for the prompt only, block 3 in every pass; and the losses are those of whole passes."""
    subject = fresh()
    cells = [cell for cell in cells_of([1.0], PROMPTS[:1]) if cell.layer in (2, 3)]
    directions = RandomAttack().directions(subject, cells)
    assert enters_at_blocks(subject)
    ran: Counter[int] = Counter()
    for layer, block in enumerate(subject.blocks):
        block.mlp.register_forward_hook(lambda module, args, output, at=layer: ran.update([at]))
    passes = TargetPass(subject, cells, V1)
    losses = [passes.loss(directions) for _ in range(3)]
    assert ran == {0: 1, 1: 1, 2: 1, 3: 4}
    alone = [TargetPass(subject, [cell], V1).loss(directions[[row]]) for row, cell in enumerate(cells)]
    assert torch.allclose(losses[0], torch.cat(alone), atol=1e-5)


def test_noise_is_portable() -> None:
    cell = cells_of([1.0])[2]
    digest = hashlib.sha256(f"0:{cell.prompt.digest}:2".encode()).digest()
    assert portable_seed(0, cell.prompt.digest, 2) == int.from_bytes(digest[:8], "big") & (2**63 - 1)
    draws = gaussian(cell, 33, "per-cell", 3)
    assert torch.equal(draws[:1], gaussian(cell, 33, "per-cell"))
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(gaussian(cell, 33, "one-vector"), gaussian(replace(cell, layer=0), 33, "one-vector"))


# --- mean difference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2"])
def test_mean_difference_equals_a_naive_mean(family: str, tmp_path: Path) -> None:
    subject = tiny_subject(family)
    harmful = ["Sure, step one", "Yes", *[f"Of course, number {n}" for n in range(40)]]  # more than a batch
    benign = ["A cake", "a walk in the hills", "tea"]
    for name, texts in (("harmful", harmful), ("benign", benign)):
        (tmp_path / name).write_text("\n".join(["", *texts, "  "]), encoding="utf-8")
    attack = MeanDifferenceAttack(V1, harmful=tmp_path / "harmful", benign=tmp_path / "benign")
    cells = cells_of([0.3, 1.0])
    found = attack.directions(subject, cells)

    def mean(texts: list[str], layer: int) -> Tensor:
        seen: list[Tensor] = []
        with torch.no_grad(), edit(subject.blocks, {layer: lambda i, o: seen.append(o[0, -1])}):
            for text in texts:
                subject.model(torch.tensor([subject.tokenizer(text)["input_ids"]]), use_cache=False)
        return torch.stack(seen).mean(0)

    for layer in range(4):
        expected = mean(harmful, layer) - mean(benign, layer)
        for cell, direction in zip(cells, found, strict=True):
            if cell.layer == layer:
                assert torch.allclose(direction, expected, atol=1e-5)


def test_mean_difference_with_the_shipped_texts_reads_them_once() -> None:
    subject = fresh()
    attack = MeanDifferenceAttack(V1)
    assert (attack.name, attack.uses_seed) == ("mean_difference", False)
    assert len(attack.harmful) == len(attack.benign) == len(set(attack.harmful)) == len(set(attack.benign)) == 24
    assert not set(attack.harmful) & set(attack.benign)
    with counted(subject) as rows:
        first = attack.directions(subject, cells_of([0.3, 1.0]))
        assert rows == [1, 24, 24]
        again = attack.directions(subject, cells_of([3.0], [Prompt(id="z", goal="no target is needed")]))
        assert rows[3:] == [1]
    assert first.dtype == torch.float32
    assert torch.equal(first[:4], again)


def test_mean_difference_is_named_by_the_texts_not_by_the_path(tmp_path: Path) -> None:
    for name, text in (("one", "Sure"), ("two", "Sure\n"), ("three", "Yes")):
        (tmp_path / name).write_text(text)
    one, two, three = (MeanDifferenceAttack(V1, harmful=tmp_path / name).name for name in ("one", "two", "three"))
    assert one == two != three
    assert one.startswith("mean_difference:texts=")
    assert str(tmp_path) not in one


# --- what cannot be used ---------------------------------------------------------------------------------------------


def one_line(raised: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


ATTACKS = [lambda: GradientAttack(V1), lambda: GradientAttack(V1, at="reference"), lambda: PgdAttack(V1)]


@pytest.mark.parametrize("make", ATTACKS)
def test_prompts_without_targets(llama: Subject, make: Any) -> None:
    prompts = [replace(PROMPTS[0], target=None), replace(PROMPTS[1], target=""), PROMPTS[2]]
    with pytest.raises(UserError) as raised:
        make().directions(llama, cells_of([0.3, 1.0], prompts))
    one_line(raised, "2 of 3 prompts", '--target "Sure, here is"')


@pytest.mark.parametrize("make", ATTACKS)
def test_a_target_that_tokenises_to_nothing(llama: Subject, make: Any) -> None:
    class Deaf:
        """A tokenizer that hears nothing but the request."""

        bos_token_id = eos_token_id = sep_token_id = pad_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [5, 6] if "tell" in text else []}

        def apply_chat_template(self, *_: Any, **__: Any) -> dict[str, list[int]]:
            return {"input_ids": [5, 6]}

    with pytest.raises(UserError) as raised:
        make().directions(replace(llama, tokenizer=Deaf()), cells_of([1.0], PROMPTS[:1]))
    one_line(raised, "'Sure, here'", "prompt a", "no tokens")


class _Quantised(torch.nn.Module):
    """What a kernel without a backward does: its result has no history."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs).detach()


def test_a_model_without_gradients() -> None:
    for make in ATTACKS:
        subject = fresh()
        subject.model.lm_head = _Quantised(subject.model.lm_head)
        with pytest.raises(UserError) as raised:
            make().directions(subject, cells_of([1.0]))
        one_line(raised, "tiny-llama has no gradients", "quantised", "random")


def test_other_errors_of_a_backward_are_not_hidden(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("grad")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(torch.autograd, "grad", fail)
        with pytest.raises(type(error)):
            loss_gradients(fresh(), PROMPTS, V1)


def test_gradients_that_are_not_finite() -> None:
    subject = fresh()
    subject.model.lm_head.weight.data[7] = torch.inf
    with pytest.raises(UserError) as raised:
        GradientAttack(V1).directions(subject, cells_of([1.0]))
    one_line(raised, "not finite", "--dtype")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("gradient:direction=down", ("direction=down", "ascend, descend")),
        ("gradient:at=end", ("at=end", "last_prompt, reference")),
        ("pgd:direction=down", ("direction=down", "ascend, descend")),
        ("pgd:steps=many", ("steps=many", "whole numbers of 0")),
        ("pgd:steps=-1", ("steps=-1", "whole numbers of 0")),
        ("pgd:steps=2.5", ("steps=2.5", "whole numbers of 0")),
        ("pgd:starts=0", ("starts=0", "whole numbers of 1")),
        ("pgd:step_size=0", ("step_size=0", "above 0")),
        ("pgd:step_size=inf", ("step_size=inf", "above 0")),
        ("pgd:step_size=nan", ("step_size=nan", "above 0")),
        ("pgd:step=4", ("no option 'step'", "steps, starts, step_size, direction, seed")),
        ("random:noise=one-vector", ("no option 'noise'", "takes none")),
        ("pgd:steps=4:steps=5", ("'steps'", "twice")),
    ],
)
def test_options_that_cannot_be(spec: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as raised:
        make_attack(spec, V1)
    one_line(raised, *parts)


def test_text_files_that_cannot_be_used(tmp_path: Path, llama: Subject) -> None:
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    for name, what in (
        ("missing.txt", "No such file"),
        ("empty.txt", "holds no text"),
        ("bytes.txt", "Unicode"),
        ("", "directory"),
    ):
        for option in ("harmful", "benign"):
            with pytest.raises(UserError) as raised:
                MeanDifferenceAttack(V1, **{option: tmp_path / name})
            one_line(raised, name, what, "one text a line")


@pytest.mark.parametrize("make", [*ATTACKS, lambda: MeanDifferenceAttack(V1)])
def test_clean_cells_have_no_direction(llama: Subject, make: Any) -> None:
    with pytest.raises(ValueError, match="layer"):
        make().directions(llama, [Cell(prompt=PROMPTS[0])])


def test_quickstart_has_targets_for_all_of_this(llama: Subject) -> None:
    prompts = quickstart()[:3]
    assert PgdAttack(V1, steps=1).directions(llama, cells_of([1.0], prompts)).isfinite().all()
