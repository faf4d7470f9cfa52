"""The models that are to be entered: YAML files that list them, and what of those lists has no entry yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from asabench.core.errors import UserError
from asabench.core.schema import Record, first_problem
from asabench.submission.make import slug_of
from asabench.submission.schema import SUBMISSION_FILE, Line, Text

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one weight, by number format."""


class Requests(Record):
    """Harmful requests that a defence was trained on: a file as `asabench enter --training-prompts` takes it, which
    the reader puts at `file`, and where its content is published."""

    name: Line
    file: Line
    source: Text


class Queued(Record):
    """A model to enter. `name`: the entry's. `model` and `base`: a short name or a hub id, the base with its revision
    behind an @. `revision`: of a hub id, a commit; left out where none is known. `parameters`: of the model with its
    base. `trap`: what is odd about the checkpoint."""

    name: Line
    model: Line
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    licence: Line
    parameters: Annotated[float, Field(gt=0)]
    defence: Line = "none"
    base: Line | None = None
    training_prompts: tuple[Requests, ...] = ()
    training_data: tuple[Line, ...] = ()
    description: Text | None = None
    link: Line | None = None
    trap: Text | None = None

    @model_validator(mode="after")
    def _has_its_base(self) -> Queued:
        if (self.defence == "none") != (self.base is None):
            raise ValueError("a defence has a base, and what has a base is a defence")
        return self

    @property
    def weights(self) -> str:
        """As `asabench evaluate` takes it."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"

    @property
    def lacks(self) -> tuple[Requests, ...]:
        """The files of training requests that are not there."""
        return tuple(each for each in self.training_prompts if not Path(each.file).is_file())

    def gigabytes(self, dtype: str | None) -> float:
        """Of its weights: parameters x bytes, the most where the format is not known. Answers side by side take more,
        which `evaluate --dry-run` says."""
        return self.parameters * BYTES.get(dtype or "", max(BYTES.values())) / 1e9


class _File(Record):
    models: tuple[Queued, ...]


def read_queue(paths: Iterable[Path]) -> tuple[Queued, ...]:
    """The models of some files, in their order; `UserError` for a file that is no such list, and where two models have
    one name, which would be one entry."""
    models: list[Queued] = []
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); give a file such as configs/board/small.yaml"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise UserError(f"{path} is not YAML; configs/board/small.yaml shows the form") from None
        try:
            models += _File.model_validate(content).models
        except ValidationError as error:
            problem = first_problem(error)
            raise UserError(
                f"{path} is no list of models: {problem}; configs/board/small.yaml shows the form"
            ) from None
    names = [each.name for each in models]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"the name {twice[0]!r} is there twice; an entry has a name of its own: change one of them")
    return tuple(models)


def left(models: Sequence[Queued], protocol: str, entries: Path) -> tuple[Queued, ...]:
    """Those that have no entry under a protocol yet."""
    return tuple(each for each in models if not (entries / slug_of(each.name, protocol) / SUBMISSION_FILE).is_file())
