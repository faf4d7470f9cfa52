"""Shards of a run, or what several interrupted tries left of one, put together into one run folder with its row.

Every folder must be of the same settings, prompts and judge. A cell that several folders hold is taken once; a cell
that none holds is a hole, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import asabench
from asabench.core.errors import UserError
from asabench.core.grid import cells_of
from asabench.core.records import Prompt
from asabench.core.row import JudgeInfo, ModelInfo, PromptSetInfo, ProtocolInfo, Row
from asabench.core.schema import first_problem
from asabench.core.suite import suite_of
from asabench.core.text import changes
from asabench.runs.folder import Run, certificate_in, open_run, read_run
from asabench.runs.settings import RunSettings
from asabench.stats.radius import open_lines
from asabench.stats.scoring import RowHead, scored_row

if TYPE_CHECKING:
    import pandas as pd

_AGAIN = "run the same command again for the shards that are not finished"


def merge(folders: Sequence[Path], out: Path) -> Row:
    """Writes the run that the folders hold together into `out`, and returns its row.

    Raises `UserError`, and writes nothing, where the folders do not belong together, where answers or verdicts are
    missing, and where two folders answer one cell differently in float32 (in shorter formats the shape of a batch moves
    low bits: there the first folder's answer stands, and the manifest says how many differed).
    """
    runs = [read_run(folder) for folder in dict.fromkeys(folders)]
    if not runs:
        raise UserError("no folder was named; give those of a run's shards")
    if out.resolve() in [run.path.resolve() for run in runs]:
        raise UserError(f"{out} is one of the folders that are merged; give another --out")
    first = runs[0]
    settings, judge = first.settings, _judge(first)
    for run in runs[1:]:
        if what := changes(first.manifest["settings"], run.manifest["settings"]):
            raise UserError(
                f"{run.path} and {first.path} hold runs with other settings ({what}); merge the shards of one run"
            )
        if _judge(run).id != judge.id:
            raise UserError(
                f"{run.path} was judged by {_judge(run).id} and {first.path} by {judge.id}; judge them alike "
                "(`asabench judge`)"
            )
        if _judge(run).certificate != judge.certificate:
            raise UserError(
                f"{run.path} and {first.path} were judged under other certificates of {judge.id}; give all shards one "
                "(`--certificate`)"
            )
    prompts = _prompts(runs)
    responses, differing = _together(runs, settings)
    _refuse_holes(runs, responses, prompts, settings)
    verdicts = _verdicts(runs, responses, judge.id)
    _refuse_open_searches(responses, verdicts, judge.id, settings)
    context = {
        **{name: value for name, value in first.manifest.items() if name not in _OWN},
        "merged": {"folders": len(runs), "differing": differing, "shards": [r.manifest.get("shard") for r in runs]},
    }
    with open_run(out, settings, context, prompts) as run:
        if len(run.responses()):
            raise UserError(f"{out} holds answers already; give another --out folder")
        if (held := certificate_in(first.path, judge.id)) is not None:
            run.keep_certificate(held)
        run.append_tables(responses=responses, verdicts=verdicts, replies=_replies(runs))
        row = scored_row(_head(first, settings), run.judged(judge.id), settings.attacks, settings.protocol.doses, judge)
        run.write_row(row)
        run.update_manifest(state="finished", finished=_now())
    return row


_OWN = ("schema_version", "run_id", "state", "settings", "shard", "resumed", "finished", "seconds")
"""Fields of a manifest that are a folder's own."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _judge(run: Run) -> JudgeInfo:
    return _record(JudgeInfo, run, "judge")


def _record(kind: Any, run: Run, name: str) -> Any:
    """A record in a manifest; `UserError` where it is missing or another."""
    try:
        return kind.model_validate(run.manifest.get(name))
    except ValidationError as error:
        raise UserError(
            f"{run.path}/manifest.json: {name}: {first_problem(error)}; evaluate again with this version"
        ) from None


def _head(run: Run, settings: RunSettings) -> RowHead:
    return RowHead(
        run_id=settings.id,
        created=_now(),
        asabench_version=asabench.__version__,
        model=_record(ModelInfo, run, "model_info"),
        protocol=ProtocolInfo(name=settings.protocol.name, digest=settings.protocol.digest),
        prompts=PromptSetInfo(
            name=str(run.manifest.get("prompt_set", "custom")), digest=settings.prompts, n=settings.prompt_count
        ),
        layers=settings.layers,
        seeds=settings.protocol.seeds,
        shared_noise=settings.protocol.shares_noise,
        max_new_tokens=settings.protocol.max_new_tokens,
        suite=settings.suite,
    )


def _prompts(runs: Sequence[Run]) -> pd.DataFrame:
    """The prompts of all folders, which are the same under the same ids."""
    import pandas as pd

    tables = []
    for run in runs:
        try:
            tables.append(pd.read_parquet(run.path / "prompts.parquet"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{run.path}/prompts.parquet cannot be read ({type(error).__name__}); evaluate again in another folder"
            ) from None
    for run, table in zip(runs, tables, strict=True):
        if list(table["id"]) != list(tables[0]["id"]):
            raise UserError(
                f"{run.path} and {runs[0].path} give the same prompts other ids; merge the shards of one run"
            )
    return tables[0]


def _together(runs: Sequence[Run], settings: RunSettings) -> tuple[pd.DataFrame, int]:
    """Each cell's answer once, and in how many cells folders differ."""
    import pandas as pd

    whole = pd.concat([run.responses().assign(folder=str(run.path)) for run in runs], ignore_index=True)
    said = whole["token_ids"].map(tuple)
    differing = whole.assign(said=said).groupby("cell_id")["said"].nunique()
    if (different := list(differing[differing > 1].index)) and settings.dtype == "float32":
        where = list(dict.fromkeys(whole.loc[whole["cell_id"] == different[0], "folder"]))
        raise UserError(
            f"{' and '.join(where[:2])} answer {len(different)} cells differently (the first is {different[0]}), which "
            "in float32 cannot come from their shape; find out which machine is wrong, and leave its folder out"
        )
    return whole.drop_duplicates("cell_id").drop(columns="folder"), len(different)


def _prompt(line: Mapping[Hashable, Any]) -> Prompt:
    suffix = line.get("suffix")
    return Prompt(id=line["id"], goal=line["goal"], suffix=suffix if isinstance(suffix, str) else None)


def _refuse_holes(runs: Sequence[Run], responses: pd.DataFrame, prompts: pd.DataFrame, settings: RunSettings) -> None:
    stated: Any = runs[0].manifest.get("attacks")
    try:
        uses_seed = {name: bool(stated[name]["uses_seed"]) for name in settings.attacks}
    except (KeyError, TypeError):
        raise UserError(
            f"{runs[0].path}/manifest.json does not say which attacks use seeds; evaluate again with this version"
        ) from None
    asked = [_prompt(line) for line in prompts.to_dict("records")]
    wanted = {cell.id: cell for cell in cells_of(asked, settings.layers, uses_seed, settings.protocol)}
    held = set(responses["cell_id"])
    if strange := held - wanted.keys():
        raise UserError(f"{len(strange)} answers belong to no cell of the run (the first is {min(strange)}); {_AGAIN}")
    # What a search did not ask for is no hole: `_refuse_open_searches`
    needed = {name: cell for name, cell in wanted.items() if settings.suite is None or cell.is_clean}
    if missing := [cell for cell_id, cell in needed.items() if cell_id not in held]:
        lacking = len({cell.prompt.id for cell in missing})
        open_ = [str(run.path) for run in runs if run.manifest.get("state") != "finished"]
        where = f" ({', '.join(open_[:3])}{', ...' if len(open_) > 3 else ''})" if open_ else ", or that were left out"
        raise UserError(f"{len(missing)} of {len(needed)} answers are missing, of {lacking} prompts; {_AGAIN}{where}")


def _refuse_open_searches(responses: pd.DataFrame, verdicts: pd.DataFrame, judge: str, settings: RunSettings) -> None:
    """A suite's search that has not come to its end in some folder."""
    if settings.suite is None:
        return
    own = verdicts.loc[verdicts["judge"] == judge, ["cell_id", "label", "refused"]]
    table = responses.merge(own, on="cell_id", how="left", validate="one_to_one")
    lines = list(open_lines(table, suite_of(settings.suite), settings.layers))
    if lines:
        prompts = len({line[0] for line in lines})
        raise UserError(f"the search is not at its end for {prompts} prompts (the first is {lines[0][0]}); {_AGAIN}")


def _replies(runs: Sequence[Run]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([run.replies() for run in runs], ignore_index=True).drop_duplicates(["cell_id", "judge"])


def _verdicts(runs: Sequence[Run], responses: pd.DataFrame, judge: str) -> pd.DataFrame:
    import pandas as pd

    verdicts = pd.concat([run.verdicts() for run in runs], ignore_index=True)
    verdicts = verdicts.drop_duplicates(["cell_id", "judge"])
    judged = set(verdicts.loc[verdicts["judge"] == judge, "cell_id"])
    if missing := len(set(responses["cell_id"]) - judged):
        raise UserError(f"{missing} answers have no verdict of {judge}; {_AGAIN}")
    return verdicts[verdicts["cell_id"].isin(set(responses["cell_id"]))]
