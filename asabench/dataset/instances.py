"""From a finished run folder to a model's part of the dataset: validated instances, and every attempt beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from asabench.core.errors import UserError
from asabench.core.records import CLEAN
from asabench.dataset.derive import KNOWN_COLUMNS, complete_instances, text_digests
from asabench.dataset.files import ModelTables
from asabench.dataset.fragile_layers import fragile_from_attempts
from asabench.dataset.original_layout import original_name
from asabench.dataset.schema import ATTEMPT_COLUMNS, attempt_schema
from asabench.runs.folder import Run

if TYPE_CHECKING:
    import pyarrow as pa

ORDER = ["layer", "attack", "dose", "seed", "prompt_index"]
"""What instances and attempts of a run are sorted by; clean answers come first among the attempts."""
INSTANCE_NAMES = {
    "goal": "prompt",
    "text": "steered_response",
    "clean_text": "original_response",
    "clean_label": "original_label",
}
"""A run's names of an instance's columns, where they differ."""


def instances_of_run(run: Run, judge: str | None = None) -> ModelTables:
    """The tables of a finished run. judge: a judge's id; the one who judged it last if None.

    An instance is a steered answer that the judge called unsafe, whatever it said of the clean one: `original_label`
    tells. Answers under attacks on no one block are no attempts: an instance has a block. Raises `UserError` for a run
    that is not finished or has no verdicts of that judge.
    """
    row = run.row
    chosen = row.judge.id if judge is None else judge
    cells = _judged_cells(run, chosen)
    cells = cells[cells["layer"].notna() | (cells["attack"] == CLEAN)]
    cells["model"], cells["model_revision"], cells["n_layers"] = row.model.name, row.model.revision, row.model.n_layers
    cells["judge"] = chosen
    attempts = _attempts(cells)
    fragile = fragile_from_attempts(attempts)
    validated = cells[cells["layer"].notna() & cells["label"].eq("unsafe").fillna(False)]
    validated = validated.rename(columns=INSTANCE_NAMES).assign(position=range(len(validated)))
    instances = complete_instances({name: validated[name] for name in KNOWN_COLUMNS}, fragile)
    return ModelTables(
        name=row.model.name,
        revision=row.model.revision,
        n_layers=row.model.n_layers,
        instances=instances,
        attempts=_with_instance_ids(attempts, instances),
        original_name=original_name(row.model.name),
        fragile_layers=fragile,
    )


def _judged_cells(run: Run, judge: str) -> pd.DataFrame:
    """The run's responses with the judge's labels, each beside its prompt's clean answer, in `ORDER`."""
    verdicts = run.verdicts()
    own = verdicts.loc[verdicts["judge"] == judge, ["cell_id", "label", "p_unsafe"]]
    if own.empty:
        known = ", ".join(sorted(verdicts["judge"].unique())) or "none"
        raise UserError(f"{run.path} has no verdicts of the judge {judge!r}; it was judged by: {known}")
    cells = run.responses().merge(own, on="cell_id", how="left", validate="one_to_one")
    clean = cells.loc[cells["attack"] == CLEAN, ["prompt_id", "text", "label"]]
    clean = clean.rename(columns={"text": "clean_text", "label": "clean_label"})
    cells = cells.merge(clean, on="prompt_id", how="left", validate="many_to_one")
    places = {name: place for place, name in enumerate(_prompt_ids(run))}
    cells["prompt_index"] = cells["prompt_id"].map(places).astype("Int32")
    return cells.sort_values(ORDER, na_position="first", kind="stable", ignore_index=True)


def _prompt_ids(run: Run) -> list[str]:
    """The run's prompts in the order in which they were given."""
    path = run.path / "prompts.parquet"
    try:
        return list(pd.read_parquet(path, columns=["id"])["id"])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); run the evaluation again") from None


def _attempts(cells: pd.DataFrame) -> pa.Table:
    """Every cell, without text and not yet with the ids of instances."""
    import pyarrow as pa

    found = {
        **{name: cells[name] for name in cells.columns if name in ATTEMPT_COLUMNS},
        "instance_id": [None] * len(cells),
        "original_label": cells["clean_label"],
        "response_tokens": cells["token_ids"].map(len),
        "prompt_sha256": text_digests(pa.array(cells["goal"], pa.string())),
        "suffix_sha256": text_digests(pa.array(cells["suffix"], pa.string())),
        "response_sha256": text_digests(pa.array(cells["text"], pa.string())),
    }
    schema = attempt_schema()
    return pa.table([pa.array(found[name], schema.field(name).type) for name in ATTEMPT_COLUMNS], schema=schema)


def _with_instance_ids(attempts: pa.Table, instances: pa.Table) -> pa.Table:
    import pyarrow as pa

    ids = dict(zip(instances["cell_id"].to_pylist(), instances["instance_id"].to_pylist(), strict=True))
    column = pa.array([ids.get(cell) for cell in attempts["cell_id"].to_pylist()], pa.string())
    return attempts.set_column(attempts.schema.get_field_index("instance_id"), "instance_id", column)
