"""Curves of a fine-tuning for tests: a model that holds to the end, and a base that gives way after four steps."""

from __future__ import annotations

from collections.abc import Sequence

from asabench.card.curves import curves_of, loss_point, trainability_of
from asabench.card.records import (
    Curves,
    DataSet,
    Generalisation,
    ModelCard,
    ModelName,
    RefusalPoint,
    TrainingData,
    TrainingSettings,
)
from asabench.core.estimate import Rate


def shares(*values: float | None) -> list[RefusalPoint]:
    return [
        RefusalPoint(step=4 * place, refused=Rate(value=value, low=value, high=value))
        for place, value in enumerate(values)
    ]


def curves(losses: Sequence[Sequence[float]], refused: Sequence[float | None]) -> Curves:
    return curves_of([loss_point(4 * place, each) for place, each in enumerate(losses)], shares(*refused))


SETTINGS = TrainingSettings(steps=8)
SET = DataSet(name="sorting", digest="00ff", n=3)
DATA = TrainingData(learned=SET, held_out=SET, complied=SET, tested=SET, target="Sure, here is", protocol="aa")
OWN = curves([[2.0, 3.0, 4.0], [1.0, 2.0, 3.0], [0.5, 0.9, 0.4]], [1.0, 0.9, 0.6])
THEIRS = curves([[2.0, 3.0, 4.0], [1.0, 2.0, 3.0], [0.4, 0.8, 0.3]], [1.0, 0.4, 0.1])


def submitted_card(model: str, base: str, trained_layers: Sequence[int] = (1,)) -> ModelCard:
    """What a submission keeps of the card of two models, by their revisions."""
    return ModelCard(
        created="2026-11-21T12:00:00+00:00",
        asabench_version="0.1.0",
        model=ModelName(name="tiny-llama", revision=model),
        base=ModelName(name="tiny-base", revision=base),
        generalisation=Generalisation(trained_layers=tuple(trained_layers)),
        trainability=trainability_of(SETTINGS, DATA, OWN, THEIRS),
    )
