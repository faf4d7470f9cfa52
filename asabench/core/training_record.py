"""`training.json`: how a model was trained, as `asabench defend` and `asabench interpolate` leave it beside weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asabench.core.errors import UserError
from asabench.core.schema import Record, first_problem

TRAINING_FILE = "training.json"


class _Part(BaseModel):
    """A record that holds more than is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class BaseWeights(_Part):
    """What was trained."""

    name: str | None = None
    revision: str


class LambdaScore(Record):
    """The utility of one mixture; that of lambda 0 is the base's."""

    lam: float = Field(alias="lambda")
    score: float


class NearTest(Record):
    """A training request that is a near-duplicate of a test request: the SHA-256 of both goals, and their similarity
    (`asabench.core.similarity`)."""

    test: str
    training: str
    similarity: float


class ComparedWithTest(_Part):
    """How the harmful requests were compared with test requests while their texts were at hand. `test`: the set's name;
    `goals`: SHA-256 of its goals; `near`: the most similar training request of each that has a near-duplicate."""

    measure: str
    test: str
    goals: tuple[str, ...]
    near: tuple[NearTest, ...]


class TrainingRecord(_Part):
    """What is read of a training by any part of ASABench. The file holds more: every choice, the losses, packages.

    `recipe`: its `name` and options. `layers`: the blocks it was given; not every recipe perturbs them.
    `harmful_goals`: SHA-256 digests of the harmful requests, None where nothing is said of them; `compared_with_test`
    is None in records from before requests were compared by similarity. A mixture of two models has `lam`, `scores`,
    and `tuned_training`: the recipe and blocks of the tuned one.
    """

    recipe: dict[str, Any] = {}
    layers: tuple[int, ...] = ()
    tuned_training: TrainingRecord | None = None
    base: BaseWeights | None = None
    harmful_goals: tuple[str, ...] | None = None
    compared_with_test: ComparedWithTest | None = None
    lam: float | None = Field(None, alias="lambda")
    scores: tuple[LambdaScore, ...] = ()

    @property
    def trained(self) -> TrainingRecord:
        """The training itself; of a mixture, or one of a mixture, that of the tuned model."""
        return self if self.tuned_training is None else self.tuned_training.trained


def read_training(path: Path) -> TrainingRecord:
    """Reads a `training.json`; `UserError` when it is missing or not one."""
    try:
        return TrainingRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        what = str(first_problem(error))
    except (OSError, UnicodeDecodeError) as error:
        what = type(error).__name__
    raise UserError(f"{path} is no record of a training that can be read ({what}); repair it, or move it away")
