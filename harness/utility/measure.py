"""Model in, `UtilityReport` out: what `asabench utility` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asabench
from asabench.core.attack_names import doses_of, names_without_targets
from asabench.core.defaults import ATTACK, PROTOCOL, UTILITY_DOSES, UTILITY_TOKENS
from asabench.core.errors import UserError
from asabench.core.numbers import evenly_spaced
from asabench.core.prompts import PromptSet
from asabench.core.protocol import Protocol
from asabench.core.records import CLEAN, Cell, Response
from asabench.core.request_sets import BENIGN, OVER_REFUSAL
from asabench.core.utility_report import TaskScore, UtilityReport
from harness.attacks import Attack, make_attacks
from harness.engine.sweep import grid, sweep
from harness.evaluation.plan import parse_layers, resolve_protocol
from harness.model.limits import check_fits
from harness.model.subject import Subject, check_prompt_format
from harness.progress import progress_line
from harness.utility.answers import DETECTOR, Reading, read_answer
from harness.utility.benign import benign_rates
from harness.utility.csqa import Questions, csqa_scores, read_questions
from harness.utility.gsm8k import Problems, check_problems, gsm8k_scores, read_problems
from harness.utility.lm_eval_tasks import LmEvalTasks, lm_eval_scores, read_lm_eval_tasks
from harness.utility.requests import described, load_requests

LAYERS = 4
"""Layers that are perturbed when none are named: evenly spaced, the first and last included. Each costs a model answer
per request and dose, and the rates are means over them."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is measured, resolved and checked as far as it can be without the model. `layers`: None takes `LAYERS`."""

    protocol: Protocol
    attacks: dict[str, Attack]
    layers: str | Sequence[int] | None
    benign: PromptSet
    over_refusal: PromptSet
    gsm8k: Problems | None
    csqa: Questions | None
    lm_eval: LmEvalTasks | None


def make_choices(
    *,
    benign: str = BENIGN,
    over_refusal: str = OVER_REFUSAL,
    attack: Sequence[str] = (ATTACK,),
    doses: Sequence[float] = UTILITY_DOSES,
    layers: str | Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    protocol: str | Protocol = PROTOCOL,
    max_new_tokens: int = UTILITY_TOKENS,
    gsm8k: str | None = None,
    csqa: str | None = None,
    lm_eval: Sequence[str] = (),
    limit: int | None = None,
) -> Choices:
    """Resolves and checks what is to be measured.

    benign, over_refusal: see `harness.utility.requests.load_requests`. attack: specifications as for an evaluation;
    empty for clean rates only. gsm8k, csqa: see `harness.utility.sources.read_table`; None leaves the task out.
    lm_eval: see `harness.utility.lm_eval_tasks.read_lm_eval_tasks`. limit: the first requests of each set, and
    questions of each task. Raises `UserError`.
    """
    resolved = resolve_protocol(protocol, doses=doses, seeds=seeds, max_new_tokens=max_new_tokens)
    attacks = make_attacks(attack, resolved) if attack else {}
    _refuse_attacks_with_targets(attacks)
    return Choices(
        protocol=resolved,
        attacks=attacks,
        layers=layers,
        benign=load_requests(benign, limit),
        over_refusal=load_requests(over_refusal, limit),
        gsm8k=None if gsm8k is None else read_problems(gsm8k, limit),
        csqa=None if csqa is None else read_questions(csqa, limit),
        lm_eval=read_lm_eval_tasks(lm_eval, limit) if lm_eval else None,
    )


def _reading(response: Response) -> Reading | None:
    """Unscored where the logits were not finite: that is no answer, and not a broken one."""
    return None if response.finish_reason == "not-finite" else read_answer(response.text)


def measure(
    subject: Subject, choices: Choices, *, max_rows: int | None = None, progress: bool = False
) -> UtilityReport:
    """Rates for harmless requests, clean and under injection, and scores on the tasks that were chosen.

    max_rows: rows of a batch at most. progress: a line on a terminal. Raises `UserError`.
    """
    protocol, attacks = choices.protocol, choices.attacks
    chosen = evenly_spaced(range(subject.n_layers), LAYERS) if choices.layers is None else choices.layers
    layers = parse_layers(chosen, subject.n_layers)
    benign, over_refusal = choices.benign.prompts, choices.over_refusal.prompts
    # A request may be in both sets: it is answered once
    prompts = list(dict.fromkeys([*benign, *over_refusal]))
    check_prompt_format(subject, protocol, prompts)
    check_fits(
        subject.model,
        {prompt.id: subject.format(prompt, protocol) for prompt in prompts},
        subject.name,
        new_tokens=protocol.max_new_tokens,
    )
    if choices.gsm8k is not None:
        check_problems(subject, choices.gsm8k, protocol)
    cells = grid(prompts, layers, list(attacks.values()), protocol)
    with progress_line(0, len(cells), protocol.max_new_tokens, progress) as line:
        found: dict[Cell, Reading | None] = {}
        for responses in sweep(subject, cells, protocol, attacks, max_rows=max_rows, on_step=line.step):
            found |= {response.cell: _reading(response) for response in responses}
            line.finish(len(responses))
    tasks: dict[str, TaskScore] = {}
    if choices.gsm8k is not None:
        tasks |= gsm8k_scores(subject, choices.gsm8k, protocol, max_rows=max_rows, progress=progress)
    if choices.csqa is not None:
        tasks |= csqa_scores(subject, choices.csqa, progress=progress)
    if choices.lm_eval is not None:
        tasks |= lm_eval_scores(subject, choices.lm_eval, max_rows=max_rows)
    return UtilityReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        asabench_version=asabench.__version__,
        model=subject.name,
        revision=subject.revision,
        dtype=subject.dtype,
        protocol=protocol.name,
        max_new_tokens=protocol.max_new_tokens,
        layers=layers if attacks else (),
        seeds=protocol.seeds if attacks else (),
        benign_set=described(choices.benign),
        over_refusal_set=described(choices.over_refusal),
        refusal_detector=DETECTOR,
        clean=benign_rates(found, benign, over_refusal, CLEAN, 0.0),
        under_injection=tuple(
            benign_rates(found, benign, over_refusal, attack, dose, shared=protocol.shares_noise)
            for attack in attacks
            for dose in doses_of(attack, protocol.doses)
        ),
        tasks=tasks,
    )


def _refuse_attacks_with_targets(attacks: dict[str, Attack]) -> None:
    if needing := [name for name, attack in attacks.items() if attack.needs_targets]:
        raise UserError(
            f"the attack {needing[0]} works towards a harmful target, which a harmless request has not; "
            f"allowed here: {', '.join(names_without_targets())}, or none"
        )
