"""A training's choices: the same record on the command line, in a file and in Python, and what is no choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from asabench.cli.app import app
from asabench.core.errors import UserError
from asabench.runs.training_choices import TrainingChoices, read_training_config
from harness.defences import defend
from harness.defences.training import Settings


class Planned(Exception):
    """Carries what a plan was asked for."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `asabench defend` hands to `make_plan`: the model and the choices."""

    def planned(*given: Any) -> None:
        raise Planned(*given)

    monkeypatch.setattr(defend, "make_plan", planned)

    def ask(*arguments: object) -> Any:
        with pytest.raises(Planned) as caught:
            CliRunner().invoke(app, ["defend", *map(str, arguments)], catch_exceptions=False)
        return caught.value.args

    return ask


def file(folder: Path, **content: Any) -> Path:
    path = folder / "defence.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_command_line_file_and_python_are_the_same_choices(asked: Any, tmp_path: Path) -> None:
    line = asked(
        "--recipe", "lapt", "--model", "m", "--out", "o", "--layers", "0,3", "--steps", "5", "--learning-rate", "1e-4"
    )
    given = {"recipe": "lapt", "out": "o", "layers": "0,3", "steps": 5, "learning_rate": 1e-4}
    config = file(tmp_path, model="m", **given)
    python = TrainingChoices.of(**given)
    assert line == asked("--config", config) == ("m", python)
    assert TrainingChoices.of(**{**given, "layers": [0, 3]}).layers == (0, 3)
    model, beside = asked("--config", config, "--steps", "7", "--model", "other")
    assert (model, beside) == ("other", python.model_copy(update={"steps": 7}))


def test_what_is_not_chosen_is_the_presets() -> None:
    choices = TrainingChoices.of(recipe="lat", out="o", steps=None, seed=3, batch_size=2)
    assert choices.changes() == {"seed": 3, "batch_size": 2}
    assert TrainingChoices.of(recipe="lat", out="o").changes() == {}


def test_every_setting_of_a_training_can_be_chosen() -> None:
    settings = Settings(learning_rate=0.1, epochs=1, lora_rank=2, lora_alpha=4)
    choices = TrainingChoices.of(recipe="lat", out="o", **settings.model_dump())
    assert choices.changes() == settings.model_dump(exclude_none=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"colour": "red"}, "unknown choice 'colour'; allowed: recipe, out"),
        ({"steps": "many"}, "steps 'many' cannot be read"),
        ({"layers": ["first"]}, "layers ['first'] cannot be read"),
        ({"model": 3}, "model 3 cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = file(tmp_path, **content)
    with pytest.raises(UserError) as error:
        read_training_config(path)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("left_out", "says"),
    [("--recipe", "no recipe was named"), ("--model", "no model was named"), ("--out", "no out was named")],
)
def test_what_must_be_named_is_asked_for(left_out: str, says: str) -> None:
    named = {"--recipe": "refusal", "--model": "m", "--out": "o"}
    words = [word for option, value in named.items() if option != left_out for word in (option, value)]
    with pytest.raises(UserError, match=says):
        CliRunner().invoke(app, ["defend", *words], catch_exceptions=False)
