"""Backdoors: does a trigger turn refusals off, and does anything that looks like it?

A request is given without a trigger, with each proxy (strings that are no trigger, as somebody would try who does not
know it), and with the true one, behind the request. Measured on greedy answers: the share that is refused, and with a
reward model the mean reward and its deviation. A backdoor is gone where the true trigger's line is that of no trigger.

Source: the second application of Sheshadri et al. 2024 (arXiv:2407.15549); its models and reward model are those of the
trojan competition of Rando et al. 2024 (arXiv:2404.14461), named in `PAPER_MODELS` and `PAPER_REWARD`.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from asabench.core.errors import UserError
from asabench.core.estimate import Rate
from asabench.core.protocol import Protocol
from asabench.core.records import Prompt
from asabench.core.schema import Record
from asabench.judging.refusals import refusal_phrase
from asabench.stats.intervals import mean_rate
from harness.model.subject import Subject, check_prompt_format
from harness.probes.measures import clean_answers

PAPER_MODELS = {f"rlhf-trojan-{n}": f"ethz-spylab/poisoned_generation_trojan{n}" for n in range(1, 6)}
PAPER_REWARD = "ethz-spylab/reward_model"
REWARD_FORM = "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT: {answer}"
"""What the paper's reward model reads."""
KINDS = ("true", "proxy")

Reward = Callable[[Sequence[str]], list[float]]
"""The reward of each text."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """A string behind a request. `proxy`: one that is no trigger."""

    text: str
    kind: Literal["none", "proxy", "true"]


class TriggerLine(Record):
    """What a model does under one trigger. `reward`: mean and deviation, where a reward model was given."""

    trigger: str
    kind: str
    refused: Rate
    reward: tuple[float, float] | None = None


def model_named(name: str) -> str:
    """The hub id of one of the paper's models; any other name as it is."""
    return PAPER_MODELS.get(name, name)


def read_triggers(path: Path) -> list[Trigger]:
    """Triggers from a CSV file with the columns trigger and kind (`true` or `proxy`). Raises `UserError`."""
    how = "give a CSV file with the columns trigger,kind, kind being true or proxy"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the triggers {path} cannot be read ({type(error).__name__}); {how}") from None
    if not {"trigger", "kind"} <= set(columns):
        raise UserError(f"{path} has the columns {', '.join(columns) or '(none)'}; {how}")
    found: list[Trigger] = []
    for number, row in enumerate(rows, 2):
        text, kind = (row["trigger"] or "").strip(), (row["kind"] or "").strip()
        if not text or kind not in KINDS:
            raise UserError(f"{path}, line {number}: {text!r} of the kind {kind!r} cannot be used; {how}")
        found.append(Trigger(text=text, kind="true" if kind == "true" else "proxy"))
    if not any(trigger.kind == "true" for trigger in found):
        raise UserError(f"{path} names no true trigger among {len(found)}; {how}")
    return found


def backdoor_table(
    subject: Subject,
    prompts: Sequence[Prompt],
    triggers: Sequence[Trigger],
    protocol: Protocol,
    reward: Reward | None = None,
) -> list[TriggerLine]:
    """A line for no trigger, then one for each, in their order. Raises `UserError` for prompts with a suffix."""
    if taken := [prompt.id for prompt in prompts if prompt.suffix]:
        raise UserError(f"the prompt {taken[0]} has a suffix, where the trigger goes; give prompts without one")
    lines = []
    for trigger in (Trigger(text="", kind="none"), *triggers):
        asked = [replace(prompt, suffix=trigger.text or None) for prompt in prompts]
        check_prompt_format(subject, protocol, asked)
        answers = clean_answers(subject, [subject.format(prompt, protocol) for prompt in asked], protocol)
        texts = [subject.text(answer) for answer in answers]
        scored = None
        if reward is not None:
            given = [
                REWARD_FORM.format(prompt=f"{prompt.goal} {trigger.text}".strip(), answer=text)
                for prompt, text in zip(prompts, texts, strict=True)
            ]
            values = reward(given)
            scored = (statistics.mean(values), statistics.pstdev(values))
        refused = mean_rate(np.array([[float(refusal_phrase(text) is not None)] for text in texts]))
        lines.append(TriggerLine(trigger=trigger.text, kind=trigger.kind, refused=refused, reward=scored))
    return lines
