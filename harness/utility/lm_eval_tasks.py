"""Tasks of lm-evaluation-harness (EleutherAI, package `lm-eval`), scored by it on the model that is loaded.

An extra: `pip install 'asabench[lm-eval]'`. Prompts, few-shot examples, stopping and scoring are all its own, on plain
text without the chat format, as it does by default; intervals are ours, over its score of each question.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from asabench.core.errors import UserError, one_line, with_type
from asabench.core.records import sha256_hex
from asabench.core.utility_report import TaskScore
from asabench.stats.intervals import mean_rate
from harness.model.subject import Subject
from harness.utility.sources import check_limit

ACCURACIES = ("acc", "acc_norm", "exact_match")
"""lm-eval's metrics that say of each question whether it was answered right: only these have an accuracy and chance."""

ROWS = 8
"""Rows of a batch: lm-eval takes the logits of every position, so that more would need much memory."""

Results = Mapping[str, Any]
"""What `lm_eval.simple_evaluate` returns."""


@dataclass(frozen=True)
class LmEvalTasks:
    """Loaded tasks (`lm_eval.api.task.Task`), and how many questions of each are asked (None: all)."""

    tasks: tuple[Any, ...]
    limit: int | None


def read_lm_eval_tasks(names: Sequence[str], limit: int | None = None) -> LmEvalTasks:
    """Loads tasks and their data, which most take from the hub.

    names: tasks as lm-eval calls them, groups or tags (each of their tasks is scored), or `.yaml` files of tasks of
    your own. limit: the first questions of each. Raises `UserError` for a task that cannot be scored here.
    """
    check_limit(limit)
    manager = _task_manager()
    tasks: dict[str, Any] = {}
    for name in names:
        _refuse_unknown(name, manager.all_tasks)
        try:
            tasks |= manager.load(name)["tasks"]
        except Exception as error:  # whatever a task's own code or the hub's client raises, the next step is the same
            raise UserError(
                f"lm-eval cannot load the task {name} ({with_type(error)}); its data must be "
                "within reach: on the hub, or in the local file that its .yaml file names"
            ) from None
    for name, task in tasks.items():
        _refuse_unscorable(name, task)
    return LmEvalTasks(tuple(tasks.values()), limit)


def lm_eval_scores(subject: Subject, chosen: LmEvalTasks, *, max_rows: int | None = None) -> dict[str, TaskScore]:
    """Scores by `scores_of`. The model is used as it is, in place; max_rows: rows of a batch at most."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    # The tokenizer may be given a padding token: a copy, so that the subject's stays what it is
    wrapped = HFLM(
        pretrained=subject.model, tokenizer=deepcopy(subject.tokenizer), batch_size=min(ROWS, max_rows or ROWS)
    )
    # Standard errors by lm-eval's bootstrap are left out: the intervals are ours
    results = simple_evaluate(model=wrapped, tasks=list(chosen.tasks), limit=chosen.limit, bootstrap_iters=0)
    return scores_of(results)


def scores_of(results: Results) -> dict[str, TaskScore]:
    """The accuracies of each task, from its questions one by one.

    Named `lm-eval:TASK`; a task with several metrics or ways of reading an answer ("filters") gives one score for each,
    as `lm-eval:TASK:METRIC:FILTER` with what tells them apart. Chance is one in as many as there are choices, and 0 for
    a task that is answered in free text.
    """
    scores = {}
    for task, samples in results["samples"].items():
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        metrics = [metric for metric in ACCURACIES if metric in samples[0]["metrics"]]
        data = results["configs"][task].get("dataset_path", "of its own")
        for metric in metrics:
            for reading in filters:
                parts = [task, *([metric] if len(metrics) > 1 else []), *([reading] if len(filters) > 1 else [])]
                own = sorted((each for each in samples if each["filter"] == reading), key=lambda each: each["doc_id"])
                scores[":".join(["lm-eval", *parts])] = TaskScore(
                    accuracy=mean_rate(np.array([[float(each[metric])] for each in own])),
                    n=len(own),
                    chance=fmean(map(_chance, own)),
                    source=(
                        f"lm-eval {results['lm_eval_version']}: {task}, version {results['versions'][task]}, "
                        f"data {data}, {results['n-shot'][task]}-shot, {metric}, filter {reading}"
                    ),
                    digest=sha256_hex("\n".join(each["doc_hash"] for each in own))[:16],
                )
    return scores


def _chance(sample: Mapping[str, Any]) -> float:
    """The share of a question's choices that are right (it may have several right ones); 0 without choices."""
    # A request for each choice; with this metric, one more without the question
    requests = len(sample["arguments"])
    if requests == 1:
        return 0.0
    choices = requests // 2 if "acc_mutual_info" in sample["metrics"] else requests
    target = sample["target"]
    return (len(target) if isinstance(target, list) else 1) / choices


# It reads the thousands of task files that come with lm-eval
@cache
def _task_manager() -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"--lm-eval needs the package lm-eval ({one_line(error)}); run `pip install 'asabench[lm-eval]'`"
        ) from None
    # It warns of everything it leaves at a default
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager()


def _refuse_unknown(name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise UserError(f"there is no file {name}; give a task's .yaml file, or the name of one that lm-eval has")
        return
    close = "".join(f" {each}," for each in get_close_matches(name, known, n=3))
    raise UserError(
        f"lm-eval has no task {name!r}; give{close} another that `lm-eval ls tasks` lists, or a .yaml file of your own"
    )


def _refuse_unscorable(name: str, task: Any) -> None:
    if not set(ACCURACIES) & set(task.aggregation()):
        raise UserError(
            f"the task {name} has no accuracy (its metrics are {', '.join(task.aggregation())}); choose one that is "
            f"scored by {', '.join(ACCURACIES)}"
        )
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise UserError(
            f"the task {name} runs code that the model writes, or needs pictures or sound; choose a task of text alone"
        )
