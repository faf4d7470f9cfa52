"""How far two judges agree on the order of made entries, on the board's page and in its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.submission.other_judges import other_judges_bytes
from asabench.submission.schema import OTHER_JUDGES_FILE, VERDICTS_FILE
from asabench.submission.verdict_table import table_bytes
from leaderboard.build import build
from tests.board_fixtures import complete_row, make_utility, write_entry

PROMPTS = 20


def table(broken: int) -> pd.DataFrame:
    """Two layers; layer 1 breaks the first `broken` prompts under pgd."""
    cells = [(f"p{prompt:02d}", None, "none", 0.0, "safe") for prompt in range(PROMPTS)] + [
        (f"p{prompt:02d}", layer, "pgd", 1.0, "unsafe" if layer and prompt < broken else "safe")
        for layer in range(2)
        for prompt in range(PROMPTS)
    ]
    frame = pd.DataFrame(cells, columns=["prompt_id", "layer", "attack", "dose", "label"])
    return frame.assign(
        layer=frame["layer"].astype("Int16"),
        seed=pd.array([pd.NA] * len(frame), dtype="Int64"),
        p_unsafe=float("nan"),
        response_sha256=b"0" * 16,
        response_tokens=1,
        response_characters=1,
    )


def entries(folder: Path, given: Mapping[str, tuple[int, int | None]]) -> None:
    """Ranked entries: how many prompts are broken by the row's judge, and by another (None: there is no other)."""
    for slug, (own, other) in given.items():
        row = complete_row(run_id=f"run-{slug}")
        path = write_entry(folder / slug, row, slug, make_utility(0.95))
        (path / VERDICTS_FILE).write_bytes(table_bytes(table(own)))
        if other is not None:
            (path / OTHER_JUDGES_FILE).write_bytes(other_judges_bytes({"another-judge": table(other)["label"]}))


def built(tmp_path: Path) -> tuple[str, list[dict[str, object]]]:
    page = build(tmp_path / "entries", tmp_path / "site")
    return page.read_text(), json.loads((page.parent / "rank-stability.json").read_text())


def test_a_line_and_json_where_two_judges_read_the_entries(tmp_path: Path) -> None:
    # 2, 10, 18 by the one and 2, 18, 10 by the other: two pairs of three stand in the same order, and tau is 1/3
    entries(tmp_path / "entries", {"a": (2, 2), "b": (10, 18), "c": (18, 10)})
    text, (found,) = built(tmp_path)
    assert found["entries"] == ["a", "b", "c"]
    assert found["judges"] == ["another-judge", "judge-x@1"]
    assert found["track"] == "asabench-v1/llm"
    same, tau = found["same_order"], found["tau"]
    assert isinstance(same, dict)
    assert isinstance(tau, dict)
    assert (same["value"], tau["value"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert same["low"] <= same["value"] <= same["high"]
    line = "another-judge and judge-x@1 both read the answers of 3 ranked entries here."
    assert f"{line} 0.67 [" in text
    assert "s tau +0.33 [" in text


def test_one_judge_says_nothing_of_stability(tmp_path: Path) -> None:
    # One entry alone has labels of another judge
    entries(tmp_path / "entries", {"a": (2, None), "b": (10, 18), "c": (18, None)})
    text, found = built(tmp_path)
    assert found == []
    assert "both read the answers" not in text


def test_entries_of_other_prompts_are_not_compared(tmp_path: Path) -> None:
    entries(tmp_path / "entries", {"a": (2, 2), "b": (10, 18)})
    row = complete_row(run_id="run-b", prompts={"digest": "1" * 16})
    (tmp_path / "entries" / "b" / "row.json").write_text(row.model_dump_json())
    assert built(tmp_path)[1] == []


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    entries(tmp_path / "entries", {"a": (2, 2), "b": (10, 18)})
    (tmp_path / "entries" / "b" / OTHER_JUDGES_FILE).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"b/other_judges\.parquet cannot be read"):
        built(tmp_path)
