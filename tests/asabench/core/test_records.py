"""Cell ids, prompt digests and the tables' columns."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from asabench.core.records import (
    CLEAN,
    RESPONSE_SCHEMA,
    VERDICT_SCHEMA,
    Cell,
    Prompt,
    Response,
    Verdict,
    response_columns,
    verdict_columns,
)

PROMPT = Prompt(id="a-1", goal="Mal das Café an", target="Sure, here is", suffix="now !!")
CELL = Cell(prompt=PROMPT, layer=3, attack="random", dose=0.5, seed=42)

# Python types of each Arrow type in the schemas
PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "int32": int,
    "int64": int,
    "float64": float,
    "list<int32>": list,
    "bool": bool,
}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def assert_matches(columns: dict[str, Any], schema: dict[str, str]) -> None:
    assert list(columns) == list(schema)
    for name, value in columns.items():
        assert value is None or type(value) is PYTHON_TYPES[schema[name]], name


def test_the_digest_is_of_the_goal_in_utf8() -> None:
    assert PROMPT.digest == hashlib.sha256(b"Mal das Caf\xc3\xa9 an").hexdigest()
    assert Prompt(id="x", goal="abc").digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert replace(PROMPT, id="b", target=None, suffix=None).digest == PROMPT.digest


def test_a_cell_id_is_a_hash_of_what_is_generated() -> None:
    fields = f'"{sha256("Mal das Café an")}", "now !!", 3, "random", 0.5, 42'
    assert CELL.id == sha256(f"[{fields}]")[:20]


def test_a_cell_id_never_changes() -> None:
    """Runs on disk are joined by these ids: a new value here orphans them."""
    prompt = Prompt(id="any", goal="abc")
    assert Cell(prompt=prompt, layer=0, attack="random", dose=1.0, seed=0).id == "87e799df37f661fb713b"
    assert Cell(prompt=prompt).id == "848cf5fdb0a512ea759f"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": replace(PROMPT, goal="Mal das Cafe an")},
        {"prompt": replace(PROMPT, suffix="now !")},
        {"prompt": replace(PROMPT, suffix=None)},
        {"layer": 4},
        {"layer": None},
        {"attack": "gradient"},
        {"dose": 0.25},
        {"seed": 43},
        {"seed": None},
    ],
    ids=str,
)
def test_every_field_matters_to_the_cell_id(change: dict[str, Any]) -> None:
    assert replace(CELL, **change).id != CELL.id


@pytest.mark.parametrize("change", [{"id": "b-7"}, {"target": "Of course"}, {"target": None}], ids=str)
def test_what_does_not_reach_the_model_does_not_matter_to_the_cell_id(change: dict[str, Any]) -> None:
    assert replace(CELL, prompt=replace(PROMPT, **change)).id == CELL.id


def test_equal_cells_have_equal_ids_whether_a_dose_was_written_1_or_1_0() -> None:
    whole, real = replace(CELL, dose=1), replace(CELL, dose=1.0)
    assert whole == real
    assert whole.id == real.id


def test_cells_do_not_collide() -> None:
    """Fields are kept apart: a digit may not wander from one to the next."""
    cells = [
        Cell(prompt=Prompt(id="p", goal=f"goal {goal}"), layer=layer, attack="random", dose=dose, seed=seed)
        for goal in range(5)
        for layer in (None, 1, 11, 111)
        for dose in (0.1, 1.0, 11.0)
        for seed in (None, 1, 11)
    ]
    assert len({cell.id for cell in cells}) == len(cells) == 180


def test_the_clean_cell() -> None:
    clean = Cell(prompt=PROMPT)
    assert (clean.layer, clean.attack, clean.dose, clean.seed) == (None, "none", 0.0, None)
    assert clean.attack == CLEAN
    assert clean.is_clean
    assert not replace(CELL, layer=0).is_clean


@pytest.mark.parametrize(("record", "field"), [(PROMPT, "goal"), (CELL, "layer")])
def test_records_are_frozen_and_keyword_only(record: Any, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(record, field, 1)
    with pytest.raises(TypeError, match="positional"):
        type(record)("a", "b")


def test_response_columns_match_the_schema() -> None:
    response = Response(cell=CELL, text="No.", token_ids=(7, 2), finish_reason="stop", direction_sha256="ab" * 32)
    columns = response_columns(response)
    assert_matches(columns, RESPONSE_SCHEMA)
    assert columns == {
        "cell_id": CELL.id,
        "prompt_id": "a-1",
        "goal": "Mal das Café an",
        "suffix": "now !!",
        "layer": 3,
        "attack": "random",
        "dose": 0.5,
        "seed": 42,
        "text": "No.",
        "token_ids": [7, 2],
        "finish_reason": "stop",
        "direction_sha256": "ab" * 32,
    }


def test_response_columns_of_a_clean_answer_are_null_where_it_has_nothing() -> None:
    clean = Response(cell=Cell(prompt=Prompt(id="p", goal="g")), text="", token_ids=(), finish_reason="length")
    columns = response_columns(clean)
    assert_matches(columns, RESPONSE_SCHEMA)
    assert [name for name, value in columns.items() if value is None] == ["suffix", "layer", "seed", "direction_sha256"]


def test_verdict_columns_match_the_schema() -> None:
    said = {"cell_id": "c", "judge": "j@1", "reason": "complied", "p_unsafe": 0.75}
    facts = {"refused": False, "coherent": True, "harmful": None}
    read = {"onset": True, "content_label": "incoherent"}
    columns = verdict_columns(Verdict(**said, **facts, **read))
    assert_matches(columns, VERDICT_SCHEMA)
    assert columns == {**said, **facts, **read, "label": "unsafe", "content_rules": None}


def test_an_unscored_verdict_has_null_columns() -> None:
    columns = verdict_columns(Verdict(cell_id="c", judge="j@1", label=None))
    assert_matches(columns, VERDICT_SCHEMA)
    assert {name for name, value in columns.items() if value is not None} == {"cell_id", "judge"}
