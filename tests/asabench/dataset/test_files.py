"""A benchmark folder: written whole, read back, and refused in one line when it is broken."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asabench.core.errors import UserError
from asabench.dataset import files
from asabench.dataset.files import MANIFEST, config_name, read_benchmark, read_manifest, write_benchmark
from asabench.dataset.instances import instances_of_run
from asabench.dataset.schema import INSTANCE_COLUMNS, attempt_schema, instance_schema, schema_differences
from tests.asabench.dataset.dataset_fixtures import benchmark_folder, finished_run


def message(error: pytest.ExceptionInfo[UserError]) -> str:
    """A user reads one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", model="org/Tiny.1-7B")
    tables = instances_of_run(run)
    manifest = benchmark_folder(tmp_path / "out", run)
    benchmark = read_benchmark(tmp_path / "out")
    assert benchmark.manifest == manifest
    assert benchmark.configs == ["org--Tiny.1-7B"]
    config = benchmark.config("org/Tiny.1-7B")
    assert benchmark.instances(config).sort_by("position").equals(tables.instances)
    assert benchmark.attempts(config).equals(tables.attempts)
    sides = {
        side: set(benchmark.instances(config, side)["split_leakfree_by_prompt"].to_pylist()) for side in files.SPLITS
    }
    assert sides == {"train": {"train"}, "test": {"test"}}
    assert benchmark.instances(config, columns=["layer"]).column_names == ["layer"]
    assert (manifest.instances, manifest.attempts) == (9, 30)
    entry = benchmark.model(config)
    assert (entry.train + entry.test, entry.prompts, entry.n_layers) == (9, 6, 4)


def test_pandas_reads_the_files(tmp_path: Path) -> None:
    manifest = benchmark_folder(tmp_path / "out")
    frames = [pd.read_parquet(tmp_path / "out" / name) for name in manifest.files if "attempts" not in name]
    assert list(frames[0].columns) == list(INSTANCE_COLUMNS)
    assert sum(map(len, frames)) == 9


def test_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    first, second = benchmark_folder(tmp_path / "a", run), benchmark_folder(tmp_path / "b", run)
    other = benchmark_folder(tmp_path / "c", finished_run(tmp_path / "other", broken=("us", "ss"), clean="ss"))
    assert first.digest == second.digest
    assert first.digest != other.digest


def test_many_rows_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_A_FILE", 8)
    manifest = benchmark_folder(tmp_path / "out")
    attempts = [name for name in manifest.files if "attempts" in name]
    assert attempts == [f"tiny-llama/attempts-{n:05d}-of-00004.parquet" for n in range(4)]
    assert [manifest.files[name].rows for name in attempts] == [8, 8, 8, 6]
    assert read_benchmark(tmp_path / "out").attempts("tiny-llama").num_rows == 30


def test_without_attempts_or_instances(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", broken=("ss",), clean="s")
    tables = instances_of_run(run)
    nothing = files.ModelTables(name="x", revision=None, n_layers=2, instances=tables.instances, attempts=None)
    manifest = write_benchmark(tmp_path / "out", [nothing], origin="build")
    assert (manifest.instances, manifest.attempts, manifest.models[0].attempts) == (0, None, None)
    benchmark = read_benchmark(tmp_path / "out")
    assert benchmark.instances("x").schema == instance_schema()
    assert benchmark.attempts("x") is None


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama--Llama-3.1-8B"),
        ("a b:c*d", "a-b-c-d"),
        ("../../etc", "etc"),
        (".hidden", "hidden"),
    ],
)
def test_config_names_are_safe(model: str, config: str) -> None:
    found = config_name(model)
    assert not found.startswith((".", "-"))
    assert not set(found) & set('/\\<>:"|?* ')
    assert found == config


def test_two_models_with_one_config(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with pytest.raises(UserError, match="two models would have the config 'tiny-llama'"):
        benchmark_folder(tmp_path / "out", run, run)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing half done is left


def test_a_place_that_is_taken(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    out = tmp_path / "out"
    benchmark_folder(out, run)
    before = read_manifest(out)
    tables = [instances_of_run(run)]
    with pytest.raises(UserError) as error:
        write_benchmark(out, tables, origin="build")
    assert "there already" in message(error)
    assert read_manifest(out) == before
    write_benchmark(out, tables, origin="build", build={"second": True}, replace=True)
    assert read_manifest(out).build == {"second": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    with pytest.raises(UserError):  # a run folder holds a manifest.json too, and must not make way
        write_benchmark(run.path, tables, origin="build", replace=True)
    assert len(run.responses()) == 30


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "run")

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(UserError) as error:
        benchmark_folder(tmp_path / "out", run)
    assert "No space left on device" in message(error)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_benchmark_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_benchmark(tmp_path)
    assert "holds no manifest.json" in message(error)
    (tmp_path / MANIFEST).write_text('{"schema_ver')
    with pytest.raises(UserError, match="cannot be read"):
        read_benchmark(tmp_path)
    (tmp_path / MANIFEST).write_text('{"schema_version": 1, "origin": "elsewhere"}')
    with pytest.raises(UserError) as error:
        read_benchmark(tmp_path)
    assert "is not the manifest of a benchmark" in message(error)


def test_another_schema_version(tmp_path: Path) -> None:
    benchmark_folder(tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 7}))
    with pytest.raises(UserError) as error:
        read_benchmark(tmp_path / "out")
    assert "schema version 7" in message(error)
    assert "reads 1" in message(error)


def test_a_truncated_file_and_one_with_other_columns(tmp_path: Path) -> None:
    manifest = benchmark_folder(tmp_path / "out")
    benchmark = read_benchmark(tmp_path / "out")
    (file,) = benchmark.files("tiny-llama", "attempts")
    pq.write_table(pq.read_table(file).drop_columns(["label"]), file)
    with pytest.raises(UserError) as error:
        benchmark.attempts("tiny-llama")
    assert "no column label" in message(error)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        benchmark.attempts("tiny-llama")
    assert "cannot be read" in message(error)
    assert manifest.files  # the others can
    assert benchmark.instances("tiny-llama").num_rows == 9
    with pytest.raises(UserError, match="no config 'none'; allowed: tiny-llama"):
        benchmark.instances(benchmark.config("none"))


def test_schemas_are_compared_by_name_type_and_order() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.int32())])
    assert schema_differences(schema, schema) == []
    assert schema_differences(pa.schema([("a", pa.string())]), schema) == ["no column b"]
    wider = pa.schema([("a", pa.string()), ("b", pa.int64()), ("c", pa.int64())])
    assert schema_differences(wider, schema) == ["b is int64, not int32", "unknown column c"]
    assert schema_differences(pa.schema([schema.field(1), schema.field(0)]), schema) == [
        "the columns are in another order"
    ]
    assert schema_differences(attempt_schema(), instance_schema())
