"""CommonsenseQA (Talmor et al. 2019, arXiv:1811.00937): five choices, scored by how likely the model finds each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from asabench.core.errors import UserError
from asabench.core.utility_report import TaskScore
from harness.model.subject import Subject
from harness.utility.choices import log_likelihoods
from harness.utility.sources import HubTable, Record, Table, read_table, task_score

HUB = HubTable("tau/commonsense_qa", ("data/validation-*.parquet",))
"""The validation part: the test part has no answers."""


@dataclass(frozen=True)
class Question:
    """`right` is the place of the right choice."""

    stem: str
    choices: tuple[str, ...]
    right: int

    @property
    def context(self) -> str:
        return f"Question: {self.stem}\nAnswer:"


@dataclass(frozen=True)
class Questions:
    """A table, and its questions."""

    table: Table
    questions: tuple[Question, ...]


def read_questions(spec: str, limit: int | None = None) -> Questions:
    """spec, limit: see `harness.utility.sources.read_table`. `UserError` for rows that are no questions."""
    table = read_table(spec, HUB, limit)
    return Questions(table, tuple(_question(table, line, row) for line, row in enumerate(table.rows, 1)))


def csqa_scores(subject: Subject, questions: Questions, *, progress: bool = False) -> dict[str, TaskScore]:
    """Accuracy as `csqa`, by each choice's log-likelihood, and as `csqa_norm`, by it per UTF-8 byte of the choice.

    A choice is read as plain text after the question, not in the chat format: its words are scored, not a letter.
    """
    asked = questions.questions
    totals = log_likelihoods(
        subject, [(each.context, [f" {choice}" for choice in each.choices]) for each in asked], progress=progress
    )
    per_byte = [
        [total / len(choice.encode()) for total, choice in zip(own, each.choices, strict=True)]
        for own, each in zip(totals, asked, strict=True)
    ]
    # Guessing gets one in as many as there are choices
    chance = fmean(1 / len(each.choices) for each in asked)

    def score(scores: Sequence[Sequence[float]]) -> TaskScore:
        right = [own.index(max(own)) == each.right for own, each in zip(scores, asked, strict=True)]
        return task_score(right, chance, questions.table)

    return {"csqa": score(totals), "csqa_norm": score(per_byte)}


def _question(table: Table, line: int, row: Record) -> Question:
    """From the original JSON Lines (`question.stem`, `question.choices`) or the hub's table (`question`, `choices`)."""
    try:
        asked = row["question"]
        if isinstance(asked, dict):
            stem = str(asked["stem"])
            labels, texts = zip(*((str(c["label"]), str(c["text"])) for c in asked["choices"]), strict=True)
        else:
            stem = str(asked)
            labels, texts = tuple(map(str, row["choices"]["label"])), tuple(map(str, row["choices"]["text"]))
        right = labels.index(str(row["answerKey"]))
        if len(texts) != len(labels) or not all(text.strip() for text in (stem, *texts)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{table.source}, line {line} is no CommonsenseQA question: question.stem, question.choices with label and "
            "text, and answerKey are expected (the test part has no answerKey: use dev or train)"
        ) from None
    return Question(stem.strip(), tuple(text.strip() for text in texts), right)
