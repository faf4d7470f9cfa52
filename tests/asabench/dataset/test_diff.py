"""Two benchmarks side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.dataset.diff import Cells, LabelCount, LayerCounts, diff
from asabench.dataset.redact import redact
from tests.asabench.dataset.dataset_fixtures import (
    benchmark_folder,
    finished_run,
    original_folder,
    original_row,
    prompt,
)


def test_a_benchmark_and_itself_or_its_redacted_copy(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "a")
    redact(tmp_path / "a", tmp_path / "b")
    found = diff(tmp_path / "a", tmp_path / "b")
    assert found.same
    assert found.cells == Cells(both=9, only_a=0, only_b=0)
    assert found.cells.jaccard == 1.0
    assert found.text.endswith("the same cells and labels")


def test_counts_cells_and_labels(tmp_path: Path) -> None:
    one = finished_run(tmp_path / "one", broken=("uus", "suu", "sss"), clean="sss")
    two = finished_run(tmp_path / "two", broken=("usi", "suu", "?su"), clean="ssu", revision="sha256:other")
    benchmark_folder(tmp_path / "a", one)
    benchmark_folder(tmp_path / "b", two)
    found = diff(tmp_path / "a", tmp_path / "b")
    (model,) = found.models
    assert (model.instances_a, model.instances_b) == (4, 4)
    assert model.cells == Cells(both=3, only_a=1, only_b=1)
    assert model.cells.jaccard == 3 / 5
    assert model.layers == (
        LayerCounts(layer=0, a=1, b=1, both=1),
        LayerCounts(layer=1, a=2, b=1, both=1),
        LayerCounts(layer=2, a=1, b=2, both=1),
    )
    assert model.labels is not None
    assert [label for label in model.labels if label.a != label.b] == [
        LabelCount(a="safe", b="unsafe", attempts=2),  # a steered answer and a clean one
        LabelCount(a="safe", b="incoherent", attempts=1),
        LabelCount(a="safe", b="unscored", attempts=1),
        LabelCount(a="unsafe", b="safe", attempts=1),
    ]
    assert (model.changed, model.attempts) == (5, 12)
    assert not found.same
    text = found.text
    assert "0.600" in text
    assert "5 of 12" in text
    assert "revisions: A sha256:feedfacecafebeef, B sha256:other" in text
    assert text.endswith("they differ")
    content = json.loads(json.dumps(found.as_json()))
    assert content["cells"] == {"both": 3, "only_a": 1, "only_b": 1, "jaccard": 0.6}
    assert content["models"][0]["changed"] == 5
    assert "fence" not in text + json.dumps(content)


def test_a_label_that_differs_in_no_instance(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "a", finished_run(tmp_path / "one", broken=("us",), clean="s"))
    benchmark_folder(tmp_path / "b", finished_run(tmp_path / "two", broken=("ui",), clean="s"))
    found = diff(tmp_path / "a", tmp_path / "b")
    assert found.cells.jaccard == 1.0
    assert not found.same


def test_another_dose_is_another_cell_but_the_same_prompt_and_layer(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "a", finished_run(tmp_path / "one"))
    benchmark_folder(tmp_path / "b", finished_run(tmp_path / "two", dose=0.3))
    assert diff(tmp_path / "a", tmp_path / "b").cells == Cells(both=0, only_a=9, only_b=9)
    assert diff(tmp_path / "a", tmp_path / "b", key="prompt-layer").cells == Cells(both=9, only_a=0, only_b=0)


def test_a_regenerated_set_and_the_published_one(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "new", finished_run(tmp_path / "run", model="meta-llama/Llama-3.1-8B"))
    rows = [original_row(0, 0), original_row(0, 0, suffix="in blue"), original_row(1, 2), original_row(4, 1)]
    assert rows[0]["prompt"] == prompt(0).goal
    published = original_folder(tmp_path / "old", {"Llama-31-8B": rows, "Qwen-25-7B": rows})
    found = diff(tmp_path / "new", published)
    assert found.key == "prompt-layer"
    (model,) = found.models
    assert (model.model, model.labels) == ("meta-llama/Llama-3.1-8B", None)
    assert (model.instances_a, model.instances_b) == (9, 4)  # the suffix makes a second instance of one cell
    assert model.cells == Cells(both=2, only_a=7, only_b=1)
    assert (found.only_a, found.only_b) == ((), ("Qwen/Qwen2.5-7B",))
    assert "only in B: Qwen/Qwen2.5-7B" in found.text
    assert not found.same


def test_nothing_in_common(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "a", finished_run(tmp_path / "one", model="one"))
    benchmark_folder(tmp_path / "b", finished_run(tmp_path / "two", model="two"))
    found = diff(tmp_path / "a", tmp_path / "b")
    assert (found.models, found.only_a, found.only_b) == ((), ("one",), ("two",))
    assert found.cells.jaccard is None
    assert not found.same
    assert found.text


def test_models_in_which_nothing_broke(tmp_path: Path) -> None:
    for name in "ab":
        benchmark_folder(tmp_path / name, finished_run(tmp_path / f"run-{name}", broken=("ss",), clean="s"))
    found = diff(tmp_path / "a", tmp_path / "b")
    assert found.same
    assert found.models[0].cells.jaccard is None


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "a")
    with pytest.raises(UserError, match="is not there"):
        diff(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="allowed: cell, prompt-layer"):
        diff(tmp_path / "a", tmp_path / "a", key="row")  # type: ignore[arg-type]
