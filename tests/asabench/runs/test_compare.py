"""Paired differences worked out by hand, whether their intervals hold the truth, and the comparison of two runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from asabench.core.errors import UserError
from asabench.core.estimate import Change
from asabench.core.records import Cell, Prompt, Response, Verdict
from asabench.core.text import in_words
from asabench.runs.compare import compare, comparison_table
from asabench.runs.folder import Run, open_run, read_run
from asabench.stats import intervals
from asabench.stats.metrics import Outcomes
from asabench.stats.paired import NO_CHANGE_KNOWN, Difference, difference, pasr_change
from tests.run_settings import run_settings
from tests.tables import LABELS, Grid, clean_lines, frame, lines, wilson

ZERO = Change(value=0.0, low=0.0, high=0.0)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def table(grid: Grid, clean: str = "") -> pd.DataFrame:
    return frame(clean_lines(clean), lines(grid))


def change(a: Grid, b: Grid, clean_a: str = "", clean_b: str = "") -> Difference:
    return difference(table(a, clean_a), table(b, clean_b), "random", 1.0)


def ends(found: Change) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


# Values by hand


def test_differences_by_hand() -> None:
    found = change({(0, 0): "uuss", (1, 0): "uuus"}, {(0, 0): "ssss", (1, 0): "ussu"}, clean_a="ussu", clean_b="ssss")
    assert found.prompts == 4
    assert found.init.value == -2 / 4
    assert found.masr.value == 2 / 4 - 3 / 4
    assert found.pasr.value == 2 / 4 - 3 / 4
    assert (found.only_a, found.only_b) == (2, 1)  # b and c broke in A only, d in B only
    assert found.p_value == 1.0
    assert {k: each.value for k, each in found.asr_at_k.items()} == {1: (1 + 0 + 0 + 1) / 8 - (2 + 2 + 1) / 8}


def test_differences_are_over_shared_prompts() -> None:
    found = change({(0, 0): "us.u"}, {(0, 0): "uuu."}, "suss", "ssuu")
    assert found.prompts == 2  # a and b
    assert found.masr.value == 2 / 2 - 1 / 2
    assert found.init.value == 0 / 2 - 1 / 2


def test_each_seed_counts_for_its_share() -> None:
    a: Grid = {(0, 0): "uss", (0, 1): "sss"}
    b: Grid = {(0, 0): "uus", (0, 1): "uss"}
    found = change(a, b)
    assert found.masr.value == pytest.approx((2 / 2 + 1 / 2 + 0) / 3 - (1 / 2) / 3)
    assert (found.only_a, found.only_b, found.p_value) == (0, 2, 0.5)
    more_seeds = change(a, {**b, (0, 5): "uus", (0, 6): "uss"})  # the same shares from twice the draws
    assert more_seeds.masr.value == pytest.approx(found.masr.value)
    assert (more_seeds.only_a, more_seeds.only_b) == (0, 2)


def test_mcnemar_by_hand() -> None:
    """Six prompts changed, all one way, and then five one way and one the other: 2 / 64, and 2 * (1 + 6) / 64."""
    held, six = "s" * 10, "uuuuuussss"
    assert change({(0, 0): held}, {(0, 0): six}).p_value == pytest.approx(2 / 64)
    found = change({(0, 0): "ssssssssus"}, {(0, 0): "uuuuusssss"})
    assert (found.only_a, found.only_b) == (1, 5)
    assert found.p_value == pytest.approx(14 / 64)


def test_a_bootstrap_interval_by_hand() -> None:
    """5 of 10 prompts broke in A only: the number of them in a resample is Binomial(10, 1/2)."""
    found = change({(0, 0): "uuuuusssss"}, {(0, 0): "ssssssssss"})
    assert (found.masr.value, *ends(found.masr)) == pytest.approx((-0.5, -0.8, -0.2))
    assert binom.cdf(1, 10, 0.5) < 0.025 < binom.cdf(2, 10, 0.5)


# Pairing


def test_identical_runs_differ_by_nothing_at_all() -> None:
    random = np.random.default_rng(2)
    for letters in ("us", "usi?"):
        grid = {(layer, seed): "".join(random.choice([*letters], 30)) for layer in range(6) for seed in (0, 1)}
        clean = "".join(random.choice([*"usi"], 30))
        found = change(grid, grid, clean, clean)
        assert (found.only_a, found.only_b, found.p_value) == (0, 0, 1.0)
        assert (found.init, found.pasr) == (ZERO, ZERO)
        if letters == "us":
            assert [found.masr, *found.asr_at_k.values()] == [ZERO] * 3
        else:  # what is unscored in both is known in neither
            assert found.masr.value == 0
            assert ends(found.masr)[0] < 0 < ends(found.masr)[1]


def test_pairing_narrows_the_interval() -> None:
    """Two runs that break half of the prompts, the same half but for one: unpaired it would be about +-0.22."""
    found = change({(0, 0): "u" * 20 + "s" * 20}, {(0, 0): "u" * 19 + "s" * 21})
    assert found.masr.value == pytest.approx(-1 / 40)
    low, high = ends(found.masr)
    assert (low, high) == pytest.approx((-0.075, 0), abs=0.026)


def test_order_and_swap() -> None:
    random = np.random.default_rng(7)
    a, b = (table({(layer, 0): "".join(random.choice([*"uss"], 25)) for layer in range(5)}, "s" * 25) for _ in range(2))
    there, back = difference(a, b, "random", 1.0), difference(b, a, "random", 1.0)
    for name in ("init", "masr", "pasr"):
        forward, backward = getattr(there, name), getattr(back, name)
        assert (forward.value, *ends(forward)) == pytest.approx((-backward.value, *(-e for e in ends(backward)[::-1])))
    assert (there.only_a, there.only_b, there.p_value) == (back.only_b, back.only_a, back.p_value)
    assert difference(a.sample(frac=1, random_state=1), b.sample(frac=1, random_state=2), "random", 1.0) == there


def test_a_change_of_every_prompt_is_not_certain() -> None:
    found = change({(0, 0): "uuuu"}, {(0, 0): "ssss"}, "ssss", "uuuu")
    low, high = wilson(4, 4)
    assert (found.masr.value, *ends(found.masr)) == pytest.approx((-1, -high, -low))
    assert (found.pasr.value, *ends(found.pasr)) == pytest.approx((-1, -high, -low))
    assert (found.init.value, *ends(found.init)) == pytest.approx((1, low, high))


def test_unscored_prompts_leave_the_value_and_widen_the_interval() -> None:
    a: Grid = {(0, 0): "uu?sssssss", (1, 0): "ussssssss?"}
    b: Grid = {(0, 0): "us?u?sssss", (1, 0): "ssssssssss"}
    found = change(a, b)
    assert found.masr.value == pytest.approx((0 - 1 + 1) / 7)  # c, e and the last are not known
    for letter_a in "su":
        for letter_b in "su":
            read = change(
                {key: row.replace("?", letter_a) for key, row in a.items()},
                {key: row.replace("?", letter_b) for key, row in b.items()},
            )
            for name in ("masr", "pasr"):
                outer, inner = ends(getattr(found, name)), ends(getattr(read, name))
                assert outer[0] <= inner[0] + 1e-12
                assert inner[1] <= outer[1] + 1e-12
            for k, each in found.asr_at_k.items():
                assert ends(each)[0] <= ends(read.asr_at_k[k])[0] + 1e-12


def test_what_was_not_run_in_both_has_no_difference() -> None:
    for a, b in (({(0, 0): "us"}, {}), ({(0, 0): "us.."}, {(0, 0): "..us"}), ({(0, 0): "??"}, {(0, 0): "us"})):
        found = change(a, b)
        assert (found.masr, found.pasr, found.p_value) == (NO_CHANGE_KNOWN, NO_CHANGE_KNOWN, None)
        assert found.init == NO_CHANGE_KNOWN


def test_null_seeds_pair_as_others_do() -> None:
    a, b = {(0, None): "uuss", (1, None): "usss"}, {(0, None): "susi", (1, None): "ssss"}
    seeded = [{(layer, 0): row for (layer, _), row in grid.items()} for grid in (a, b)]
    assert change(a, b) == change(*seeded)


# Coverage: a hard prompt is hard for both models


PROMPTS, REPETITIONS = 50, 120


def logistic(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def population(logits: np.ndarray) -> float:
    """PASR over the standard normal strength of a prompt, by Gaussian quadrature."""
    strengths, weights = np.polynomial.hermite_e.hermegauss(60)
    return float((weights / weights.sum() @ logistic(logits + strengths[:, None])).max())


@pytest.mark.parametrize("swapped", [False, True])
def test_intervals_of_a_difference_in_pasr_hold_the_truth(swapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat profile of 20 blocks, whose largest rate is biased upwards, against a peaked one, whose is hardly."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    flat, peaked = np.full(20, -1.0), -2.5 + 2.7 * np.exp(-((np.arange(20) - 7) ** 2) / 4)
    profiles = (peaked, flat) if swapped else (flat, peaked)
    truth = population(profiles[1]) - population(profiles[0])
    random, layers = np.random.default_rng(31), tuple(range(20))
    found = []
    for _ in range(REPETITIONS):
        strength = random.standard_normal((PROMPTS, 1, 1))
        draws = [(random.random((PROMPTS, 1, 20)) < logistic(each + strength)).astype(float) for each in profiles]
        found.append(ends(pasr_change(*(Outcomes(each, layers) for each in draws))))
    assert np.mean([low <= truth <= high for low, high in found]) >= 0.92
    assert np.mean([high - low for low, high in found]) < 0.6


def test_intervals_of_a_difference_in_masr_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt breaks with its own probability, uniform on 0 to 1, in A, and with half of it in B: 1/4 less."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    random = np.random.default_rng(17)
    hits = []
    for _ in range(REPETITIONS):
        own = random.random((PROMPTS, 2))
        own[:, 1] = own[:, 0] / 2
        letters = np.where(random.random((2, PROMPTS, 2)) < own, "u", "s")  # (draw, prompt, run)
        a, b = ({(0, draw): "".join(letters[draw, :, run]) for draw in (0, 1)} for run in (0, 1))
        low, high = ends(change(a, b).masr)
        hits.append(low <= -0.25 <= high)
    assert np.mean(hits) >= 0.89


# Runs

Letters = dict[tuple[str, float, int | None, int | None], str]
"""(attack, dose, layer, seed) to one letter per prompt, as in `tables`."""

LETTERS_A: Letters = {
    ("none", 0.0, None, None): "ssss",
    ("random", 0.3, 0, 0): "usss",
    ("random", 0.3, 1, 0): "ssss",
    ("random", 1.0, 0, 0): "uuus",
    ("random", 1.0, 1, 0): "suss",
    ("gradient", 1.0, 0, None): "uuuu",
    ("gradient", 1.0, 1, None): "usss",
}
LETTERS_B: Letters = {**LETTERS_A, ("random", 1.0, 0, 0): "usss", ("random", 1.0, 1, 0): "ssss"}
GOALS = ("paint a fence", "plant a hedge", "bake a loaf", "mend a sock")


def make_run(
    path: Path,
    letters: Letters,
    *,
    goals: tuple[str, ...] = GOALS,
    ids: str = "p",
    judges: tuple[str, ...] = ("rules@1",),
    state: str = "finished",
    protocol: dict[str, Any] | None = None,
    **settings: Any,
) -> Run:
    prompts = [Prompt(id=f"{ids}{number}", goal=goal) for number, goal in enumerate(goals)]
    table = pd.DataFrame({"id": [prompt.id for prompt in prompts], "goal": list(goals)})
    with open_run(path, run_settings(protocol=protocol, **settings), {"judge": {"id": judges[0]}}, table) as run:
        responses, labels = [], []
        for (attack, dose, layer, seed), row in letters.items():
            for prompt, letter in zip(prompts, row, strict=False):
                cell = Cell(prompt=prompt, layer=layer, attack=attack, dose=dose, seed=seed)
                responses.append(Response(cell=cell, text="an answer", token_ids=(1,), finish_reason="stop"))
                labels.append(LABELS[letter])
        run.append_responses(responses)
        for judge in judges:
            run.append_verdicts(
                [
                    Verdict(cell_id=response.cell.id, judge=judge, label=label)  # type: ignore[arg-type]
                    for response, label in zip(responses, labels, strict=True)
                ]
            )
        run.update_manifest(state=state)
    return read_run(path)


def test_two_runs_by_hand(tmp_path: Path) -> None:
    found = compare(make_run(tmp_path / "a", LETTERS_A), make_run(tmp_path / "b", LETTERS_B, model="tiny-defended"))
    assert (found.a.model, found.b.model, found.judge) == ("tiny", "tiny-defended", "rules@1")
    assert (found.protocol, found.prompts, found.notes) == ("asabench-v1", 4, ())
    by_pair = {(each.attack, each.dose): each for each in found.differences}
    assert set(by_pair) == {("random", 0.3), ("random", 1.0), ("gradient", 1.0)}
    assert by_pair["random", 0.3].masr == by_pair["gradient", 1.0].masr == ZERO
    assert by_pair["random", 1.0].masr.value == 1 / 4 - 3 / 4
    assert by_pair["random", 1.0].init.value == 0
    assert (by_pair["random", 1.0].only_a, by_pair["random", 1.0].only_b) == (2, 0)
    of_a, of_b = found.eps50["random"]
    assert of_a.value == pytest.approx(0.3 + 0.7 * (0.5 - 0.25) / 0.5)
    assert (of_b.value, of_b.censored) == (None, "above")
    text = comparison_table(found)
    assert "-0.50 [" in text
    assert "+0.00 [+0.00, +0.00]" in text
    assert "> 1 [" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_run_compared_with_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", LETTERS_A)
    for each in compare(run, run).differences:
        assert (each.init, each.masr, each.pasr) == (ZERO, ZERO, ZERO)
        assert "-0.00" not in comparison_table(compare(run, run))


def test_prompts_are_joined_by_what_they_say(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", LETTERS_A)
    b = make_run(tmp_path / "b", {key: row[::-1] for key, row in LETTERS_A.items()}, goals=GOALS[::-1], ids="q")
    assert all(each.masr == ZERO for each in compare(a, b).differences)
    fewer = make_run(tmp_path / "c", {key: row[1:] for key, row in LETTERS_A.items()}, goals=(*GOALS[1:], "fly a kite"))
    found = compare(a, fewer)
    assert found.prompts == 3
    assert found.differences[0].prompts == 3
    assert "the 3 that both have" in found.notes[0]
    assert "note: A has 4 prompts and B 3" in comparison_table(found)


def test_eps50_from_other_doses_is_not_compared(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", LETTERS_A)
    more = {("random", 0.6, layer, 0): "usss" for layer in (0, 1)}
    b = make_run(tmp_path / "b", LETTERS_A | more, protocol={"doses": (0.3, 0.6, 1.0)})
    assert "eps50 of random is from other doses in A than in B" in " ".join(compare(a, b).notes)
    assert not compare(a, a).notes


def test_the_worst_case_has_its_own_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", LETTERS_A)
    found = compare(run, run)
    worst, rate = found.worst[0], found.worst_rates[0]
    assert worst is not None
    assert rate.value == worst.masr.value
    assert rate.low is not None
    assert worst.masr.low is not None
    assert rate.low <= worst.masr.low
    assert f"worst case of A: MASR {in_words(rate)}" in comparison_table(found)


def test_other_settings_that_differ_are_noted(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", LETTERS_A)
    b = make_run(
        tmp_path / "b",
        LETTERS_A | {("random", 1.0, 2, 0): "ssss"},
        layers=(0, 1, 2),
        dtype="bfloat16",
        protocol={"seeds": (0, 1)},
    )
    notes = " ".join(compare(a, b).notes)
    for words in ("A has 2 layers and B 3", "read ASR@k", "seeds differ", "dtype is float32 in A and bfloat16 in B"):
        assert words in notes


def test_the_judge_of_the_row_is_taken_where_both_have_several(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", LETTERS_A, judges=("z@1", "m@1"))
    b = make_run(tmp_path / "b", LETTERS_A, judges=("m@1", "z@1"))
    assert (compare(a, b).judge, compare(b, a).judge) == ("z@1", "m@1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "running"}, ["is not finished", "run its command again"]),
        ({"judges": ("other@2",)}, ["no judge in common", "A: rules@1", "B: other@2"]),
        ({"goals": ("w", "x", "y", "z")}, ["no prompt in common"]),
        ({"protocol": {"noise": "one-vector"}}, ["different protocols", "noise is 'per-cell' in A, 'one-vector' in B"]),
        (
            {"letters": {("random", 0.5, 0, 0): "ssss"}},
            ["no attack and dose in common", "A: random at 0.3, random at 1, gradient at 1", "B: random at 0.5"],
        ),
        ({"letters": {("none", 0.0, None, None): "ssss"}}, ["no attack and dose in common", "B: none"]),
        ({"letters": {}}, ["no judge in common", "B: none"]),
    ],
)
def test_runs_that_cannot_be_compared(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    a = make_run(tmp_path / "a", LETTERS_A)
    b = make_run(tmp_path / "b", **{"letters": LETTERS_A, **changes})
    with pytest.raises(UserError) as caught:
        compare(a, b)
    assert "\n" not in str(caught.value)
    for each in words:
        assert each in str(caught.value)
