"""One record of choices, whoever writes them: a command line, Python or a YAML file."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from asabench.cli.app import app
from asabench.core.errors import UserError
from asabench.core.models import SHORT_NAMES
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt, Response, Verdict
from asabench.core.row import JudgeInfo
from asabench.runs.choices import _READERS, DEFAULTS, Choices, read_config
from harness.evaluation.evaluate import evaluate
from tests.conftest import ROOT

REQUIRED_SPECS = ("random", "gradient:direction=ascend", "gradient:direction=descend", "pgd")
NAMES = [field.name for field in dataclasses.fields(Choices)]


class Mild:
    info = JudgeInfo(id="mild@1", description="for tests")

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        return [Verdict(cell_id=r.cell.id, judge=self.info.id, label="safe") for r in responses]


def config(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(error: pytest.ExceptionInfo[UserError]) -> str:
    """A user reads one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


# The same names and defaults wherever choices are written


def test_every_choice_has_a_reader() -> None:
    assert list(_READERS) == NAMES


def test_python_takes_the_choices_with_their_defaults() -> None:
    parameters = inspect.signature(evaluate).parameters
    assert list(parameters) == ["model", "tokenizer", *NAMES, "progress"]
    for name in NAMES:
        assert parameters[name].default == getattr(DEFAULTS, name), name
        assert parameters[name].kind == inspect.Parameter.KEYWORD_ONLY


def test_the_command_line_takes_the_choices_with_their_defaults() -> None:
    command = typer.main.get_command(app).commands["evaluate"]  # type: ignore[attr-defined]
    defaults = {option.name: option.default for option in command.params}
    assert set(defaults) - {"help"} == {
        "place",
        "model",
        "config",
        "dry_run",
        "as_json",
        "verbose",
        "quiet",
        "log_file",
        *NAMES,
    }
    shown = {name: value for name, value in defaults.items() if name in NAMES and value is not None}
    assert Choices.of(**shown) == DEFAULTS


def test_reading_choices_needs_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys\nfrom asabench.runs.choices import Choices\nChoices.of(layers='0,3', doses=[0.3])\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'pandas', 'yaml', 'harness'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Values as people write them


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("doses", "0.3,1", (0.3, 1.0)),
        ("doses", [0.3, 1], (0.3, 1.0)),
        ("doses", 1, (1.0,)),
        ("doses", np.array([0.5, 2.0]), (0.5, 2.0)),
        ("seeds", "0,1", (0, 1)),
        ("seeds", range(3), (0, 1, 2)),
        ("seeds", np.int64(7), (7,)),
        ("layers", "0,3-5", "0,3-5"),
        ("layers", [0, 3], (0, 3)),
        ("layers", 5, (5,)),
        ("attack", "random", ("random",)),
        ("attack", "random,gradient:direction=descend", ("random", "gradient:direction=descend")),
        ("attack", ["random", "pgd"], ("random", "pgd")),
        ("steps", "first", "first"),
        ("steps", [0, 1], (0, 1)),
        ("step_layers", "5,9", (5, 9)),
        ("bar", 1, 1.0),
        ("out", "runs/mine", Path("runs/mine")),
        ("chat_template", Path("a.jinja"), Path("a.jinja")),
        ("prompts", Path("mine.csv"), "mine.csv"),
        ("prompts", [Prompt(id="a", goal="paint a fence")], (Prompt(id="a", goal="paint a fence"),)),
        ("prompts", ["paint a fence"], (Prompt(id="prompt-000", goal="paint a fence"),)),
        ("attack", "random,required", ("random", "random", *REQUIRED_SPECS[1:])),
        ("attack", ["required"], REQUIRED_SPECS),
        ("protocol", PRESETS["gu2025"], PRESETS["gu2025"]),
        ("uncertified", True, True),
        ("limit", None, None),
        ("layers", None, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_are_read(name: str, written: Any, read: Any) -> None:
    chosen = Choices.of(**{name: written})
    assert getattr(chosen, name) == read
    assert type(getattr(chosen, name)) is type(read)
    assert Choices.of(**vars(chosen)) == chosen, "what was read can be read again"


def test_a_judge_is_kept_as_it_is() -> None:
    judge = Mild()
    assert Choices.of(judge=judge).judge is judge


@pytest.mark.parametrize(
    ("name", "written", "words"),
    [
        ("doses", "0.3;1", "doses '0.3;1' cannot be read; give numbers between commas, such as 0.3,1"),
        ("doses", [0.3, "1"], "doses [0.3, '1'] cannot be read; give numbers"),
        ("doses", {"a": 1}, "doses {'a': 1} cannot be read; give numbers"),
        ("doses", True, "doses True cannot be read; give numbers"),
        ("seeds", [0.5], "seeds [0.5] cannot be read; give whole numbers"),
        ("seeds", 1.0, "seeds 1.0 cannot be read; give whole numbers"),
        ("step_layers", "one", "step layers 'one' cannot be read"),
        ("layers", 0.5, "layers 0.5 cannot be read; give whole numbers"),
        ("limit", "four", "limit 'four' cannot be read; give a whole number"),
        ("limit", True, "limit True cannot be read; give a whole number"),
        ("bar", "high", "bar 'high' cannot be read; give a number"),
        ("attack", ["random", 5], "attack ['random', 5] cannot be read; give a text, or a list of them"),
        ("prompts", [5], "prompts [5] cannot be read; give the name of a set"),
        ("protocol", {"name": "mine"}, "protocol {'name': 'mine'} cannot be read; give a name"),
        ("judge", 5, "judge 5 cannot be read; give a name"),
        ("dtype", 16, "dtype 16 cannot be read; give a text"),
        ("uncertified", "yes", "uncertified 'yes' cannot be read; give true or false"),
        ("out", 5, "out 5 cannot be read; give a path"),
        ("layer", 5, "unknown choice 'layer'; allowed: prompts, prompt_column, limit,"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_of_another_kind(name: str, written: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        Choices.of(**{name: written})
    assert words in message(error)


def test_a_long_value_is_cut_short_in_the_message() -> None:
    with pytest.raises(UserError) as error:
        Choices.of(seeds=[0.5] * 1000)
    assert len(message(error)) < 150


# A file


def test_a_file_holds_choices_and_the_model(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        "# what to run\nmodel: smollm2-135m\nlayers: 0,10-12\ndoses: [0.3, 1]\nseeds: 0,1\nattack: random,pgd:steps=2\n"
        "target: Sure, here is\nuncertified: true\nbar: 0.7\nmax_new_tokens: 20\nlimit:\n",
    )
    given = read_config(path)
    assert given.pop("model") == "smollm2-135m"
    assert Choices.of(**given) == Choices(
        layers="0,10-12",
        doses=(0.3, 1.0),
        seeds=(0, 1),
        attack=("random", "pgd:steps=2"),
        target="Sure, here is",
        uncertified=True,
        bar=0.7,
        max_new_tokens=20,
    )


def test_the_example_can_be_read() -> None:
    given = read_config(ROOT / "configs" / "evaluate.yaml")
    assert given.pop("model") in SHORT_NAMES
    assert Choices.of(**given).attack == ("gradient:direction=descend", "random")


def test_an_empty_file_chooses_nothing(tmp_path: Path) -> None:
    assert read_config(config(tmp_path, "# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer: 5\n", "unknown choice 'layer'; allowed: model, prompts, prompt_column, limit,"),
        ("max-new-tokens: 5\n", "unknown choice 'max-new-tokens'; allowed: model,"),
        ("1: 5\n", "unknown choice 1; allowed"),
        ("doses: [0.3, high]\n", "doses [0.3, 'high'] cannot be read"),
        ("model: 5\n", "model 5 cannot be read; give a text"),
        ("seeds: {0: 1}\n", "seeds {0: 1} cannot be read"),
        ("layers: 0\nlayers: 1\n", "holds layers twice"),
        ("- layers\n", "holds ['layers'] and no choices"),
        ("evaluate\n", "holds 'evaluate' and no choices"),
        ("layers: [0\n", "is no YAML file in UTF-8 (line 2: "),
        ("layers: 0\n---\nlayers: 1\n", "is no YAML file in UTF-8 (line 2: "),
        (
            "layers: !!python/object:os.system 1\n",
            "is no YAML file in UTF-8 (line 1: could not determine a constructor",
        ),
        ("seeds: 2024-99-99\n", "is no YAML file in UTF-8 (ValueError)"),
        ("a: " + "[" * 3000, "is no YAML file in UTF-8"),
    ],
    ids=lambda value: value[:20],
)
def test_files_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    path = config(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_config(path)
    assert words in message(error)
    assert str(path) in message(error)


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.yaml", tmp_path):
        with pytest.raises(UserError, match=r"cannot be read \(.*\); give a YAML file"):
            read_config(path)
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(b"\xff\xfe\x00layers")
    with pytest.raises(UserError, match="is no YAML file in UTF-8"):
        read_config(binary)
