"""`verify` is silent about a sound benchmark and names what is wrong with any other, without its texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asabench.core.errors import UserError
from asabench.dataset.files import MANIFEST, file_entry, read_manifest, write_benchmark
from asabench.dataset.original_layout import KNOWN_MODELS, open_benchmark
from asabench.dataset.redact import redact
from asabench.dataset.schema import ATTEMPT_COLUMNS, INSTANCE_COLUMNS, TEXT_COLUMNS, attempt_schema, instance_schema
from asabench.dataset.verify import Verification, verify
from tests.asabench.dataset.dataset_fixtures import (
    benchmark_folder,
    finished_run,
    original_folder,
    original_row,
    original_rows,
)

Change = Callable[[pd.DataFrame], pd.DataFrame]


def checked(path: Path, **options: Any) -> Verification:
    """No text of the fixtures reaches a report."""
    found = verify(path, **options)
    for shown in (found.text, json.dumps(found.as_json())):
        assert "fence" not in shown
        assert "calm answer" not in shown
    assert found.text.endswith("nothing differs") == found.ok
    return found


def checks(found: Verification) -> set[str]:
    return {finding.check for finding in found.findings}


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def tamper(folder: Path, part: str, change: Change) -> None:
    """Rewrites a file of the first model, and its digest and number of rows, so that only its content is wrong."""
    config = read_manifest(folder).models[0].config
    name = next(name for name in read_manifest(folder).files if name.startswith(f"{config}/{part}-"))
    schema = attempt_schema() if part == "attempts" else instance_schema()
    frame = change(pq.read_table(folder / name).to_pandas(types_mapper=pd.ArrowDtype))
    pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), folder / name)
    entry = file_entry(folder / name, len(frame))
    edit_manifest(folder, lambda content: content["files"].update({name: entry.model_dump()}))


def with_value(column: str, value: object, row: int = 0) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame.index[row], column] = value
        return frame

    return change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    benchmark_folder(
        tmp_path / "set",
        finished_run(tmp_path / "one", model="one", suffixes={1: "in blue"}),
        finished_run(tmp_path / "two", model="two", dose=0.3),
    )
    return tmp_path / "set"


def test_a_sound_folder(folder: Path) -> None:
    found = checked(folder)
    assert found.findings == ()
    assert found.notes == ()
    assert [(model.model, model.instances, model.attempts, model.prompts) for model in found.models] == [
        ("one", 9, 30, 6),
        ("two", 9, 30, 6),
    ]
    assert "18" in found.text.splitlines()[5]


def test_a_redacted_copy_is_sound_and_holds_no_text(folder: Path, tmp_path: Path) -> None:
    manifest = redact(folder, tmp_path / "redacted")
    assert manifest.redacted
    assert checked(tmp_path / "redacted").findings == ()
    for file in (tmp_path / "redacted").rglob("*.parquet"):
        frame = pd.read_parquet(file)
        texts = [name for name in TEXT_COLUMNS if name in frame]
        assert frame[texts].isna().all(axis=None)
        assert "fence" not in frame.to_csv()
        assert b"fence" not in file.read_bytes()
    whole = pd.concat([pd.read_parquet(file) for file in sorted(folder.rglob("t*.parquet"))])
    bare = pd.concat([pd.read_parquet(file) for file in sorted((tmp_path / "redacted").rglob("t*.parquet"))])
    kept = [name for name in INSTANCE_COLUMNS if name not in TEXT_COLUMNS]
    pd.testing.assert_frame_equal(bare[kept], whole[kept])


def test_a_text_left_in_a_redacted_copy(folder: Path, tmp_path: Path) -> None:
    redact(folder, tmp_path / "redacted")
    tamper(tmp_path / "redacted", "train", with_value("steered_response", "a calm answer"))
    assert "redaction" in checks(checked(tmp_path / "redacted"))


INSTANCE_FAULTS: dict[str, tuple[str, object, str]] = {
    "another prompt": ("prompt", "Describe how to paint a gate", "prompt_sha256, recomputed"),
    "another answer": ("steered_response", "No", "steered_response_sha256, recomputed"),
    "another clean answer": ("original_response", "No", "original_response_sha256, recomputed"),
    "another digest": ("prompt_sha256", "0" * 64, "cell_id, recomputed"),
    "another instance id": ("instance_id", "0" * 20, "instance_id, recomputed"),
    "another cell id": ("cell_id", "0" * 20, "cell_id, recomputed"),
    "a layer beyond the last": ("layer", 4, "range of layers"),
    "a layer below the first": ("layer", -1, "range of layers"),
    "another dose": ("dose", 0.7, "dose as in the attempts"),
    "a dose below 0": ("dose", -1.0, "doses"),
    "a seed below 0": ("seed", -1, "seeds"),
    "a verdict that is not unsafe": ("label", "safe", "verdicts"),
    "a label that is none": ("original_label", "fine", "original_label"),
    "another clean label": ("original_label", "incoherent", "original_label as of the clean answer"),
    "a probability above 1": ("p_unsafe", 1.5, "p_unsafe"),
    "another probability": ("p_unsafe", 0.8, "p_unsafe as in the attempts"),
    "another model": ("model", "three", "model in the manifest"),
    "another judge": ("judge", "judge-y", "judge in the manifest"),
    "another depth": ("n_layers", 5, "n_layers in the manifest"),
    "another side of the leak-free split": ("split_leakfree_by_prompt", "test", "files by split"),
    "another side of the held-out layers": ("split_heldout_layers", "none", "split_heldout_layers"),
    "no published side": ("split_published_by_layer", None, "missing values"),
    "another place": ("fragile_layer", None, "fragile_layer, recomputed"),
    "no prompt id": ("prompt_id", None, "missing values"),
    "another place in the prompt set": ("prompt_index", 77, "prompts"),
}


@pytest.mark.parametrize(("column", "value", "check"), INSTANCE_FAULTS.values(), ids=INSTANCE_FAULTS)
def test_a_wrong_value_in_an_instance(folder: Path, column: str, value: object, check: str) -> None:
    tamper(folder, "train", with_value(column, value))
    found = checked(folder)
    assert check in checks(found)
    assert {finding.where for finding in found.findings} == {"one"}


ATTEMPT_FAULTS: dict[str, tuple[str, object, str]] = {
    "another clean label": ("label", "incoherent", "original_label as of the clean answer"),
    "another answer": ("response_sha256", "0" * 64, "original_response_sha256 as of the clean answer"),
    "another cell": ("cell_id", "0" * 20, "cell_id, recomputed"),
    "a clean answer with a layer": ("layer", 2, "layers"),
    "no digest": ("response_sha256", None, "missing values"),
}


@pytest.mark.parametrize(("column", "value", "check"), ATTEMPT_FAULTS.values(), ids=ATTEMPT_FAULTS)
def test_a_wrong_value_in_an_attempt(folder: Path, column: str, value: object, check: str) -> None:
    tamper(folder, "attempts", with_value(column, value))  # the first lines are the clean answers
    assert check in checks(checked(folder))


def test_a_prompt_on_both_sides(folder: Path) -> None:
    def other_prompt(frame: pd.DataFrame) -> pd.DataFrame:
        test = pq.read_table(next(folder.glob("one/test-*"))).to_pylist()[0]
        frame.loc[0, "prompt_sha256"] = test["prompt_sha256"]
        return frame

    tamper(folder, "train", other_prompt)
    assert "leak-free split" in checks(checked(folder))


def test_verdicts_and_instances_that_do_not_match(folder: Path) -> None:
    def relabelled(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame["label"].eq("unsafe") & frame["layer"].eq(0), "label"] = "safe"
        return frame

    tamper(folder, "attempts", relabelled)
    found = checked(folder)
    assert {"unsafe attempts, one an instance", "instances in the attempts", "fragile layers, recomputed"} <= checks(
        found
    )
    (difference,) = [f for f in found.findings if f.check == "unsafe attempts, one an instance"]
    assert (difference.expected, difference.found) == ("6", "9")


def test_rows_twice(folder: Path) -> None:
    for part in ("train", "attempts"):
        tamper(folder, part, lambda frame: pd.concat([frame, frame.iloc[[0]]]))
    found = checked(folder)
    assert {"duplicates", "train in the manifest", "attempts in the manifest"} <= checks(found)
    assert {f.where for f in found.findings if f.check == "duplicates"} == {"one", "one, attempts"}


def test_a_row_less(folder: Path) -> None:
    tamper(folder, "train", lambda frame: frame.iloc[1:])
    assert {"train in the manifest", "unsafe attempts, one an instance"} <= checks(checked(folder))


def test_files(folder: Path) -> None:
    train, test, attempts = (next(folder.glob(f"one/{part}-*")) for part in ("train", "test", "attempts"))
    train.write_bytes(train.read_bytes()[:-30])
    attempts.rename(attempts.with_name("extra.parquet"))
    frame = pq.read_table(test)
    pq.write_table(frame.append_column("extra", pa.array(range(frame.num_rows))), test)
    found = {(finding.where, finding.check): finding for finding in checked(folder).findings}
    name = train.relative_to(folder).as_posix()
    assert (name, "SHA-256") in found
    assert (name, "size in bytes") in found
    assert "cannot be read" in found[name, "Parquet"].found
    assert "unknown column extra" in found[test.relative_to(folder).as_posix(), "Parquet"].found
    assert found[attempts.relative_to(folder).as_posix(), "file"].found == "missing"
    assert "one/extra.parquet" in found[MANIFEST, "files"].found


def test_types(folder: Path) -> None:
    name = next(folder.glob("one/test-*"))
    table = pq.read_table(name)
    place = table.schema.get_field_index("layer")
    pq.write_table(table.set_column(place, "layer", table["layer"].cast(pa.int64())), name)
    findings = {finding.check: finding for finding in checked(folder).findings}
    assert "layer is int64, not int32" in findings["Parquet"].found


def test_the_manifest(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["instances"] += 1
        content["models"][0]["prompts"] = 1
        content["models"][0]["fragile_layers"][0]["peak"] = 3
        content["models"][1]["config"] = "nowhere"

    edit_manifest(folder, change)
    found = {(finding.where, finding.check) for finding in checked(folder).findings}
    assert found >= {
        (MANIFEST, "instances in total"),
        ("one", "prompts in the manifest"),
        ("one", "fragile layers, recomputed"),
        ("nowhere", "files of train"),
    }


def test_another_schema_version_is_a_finding(folder: Path) -> None:
    edit_manifest(folder, lambda content: content.update(schema_version=2))
    (finding,) = checked(folder).findings
    assert "schema version 2" in finding.found


def test_a_known_model_of_the_wrong_depth(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "set", finished_run(tmp_path / "run", model="meta-llama/Llama-3.1-8B"))
    (finding,) = checked(tmp_path / "set").findings
    assert (finding.where, finding.check) == ("Llama-31-8B", "depth of the model")
    assert (finding.expected, finding.found) == ("32", "4")


# The original layout


def published(path: Path, total: int) -> Path:
    """Eight files with so many rows in all."""
    rows: dict[str, list[Any]] = {}
    for number, model in enumerate(KNOWN_MODELS):
        share = total // 8 + (number < total % 8)
        rows[model.original_name] = [original_row(n // model.n_layers, n % model.n_layers) for n in range(share)]
    return original_folder(path, rows)


def test_the_published_total(tmp_path: Path) -> None:
    found = checked(published(tmp_path / "whole", 4862))
    assert found.ok
    assert sum(model.instances for model in found.models) == 4862
    assert found.notes == ()
    # Another number is no fault of the copy: it is said
    less = checked(published(tmp_path / "less", 4861))
    assert less.ok
    assert less.notes == ("4,861 instances are there; the paper's set had 4,862",)
    assert checked(tmp_path / "less", published=False).ok


def test_the_published_set_in_parquet(tmp_path: Path) -> None:
    original = open_benchmark(published(tmp_path / "whole", 4862))
    models = (original.tables(config) for config in original.configs)
    write_benchmark(tmp_path / "parquet", models, origin="original-layout")
    assert checked(tmp_path / "parquet").ok
    assert checked(tmp_path / "parquet", published=True).ok


def test_a_part_of_the_published_set(tmp_path: Path) -> None:
    folder = original_folder(tmp_path / "part", {"Llama-32-3B": original_rows()})
    found = checked(folder)
    assert found.ok
    assert "1 of the 8 published models" in found.notes[0]
    assert checks(checked(folder, published=True)) == {"published models"}


def test_what_is_wrong_in_the_original_layout(tmp_path: Path) -> None:
    rows = [original_row(0, 28), original_row(1, 3), original_row(1, 3), original_row(2, 3, steered_response_safe=True)]
    folder = original_folder(tmp_path / "set", {"Llama-32-3B": [None, *rows], "Llama-31-8B": original_rows()})
    broken = next(folder.glob("Llama-31*"))
    broken.write_bytes(broken.read_bytes()[:-1])
    found = checked(folder)
    by_check = {finding.check: finding for finding in found.findings}
    assert by_check["range of layers"].expected == "0 to 27"
    assert by_check["range of layers"].found == "1 rows at layers 28"
    assert by_check["verdicts"].found == "1 instances that are not labelled unsafe"
    assert "is not whole JSON" in by_check["JSON"].found
    assert "duplicates" in by_check
    assert "Llama-32-3B: 1 null rows, left out" in found.notes


def test_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        verify(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no benchmark"):
        verify(tmp_path)


def test_every_column_of_an_attempt_is_checked_or_free() -> None:
    assert set(ATTEMPT_COLUMNS) - set(INSTANCE_COLUMNS) == {"response_tokens", "finish_reason", "response_sha256"}
