"""The injection for engines that lay many requests in one row of tokens, against the arithmetic and against every way
of cutting a request into steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn

from harness.engine.steering import Dosed, Rule, Span, Steering, find_blocks, hook_blocks
from harness.stream.perturbation import normalise, perturb, standardise

D_MODEL, N_LAYERS = 6, 3
PROMPT, ANSWER = 5, 4
"""Tokens of a prompt, and of its answer but the last, which is never read."""


class Whole(nn.Module):
    """A block that puts out the residual stream itself."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.scale * torch.tanh(hidden_states)


class Halves(Whole):
    """A block that puts out what it adds and the residual apart: the next one adds them up."""

    def forward(  # type: ignore[override]
        self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        residual = hidden_states if residual is None else hidden_states + residual
        return self.scale * torch.tanh(residual), residual


class Model(nn.Module):
    def __init__(self, kind: type[Whole]) -> None:
        super().__init__()
        self.halves = kind is Halves
        self.others = nn.ModuleList([nn.Identity()])
        self.layers = nn.ModuleList([kind(0.1 * (layer + 1)) for layer in range(N_LAYERS)])

    def forward(self, hidden: Tensor) -> Tensor:
        residual = None
        for layer in self.layers:
            if self.halves:
                hidden, residual = layer(torch.arange(len(hidden)), hidden_states=hidden, residual=residual)
            else:
                hidden = layer(hidden)
        return hidden if residual is None else hidden + residual


def _dosed(number: int, layer: int, dose: float = 0.5) -> Dosed:
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(number))
    return Dosed(number=number, layer=layer, dose=dose, direction=direction)


def _expected(stream: Tensor, model: Model, dosed: Dosed | None, rule: Rule) -> Tensor:
    """Token by token in a plain loop; blocks here do not mix tokens. stream: (token, d_model)."""
    results = []
    kept: dict[int, Tensor] = {}
    for position, hidden in enumerate(stream):
        step = position - (PROMPT - 1)
        hidden = hidden[None]
        for layer, block in enumerate(model.layers):
            given = hidden
            hidden = given + block.scale * torch.tanh(given)  # type: ignore[operator]
            if dosed is None or step < 0:
                continue
            unit = standardise(dosed.direction)
            if rule.statistics == "clean-prompt-input" and step == 0:
                kept[layer] = normalise(unit, given[0])
            at = rule.layer_at.get(step) if rule.layer_at else dosed.layer
            if at != layer or not (rule.layer_at or rule.steps is None or step in rule.steps):
                continue
            delta = normalise(unit, hidden[0]) if rule.statistics == "current-step" else kept[layer]
            hidden = perturb(hidden, delta[None], torch.tensor(dosed.dose))
        results.append(hidden[0])
    return torch.stack(results)


def _run(
    model: Model,
    streams: Sequence[Tensor],
    dosed: Sequence[Dosed | None],
    cuts: Iterable[Sequence[tuple[int, int]]],
    steering: Steering,
) -> list[Tensor]:
    """Reads the requests in steps. cuts: by step, (first, count) of each request, a count of 0 where it waits."""
    out = [torch.zeros_like(stream) for stream in streams]
    for step in cuts:
        spans, rows, places = [], [], []
        for number, (first, count) in enumerate(step):
            if not count:
                continue
            spans.append(
                Span(
                    request=f"r{number}",
                    row=sum(map(len, rows)),
                    first=first,
                    count=count,
                    prompt_length=PROMPT,
                    number=number,
                    dosed=dosed[number],
                )
            )
            rows.append(streams[number][first : first + count])
            places.append((number, first, count))
        steering.begin(spans)
        result = model(torch.cat(rows))
        steering.end()
        row = 0
        for number, first, count in places:
            out[number][first : first + count] = result[row : row + count]
            row += count
    return out


TOTAL = PROMPT + ANSWER
ONE_BY_ONE = [[(0, PROMPT), (0, PROMPT)], *([(PROMPT + k, 1), (PROMPT + k, 1)] for k in range(ANSWER))]
CHUNKED = [
    [(0, 2), (0, 0)],
    [(2, 3), (0, 4)],
    [(5, 1), (4, 1)],
    *([(6 + k, 1), (5 + k, 1)] for k in range(3)),
    [(0, 0), (8, 1)],
]
READ_AGAIN = [
    [(0, PROMPT), (0, PROMPT)],
    [(PROMPT, 1), (PROMPT, 1)],
    [(0, 0), (PROMPT + 1, 1)],
    [(0, PROMPT + 2), (PROMPT + 2, 1)],  # the first request lost its cache: its prompt and answer are read together
    [(PROMPT + 2, 1), (PROMPT + 3, 1)],
    [(PROMPT + 3, 1), (0, 0)],
]
RULES = {
    "every step": Rule(),
    "the first": Rule(steps=frozenset([0])),
    "later steps": Rule(steps=frozenset([1, 3])),
    "as published": Rule(statistics="clean-prompt-input"),
    "as published, later steps": Rule(statistics="clean-prompt-input", steps=frozenset([2])),
    "a block a step": Rule(steps=frozenset([0, 2]), layer_at={0: 1, 2: 0}),
}


@pytest.mark.parametrize("kind", [Whole, Halves])
@pytest.mark.parametrize("cuts", [ONE_BY_ONE, CHUNKED, READ_AGAIN], ids=["one by one", "chunked", "read again"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_however_requests_are_cut_into_steps_the_same_rows_are_perturbed(
    rule: Rule, cuts: list[list[tuple[int, int]]], kind: type[Whole]
) -> None:
    model = Model(kind)
    steering = Steering(rule)
    hook_blocks(find_blocks(model, N_LAYERS), steering.apply)
    torch.manual_seed(0)
    streams = [torch.randn(TOTAL, D_MODEL), torch.randn(TOTAL, D_MODEL)]
    dosed = [_dosed(0, layer=1), _dosed(1, layer=2, dose=1.0)]
    found = _run(model, streams, dosed, cuts, steering)
    for number, stream in enumerate(streams):
        expected = _expected(stream, model, dosed[number], rule)
        assert torch.allclose(found[number], expected, atol=1e-6)
        assert not torch.allclose(found[number], _expected(stream, model, None, rule), atol=1e-3)


@pytest.mark.parametrize("kind", [Whole, Halves])
def test_clean_and_steered_requests_share_a_step(kind: type[Whole]) -> None:
    model = Model(kind)
    steering = Steering(Rule())
    hook_blocks(find_blocks(model, N_LAYERS), steering.apply)
    streams = [torch.randn(TOTAL, D_MODEL), torch.randn(TOTAL, D_MODEL)]
    dosed = [None, _dosed(1, layer=0)]
    found = _run(model, streams, dosed, ONE_BY_ONE, steering)
    assert torch.equal(found[0], model(streams[0]))
    assert torch.allclose(found[1], _expected(streams[1], model, dosed[1], Rule()), atol=1e-6)


def test_the_rows_are_counted_and_what_moved_is_known() -> None:
    model = Model(Halves)
    steering = Steering(Rule())
    hook_blocks(find_blocks(model, N_LAYERS), steering.apply)
    streams = [torch.randn(TOTAL, D_MODEL), torch.randn(TOTAL, D_MODEL)]
    _run(model, streams, [_dosed(0, layer=1), _dosed(1, layer=2, dose=0.0)], ONE_BY_ONE, steering)
    # The prompt's last token, and each token of the answer that is read
    assert dict(steering.perturbed) == {0: 1 + ANSWER, 1: 1 + ANSWER}
    assert steering.moved == {0}


def test_nothing_is_perturbed_outside_of_a_step() -> None:
    model = Model(Whole)
    steering = Steering(Rule())
    hook_blocks(find_blocks(model, N_LAYERS), steering.apply)
    stream = torch.randn(TOTAL, D_MODEL)
    clean = Model(Whole)(stream)
    _run(model, [stream], [_dosed(0, layer=1)], [[(0, TOTAL)]], steering)
    assert torch.equal(model(stream), clean)


def test_what_ended_is_forgotten() -> None:
    steering = Steering(Rule(statistics="clean-prompt-input"))
    model = Model(Whole)
    hook_blocks(find_blocks(model, N_LAYERS), steering.apply)
    dosed = _dosed(0, layer=1)
    _run(model, [torch.randn(TOTAL, D_MODEL)], [dosed], [[(0, PROMPT)]], steering)
    steering.forget(["r0"])
    with pytest.raises(KeyError):
        _run(model, [torch.randn(TOTAL, D_MODEL)], [dosed], [[(PROMPT, 1)]], steering)


def test_logits_that_are_not_finite_are_noted_by_cell() -> None:
    steering = Steering(Rule())
    spans = [
        Span(request=f"r{number}", row=number, first=7, count=1, prompt_length=PROMPT, number=number, dosed=None)
        for number in range(4)
    ]
    steering.begin(spans)
    logits = torch.zeros(4, 3)
    logits[1, 0], logits[2] = float("nan"), float("-inf")
    logits[3, 1] = float("-inf")  # a token that is ruled out is nothing broken
    steering.see_logits(logits)
    assert steering.not_finite == {1, 2}


def test_a_model_without_that_many_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="no list of 7 decoder blocks was found in Model"):
        find_blocks(Model(Whole), 7)
