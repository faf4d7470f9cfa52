"""The layout in which ASABench was first published, with its oddities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asabench.core.errors import UserError
from asabench.core.records import Cell
from asabench.dataset.instances import instances_of_run
from asabench.dataset.original_layout import (
    FILE_ENDING,
    KNOWN_MODELS,
    known_model,
    normalise,
    open_benchmark,
    read_original,
    read_rows,
    write_original,
)
from asabench.dataset.redact import without_texts
from asabench.dataset.schema import instance_schema
from asabench.dataset.splits import published_split
from tests.asabench.dataset.dataset_fixtures import finished_run, original_folder, original_row, original_rows, prompt


def instances(rows: list[Any], model: str = "Llama-32-3B-Instruct") -> list[dict[str, Any]]:
    return normalise(model, rows)[0].instances.to_pylist()


def test_a_row_becomes_an_instance() -> None:
    tables, quirks = normalise("Llama-32-3B-Instruct", [original_row(3, 27)])
    assert tables.instances.schema == instance_schema()
    assert tables.attempts is None
    (row,) = tables.instances.to_pylist()
    assert (row["model"], row["n_layers"]) == ("meta-llama/Llama-3.2-3B-Instruct", 28)
    assert tables.original_name == "Llama-32-3B-Instruct"
    assert (row["prompt"], row["suffix"], row["prompt_index"], row["layer"]) == (prompt(3).goal, None, 3, 27)
    assert (row["attack"], row["dose"], row["seed"], row["label"]) == ("random", 1.0, 42, "unsafe")
    assert row["original_response"].startswith("I would rather")
    assert row["steered_response"].startswith("First sand")
    assert (row["fragile_layer"], row["original_label"], row["model_revision"]) == ("peak", None, None)
    # The cell that the preset gu2025 runs there: a regenerated set joins on it
    assert row["cell_id"] == Cell(prompt=prompt(3), layer=27, attack="random", dose=1.0, seed=42).id
    assert quirks.lines() == []


def test_the_published_split_follows_the_order_of_the_file() -> None:
    rows = original_rows(prompts=9, layers=3)[::-1]
    found = instances(rows)
    assert [row["layer"] for row in found] == [row["layer_idx"] for row in rows]
    assert [row["split_published_by_layer"] for row in found] == published_split([row["layer_idx"] for row in rows])


def test_oddities_are_tolerated_and_counted() -> None:
    header = {name: name for name in original_row(0, 0)}
    rows = [
        None,
        header,
        {"type": "configuration", "model": "Llama-32-3B"},
        dict.fromkeys(original_row(0, 0)),
        original_row(0, 0, layer_idx="5", prompt_idx="7"),
        {name: value for name, value in original_row(1, 6).items() if name not in ("suffix", "original_response")},
        original_row(2, 6, explanation="False"),
        original_row(3, 6, prompt=" "),
        original_row(4, 6, layer_idx=2.5),
        "a bare string",
        original_row(5, 9, suffix=" with two coats "),
    ]
    found, quirks = normalise("Llama-32-3B", rows)
    kept = found.instances.to_pylist()
    assert [(row["prompt_index"], row["layer"]) for row in kept] == [(7, 5), (1, 6), (2, 6), (5, 9)]
    assert [row["suffix"] for row in kept] == [None, None, None, " with two coats "]
    assert kept[1]["original_response"] is None
    assert kept[1]["original_response_sha256"] is None
    assert quirks.lines() == [
        "2 null rows, left out",
        "2 header rows, left out",
        "3 rows without a prompt, an answer or a layer, left out",
        "1 rows with a number written as text",
        "1 rows without original_response",
        "1 rows without suffix",
        "1 rows with the unknown field explanation",
    ]


def test_a_word_that_is_a_column_s_name_makes_no_header() -> None:
    assert len(instances([original_row(0, 0, suffix="suffix")])) == 1


def test_blanks_around_a_prompt_do_not_make_another_prompt() -> None:
    one, two = instances([original_row(0, 0), original_row(0, 1, prompt=f" {prompt(0).goal}\n")])
    assert one["prompt_sha256"] == two["prompt_sha256"] == prompt(0).digest


def test_prompts_without_a_number_are_counted_as_they_come() -> None:
    rows = [{k: v for k, v in original_row(n, layer).items() if k != "prompt_idx"} for layer in (0, 1) for n in (8, 3)]
    assert [row["prompt_id"] for row in instances(rows)] == ["prompt-000", "prompt-001", "prompt-000", "prompt-001"]


@pytest.mark.parametrize(
    ("said", "label", "unreadable"),
    [
        (False, "unsafe", 0),
        (True, "safe", 0),
        ("unsafe", "unsafe", 0),  # holds the word "safe"
        ("Safe.", "safe", 0),
        ("True", "safe", 0),
        ("false", "unsafe", 0),
        (0, "unsafe", 0),
        (None, "unsafe", 0),
        ("hard to say, rather safe", None, 1),
        ([], None, 1),
        (2, None, 1),
    ],
)
def test_verdicts_are_read_whole(said: object, label: str | None, unreadable: int) -> None:
    tables, quirks = normalise("Llama-32-3B", [original_row(0, 0, steered_response_safe=said)])
    assert tables.instances["label"].to_pylist() == [label]
    assert quirks.unreadable_verdicts == unreadable


def test_fragile_layers_are_of_the_counts() -> None:
    rows = [original_row(n, layer) for layer, number in ((2, 1), (4, 3), (6, 3), (9, 2)) for n in range(number)]
    (found,) = normalise("Llama-31-8B", rows)[0].fragile_layers
    assert (found.before, found.peak, found.after) == (2, 4, 6)


def test_a_model_of_another_name_has_no_known_depth() -> None:
    (row,) = instances([original_row(0, 50)], model="Some-Other-9B")
    assert (row["model"], row["n_layers"], row["split_heldout_layers"]) == ("Some-Other-9B", None, None)


def test_known_models_by_both_names() -> None:
    assert {model.original_name: model.n_layers for model in KNOWN_MODELS}["Llama-2-13B-Chat"] == 40
    assert known_model("Qwen/Qwen2.5-7B-Instruct") == known_model("Qwen-25-7B-Instruct")
    assert known_model("tiny-llama") is None


def test_a_folder_and_a_single_file(tmp_path: Path) -> None:
    folder = original_folder(tmp_path / "set", {"Qwen-25-7B": original_rows(), "Llama-2-13B-Chat": original_rows(2)})
    benchmark = open_benchmark(folder)
    assert benchmark.configs == ["Llama-2-13B-Chat", "Qwen-25-7B"]
    assert benchmark.config("Qwen/Qwen2.5-7B") == "Qwen-25-7B"
    assert benchmark.instances("Qwen-25-7B", columns=["layer"]).num_rows == 20
    single = open_benchmark(folder / f"Qwen-25-7B{FILE_ENDING}")
    assert single.configs == ["Qwen-25-7B"]
    with pytest.raises(UserError, match="no model 'none'; allowed: Llama-2-13B-Chat, Qwen-25-7B"):
        benchmark.tables("none")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(original_rows()).encode()[:-60], "is not whole JSON"),
        (b'{"a": 1}', "holds dict, not a list"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / f"Llama-32-3B{FILE_ENDING}"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_rows(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "fence" not in str(error.value)


def test_what_is_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        read_original(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        open_benchmark(tmp_path / "nowhere")


def layouts(path: Path, rows: list[Any]) -> dict[str, Path]:
    """One model's rows as different people would publish them, a folder a way."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    for name in ("subsets/Llama-3.1-8B", "named/data", "lines/Llama-31-8B", "table"):
        (path / name).mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    half = len(rows) // 2
    for side, part in (("train", table[:half]), ("test", table[half:])):
        parquet.write_table(part, path / "subsets" / "Llama-3.1-8B" / f"{side}-00000-of-00001.parquet")
    parquet.write_table(table, path / "named" / "data" / "meta-llama_Llama-3.1-8B-00000-of-00001.parquet")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "lines" / "Llama-31-8B" / "data.jsonl").write_text(text)
    csv.write_csv(table, path / "table" / "Llama-31-8B.csv")
    for folder in path.iterdir():
        # What else lies in a repository
        (folder / "config.json").write_text('{"a": 1}')
        (folder / "scores.json").write_text('[{"model": "Qwen", "score": 1}]')
        (folder / "README.md").write_text("words")
    return {folder.name: folder for folder in sorted(path.iterdir())}


def test_columns_decide_and_not_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "ways").mkdir()
    rows = original_rows(3, 2)
    expected = normalise("Llama-31-8B", rows)[0].instances
    found = layouts(tmp_path / "ways", rows)
    assert len(found) == 4
    for way, folder in found.items():
        benchmark = open_benchmark(folder)
        assert benchmark.configs == ["Llama-31-8B"], way
        table = benchmark.instances("meta-llama/Llama-3.1-8B")
        columns = ["prompt", "layer", "label"]
        assert sorted(map(str, table.select(columns).to_pylist())) == sorted(
            map(str, expected.select(columns).to_pylist())
        ), way


def test_a_file_that_is_cut_short_is_not_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "Llama-31-8B"
    folder.mkdir(parents=True)
    (folder / "train.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="cannot be read"):
        open_benchmark(tmp_path / "set").tables("Llama-31-8B")


def test_writing_it_and_reading_it_again(tmp_path: Path) -> None:
    rows = original_rows(prompts=4, layers=3)[::-1]
    tables, _ = normalise("Qwen-25-7B", rows)
    (file,) = write_original(tmp_path, [tables])
    assert file.name == f"Qwen-25-7B{FILE_ENDING}"
    assert json.loads(file.read_text()) == [{**row, "suffix": None} for row in rows]
    assert normalise("Qwen-25-7B", read_rows(file))[0].instances.equals(tables.instances)


def test_a_run_in_the_original_layout(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    (file,) = write_original(tmp_path / "out", [instances_of_run(run)])
    again = normalise("tiny-llama", read_rows(file))[0].instances
    assert again["layer"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 3, 3]
    with pytest.raises(UserError, match="redacted"):
        tables = normalise("tiny-llama", read_rows(file))[0]
        write_original(
            tmp_path / "red", [type(tables)(**{**vars(tables), "instances": without_texts(tables.instances)})]
        )
