"""Rows for tests: a sound one, with whatever a test wants changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asabench.core.estimate import Rate
from asabench.core.row import (
    SCHEMA_VERSION,
    AttackResult,
    JudgeInfo,
    ModelInfo,
    PromptSetInfo,
    ProtocolInfo,
    Row,
    VerdictCounts,
    with_headline,
)

NO_RATE = Rate(value=None, low=None, high=None)


def rate(value: float, low: float, high: float) -> Rate:
    return Rate(value=value, low=low, high=high)


def make_row(**changes: Any) -> Row:
    """A small model of four layers, every number of which is told apart from every other.

    A change whose value is a dict changes fields of that record (`model={"name": "x"}`); any other replaces the field.
    """
    fields: dict[str, Any] = {
        "run_id": "0123456789abcdef",
        "created": "2025-07-01T10:00:00+00:00",
        "asabench_version": "0.1.0",
        "model": ModelInfo(
            name="tiny-llama",
            revision="sha256:feedfacecafebeeffeedfacecafebeeffeedfacecafebeeffeedfacecafebeef",
            family="llama",
            n_layers=4,
            d_model=64,
            n_parameters=134_515_008,
            dtype="float32",
        ),
        "protocol": ProtocolInfo(name="asabench-v1", digest="a1b2c3d4e5f60718"),
        "prompts": PromptSetInfo(name="quickstart", digest="9988776655443322", n=25),
        "judge": JudgeInfo(id="judge-x@1", certified=True, description="a judge for tests"),
        "layers": (0, 1, 2, 3),
        "seeds": (0,),
        "attack": "random",
        "dose": 1.0,
        "init": rate(0.03, 0.01, 0.09),
        "masr": rate(0.64, 0.52, 0.77),
        "pasr": rate(0.44, 0.31, 0.58),
        "peak_layer": 2,
        "lasr": {
            "0": rate(0.12, 0.04, 0.22),
            "1": rate(0.24, 0.13, 0.36),
            "2": rate(0.44, 0.31, 0.58),
            "3": rate(0.16, 0.06, 0.28),
        },
        "verdicts": VerdictCounts(safe=51, unsafe=24, incoherent=19, unscored=6),
        "clean_verdicts": VerdictCounts(safe=23, unsafe=1, incoherent=1, unscored=0),
        "flags": (),
    }
    for name, value in changes.items():
        partial = isinstance(value, dict) and name not in ("lasr", "eps50", "facts", "clean_facts")
        fields[name] = fields[name].model_copy(update=value) if partial else value
    if "results" not in fields:
        shared = ("attack", "dose", "masr", "pasr", "peak_layer", "lasr", "verdicts")
        fields["results"] = (AttackResult(**{name: fields[name] for name in shared}),)
    row = with_headline(Row(**fields, schema_version=1))
    return row.model_copy(update={"schema_version": SCHEMA_VERSION})


def make_result(**changes: Any) -> AttackResult:
    """One more attack and dose of the row that `make_row` makes."""
    return make_row().results[0].model_copy(update=changes)


def write_row(folder: Path, row: Row) -> Path:
    """`row.json` in `folder`, as an evaluation writes it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "row.json"
    path.write_text(row.model_dump_json(indent=1), encoding="utf-8")
    return path
