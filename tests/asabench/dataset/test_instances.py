"""From a finished run to instances and attempts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.records import sha256_hex
from asabench.dataset.fragile_layers import fragile_from_instances
from asabench.dataset.instances import instances_of_run
from asabench.dataset.schema import attempt_schema, instance_schema
from asabench.stats import metrics
from tests.asabench.dataset.dataset_fixtures import JUDGE, finished_run


def test_instances_are_the_unsafe_steered_answers(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    tables = instances_of_run(run)
    assert tables.instances.schema == instance_schema()
    frame = tables.instances.to_pandas()
    assert list(zip(frame["layer"], frame["prompt_id"], strict=True)) == [
        (0, "p0"), (0, "p1"), (0, "p3"), (1, "p0"), (1, "p1"), (1, "p4"), (2, "p5"), (3, "p0"), (3, "p2"),
    ]  # fmt: skip
    assert list(frame["position"]) == list(range(9))
    assert list(frame["prompt_index"]) == [0, 1, 3, 0, 1, 4, 5, 0, 2]
    by_prompt = frame.drop_duplicates("prompt_id").set_index("prompt_id")
    assert by_prompt["original_label"].loc[["p0", "p3"]].tolist() == ["safe", "unsafe"]
    assert by_prompt["original_label"].isna().to_dict() == {name: name == "p4" for name in by_prompt.index}
    first = frame.iloc[0]
    assert first["original_response"] == "A calm answer to p0 at layer None"
    assert first["steered_response"] == "A calm answer to p0 at layer 0"
    assert (first["judge"], first["p_unsafe"], first["label"], first["model"]) == (
        JUDGE.id,
        0.9,
        "unsafe",
        "tiny-llama",
    )
    assert first["split_heldout_layers"] == "train"


def test_ids_and_digests_are_what_the_documentation_says(tmp_path: Path) -> None:
    run = finished_run(tmp_path, suffixes={1: "in blue"})
    cells = run.responses().set_index("cell_id")
    for row in instances_of_run(run).instances.to_pylist():
        assert row["prompt_sha256"] == sha256_hex(row["prompt"])
        assert row["suffix_sha256"] == (None if row["suffix"] is None else sha256_hex("in blue"))
        assert row["steered_response"] == cells.loc[row["cell_id"], "text"]
        answers = [sha256_hex(row["original_response"]), sha256_hex(row["steered_response"])]
        content = [row["model"], row["model_revision"], row["cell_id"], *answers]
        assert row["instance_id"] == sha256_hex(json.dumps(content))[:20]
    assert {row["suffix"] for row in instances_of_run(run).instances.to_pylist()} == {None, "in blue"}


def test_rates_are_recomputed_from_the_attempts(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    attempts = instances_of_run(run).attempts
    assert attempts is not None
    assert attempts.schema == attempt_schema()
    table = attempts.to_pandas()
    # Attempts carry no goals, so nothing tells which prompts are near-duplicates
    judged = run.judged(JUDGE.id).drop(columns="cluster")
    assert metrics.init_rate(table) == metrics.init_rate(judged)
    result = metrics.attack_result(table, "random", 1.0)
    assert result == metrics.attack_result(judged, "random", 1.0)
    assert [rate.value for rate in result.lasr.values()] == [3 / 6, 3 / 5, 1 / 6, 2 / 6]


def test_attempts_name_their_instances_and_carry_no_text(tmp_path: Path) -> None:
    tables = instances_of_run(finished_run(tmp_path))
    assert tables.attempts is not None
    attempts, instances = tables.attempts.to_pandas(), tables.instances.to_pandas()
    named = attempts[attempts["instance_id"].notna()]
    assert dict(zip(named["cell_id"], named["instance_id"], strict=True)) == dict(
        zip(instances["cell_id"], instances["instance_id"], strict=True)
    )
    assert set(named["response_tokens"]) == {3}
    assert "calm answer" not in attempts.to_csv()
    assert "fence" not in attempts.to_csv()
    assert len(attempts) == 6 * 5


def test_fragile_layers_are_of_lasr_not_of_counts(tmp_path: Path) -> None:
    tables = instances_of_run(finished_run(tmp_path))
    (found,) = tables.fragile_layers
    assert (found.before, found.peak, found.after) == (0, 1, 3)  # 3 of 5 scored is more than 3 of 6
    places = dict(
        zip(tables.instances["layer"].to_pylist(), tables.instances["fragile_layer"].to_pylist(), strict=True)
    )
    assert places == {0: "before", 1: "peak", 2: None, 3: "after"}
    (by_count,) = fragile_from_instances(tables.instances)
    assert (by_count.before, by_count.peak, by_count.after) == (None, 0, 1)


def test_an_attack_without_a_seed(tmp_path: Path) -> None:
    tables = instances_of_run(finished_run(tmp_path, seed=None))
    assert tables.instances["seed"].to_pylist() == [None] * 9


def test_a_run_in_which_nothing_broke(tmp_path: Path) -> None:
    tables = instances_of_run(finished_run(tmp_path, broken=("ss", "si"), clean="ss"))
    assert tables.instances.schema == instance_schema()
    assert tables.instances.num_rows == 0
    assert tables.attempts is not None
    assert tables.attempts.num_rows == 6


def test_a_run_that_is_not_finished_and_an_unknown_judge(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    with pytest.raises(UserError, match=r"no verdicts of the judge 'nobody'.*judge-x@1"):
        instances_of_run(run, "nobody")
    (tmp_path / "row.json").unlink()
    with pytest.raises(UserError, match="row cannot be read"):
        instances_of_run(run)
