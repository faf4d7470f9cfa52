"""Judging the responses of a run: what is left of it, or all of it again by another judge."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

import asabench
from asabench.core.defaults import BAR
from asabench.core.errors import UserError
from asabench.core.records import Cell, Label, Prompt, Response
from asabench.core.row import JudgeInfo, Row
from asabench.judging.certificate import Certificate, with_claims
from asabench.judging.judge import Judge
from asabench.runs.folder import Run, certificate_in, read_run, reopen_run
from asabench.stats.scoring import head_of, scored_row
from harness.evaluation.judging_beside import placed
from harness.evaluation.provenance import now
from harness.judges.check import fresh, require_fit, short_check, with_figures
from harness.judges.readings import read
from harness.progress import phase, progress_line

AT_ONCE = 512
"""Responses a judge is given at once: verdicts are on disk after each lot."""


def checked_judge(
    judge: Judge, bar: float = BAR, uncertified: bool = False, certificate: Certificate | None = None
) -> tuple[Judge, JudgeInfo]:
    """The judge, and its entry for a row after a short check against labelled pairs. certificate: by which the entry
    says what the judge is certified for.

    Raises `UserError` for a certificate that is not this judge's or says too little, and for a judge below the bar,
    unless `uncertified`: then the entry says so, and what the judge said at other times is not taken for what it says
    now.
    """
    with_claims(judge.info, certificate)
    info = with_figures(judge.info, short_check(judge) if uncertified else require_fit(judge, bar), bar)
    return (judge if info.certified else fresh(judge)), with_claims(info, certificate)


def judge_the_rest(run: Run, judge: Judge, *, progress: bool = False) -> int:
    """Judges the responses that this judge has not seen (a run may have died in between, or had another judge), and
    says how many those were."""
    table, verdicts = run.responses(), run.verdicts()
    seen = verdicts.loc[verdicts["judge"] == judge.info.id, "cell_id"]
    unseen = responses_of(table[~table["cell_id"].isin(seen)])
    with progress_line(len(table) - len(unseen), len(table), 1, progress) as line:
        for start in range(0, len(unseen), AT_ONCE):
            part = unseen[start : start + AT_ONCE]
            run.append_verdicts(read(judge, part))
            line.finish(len(part))
    return len(unseen)


def responses_of(table: pd.DataFrame) -> list[Response]:
    """The lines of a responses table as records. `UserError` where a line is not the cell that it says it is."""
    responses = []
    for line in table.to_dict("records"):
        given = {key: None if pd.isna(line[key]) else line[key] for key in ("layer", "seed", "suffix")}
        cell = Cell(
            prompt=Prompt(id=line["prompt_id"], goal=line["goal"], suffix=given["suffix"]),
            layer=None if given["layer"] is None else int(given["layer"]),
            attack=line["attack"],
            dose=float(line["dose"]),
            seed=None if given["seed"] is None else int(given["seed"]),
        )
        if cell.id != line["cell_id"]:
            raise UserError(f"the run's cell {line['cell_id']} does not match its prompt and settings; it was changed")
        responses.append(
            Response(
                cell=cell, text=line["text"], token_ids=tuple(line["token_ids"]), finish_reason=line["finish_reason"]
            )
        )
    return responses


def unread_both_ways(run: Run, row: Row) -> tuple[Row, Row, int]:
    """The row with answers that have no readable verdict taken for safe, the one with them taken for unsafe, and how
    many those are."""
    table, settings = run.judged(row.judge.id), run.settings
    head = head_of(
        row,
        created=row.created,
        asabench_version=row.asabench_version,
        shared_noise=settings.protocol.shares_noise,
        max_new_tokens=settings.protocol.max_new_tokens,
    )

    def filled(label: Label) -> Row:
        told = table.assign(label=table["label"].fillna(label))
        return scored_row(head, told, settings.attacks, settings.protocol.doses, row.judge)

    return filled("safe"), filled("unsafe"), int(table["label"].isna().sum())


def judge_again(
    path: Path,
    judge: Judge,
    *,
    bar: float = BAR,
    uncertified: bool = False,
    certificate: Certificate | None = None,
    progress: bool = False,
) -> Row:
    """Judges a finished run by another judge; its new row. Nothing is generated, and the verdicts and rows of other
    judges are kept. certificate: the judge's; None takes the one that the run keeps of it, if any.

    Raises `UserError` for a run that is not finished, and as `checked_judge` does.
    """
    before, settings = read_run(path).row, read_run(path).settings
    certificate = certificate or certificate_in(path, judge.info.id)
    on_gpu = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with phase("judge's check", judge.info.id):
        judge, info = checked_judge(placed(judge, on_gpu), bar, uncertified, certificate)
    with reopen_run(path) as run, phase("judging", info.id, beats=False):
        if certificate is not None:
            run.keep_certificate(certificate)
        judge_the_rest(run, judge, progress=progress)
        head = head_of(
            before,
            created=now(),
            asabench_version=asabench.__version__,
            shared_noise=settings.protocol.shares_noise,
            max_new_tokens=settings.protocol.max_new_tokens,
        )
        row = scored_row(head, run.judged(info.id), settings.attacks, settings.protocol.doses, info)
        run.write_row(row)
        run.update_manifest(judge=info.model_dump())
    return row
