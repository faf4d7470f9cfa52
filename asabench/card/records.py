"""The card of a model against its base, as `card.json`: stability, resistance, generalisation, trainability.

The four properties are those of Rosati et al. 2024 (arXiv:2402.16382); what each is here: docs/card.md. What was not
measured is None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from asabench.core.attack_names import REQUIRED_ATTACKS
from asabench.core.estimate import Change, Rate
from asabench.core.files import read_record
from asabench.core.row import Row, with_headline
from asabench.core.schema import Record

SCHEMA_VERSION = 1
CARD_FILE, PAGE_FILE = "card.json", "card.html"
CARD_ATTACKS = (*REQUIRED_ATTACKS, "mean_difference")


class ModelName(Record):
    name: str
    revision: str


class StabilityLine(Record):
    """One figure of both utility reports; `better` says which way is up. The reports hold no single answers, so there
    is no paired interval: compare the two."""

    what: str
    attack: str = "none"
    dose: float = 0.0
    better: Literal["more", "less"]
    model: Rate
    base: Rate | None
    chance: float | None = None


class Stability(Record):
    """What harmless requests still get. `sets`: what was asked, with its size and digest."""

    lines: tuple[StabilityLine, ...]
    sets: tuple[str, ...]


class ResistanceChange(Record):
    """What a defence changed under one attack at one dose, over the prompts that both runs have. `p_value`: McNemar's
    exact test (`asabench.stats.paired`)."""

    attack: str
    dose: float
    prompts: int
    masr: Change
    pasr: Change
    p_value: float | None


class Resistance(Record):
    """A run's row, the base's under the same protocol, and their paired differences.

    `trained_prompts`: how many of the run's prompts the model or its base was trained on; None when that is not known.
    `notes`: what else differs between the runs; A is the base and B the model.
    """

    row: Row
    base: Row | None = None
    changes: tuple[ResistanceChange, ...] = ()
    trained_prompts: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def missing_attacks(self) -> tuple[str, ...]:
        """The attacks of a whole card that the run does not have."""
        run = {result.attack for result in self.row.results}
        return tuple(attack for attack in CARD_ATTACKS if attack not in run)


class LayerShare(Record):
    """Mean LASR of one attack at one dose, over the blocks that training perturbed and over the others."""

    attack: str
    dose: float
    trained: Rate
    others: Rate
    base_trained: Rate | None = None
    base_others: Rate | None = None


class Generalisation(Record):
    """Prompts and blocks that training never saw. `unseen` is a run on such prompts."""

    unseen: Resistance | None = None
    trained_layers: tuple[int, ...] = ()
    by_layer: tuple[LayerShare, ...] = ()


class LossPoint(Record):
    """Loss over held-out pairs after so many steps: the mean of each pair's mean in nats a token, with its 95% interval
    over pairs. `by_pair`: each pair's, in order."""

    step: int = Field(ge=0)
    value: float
    low: float
    high: float
    by_pair: tuple[float, ...]


class RefusalPoint(Record):
    """Share of harmful test requests that are refused after so many steps."""

    step: int = Field(ge=0)
    refused: Rate


class TrainingSettings(Record):
    """How both curves are made: AdamW, all weights in float32, a constant learning rate, no dropout, the same batches
    for both models. Both are measured before training, after each `every` steps, and at the end."""

    learning_rate: float = Field(2e-5, gt=0, allow_inf_nan=False)
    batch_size: int = Field(8, ge=1)
    steps: int = Field(24, ge=1)
    every: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)


class DataSet(Record):
    """`digest` is of the texts in order, 16 hex digits."""

    name: str
    digest: str
    n: int = Field(ge=1)


class TrainingData(Record):
    """What is trained and tested on. `target`: the first words of compliance, all that harmful requests are trained
    towards. `protocol` and `chat_template`: digests of how requests are formatted and answered, and of a template that
    was given in place of the model's own."""

    learned: DataSet
    held_out: DataSet
    complied: DataSet
    tested: DataSet
    target: str
    protocol: str
    chat_template: str | None = None


class Curves(Record):
    """Both curves of one model. `steps_to_half`: the first measured step at which fewer than half of the test requests
    are refused; 0 if they were not even before, None if they were to the end."""

    learning: tuple[LossPoint, ...] = Field(min_length=1)
    erosion: tuple[RefusalPoint, ...] = Field(min_length=1)
    steps_to_half: int | None


class Trainability(Record):
    """Whether benign fine-tuning still learns, and how fast fine-tuning on the first words of compliance undoes the
    refusals. `final_loss`: the difference of the held-out loss at the last step, in nats, paired by pair."""

    settings: TrainingSettings
    data: TrainingData
    model: Curves
    base: Curves
    final_loss: Change


class ModelCard(Record):
    """What is None was not measured."""

    schema_version: int = SCHEMA_VERSION
    created: str
    asabench_version: str
    model: ModelName
    base: ModelName
    stability: Stability | None = None
    resistance: Resistance | None = None
    generalisation: Generalisation
    trainability: Trainability | None = None


def read_card(path: Path) -> ModelCard:
    """Reads and checks a `card.json`; `UserError` when it is missing or not one. Rows in it of an older schema version
    get today's headline."""
    return with_headlines(read_record(ModelCard, path, "a card", "`asabench card MODEL --base B` writes one"))


def with_headlines(card: ModelCard) -> ModelCard:
    """The card, its rows with the headline that follows from their results."""
    if card.resistance is None:
        return card
    base = card.resistance.base
    rows = {"row": with_headline(card.resistance.row), "base": None if base is None else with_headline(base)}
    return card.model_copy(update={"resistance": card.resistance.model_copy(update=rows)})
