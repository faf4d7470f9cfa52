"""The probes against a direct computation: one sequence at a time, no cache, a hook and formulas written out here."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import harness.model.clean_states
import harness.probes.measures
import harness.probes.run
from asabench.core.errors import UserError
from asabench.core.numbers import evenly_spaced
from asabench.core.protocol import PRESETS
from asabench.core.records import Cell, Prompt
from asabench.runs.probe_settings import read_probe
from harness.attacks.random import RandomAttack
from harness.model.clean_states import CleanStates, starts_at_blocks
from harness.model.subject import Subject, make_subject
from harness.probes.measures import (
    kl_by_position,
    kl_divergence,
    kl_trend,
    landscape,
    landscape_mean,
    nll_and_kl,
    nll_rise,
)
from harness.probes.run import Plane, probe
from tests.conftest import byte_tokenizer, tiny_model, tiny_subject

V1 = PRESETS["asabench-v1"].model_copy(update={"max_new_tokens": 9})
PROMPTS = [
    Prompt(id="long", goal="tell me a longer thing, please"),
    Prompt(id="b", goal="hi"),
    Prompt(id="c", goal="zz9"),
]
RANDOM = RandomAttack()
LAYERS = (0, 2, 3)


@dataclass(frozen=True)
class Pointed:
    """A direction without a seed, another for each layer, as a gradient attack's would be."""

    name: str = "pointed"
    uses_seed: bool = False

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        assert all(cell.seed is None for cell in cells)
        return torch.stack([torch.sin(torch.arange(subject.d_model) * (1.0 + (cell.layer or 0))) for cell in cells])


def delta(h: Tensor, raw: Tensor) -> Tensor:
    """Equation (1) as method.md writes it. h: (position, d_model). raw: (d_model,)."""
    unit = (raw - raw.mean()) / (raw.std() + 1e-6)
    return h.mean(-1, keepdim=True) + unit * h.std(-1, keepdim=True)


def naive_logits(
    subject: Subject, ids: list[int], layer: int, change: Callable[[Tensor], Tensor], start: int
) -> Tensor:
    """Logits (position, vocabulary); block `layer`'s output is changed from position `start` on."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        h = (output[0] if isinstance(output, tuple) else output).clone()
        h[0, start:] = change(h[0, start:])
        return (h, *output[1:]) if isinstance(output, tuple) else h

    handle = subject.blocks[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return subject.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        handle.remove()


def naive_answer(subject: Subject, prompt: Prompt) -> tuple[list[int], list[int]]:
    ids, answer = subject.format(prompt, V1), list[int]()
    while len(answer) < V1.max_new_tokens and not (answer and answer[-1] in subject.stop_tokens):
        answer.append(int(naive_logits(subject, ids + answer, 0, lambda h: h, 0)[-1].argmax()))
    return ids, answer


def naive(subject: Subject, prompt: Prompt, layer: int, change: Callable[[Tensor], Tensor]) -> tuple[list[int], Tensor]:
    """The clean answer, and the log-probabilities (its tokens, vocabulary) of what follows each position."""
    ids, answer = naive_answer(subject, prompt)
    logits = naive_logits(subject, ids + answer[:-1], layer, change, len(ids) - 1)
    return answer, logits[len(ids) - 1 :].log_softmax(-1)


def naive_nll(answer: list[int], log_probabilities: Tensor) -> float:
    return -sum(float(line[token]) for line, token in zip(log_probabilities, answer, strict=True))


def direction(subject: Subject, prompt: Prompt, layer: int, seed: int) -> Tensor:
    return RANDOM.directions(subject, [Cell(prompt=prompt, layer=layer, attack="random", dose=1, seed=seed)])[0]


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of five rows, so that groups and batches have edges."""
    monkeypatch.setattr(harness.probes.measures, "_rows_that_fit", lambda *_: 5)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The (row, position) of each forward of any subject from here on."""
    seen: list[tuple[int, int]] = []
    real = Subject.forward

    def counting(self: Subject, input_ids: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append((input_ids.shape[0], input_ids.shape[1]))
        return real(self, input_ids, *rest, **more)

    monkeypatch.setattr(Subject, "forward", counting)
    return seen


def test_the_answers_differ_in_length() -> None:
    for family in ("llama", "falcon"):
        lengths = {len(naive_answer(tiny_subject(family), prompt)[1]) for prompt in PROMPTS}
        assert len(lengths) > 1, "otherwise nothing here is padded"


@pytest.mark.parametrize("batches", ["one", "many"])
@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_nll_and_kl_are_those_of_the_direct_computation(
    family: str, batches: str, request: pytest.FixtureRequest
) -> None:
    if batches == "many":
        request.getfixturevalue("few_rows")
    subject = tiny_subject(family)
    nll, kl = nll_and_kl(subject, PROMPTS, LAYERS, V1, RANDOM, [0.2, 1.0], [0, 5])
    assert len(nll) == 3 * 3 * 2 * 2
    for line in nll.itertuples():
        prompt = next(p for p in PROMPTS if p.id == line.prompt_id)
        raw = direction(subject, prompt, line.layer, line.seed)
        answer, clean = naive(subject, prompt, line.layer, lambda h: h)
        _, steered = naive(subject, prompt, line.layer, lambda h, raw=raw, e=line.dose: h + e * delta(h, raw))
        assert line.n_tokens == len(answer)
        assert line.nll_clean == pytest.approx(naive_nll(answer, clean), abs=1e-3)
        assert line.nll_steered == pytest.approx(naive_nll(answer, steered), abs=2e-3)
        assert line.rise == pytest.approx(line.nll_steered - line.nll_clean, abs=1e-9)
        own = kl.query("prompt_id == @line.prompt_id and layer == @line.layer and dose == @line.dose")
        own = own[own["seed"] == line.seed]
        assert own["position"].tolist() == list(range(len(answer)))
        expected = (clean.exp() * (clean - steered)).sum(-1)
        assert np.allclose(own["kl"], expected, atol=1e-3)
    assert (kl["kl"] >= 0).all()
    assert kl["kl"].max() > 0.01
    assert nll["prompt_id"].unique().tolist() == [prompt.id for prompt in PROMPTS], "in the order that was given"


def test_every_family_reads_what_its_own_forward_reads(family_subject: Subject) -> None:
    """Sliding windows, position schemes, tuple blocks: with the blocks below the perturbed one skipped."""
    table = nll_rise(family_subject, PROMPTS, [1, 3], V1, Pointed(), [0.5], [0])
    for line in table.itertuples():
        prompt = next(p for p in PROMPTS if p.id == line.prompt_id)
        raw = Pointed().directions(family_subject, [Cell(prompt=prompt, layer=line.layer)])[0]
        answer, steered = naive(family_subject, prompt, line.layer, lambda h, raw=raw: h + 0.5 * delta(h, raw))
        assert line.nll_steered == pytest.approx(naive_nll(answer, steered), rel=1e-4, abs=2e-3)


def test_dose_zero_changes_nothing(llama: Subject) -> None:
    nll, kl = nll_and_kl(llama, PROMPTS, range(4), V1, RANDOM, [0.0], [0])
    assert np.allclose(nll["rise"], 0, atol=1e-3)
    assert np.allclose(kl["kl"], 0, atol=1e-5)


def test_the_thin_functions_give_the_same_tables(llama: Subject) -> None:
    nll, kl = nll_and_kl(llama, PROMPTS, [1], V1, RANDOM, [1.0], [0])
    assert nll_rise(llama, PROMPTS, [1], V1, RANDOM, [1.0], [0]).equals(nll)
    assert kl_by_position(llama, PROMPTS, [1], V1, RANDOM, [1.0], [0]).equals(kl)


def test_an_attack_without_seeds_has_one_line_and_no_seed(llama: Subject) -> None:
    table = nll_rise(llama, PROMPTS, [1, 2], V1, Pointed(), [1.0], [0, 1, 2])
    assert len(table) == 6
    assert table["seed"].isna().all()
    assert table["seed"].dtype == "Int64"


def test_landscape_is_that_of_the_direct_computation(few_rows: None) -> None:
    subject = tiny_subject("gptj")
    a, b = [-0.5, 0.0, 1.0], [0.0, 0.7]
    table = landscape(subject, PROMPTS[:2], [0, 2], V1, Pointed(), RANDOM, a, b, seeds=(0, 3))
    assert len(table) == 2 * 2 * 6
    for line in table.itertuples():
        prompt = next(p for p in PROMPTS if p.id == line.prompt_id)
        one = Pointed().directions(subject, [Cell(prompt=prompt, layer=line.layer)])[0]
        two = direction(subject, prompt, line.layer, 3)
        answer, steered = naive(
            subject, prompt, line.layer, lambda h, p=line, x=one, y=two: h + p.a * delta(h, x) + p.b * delta(h, y)
        )
        assert line.nll == pytest.approx(naive_nll(answer, steered), abs=2e-3)
        assert line.n_tokens == len(answer)
    origin = table[(table["a"] == 0) & (table["b"] == 0)]
    assert np.allclose(origin["nll"], origin["nll_clean"], atol=1e-3)
    mean = landscape_mean(table)
    assert mean[["layer", "a", "b"]].drop_duplicates().shape[0] == len(mean) == 12
    first = table[(table["layer"] == 2) & (table["a"] == 1) & (table["b"] == 0.7)]
    same = mean[(mean["layer"] == 2) & (mean["a"] == 1) & (mean["b"] == 0.7)]
    assert float(same["nll_mean"].iloc[0]) == pytest.approx(first["nll"].mean())
    assert set(mean["n_prompts"]) == {2}


def test_along_each_axis_the_landscape_is_the_rise_under_that_attack(llama: Subject) -> None:
    doses = [0.25, 1.0]
    plane = landscape(llama, PROMPTS, LAYERS, V1, Pointed(), RANDOM, [0.0, *doses], [0.0, *doses], seeds=(0, 1))
    for axis, other, attack in (("a", "b", Pointed()), ("b", "a", RANDOM)):
        along = plane[(plane[other] == 0) & (plane[axis] > 0)].rename(columns={axis: "dose"})
        both = along.merge(nll_rise(llama, PROMPTS, LAYERS, V1, attack, doses, [1]), on=["prompt_id", "layer", "dose"])
        assert len(both) == len(PROMPTS) * len(LAYERS) * len(doses)
        assert np.allclose(both["nll"], both["nll_steered"], atol=1e-3)


def test_the_points_of_a_landscape_share_forwards(llama: Subject, forwards: list[tuple[int, int]]) -> None:
    grid = np.linspace(-1, 1, 9).tolist()
    landscape(llama, PROMPTS, [1, 2], V1, Pointed(), RANDOM, grid, grid)
    assert len(forwards) < 30
    assert max(rows for rows, _ in forwards) == 3 * 2 * 81, "all points of a tiny model fit into one batch"


def test_rows_of_one_forward_mix_layers(llama: Subject, forwards: list[tuple[int, int]]) -> None:
    nll_and_kl(llama, PROMPTS, range(4), V1, RANDOM, [0.1, 1.0], [0, 1])
    assert max(rows for rows, _ in forwards) == 3 * 4 * 2 * 2


def test_blocks_below_the_perturbed_one_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.probes.measures, "_rows_that_fit", lambda *_: 12)  # a batch a layer
    subject = make_subject(tiny_model("llama"), tiny_subject("llama").tokenizer, name="t", revision="r")
    rows_at: dict[int, list[int]] = defaultdict(list)
    for layer, block in enumerate(subject.blocks):
        block.mlp.register_forward_hook(lambda module, args, output, at=layer: rows_at[at].append(args[0].shape[0]))
    nll_rise(subject, PROMPTS, [1, 3], V1, RANDOM, [0.1, 0.2], [0, 1])
    assert [rows_at[layer].count(12) for layer in range(4)] == [0, 0, 1, 1]
    assert not any("forward" in block.__dict__ for block in subject.blocks), "the blocks are themselves again"


def test_starting_in_the_middle_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject(tiny_model("llama"), tiny_subject("llama").tokenizer, name="t", revision="r")
    tried = []
    real = harness.model.clean_states._tries
    monkeypatch.setattr(harness.model.clean_states, "_tries", lambda model: tried.append(model) or real(model))
    for _ in range(2):
        nll_rise(subject, PROMPTS, LAYERS, V1, RANDOM, [1.0], [0])
    assert tried == [subject]


def test_a_family_that_cannot_start_in_the_middle_is_run_whole(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = nll_rise(llama, PROMPTS, LAYERS, V1, RANDOM, [1.0], [0])
    subject = make_subject(tiny_model("llama"), tiny_subject("llama").tokenizer, name="t", revision="r")
    real = CleanStates.starting_at
    entered = []

    def broken(self: CleanStates, layer: int, rows: Tensor, positions: slice) -> Any:
        entered.append(layer)
        self._states = {at: state + 1 for at, state in self._states.items()}  # as if something were missing from them
        return real(self, layer, rows, positions)

    monkeypatch.setattr(CleanStates, "starting_at", broken)
    table = nll_rise(subject, PROMPTS, LAYERS, V1, RANDOM, [1.0], [0])
    assert len(entered) == 1, "tried once, then no more"
    assert np.allclose(table["rise"], expected["rise"], atol=1e-3)


def test_no_hook_or_stand_in_is_left_after_an_error(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Tensor:
        raise ZeroDivisionError

    monkeypatch.setattr(harness.probes.measures, "perturb", failing)
    with pytest.raises(ZeroDivisionError):
        landscape(llama, PROMPTS, [2], V1, Pointed(), RANDOM, [0.0], [1.0])
    assert not any(block._forward_hooks or "forward" in block.__dict__ for block in llama.blocks)


def test_prompts_of_one_token_have_no_prefix() -> None:
    subject = make_subject(tiny_model("gpt2"), byte_tokenizer(), name="t", revision="r")
    raw = V1.model_copy(update={"prompt_format": "raw"})
    table = nll_rise(subject, [Prompt(id="x", goal="x")], [1], raw, RANDOM, [0.0, 1.0], [0])
    assert len(subject.format(Prompt(id="x", goal="x"), raw)) == 1
    assert table["rise"].iloc[0] == pytest.approx(0, abs=1e-3)
    assert abs(table["rise"].iloc[1]) > 1e-3


def test_half_precision_starts_in_the_middle_too() -> None:
    subject = make_subject(tiny_model("llama").bfloat16(), tiny_subject("llama").tokenizer, name="t", revision="r")
    assert starts_at_blocks(subject)
    nll, kl = nll_and_kl(subject, PROMPTS, [1, 3], V1, RANDOM, [0.0, 1.0], [0])
    assert kl["kl"].notna().all()
    assert (nll.loc[nll["dose"] == 0, "rise"].abs() < 0.2 * nll["nll_clean"].max()).all()


def test_kl_of_distributions_worked_out_by_hand() -> None:
    clean = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]).log()
    steered = torch.tensor([[0.25, 0.25, 0.5], [0.25, 0.75, 0.0], [0.5, 0.5, 0.0]]).log()
    assert torch.allclose(kl_divergence(clean, steered), torch.tensor([np.log(2), 0.0, np.log(2)]).float(), atol=1e-6)


# ---- does KL grow with position?


def kl_table(curve: Callable[[int, int, int], float], prompts: int = 12, positions: int = 20, layers: int = 2) -> Any:
    """curve: (prompt, layer, position) -> kl."""
    return pd.DataFrame(
        [
            {"prompt_id": f"p{p}", "layer": layer, "attack": "x", "dose": 1.0, "seed": 0, "position": t}
            | {"kl": curve(p, layer, t)}
            for p in range(prompts)
            for layer in range(layers)
            for t in range(positions)
        ]
    )


def test_a_known_slope_is_found() -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, size=(12, 2, 20))
    trend = kl_trend(kl_table(lambda p, layer, t: 3 + p + 0.2 * (layer + 1) * t + noise[p, layer, t]))
    table = trend.table.set_index("layer")
    assert trend.table["layer"].isna().sum() == 1
    for layer, slope in ((0, 0.2), (1, 0.4)):
        line = table.loc[layer]
        assert line["slope"] == pytest.approx(slope, abs=0.03)
        assert line["slope_low"] < slope < line["slope_high"]
        assert line["spearman"] > 0.9
        assert line["trend"] == "grows"
        assert (line["n_prompts"], line["n_positions"]) == (12, 20)
    assert "over all layers KL grows with answer position" in trend.answer
    assert "it grows at 2 of 2 layers, falls at 0, unclear at 0" in trend.answer
    assert trend.answer.startswith("Attack x at dose 1:")


def test_an_exact_line_has_its_exact_slope() -> None:
    line = kl_trend(kl_table(lambda p, layer, t: 5 - 0.25 * t)).table.iloc[0]
    numbers = line[["slope", "slope_low", "slope_high", "spearman", "spearman_low"]].astype(float)
    assert np.allclose(numbers, [-0.25, -0.25, -0.25, -1, -1])
    assert line["trend"] == "falls"


def test_noise_has_no_trend() -> None:
    noise = np.random.default_rng(1).normal(size=(12, 2, 20))
    trend = kl_trend(kl_table(lambda p, layer, t: noise[p, layer, t]))
    assert set(trend.table["trend"]) == {"unclear"}
    assert "no clear trend" in trend.answer


def test_one_odd_prompt_does_not_make_a_trend() -> None:
    trend = kl_trend(kl_table(lambda p, layer, t: 5.0 * t if p == 0 else 1.0, prompts=6))
    assert trend.table["slope"].gt(0).all()
    assert set(trend.table["trend"]) == {"unclear"}, "prompts are resampled, not (prompt, position) lines"


def test_positions_that_few_prompts_reach_are_left_out() -> None:
    table = kl_table(lambda p, layer, t: 1.0 + 0.1 * t + (100 if t >= 5 else 0), prompts=4)
    table = table[(table["position"] < 5) | (table["prompt_id"] == "p0")]
    line = kl_trend(table).table.iloc[0]
    assert line["n_positions"] == 5
    assert line["slope"] == pytest.approx(0.1)


def test_too_few_prompts_or_positions_have_no_interval() -> None:
    alone = kl_trend(kl_table(lambda p, layer, t: 1.0 * t, prompts=1)).table.iloc[0]
    assert alone["slope"] == pytest.approx(1)
    assert np.isnan(alone["slope_low"])
    assert alone["trend"] == "unclear"
    short = kl_trend(kl_table(lambda p, layer, t: 1.0 * t, positions=2)).table.iloc[0]
    assert np.isnan(short["slope"])
    flat = kl_trend(kl_table(lambda p, layer, t: 0.0))
    assert flat.table["slope"].eq(0).all()
    assert flat.table["spearman"].isna().all()
    assert set(flat.table["trend"]) == {"unclear"}


# ---- the folder


def test_a_probe_writes_its_tables_and_manifest(llama: Subject, tmp_path: Path) -> None:
    out = probe(llama, PROMPTS, range(4), V1, RANDOM, [0.5], tmp_path / "p", plane=Plane(a=[0, 1], b=[0, 1], prompts=2))
    assert sorted(path.name for path in out.iterdir()) == [
        "kl.parquet",
        "kl_trend.parquet",
        "landscape.parquet",
        "manifest.json",
        "nll.parquet",
    ]
    assert pd.read_parquet(out / "nll.parquet").equals(nll_rise(llama, PROMPTS, range(4), V1, RANDOM, [0.5], [0]))
    plane = pd.read_parquet(out / "landscape.parquet")
    assert plane["prompt_id"].nunique() == 2
    assert (plane.query("a == 1 and b == 0")["nll"].to_numpy() != plane.query("a == 0 and b == 1")["nll"]).all(), (
        "random against itself takes another seed: the plane is one"
    )
    text = (out / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["kind"] == "probe"
    assert manifest["settings"]["layers"] == [0, 1, 2, 3]
    assert manifest["settings"]["landscape"]["b_attack"] == "random"
    assert manifest["settings"]["landscape"]["seeds"] == [0, 1]
    assert "Attack random at dose 0.5" in manifest["findings"]["kl_trend"]
    assert manifest["packages"]["torch"]
    answers = [llama.tokenizer.decode(naive_answer(llama, prompt)[1]) for prompt in PROMPTS]
    whole = b"".join(path.read_bytes() for path in out.iterdir())
    assert not any(words.encode() in whole for words in [PROMPTS[0].goal, *filter(lambda a: len(a) > 3, answers)])


def test_a_second_probe_leaves_nothing_of_the_first(llama: Subject, tmp_path: Path) -> None:
    probe(llama, PROMPTS, [1], V1, RANDOM, [0.5], tmp_path, what=["kl"])
    probe(llama, PROMPTS, [1], V1, RANDOM, [0.5], tmp_path, what=["nll"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "nll.parquet"]
    assert read_probe(tmp_path).settings.landscape is None


def test_a_folder_without_a_manifest_is_unfinished(
    llama: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(llama, PROMPTS, [1], V1, RANDOM, [0.5], tmp_path, what=["nll"])

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.probes.run, "landscape", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe(llama, PROMPTS, [1], V1, RANDOM, [0.5], tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_another_kind_of_folder_is_left_alone(llama: Subject, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"run_id": "x"}')
    with pytest.raises(UserError, match="other than a probe"):
        probe(llama, PROMPTS, [1], V1, RANDOM, [0.5], tmp_path)
    assert (tmp_path / "manifest.json").read_text() == '{"run_id": "x"}'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "no prompts to probe"),
        ({"layers": []}, "no layers to probe"),
        ({"doses": []}, "no doses to probe"),
        ({"layers": [0, 4]}, "layer 4 is out of range; allowed: 0 to 3"),
        ({"what": ["nll", "hessian"]}, "unknown probe 'hessian'; allowed: nll, kl, landscape"),
        ({"what": []}, "no probes to probe"),
        ({"plane": Plane(prompts=0)}, "no prompts to probe"),
        ({"attack": Pointed(), "plane": Plane(against=Pointed())}, "needs two directions"),
    ],
)
def test_what_cannot_be_probed_is_said(llama: Subject, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"prompts": PROMPTS, "layers": [1], "protocol": V1, "attack": RANDOM, "doses": [1.0]}
    with pytest.raises(UserError, match=message):
        probe(llama, **{**good, "out": tmp_path / "p", **changes})
    assert not (tmp_path / "p").exists()


def test_layers_of_the_landscape_are_spread() -> None:
    assert evenly_spaced(range(30), 4) == [0, 10, 19, 29]
    assert evenly_spaced([5, 7], 4) == [5, 7]
    assert evenly_spaced([3], 4) == [3]
