"""The lists of models to enter, and what of them is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.submission.make import slug_of
from asabench.submission.queue import left, read_queue

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "board").glob("*.yaml"))
MODEL = "name: A\n    model: owner/a\n    licence: MIT\n    parameters: 3.0e+9"


def listed(tmp_path: Path, *models: str) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text("models:\n" + "\n".join(f"  - {each}" for each in models) + "\n")
    return path


def test_the_published_lists_hold() -> None:
    models = read_queue(CONFIGS)
    assert len(CONFIGS) == 3
    # Of one protocol each model has a folder of its own
    assert len({slug_of(each.name, "asabench-v1") for each in models}) == len(models)
    assert len({each.model for each in models}) == len(models)
    known = {each.weights.partition("@")[0] for each in models}
    undefended = {each.base for each in models if each.base is not None} - known
    assert undefended <= {"HuggingFaceH4/zephyr-7b-beta", "mistralai/Mistral-7B-v0.1"}  # entered with what has them


def test_weights_are_parameters_times_bytes(tmp_path: Path) -> None:
    (one,) = read_queue([listed(tmp_path, MODEL)])
    assert one.gigabytes("bfloat16") == pytest.approx(6.0)
    assert one.gigabytes("float32") == pytest.approx(12.0)
    assert one.weights == "owner/a"


def test_a_revision_is_part_of_the_weights(tmp_path: Path) -> None:
    (one,) = read_queue([listed(tmp_path, f"{MODEL}\n    revision: {'ab' * 20}")])
    assert one.weights == f"owner/a@{'ab' * 20}"


def test_what_has_an_entry_is_not_left(tmp_path: Path) -> None:
    models = read_queue([listed(tmp_path, MODEL, MODEL.replace("A", "B", 1))])
    folder = tmp_path / "submissions" / "a-asabench-v1"
    folder.mkdir(parents=True)
    assert left(models, "asabench-v1", tmp_path / "submissions") == models  # an empty folder is no entry
    (folder / "submission.yaml").touch()
    assert [each.name for each in left(models, "asabench-v1", tmp_path / "submissions")] == ["B"]
    assert left(models, "gu2025", tmp_path / "submissions") == models


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ((MODEL, MODEL), "'A' is there twice"),
        ((f"{MODEL}\n    revision: main",), "revision"),
        ((f"{MODEL}\n    defence: LAT",), "a defence has a base"),
        ((f"{MODEL}\n    colour: red",), "colour"),
    ],
)
def test_a_list_that_is_wrong_is_refused(models: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_queue([listed(tmp_path, *models)])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_queue([tmp_path / "none.yaml"])
