"""A recipe: which models a benchmark is built from, and how. A YAML file, or names on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from asabench.core.defaults import ATTACK, DTYPE, JUDGE, LAYERS, PROTOCOL, PUBLISHED_PROMPTS
from asabench.core.errors import UserError, one_line
from asabench.core.links import link
from asabench.core.schema import Record, first_problem

EXAMPLE = link("configs/asabench-8.yaml")


class ModelRecipe(Record):
    """One model. `name`: a short name, a folder, or a hub id; `revision`: of a hub id. `n_layers` is only for estimates
    before the model is at hand; `dtype` and `chat_template` are as for `asabench evaluate`."""

    name: str
    revision: str | None = None
    original_name: str | None = Field(None, description="its name in the published dataset")
    n_layers: int | None = Field(None, ge=1)
    dtype: str | None = None
    chat_template: Path | None = None

    @property
    def model(self) -> str:
        """As `asabench evaluate --model` takes it."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


class Recipe(Record):
    """How a benchmark is built. What is None is the protocol's; the other fields are as for `asabench evaluate`, but
    that `limit` and `layers` have values of their own here, which win over those of a `size`."""

    models: tuple[ModelRecipe, ...] = Field(min_length=1)
    protocol: str = PROTOCOL
    size: str | None = None
    prompts: str = PUBLISHED_PROMPTS
    limit: int | None = 100
    layers: str = LAYERS
    attack: str = ATTACK
    doses: tuple[float, ...] | None = None
    seeds: tuple[int, ...] | None = None
    max_new_tokens: int | None = None
    target: str | None = None
    judge: str = JUDGE
    dtype: str = DTYPE


def read_recipe(models: str) -> Recipe:
    """The recipe in a YAML file, or one of the models named between commas; `UserError` for what is neither."""
    path = Path(models)
    if path.suffix in (".yaml", ".yml"):
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"the recipe {path} cannot be read: {one_line(error)}; see {EXAMPLE}") from None
    else:
        content = {"models": [_model(name.strip()) for name in models.split(",") if name.strip()]}
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{models} is no recipe: {first_problem(error)}; see {EXAMPLE}") from None


def _model(name: str) -> dict[str, str]:
    name, at, revision = name.partition("@")
    return {"name": name, "revision": revision} if at else {"name": name}
