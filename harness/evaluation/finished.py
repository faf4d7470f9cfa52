"""A run that is finished already: found before its model is loaded."""

from __future__ import annotations

from pathlib import Path

import asabench
from asabench.core.errors import UserError
from asabench.judging.agreement import reaches
from asabench.runs.choices import Choices
from asabench.runs.folder import Run, read_run
from harness.evaluation.plan import Plan, make_plan


def finished_run(model: str, choices: Choices) -> Run | None:
    """The run of these choices, where it stands finished on disk; None where something is left to do, and for choices
    that only the loaded model can tell.

    The settings are worked out from the files of the model without its weights, and only where a finished run lies
    that could be theirs.
    """
    if not _may_be_there(model, choices) or choices.defence is not None or choices.shard is not None:
        return None
    try:
        plan = make_plan(model, choices, weights=False)
        run = read_run(plan.path)
    except UserError:  # said again, in full, by whoever goes on
        return None
    return run if plan.shard is None and is_finished(run, plan) else None


def _may_be_there(model: str, choices: Choices) -> bool:
    if choices.out is not None:
        return (choices.out / "row.json").is_file()
    names = (model.partition("@")[0].replace("/", "--"), Path(model).name)  # of a hub id, and of a folder
    return any(path.parent.name.startswith(names) for path in Path("runs").glob("*/row.json"))


def is_finished(run: Run, plan: Plan) -> bool:
    """Whether nothing is left of a plan: the same settings, all answers, and the row of this judge by this version."""
    if run.manifest.get("state") != "finished" or run.manifest["settings"] != plan.settings.as_json():
        return False
    row = run.row_of(plan.judge.info.id)
    if row is None or row != run.row or row.asabench_version != asabench.__version__:
        return False
    if not plan.uncertified and (row.judge.figures is None or not reaches(row.judge.figures, plan.bar)):
        return False
    return {cell.id for cell in plan.cells} == set(run.responses()["cell_id"])
