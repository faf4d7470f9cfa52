"""The splits: the published one to the letter, a leak-free one, and held-out layers."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest

from asabench.core.records import sha256_hex
from asabench.dataset.files import ModelTables
from asabench.dataset.fragile_layers import fragile_layers
from asabench.dataset.instances import instances_of_run
from asabench.dataset.original_layout import normalise
from asabench.dataset.splits import heldout_split, leakfree_split, published_split
from tests.asabench.dataset.dataset_fixtures import finished_run, original_rows


def by_the_published_rule(layers: list[int]) -> list[str]:
    """The rule of reference-protocol with the module's own generator, on cells in place of their numbers."""
    state = random.getstate()
    random.seed(42)
    groups: dict[int, list[tuple[int, int]]] = {}
    for place, layer in enumerate(layers):
        groups.setdefault(layer, []).append((layer, place))
    train = set()
    for group in groups.values():
        random.shuffle(group)
        train |= {place for _, place in group[: int(0.6 * len(group))]}
    random.setstate(state)
    return ["train" if place in train else "test" for place in range(len(layers))]


@pytest.mark.parametrize("layers", [[0] * 7, [5, 5, 2, 2, 2, 5, 9], [n % 4 for n in range(90)], []])
def test_the_published_split_is_the_published_rule(layers: list[int]) -> None:
    assert published_split(layers) == by_the_published_rule(layers)


def test_the_published_split_worked_out_by_hand() -> None:
    # random.Random(42) shuffles [0..4] to [3, 1, 2, 4, 0], of which the first int(0.6 * 5) = 3 are train, and then, in
    # the same stream, a group of two
    stream = random.Random(42)
    first = [0, 1, 2, 3, 4]
    stream.shuffle(first)
    assert first == [3, 1, 2, 4, 0]
    assert published_split([7, 7, 7, 7, 7]) == ["test", "train", "train", "train", "test"]
    # int(0.6 * 1) is 0: a layer with one instance is test
    assert published_split([0, 1, 2]) == ["test", "test", "test"]


def test_the_order_of_layers_decides_the_published_split() -> None:
    assert published_split([0] * 10 + [1] * 10)[:10] != published_split([1] * 10 + [0] * 10)[10:]


def test_a_prompt_s_side_is_a_function_of_its_digest() -> None:
    digests = [sha256_hex(f"goal {n}") for n in range(4000)]
    sides = [leakfree_split(digest) for digest in digests]
    drawn = [int(sha256_hex(f"leakfree:{digest}")[:16], 16) / 2**64 for digest in digests]
    assert sides == ["train" if share < 0.6 else "test" for share in drawn]
    assert 0.57 < sides.count("train") / 4000 < 0.63


def sides_of_prompts(tables: list[ModelTables], column: str) -> pd.Series:
    """How many sides each prompt is on, over all models."""
    whole = pd.concat([model.instances.to_pandas() for model in tables])
    return whole.groupby("prompt_sha256")[column].nunique()


def test_no_prompt_crosses_the_leakfree_split_and_the_published_one_does(tmp_path: Path) -> None:
    tables = [normalise(model, original_rows(prompts=20, layers=6))[0] for model in ("Llama-32-3B", "Qwen-25-7B")]
    tables += [instances_of_run(finished_run(tmp_path / name, model=name)) for name in ("one", "two")]
    assert set(pd.concat([t.instances.to_pandas() for t in tables])["split_leakfree_by_prompt"]) == {"train", "test"}
    assert sides_of_prompts(tables, "split_leakfree_by_prompt").max() == 1
    assert sides_of_prompts(tables[:2], "split_published_by_layer").max() == 2


def test_held_out_layers_are_two_bands_of_five() -> None:
    held_out = [layer for layer in range(10) if heldout_split(layer, 10) == "test"]
    assert held_out == [2, 3, 6, 7]
    assert [layer for layer in range(28) if heldout_split(layer, 28) == "test"] == [*range(6, 12), *range(17, 23)]


def test_fragile_layers() -> None:
    rates = {0: 0.2, 1: 0.1, 2: 0.5, 3: 0.5, 4: 0.3, 5: 0.3}
    found = fragile_layers("random", 1.0, rates)
    assert (found.before, found.peak, found.after) == (0, 2, 3)  # the lowest of equals
    assert found.places() == {0: "before", 2: "peak", 3: "after"}
    edge = fragile_layers("random", 1.0, {0: 0.4, 1: 0.0, 2: 0.0})
    assert (edge.before, edge.peak, edge.after) == (None, 0, None)  # nothing broke after the peak
    assert fragile_layers("random", 1.0, {0: 0.0}).places() == {}
