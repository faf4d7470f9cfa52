"""What the records that `asabench defend` leaves in a model's folder say of its training data and blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from asabench.core.errors import UserError
from harness.defences.lat import middles_of_parts
from harness.evaluation.plan import parse_layers
from harness.model.files import TRAINING_FILE, ModelFiles


class TrainingRecord(BaseModel):
    """The part of a `training.json` that is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    recipe: dict[str, Any] = {}
    layers: tuple[int, ...] = ()
    harmful_goals: tuple[str, ...] | None = None
    tuned_training: TrainingRecord | None = None


def read_records(model: ModelFiles) -> list[TrainingRecord]:
    """One for each training that is recorded beside the weights and the adapters on them, the last training last."""
    paths = [folder / TRAINING_FILE for folder in (model.folder, *model.adapters)]
    return [_read(path) for path in paths if path.is_file()]


def _read(path: Path) -> TrainingRecord:
    try:
        return TrainingRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(
            f"{path} is no record of a training that can be read ({type(error).__name__}); repair it, or move it away"
        ) from None


def trained_goals(model: ModelFiles, base: ModelFiles) -> frozenset[str] | None:
    """SHA-256 digests of the harmful requests that the model was trained on, and its base where that is recorded too;
    None when the model's training is not recorded."""
    own = read_records(model)
    if not own or own[-1].harmful_goals is None:
        return None
    return frozenset(goal for record in (*own, *read_records(base)) for goal in record.harmful_goals or ())


def trained_blocks(given: str | None, model: ModelFiles, n_layers: int) -> tuple[int, ...]:
    """The blocks that training perturbed: those that are given, else of the record; none where neither says it."""
    if given is not None:
        return parse_layers(given, n_layers)
    records = read_records(model)
    record = records[-1] if records else TrainingRecord()
    while record.tuned_training is not None:  # a mixture, or one of a mixture
        record = record.tuned_training
    recipe = record.recipe
    if recipe.get("name") == "lapt" and record.layers:
        return parse_layers(record.layers, n_layers)
    if recipe.get("name") == "lat" and isinstance(recipe.get("layers"), int):
        return tuple(middles_of_parts(recipe["layers"], n_layers))
    return ()
