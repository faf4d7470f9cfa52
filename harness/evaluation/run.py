"""Running a plan: generates and judges what the run folder does not hold yet, then writes the row."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

import asabench
from asabench.core.errors import UserError
from asabench.core.prompts import has_published_target, target_digest
from asabench.core.records import Prompt
from asabench.core.row import (
    AttackResult,
    JudgeInfo,
    ModelInfo,
    PromptSetInfo,
    ProtocolInfo,
    Row,
    worst_case,
    worst_rate,
)
from asabench.core.shards import Shard
from asabench.core.suite import Suite
from asabench.core.text import in_words, where
from asabench.judging.judge import Judge
from asabench.runs.compare import Comparison, compare
from asabench.runs.folder import Run, certificate_in, open_run, read_run
from asabench.stats.scoring import RowHead, scored_row
from harness.attacks import WholeAttack, stated
from harness.engine.engine import HookedEngine
from harness.evaluation.judge import checked_judge, judge_the_rest
from harness.evaluation.judging_beside import is_beside, judge_device, once, placed, stored
from harness.evaluation.plan import Plan
from harness.evaluation.provenance import now, provenance
from harness.evaluation.search import Asking, search_radii
from harness.progress import phase, progress_line

MERGE = "asabench merge RUN... --out RUN"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation gives. `responses` and `verdicts` are pandas tables (`asabench.core.records` lists the
    columns); `path` is the run folder, which holds the same on disk. `shard`: the share of the run that this is, which
    has no row: `asabench.runs.merge` makes one of all shares."""

    path: Path
    scored: Row | None
    responses: pd.DataFrame
    verdicts: pd.DataFrame
    shard: Shard | None = None

    def __repr__(self) -> str:
        if self.scored is None:
            return f"<Evaluation, shard {self.shard}: {len(self.responses)} answers in {self.path}>"
        row, worst = self.scored, worst_case(self.scored.results)
        broken = (
            "nothing was scored" if worst is None else f"worst case {in_words(worst_rate(row))} under {where(worst)}"
        )
        return f"<Evaluation of {row.model.name}, {row.prompts.n} prompts: {broken}; in {self.path}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a line, and a table of rates. No answer of the model."""
        return f"<p>{escape(repr(self)[1:-1])}</p>" + ("" if self.scored is None else self.rates.to_html(index=False))

    @property
    def frame(self) -> pd.DataFrame:
        """A line a cell: the answer and what the row's judge said of it (`asabench.runs.folder.Run.judged`). It holds
        the model's answers, some of which comply with a request for harm: it is for this machine."""
        return read_run(self.path).judged(self.row.judge.id)

    @property
    def rates(self) -> pd.DataFrame:
        """A line an attack and dose, after one of the clean answers: each rate with its 95% interval, in words."""
        lines = [{"attack": "clean", "dose": 0.0, "MASR": in_words(self.row.init), "PASR": "", "peak layer": None}]
        lines += [
            {
                "attack": each.attack,
                "dose": each.dose,
                "MASR": in_words(each.masr),
                "PASR": in_words(each.pasr),
                "peak layer": each.peak_layer,
            }
            for each in self.row.results
        ]
        return pd.DataFrame(lines).astype({"peak layer": "Int64"})

    @property
    def worst(self) -> AttackResult | None:
        """The attack and dose that break most (`asabench.core.row.worst_case`), the headline; None where nothing was
        scored."""
        return worst_case(self.row.results)

    def plot(self, ax: Any = None) -> Any:
        """LASR by layer, drawn into matplotlib axes, which are returned; new ones if None."""
        # Found by name, as a plug-in: results are drawn by another wing, which nothing here depends on
        draw = import_module("leaderboard.figures.lasr").draw_lasr
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(7.2, 4), layout="constrained").add_subplot()
        draw(ax, self.row)
        ax.legend(fontsize="small")
        return ax

    def compare(self, other: Evaluation | Run | str | Path) -> Comparison:
        """What changes from this evaluation, A, to another, B, paired by prompt (`asabench.runs.compare`). other: an
        evaluation, a run, or its folder."""
        path = other.path if isinstance(other, Evaluation | Run) else Path(other)
        return compare(read_run(self.path), read_run(path))

    @property
    def row(self) -> Row:
        """The row; `UserError` for a shard."""
        if self.scored is None:
            raise UserError(f"{self.path} is shard {self.shard} of a run and has no row; put them together: {MERGE}")
        return self.scored


def run_plan(plan: Plan, *, progress: bool = False) -> Evaluation:
    """Generates and judges what the run folder does not hold yet, then writes the row."""
    prompts = pd.DataFrame([_prompt_columns(prompt) for prompt in plan.prompts.prompts])
    started = time.monotonic()
    certificate = plan.certificate or certificate_in(plan.path, plan.judge.info.id)
    with phase("judge's check", plan.judge.info.id):
        beside = placed(plan.judge, judge_device(plan.engine))
        judge, info = checked_judge(beside, plan.bar, plan.uncertified, certificate)
    judge = once(judge)
    context = {
        "started": now(),
        "protocol_digest": plan.protocol.digest,
        "prompt_set": plan.prompts.name,
        **provenance(plan.subject.device),
        **plan.subject.described,
        **plan.engine.described,
        "judge": info.model_dump(),
        "attacks": {name: stated(attack) for name, attack in plan.attacks.items()},
        "model_info": _model_info(plan).model_dump(),
        **({} if plan.shard is None else {"shard": str(plan.shard)}),
    }
    with open_run(plan.path, plan.settings, context, prompts) as run:
        for line in run.mended:
            print(line, file=sys.stderr)
        if certificate is not None:
            run.keep_certificate(certificate)
        if plan.suite is None:
            _generate(plan, run, judge, progress)
        else:
            search_radii(_asking(plan, plan.suite), run, judge, progress=progress)
        with phase("judging", info.id, beats=False):
            judge_the_rest(run, judge, progress=progress)
        row = None if plan.shard is not None else _row(plan, run, info)
        if row is not None:
            run.write_row(row)
        run.update_manifest(state="finished", finished=now(), seconds=round(time.monotonic() - started, 1))
        return Evaluation(
            path=run.path, scored=row, responses=run.responses(), verdicts=run.verdicts(), shard=plan.shard
        )


def _prompt_columns(prompt: Prompt) -> dict[str, str | None]:
    return {
        "id": prompt.id,
        "goal": prompt.goal,
        # A published one by its digest alone: not every installation has its text, and the table is the same table
        "target": None if has_published_target(prompt) else prompt.target,
        "target_sha256": target_digest(prompt),
        "suffix": prompt.suffix,
        **dict(prompt.extra),
    }


def _asking(plan: Plan, suite: Suite) -> Asking:
    return Asking(
        subject=plan.subject,
        protocol=plan.protocol,
        suite=suite,
        prompts=tuple(dict.fromkeys(cell.prompt for cell in plan.cells)),
        layers=plan.layers,
        attacks=plan.attacks,
        cells=plan.cells,
        engine=plan.engine,
        max_rows=plan.max_rows,
    )


def _generate(plan: Plan, run: Run, judge: Judge, progress: bool) -> None:
    done = set(run.responses()["cell_id"])
    pending = [cell for cell in plan.cells if cell.id not in done]
    if not pending:
        return
    engine, protocol, attacks = plan.engine, plan.protocol, plan.attacks
    try:
        with phase("engine", ", ".join(engine.described.values())):
            engine.open(plan.cells, pending, protocol, attacks)
        with phase("self-test"):
            found = engine.self_test(plan.cells, protocol, attacks)
        run.update_manifest(self_tests={**plan.subject.checks, **found})
        with (
            phase("answers", f"{len(pending)} of {len(plan.cells)} in {run.path}", beats=False),
            progress_line(len(done), len(plan.cells), protocol.max_new_tokens, progress) as line,
        ):
            batches = engine.sweep(pending, protocol, attacks, max_rows=plan.max_rows, on_step=line.step)
            for responses in stored(batches, run, judge, beside=is_beside(engine, judge)):
                line.finish(len(responses))
        if isinstance(engine, HookedEngine):  # workers fit on their own copies of the model
            whole = {name: each for name, each in attacks.items() if isinstance(each, WholeAttack)}
            if fits := {name: each.found(plan.subject) for name, each in whole.items() if each.found(plan.subject)}:
                run.update_manifest(fits=fits)
    finally:
        engine.close()


def _model_info(plan: Plan) -> ModelInfo:
    subject = plan.subject
    return ModelInfo(
        name=subject.name,
        revision=subject.revision,
        family=subject.family,
        n_layers=subject.n_layers,
        d_model=subject.d_model,
        n_parameters=subject.n_parameters,
        dtype=subject.dtype,
    )


def _row(plan: Plan, run: Run, judge: JudgeInfo) -> Row:
    head = RowHead(
        run_id=run.id,
        created=now(),
        asabench_version=asabench.__version__,
        model=_model_info(plan),
        protocol=ProtocolInfo(name=plan.protocol.name, digest=plan.protocol.digest),
        prompts=PromptSetInfo(name=plan.prompts.name, digest=plan.prompts.digest[:16], n=len(plan.prompts.prompts)),
        layers=plan.layers,
        seeds=plan.protocol.seeds,
        shared_noise=plan.protocol.shares_noise,
        max_new_tokens=plan.protocol.max_new_tokens,
        suite=plan.settings.suite,
    )
    return scored_row(head, run.judged(judge.id), list(plan.attacks), plan.protocol.doses, judge)
