"""Intervals that resample clusters of prompts: what they are by hand, and whether they hold the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from asabench.core.row import JudgeInfo, ModelInfo, PromptSetInfo, ProtocolInfo
from asabench.stats.dose_response import eps50
from asabench.stats.intervals import independent, mean_interval, mean_rate, peak_interval, resampled_means, wilson
from asabench.stats.metrics import attack_result, clusters_of, init_rate, outcomes
from asabench.stats.paired import difference
from asabench.stats.scoring import RowHead, scored_row
from tests.tables import Z, bounds, clean_lines, frame, lines

GRID = {(0, 0): "usussuss", (1, 0): "ssussuss", (0, 1): "uusssuss", (1, 1): "sssssuss"}


def table(*clusters: int) -> pd.DataFrame:
    whole = frame(clean_lines("sssususs"), lines(GRID), lines(GRID, dose=0.3))
    names = {f"p{n:03d}": cluster for n, cluster in enumerate(clusters)}
    return whole.assign(cluster=whole["prompt_id"].map(names)) if clusters else whole


def everything(found: pd.DataFrame) -> object:
    return (
        attack_result(found, "random", 1.0),
        init_rate(found),
        eps50(found, "random"),
        difference(found, found[found["attack"] != "random"], "random", 1.0).prompts,
    )


def test_prompts_that_are_their_own_clusters_change_nothing() -> None:
    assert everything(table(*range(8))) == everything(table()) == everything(table(*range(70, 62, -1)))


def test_values_do_not_depend_on_clusters_nor_intervals_on_their_names() -> None:
    alone, grouped = attack_result(table(), "random", 1.0), attack_result(table(0, 0, 2, 3, 3, 5, 5, 5), "random", 1.0)
    renamed = attack_result(table(9, 9, 1, 4, 4, 0, 0, 0), "random", 1.0)
    assert grouped == renamed
    assert grouped.masr.value == alone.masr.value
    assert {layer: rate.value for layer, rate in grouped.lasr.items()} == {
        layer: rate.value for layer, rate in alone.lasr.items()
    }
    assert bounds(grouped.masr) != bounds(alone.masr)


def test_a_cluster_is_drawn_with_all_of_its_prompts() -> None:
    """Two clusters, of one and of three prompts: a resample is one of them twice, or both."""
    values = np.array([[1.0], [0.0], [0.0], [0.0]])[:, :, None]
    means = resampled_means(values, clusters=np.array([7, 2, 2, 2]))[:, 0]
    assert sorted(set(np.round(means, 12))) == [0.0, 0.25, 1.0]
    assert (means == 0.25).mean() == pytest.approx(0.5, abs=0.05)


def test_draws_are_still_drawn_within_prompts() -> None:
    values = np.array([[1.0, 0.0], [1.0, 0.0]])[:, :, None]
    means = resampled_means(values, clusters=np.array([0, 0]))[:, 0]
    assert means.mean() == pytest.approx(0.5, abs=0.02)
    assert set(np.round(means, 12)) == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_how_many_independent_prompts_clusters_are() -> None:
    assert independent(10, None) == 10
    assert independent(10, np.arange(10)) == 10
    assert independent(4, np.array([0, 0, 1, 1])) == 2
    assert independent(4, np.array([0, 0, 0, 1])) == 1.6
    assert independent(5, np.zeros(5, dtype=np.int64)) == 1


def test_clusters_that_are_each_alike_count_as_one_prompt() -> None:
    pairs = np.repeat(np.arange(10), 2)
    assert mean_interval(np.zeros((20, 1)), clusters=pairs) == pytest.approx(wilson(0.0, 10))
    alike = np.repeat([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0], [0.0], [1.0], [1.0], [1.0]], 2, axis=0)
    assert mean_interval(alike, clusters=pairs) == pytest.approx(wilson(0.6, 10))
    assert mean_interval(alike) == pytest.approx(wilson(0.6, 20))


def test_clusters_that_are_mixed_alike_say_more() -> None:
    """One of two broke in every cluster: there is nothing between clusters, but for the z^2 that are added."""
    pairs, half = np.repeat(np.arange(10), 2), np.tile([[0.0], [1.0]], (10, 1))
    expected = wilson(0.5, 10 * (10 + Z**2) / Z**2)
    assert mean_interval(half, clusters=pairs) == pytest.approx(expected)


def test_what_is_not_counted_leaves_its_cluster() -> None:
    values = np.array([[0.0], [0.0], [0.0], [1.0]])
    counted = np.array([[True], [True], [True], [False]])
    assert mean_interval(values, counted, np.array([0, 1, 2, 2])) == pytest.approx(wilson(0.0, 3))


def test_the_table_says_which_cluster() -> None:
    held = table(3, 3, 0, 0, 1, 1, 2, 2)
    assert clusters_of(held, ["p001", "p007", "nobody"]).tolist() == [3, 2, -3]  # type: ignore[union-attr]
    assert clusters_of(table(), ["p001"]) is None
    assert outcomes(held, "random", 1.0).clusters.tolist() == [3, 3, 0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]


def test_the_sign_test_counts_clusters() -> None:
    whole = frame(clean_lines("ssssss"), lines({(0, 0): "ssssss"}))
    other = frame(clean_lines("ssssss"), lines({(0, 0): "uuuuus"}))
    assert difference(whole, other, "random", 1.0).p_value == pytest.approx(2 * 0.5**5)
    clustered = [each.assign(cluster=each["prompt_id"].map(lambda name: int(name[1:]) // 2)) for each in (whole, other)]
    found = difference(*clustered, "random", 1.0)
    assert (found.only_a, found.only_b) == (0, 5)
    assert found.p_value == pytest.approx(2 * 0.5**3), "three clusters of two broke more in B"


def test_a_row_says_what_its_intervals_resample() -> None:
    head = RowHead(
        run_id="r",
        created="2026-01-01T00:00:00+00:00",
        asabench_version="0",
        model=ModelInfo(name="m", revision="-", family="f", n_layers=2, d_model=2, n_parameters=2, dtype="float32"),
        protocol=ProtocolInfo(name="p", digest="d"),
        prompts=PromptSetInfo(name="s", digest="d", n=8),
        layers=(0, 1),
        seeds=(0, 1),
        shared_noise=False,
        max_new_tokens=None,
    )
    judge = JudgeInfo(id="j", description="-")
    units = [scored_row(head, each, ["random"], [1.0], judge).interval_unit for each in (table(), table(*range(8)))]
    assert units == ["prompt", "cluster"]


@pytest.mark.parametrize("peak", [False, True])
def test_clusters_that_answer_alike_need_intervals_over_clusters(peak: bool) -> None:
    """100 prompts in 40 clusters, each answered as one: nominal 95% intervals over prompts hold the truth too rarely,
    those over clusters about as often as they say."""
    sizes = [10, 8, 8, 6, 6, 5, 5, 4, 4, 4, *[2] * 10, *[1] * 20]
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    random = np.random.default_rng(1)
    truth, repetitions, layers = 0.4, 200, 5 if peak else 1
    held = np.zeros(2)
    for _ in range(repetitions):
        values = (random.random((len(sizes), 1, layers)) < truth)[clusters].astype(float)
        for place, of in enumerate((None, clusters)):
            low, high = peak_interval(values, of) if peak else bounds(mean_rate(values[:, :, 0], clusters=of))
            held[place] += low <= truth <= high
    over_prompts, over_clusters = held / repetitions
    assert over_prompts < 0.85
    assert over_clusters > 0.9
