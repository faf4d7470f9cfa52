"""What a training of a defence is asked to do: one record for the command line, Python and a YAML file. No torch here.

    TrainingChoices.of(recipe="lapt", out="runs/models/lapt", layers="10,13,15", steps=200)
    read_training_config(Path("defence.yaml"))          the same from a file, and the model beside them

What of it decides the weights is resolved by `harness.defences.defend.make_plan` and stands in `training.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asabench.core.defaults import DEVICE, DTYPE, PRESET, PROTOCOL, TARGET, TRAINING_PROMPTS
from asabench.core.errors import UserError
from asabench.core.protocol import Protocol
from asabench.core.schema import Record, first_problem
from asabench.runs.choices import read_mapping


class TrainingChoices(Record):
    """A defence to train, and how. None takes the default of the recipe's preset, or nothing.

    recipe: `name[:option=value...]`. out: the folder of the defended model. train: requests to train on, or `cells`: a
    finished run, or a benchmark folder, whose train split is used. layers: blocks to perturb, or of `cells` those at
    them; all if None. test_prompts: what the defence will be evaluated on, which training may not touch; AdvBench's
    first hundred if None. allow_similar: near-duplicates of them may be trained on all the same. target: the start of
    compliance that is trained against; answers: a file with whole answers in its place. benign, look_alikes,
    keep_kl, stop_below: how harmless answers are kept (`harness.defences.kept`); None and False change nothing.
    From `learning_rate` on: fields of `harness.defences.training.Settings`.
    """

    recipe: str
    out: Path
    preset: str = PRESET
    train: str = TRAINING_PROMPTS
    cells: Path | None = None
    layers: str | tuple[int, ...] | None = None
    test_prompts: str | None = None
    allow_similar: bool = False
    target: str = TARGET
    answers: Path | None = None
    benign: str | None = None
    look_alikes: bool = False
    keep_kl: float | None = None
    stop_below: str | None = None
    protocol: str | Protocol = PROTOCOL
    dtype: str = DTYPE
    device: str = DEVICE
    chat_template: Path | None = None
    allow_remote_code: bool = False
    allow_pickle: bool = False
    learning_rate: float | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    batch_size: int | None = None
    accumulation: int | None = None
    epochs: int | None = None
    steps: int | None = None
    benign_batch_size: int | None = None
    lora_rank: int | None = None
    lora_alpha: int | None = None
    seed: int | None = None
    precision: str | None = None

    @classmethod
    def of(cls, **given: Any) -> TrainingChoices:
        """Choices from values as people write them: a path as a text, layers as a list or a text; None is the default.
        `UserError` for a name that is no choice, and for a value of another kind."""
        if unknown := [name for name in given if name not in cls.model_fields]:
            raise UserError(f"unknown choice {unknown[0]!r}; allowed: {', '.join(cls.model_fields)}")
        given = {name: value for name, value in given.items() if value is not None}
        if missing := [name for name in ("recipe", "out") if name not in given]:
            raise UserError(f"no {missing[0]} was named; give --{missing[0]}, or a line of it in the --config file")
        try:
            return cls(**given)
        except ValidationError as error:
            problem = first_problem(error)
            name = problem.field.partition(".")[0]
            raise UserError(f"{name} {given[name]!r} cannot be read: {problem.message}") from None

    def changes(self) -> dict[str, Any]:
        """What was chosen of the training itself, in place of the preset's."""
        chosen = {name: getattr(self, name) for name in _OF_THE_TRAINING}
        return {name: value for name, value in chosen.items() if value is not None}


_NAMES = list(TrainingChoices.model_fields)
_OF_THE_TRAINING = _NAMES[_NAMES.index("learning_rate") :]


def read_training_config(path: Path) -> dict[str, Any]:
    """What a YAML file asks for: choices by name, and `model` beside them. Paths in it are taken from the folder in
    which the command runs. `UserError`, one line that names the file, for what cannot be used."""
    given = read_mapping(path)
    try:
        if not isinstance(model := given.get("model", ""), str):
            raise UserError(f"model {model!r} cannot be read; give a text")
        # What a command may add to the file stands in for it
        TrainingChoices.of(**{"recipe": "", "out": "", **{name: given[name] for name in given if name != "model"}})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return given
