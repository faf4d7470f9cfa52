"""Tasks of lm-eval: conversion of its results by hand-made ones, and a task of one's own where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asabench.core.errors import UserError
from asabench.core.utility_report import read_utility, utility_table
from asabench.stats.intervals import wilson
from harness.model.subject import Subject
from harness.utility import lm_eval_tasks
from harness.utility.choices import log_likelihoods
from harness.utility.lm_eval_tasks import lm_eval_scores, read_lm_eval_tasks, scores_of
from harness.utility.measure import make_choices, measure
from tests.command_line import refused_in_one_line
from tests.conftest import tiny_subject
from tests.forks import with_models

# Results as lm-eval gives them


def sample(number: int, choices: int, target: object = 0, reading: str = "none", **metrics: float) -> dict[str, Any]:
    return {
        "doc_id": number,
        "arguments": [("a question", f" {choice}") for choice in range(choices)],
        "target": target,
        "filter": reading,
        "metrics": list(metrics),
        "doc_hash": f"hash {number}",
        **metrics,
    }


def results(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "samples": {"quiz": list(samples)},
        "configs": {"quiz": {"dataset_path": "someone/quiz"}},
        "versions": {"quiz": 1.0},
        "n-shot": {"quiz": 5},
        "lm_eval_version": "0.4.13",
    }


def test_one_metric_gives_one_score_with_our_interval() -> None:
    scores = scores_of(results([sample(n, 4, acc=1.0) for n in range(10)]))
    assert set(scores) == {"lm-eval:quiz"}
    score = scores["lm-eval:quiz"]
    assert (score.accuracy.value, score.n, score.chance) == (1.0, 10, 0.25)
    assert (score.accuracy.low, score.accuracy.high) == wilson(1.0, 10)
    assert score.source == "lm-eval 0.4.13: quiz, version 1.0, data someone/quiz, 5-shot, acc, filter none"


def test_metrics_and_filters_have_scores_of_their_own() -> None:
    both = [sample(n, 2, acc=float(n < 3), acc_norm=float(n < 1), f1=0.9) for n in range(4)]
    scores = scores_of(results(both))
    assert {name: score.accuracy.value for name, score in scores.items()} == {
        "lm-eval:quiz:acc": 0.75,
        "lm-eval:quiz:acc_norm": 0.25,
    }
    strict = [sample(n, 1, reading="strict", exact_match=0.0) for n in range(4)]
    loose = [sample(n, 1, reading="loose", exact_match=float(n == 2)) for n in range(4)]
    scores = scores_of(results([*strict, *loose]))
    assert {name: (score.accuracy.value, score.n, score.chance) for name, score in scores.items()} == {
        "lm-eval:quiz:strict": (0.0, 4, 0.0),
        "lm-eval:quiz:loose": (0.25, 4, 0.0),
    }


def test_chance_is_of_each_question() -> None:
    # One right of two, two right of four, and one of four that are asked without the question too
    uneven = [sample(0, 2, acc=1.0), sample(1, 4, target=[0, 3], acc=0.0), sample(2, 8, acc=0.0, acc_mutual_info=1.0)]
    assert scores_of(results(uneven))["lm-eval:quiz"].chance == pytest.approx((0.5 + 0.5 + 0.25) / 3)


def test_the_digest_is_of_the_questions_whatever_their_order() -> None:
    some = [sample(n, 2, acc=float(n == 1)) for n in range(3)]
    forwards, backwards = (scores_of(results(own))["lm-eval:quiz"] for own in (some, some[::-1]))
    assert forwards == backwards
    assert forwards.digest != scores_of(results(some[:2]))["lm-eval:quiz"].digest


# Without the package


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    lm_eval_tasks._task_manager.cache_clear()
    message = refused_in_one_line("utility", "no-such-model", "--lm-eval", "gsm8k", "--out", "u.json", cwd=tmp_path)
    assert "pip install 'asabench[lm-eval]'" in message


# With it, on a task of one's own: no hub

ASKED = [
    ("What do fish like to do?", ["swim", "fly", "read a book"], 1),
    ("Where is a cup?", ["on a table", "in the sky", "under the deep sea"], 0),
    ("What is hot?", ["ice", "a fire", "salt"], 2),
    ("What is green?", ["a leaf", "the snow", "a stone house"], 1),
]


@pytest.fixture
def lm_eval() -> ModuleType:
    return pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")


def write_task(folder: Path, lines: Sequence[str], name: str = "own_quiz") -> Path:
    """A task over a local JSON Lines file, as lm-eval's YAML; `lines` say how it is scored."""
    rows = [{"question": text, "choices": choices, "answer": right} for text, choices, right in ASKED]
    data = folder / "quiz.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = folder / f"{name}.yaml"
    task.write_text(
        "\n".join(
            [
                f"task: {name}",
                "dataset_path: json",
                f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder / 'cache'}}}",
                "test_split: test",
                'doc_to_text: "Question: {{question}}\\nAnswer:"',
                *lines,
                "metadata: {version: 2.0}",
            ]
        ),
        encoding="utf-8",
    )
    return task


def metric(name: str) -> str:
    return f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}"


CHOICES = ["output_type: multiple_choice", "doc_to_target: answer", "doc_to_choice: choices", "metric_list:"]
FREE = ["output_type: generate_until", 'doc_to_target: "{{choices[answer]}}"', "metric_list:", metric("exact_match")]
FREE += ["generation_kwargs: {until: ['Question:'], do_sample: false, max_gen_toks: 4}"]


@pytest.mark.usefixtures("lm_eval")
def test_choices_are_scored_as_our_own_likelihoods_say(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    task = write_task(tmp_path, [*CHOICES, metric("acc")])
    items = [(f"Question: {text}\nAnswer:", [f" {choice}" for choice in choices]) for text, choices, _ in ASKED]
    scores = log_likelihoods(subject, items)
    right = [own.index(max(own)) == answer for own, (_, _, answer) in zip(scores, ASKED, strict=True)]
    found = lm_eval_scores(subject, read_lm_eval_tasks([str(task)]))["lm-eval:own_quiz"]
    assert found.accuracy.value == sum(right) / 4
    assert (found.n, found.chance) == (4, pytest.approx(1 / 3))
    assert "own_quiz, version 2.0, data json, 0-shot, acc" in found.source
    assert lm_eval_scores(subject, read_lm_eval_tasks([str(task)], 3))["lm-eval:own_quiz"].n == 3


@pytest.mark.usefixtures("lm_eval")
def test_the_loaded_model_and_tokenizer_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject("llama")
    subject.tokenizer.pad_token = None
    before = {name: (value.data_ptr(), value.clone()) for name, value in subject.model.state_dict().items()}
    settings = subject.model.generation_config.to_dict()
    asked: list[object] = []
    hook = subject.model.register_forward_pre_hook(lambda model, arguments: asked.append(model))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    tasks = [str(write_task(tmp_path, [*CHOICES, metric("acc")])), str(write_task(tmp_path, FREE, "own_free"))]
    found = lm_eval_scores(subject, read_lm_eval_tasks(tasks, 2))
    hook.remove()
    assert set(found) == {"lm-eval:own_quiz", "lm-eval:own_free"}
    assert asked
    assert set(map(id, asked)) == {id(subject.model)}
    for name, value in subject.model.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert value.equal(before[name][1])
    assert subject.model.generation_config.to_dict() == settings
    assert subject.tokenizer.pad_token is None
    assert not any(each.requires_grad or each.grad is not None for each in subject.model.parameters())
    assert not subject.model.training


@pytest.mark.usefixtures("lm_eval")
def test_free_answers_are_scored_by_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM

    # Right, wrong, right, wrong
    monkeypatch.setattr(HFLM, "generate_until", lambda self, asked: ["fly", "no", "salt", "no"])
    task = write_task(tmp_path, FREE, "own_free")
    report = measure(tiny_subject("llama"), make_choices(attack=(), limit=4, max_new_tokens=4, lm_eval=[str(task)]))
    score = report.tasks["lm-eval:own_free"]
    assert (score.accuracy.value, score.n, score.chance) == (0.5, 4, 0.0)
    assert "lm-eval:own_free" in utility_table(report)


@pytest.mark.usefixtures("lm_eval")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*CHOICES, "  - {metric: brier_score}"], "has no accuracy (its metrics are brier_score)"),
        ([*FREE, "unsafe_code: true"], "runs code that the model writes"),
        (["output_type: guess", "doc_to_target: answer"], "cannot load the task"),
    ],
)
def test_tasks_that_cannot_be_scored_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        read_lm_eval_tasks([str(write_task(tmp_path, lines))])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("lm_eval")
def test_tasks_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = write_task(tmp_path, [*CHOICES, metric("acc")])
    (tmp_path / "quiz.jsonl").unlink()
    for name, message in [
        ("gsm9k", "has no task 'gsm9k'; give gsm8k,"),
        ("", "has no task ''; give another"),
        ("nowhere.yaml", "there is no file nowhere.yaml"),
        (str(lost), "its data must be within reach"),
    ]:
        with pytest.raises(UserError) as refused:
            read_lm_eval_tasks([name])
        assert message in str(refused.value), name
    with pytest.raises(UserError, match="--limit 0"):
        read_lm_eval_tasks(["gsm8k"], 0)


@pytest.mark.usefixtures("lm_eval")
def test_data_that_the_hub_does_not_give_are_refused(tmp_path: Path) -> None:
    message = refused_in_one_line("utility", "no-such-model", "--lm-eval", "gsm8k", "--out", "u.json", cwd=tmp_path)
    assert "cannot load the task gsm8k" in message
    assert "its data must be within reach" in message


@pytest.mark.usefixtures("lm_eval")
def test_the_command_scores_a_task_of_ones_own(save_model: Callable[..., Path], tmp_path: Path) -> None:
    task = write_task(tmp_path, [*CHOICES, metric("acc"), metric("acc_norm")])
    out = tmp_path / "utility.json"
    options = ("--attack", "none", "--limit", 2, "--max-new-tokens", 4, "--lm-eval", task, "--out", out)
    done = with_models().run(["-m", "asabench", "utility", save_model("llama"), *options])
    assert done.returncode == 0, done.stderr
    assert set(read_utility(out).tasks) == {"lm-eval:own_quiz:acc", "lm-eval:own_quiz:acc_norm"}
    assert "lm-eval:own_quiz:acc_norm" in done.stdout


@pytest.mark.usefixtures("lm_eval")
def test_a_cap_on_rows_is_kept(tmp_path: Path) -> None:
    subject: Subject = tiny_subject("llama")
    rows: list[int] = []
    hook = subject.model.register_forward_pre_hook(
        lambda model, arguments, named: rows.append((arguments[0] if arguments else named["input_ids"]).shape[0]),
        with_kwargs=True,
    )
    tasks = read_lm_eval_tasks([str(write_task(tmp_path, [*CHOICES, metric("acc")]))])
    lm_eval_scores(subject, tasks, max_rows=2)
    hook.remove()
    assert max(rows) == 2
