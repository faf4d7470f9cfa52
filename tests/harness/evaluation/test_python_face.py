"""`asabench.evaluate` as a notebook uses it: models in memory, lists of requests, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import asabench
from asabench.core.errors import UserError
from asabench.core.row import worst_case
from harness.model.in_memory import weights_digest

ASKED: dict[str, Any] = {
    "prompts": ["Paint a fence", "Bake bread"],
    "layers": [0, 1],
    "doses": [0.5],
    "protocol": "gu2025",
    "max_new_tokens": 3,
    "judge": "rules",
    "uncertified": True,
}


@pytest.fixture
def folder(save_model: Callable[..., Path]) -> Path:
    return save_model("llama")


def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_model_in_memory_answers_as_its_folder_does(folder: Path, tmp_path: Path) -> None:
    named = asabench.evaluate(folder, out=tmp_path / "named", **ASKED)
    held = asabench.evaluate(*loaded(folder), out=tmp_path / "held", **ASKED)
    columns = ["cell_id", "text", "direction_sha256"]
    assert held.responses[columns].equals(named.responses[columns])
    assert held.row.model.name == named.row.model.name == folder.name
    assert held.row.model.revision.startswith("sha256:")


def test_other_weights_are_another_model(folder: Path, tmp_path: Path) -> None:
    model, _ = loaded(folder)
    before = weights_digest(model)
    assert weights_digest(loaded(folder)[0]) == before
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] += 1
    assert weights_digest(model) != before
    assert weights_digest(model.to(torch.bfloat16)) != before


def test_what_cannot_be_measured(folder: Path) -> None:
    model, tokenizer = loaded(folder)
    for arguments, said in (
        ((model,), "without its tokenizer"),
        ((object(), tokenizer), "a object is no model"),
        ((str(folder), tokenizer), "brings its own"),
    ):
        with pytest.raises(UserError, match=said):
            asabench.evaluate(*arguments, **ASKED)


def test_an_evaluation_at_a_glance(folder: Path, tmp_path: Path) -> None:
    evaluation = asabench.evaluate(*loaded(folder), out=tmp_path / "run", attack="random,mean_difference", **ASKED)
    assert evaluation.worst == worst_case(evaluation.row.results)
    assert len(repr(evaluation)) < 400
    assert folder.name in repr(evaluation)
    assert list(evaluation.rates["attack"]) == ["clean", "random", "mean_difference"]
    frame = evaluation.frame
    assert set(frame["cell_id"]) == set(evaluation.responses["cell_id"])
    assert {"label", "text", "goal"} <= set(frame.columns)
    shown = evaluation._repr_html_()
    assert "<table" in shown
    assert not any(text in shown for text in frame["text"] if len(text) > 8)


def test_plots_into_axes_of_ones_own_and_into_new_ones(folder: Path, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    evaluation = asabench.evaluate(folder, out=tmp_path / "run", **ASKED)
    own = Figure().add_subplot()
    assert evaluation.plot(own) is own
    assert own.get_lines()
    assert evaluation.plot().get_ylabel() == own.get_ylabel()


def test_two_evaluations_compared(folder: Path, save_model: Callable[..., Path], tmp_path: Path) -> None:
    a = asabench.evaluate(folder, out=tmp_path / "a", **ASKED)
    b = asabench.evaluate(save_model("gpt2"), out=tmp_path / "b", **ASKED)
    of_both = a.compare(b)
    assert of_both == a.compare(b.path)
    assert (of_both.prompts, of_both.a.model) == (2, a.row.model.name)
    assert "INIT" in str(of_both) or "MASR" in str(of_both)
