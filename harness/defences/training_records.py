"""What the records that `asabench defend` leaves in a model's folder say of its training data and blocks."""

from __future__ import annotations

from asabench.core.training_record import TRAINING_FILE, TrainingRecord, read_training
from harness.defences.layer_choice import middles_of_parts
from harness.evaluation.plan import parse_layers
from harness.model.files import ModelFiles


def read_records(model: ModelFiles) -> list[TrainingRecord]:
    """One for each training that is recorded beside the weights and the adapters on them, the last training last."""
    paths = [folder / TRAINING_FILE for folder in (model.folder, *model.adapters)]
    return [read_training(path) for path in paths if path.is_file()]


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
    record = records[-1].trained if records else TrainingRecord()
    recipe = record.recipe
    if recipe.get("name") == "lapt" and record.layers:
        return parse_layers(record.layers, n_layers)
    if recipe.get("name") == "lat" and isinstance(recipe.get("layers"), int):
        return tuple(middles_of_parts(recipe["layers"], n_layers))
    return ()
