"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): grade-school word problems, scored by the number that ends an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.records import Cell, Prompt
from asabench.core.utility_report import TaskScore
from harness.engine.sweep import sweep
from harness.model.limits import check_fits
from harness.model.subject import Subject
from harness.progress import progress_line
from harness.utility.sources import HubTable, Record, Table, read_table, task_score

HUB = HubTable("openai/gsm8k", ("main/test-*.parquet",))
MAX_NEW_TOKENS = 256
INSTRUCTION = "Solve the problem step by step, and end with a line that holds #### and the answer as one number."

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


@dataclass(frozen=True)
class Problems:
    """A table's questions, and the right number of each."""

    table: Table
    numbers: tuple[Decimal, ...]


def read_problems(spec: str, limit: int | None = None) -> Problems:
    """spec, limit: see `harness.utility.sources.read_table`; rows have `question` and `answer`, which ends in `####`
    and a number. `UserError` for rows that have not."""
    table = read_table(spec, HUB, limit)
    return Problems(table, tuple(_right_number(table, line, row) for line, row in enumerate(table.rows, 1)))


def check_problems(subject: Subject, problems: Problems, protocol: Protocol) -> None:
    """`UserError` where a question and an answer to it do not fit into the model."""
    for prompt in _prompts(problems):
        try:
            tokens = {prompt.id: subject.format(prompt, protocol)}
            check_fits(subject.model, tokens, subject.name, new_tokens=MAX_NEW_TOKENS)
        except UserError as error:
            what = str(error).partition(";")[0]
            raise UserError(f"{what}; answers have up to {MAX_NEW_TOKENS} tokens there: leave --gsm8k out") from None


def gsm8k_scores(
    subject: Subject, problems: Problems, protocol: Protocol, *, max_rows: int | None = None, progress: bool = False
) -> dict[str, TaskScore]:
    """Accuracy, as `gsm8k`, of greedy answers of at most `MAX_NEW_TOKENS` tokens, with no examples in the prompt."""
    longer = protocol.model_copy(update={"max_new_tokens": MAX_NEW_TOKENS})
    cells = [Cell(prompt=prompt) for prompt in _prompts(problems)]
    said: dict[str, str] = {}
    with progress_line(0, len(cells), MAX_NEW_TOKENS, progress) as line:
        for responses in sweep(subject, cells, longer, {}, max_rows=max_rows, on_step=line.step):
            said |= {response.cell.prompt.id: response.text for response in responses}
            line.finish(len(responses))
    right = [final_number(said[cell.prompt.id]) == n for cell, n in zip(cells, problems.numbers, strict=True)]
    return {"gsm8k": task_score(right, 0.0, problems.table)}


def final_number(answer: str) -> Decimal | None:
    """The last number after the last `####`, or of the whole answer when none stands there; None without a number.

    Thousands separators, a dollar sign and zeros after the point do not count: `#### $1,200.00` is 1200.
    """
    _, mark, after = answer.rpartition("####")
    found = (_NUMBER.findall(after) if mark else []) or _NUMBER.findall(answer)
    try:
        return Decimal(re.sub(r"[$,]", "", found[-1])) if found else None
    except InvalidOperation:  # digits of other scripts are no numbers here
        return None


def _prompts(problems: Problems) -> list[Prompt]:
    return [
        Prompt(id=f"gsm8k-{number:04d}", goal=f"{str(row['question']).strip()}\n\n{INSTRUCTION}")
        for number, row in enumerate(problems.table.rows)
    ]


def _right_number(table: Table, line: int, row: Record) -> Decimal:
    question, answer = str(row.get("question", "")), str(row.get("answer", ""))
    number = final_number(answer) if "####" in answer else None
    if number is None or not question.strip():
        raise UserError(
            f"{table.source}, line {line} is no GSM8K problem: a question, and an answer that ends in #### and a "
            "number, are expected"
        )
    return number
