"""Judging a run again: what is kept, what is recomputed, and how two judges are set side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

import harness.evaluation.judge
from asabench.core.errors import UserError
from asabench.core.records import Label, Prompt, Response, Verdict
from asabench.core.row import JudgeInfo, read_row
from asabench.judging.judge_difference import COLUMNS, difference_table, kappa, label_table
from asabench.judging.labelled_pairs import gold_pairs
from asabench.runs.folder import read_run
from harness.evaluation.evaluate import evaluate
from harness.evaluation.judge import judge_again, responses_of
from tests.conftest import tiny_subject

RIGHT = {(pair.goal, pair.response): min(pair.right) for pair in gold_pairs()}
PROMPTS = [Prompt(id=f"p{n}", goal="count to " + "nine " * n, suffix="now" if n == 2 else None) for n in range(1, 4)]


class Opinion:
    """A judge that knows the labelled pairs, and has one opinion of a run's answers."""

    def __init__(self, name: str, opinion: Callable[[Response], Label | None], fit: bool = True) -> None:
        self.info = JudgeInfo(id=name, description="for tests", kind="llm")
        self.opinion, self.fit, self.lots = opinion, fit, []

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        if responses[0].cell.attack != "labelled":
            self.lots.append(len(responses))
        return [Verdict(cell_id=r.cell.id, judge=self.info.id, label=self._label(r)) for r in responses]

    def _label(self, response: Response) -> Label | None:
        if response.cell.attack != "labelled":
            return self.opinion(response)
        return RIGHT[response.cell.prompt.goal, response.text] if self.fit else "safe"


ALL_SAFE = Opinion("all/safe@1", lambda _: "safe")


def steered_unsafe(response: Response) -> Label | None:
    return "safe" if response.cell.is_clean else "unsafe"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    evaluate(
        tiny_subject("llama"), prompts=PROMPTS, layers="0,2", max_new_tokens=3, judge=ALL_SAFE, out=tmp_path / "run"
    )
    return tmp_path / "run"


def test_judging_again_keeps_answers_and_the_other_judge_s_verdicts(run: Path) -> None:
    responses, verdicts = read_run(run).responses(), read_run(run).verdicts()
    before = read_run(run).row
    after = judge_again(run, Opinion("strict", steered_unsafe))
    pd.testing.assert_frame_equal(read_run(run).responses(), responses)
    now = read_run(run).verdicts()
    pd.testing.assert_frame_equal(now[now["judge"] == "all/safe@1"].reset_index(drop=True), verdicts)
    assert (now["judge"] == "strict").sum() == len(responses) == 3 * 3
    assert (before.masr.value, after.masr.value, after.init.value) == (0.0, 1.0, 0.0)
    assert after.judge.id == "strict"
    assert after.judge.certified
    assert read_run(run).row == after
    # What does not follow from verdicts is as it was
    for field in ("run_id", "model", "protocol", "prompts", "layers", "seeds"):
        assert getattr(after, field) == getattr(before, field)
    rows = sorted(path.name for path in (run / "rows").iterdir())
    assert len(rows) == 2
    assert rows[0].startswith("all-safe-1-"), "a judge's name may hold what a file name may not"
    assert read_row(run / "rows" / rows[0]) == before


def test_a_judge_asked_twice_judges_only_what_it_has_not_seen(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.evaluation.judge, "AT_ONCE", 4)
    judge = Opinion("strict", steered_unsafe)
    judge_again(run, judge)
    assert judge.lots == [4, 4, 1]
    judge_again(run, judge)
    assert judge.lots == [4, 4, 1]


def test_verdicts_are_kept_when_the_judge_fails_half_way(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.evaluation.judge, "AT_ONCE", 4)

    def failing(response: Response) -> Label | None:
        if len(judge.lots) == 2:
            raise UserError("the server is gone")
        return "unsafe"

    judge = Opinion("strict", failing)
    with pytest.raises(UserError, match="the server is gone"):
        judge_again(run, judge)
    assert (read_run(run).verdicts()["judge"] == "strict").sum() == 4
    assert read_run(run).row.judge.id == "all/safe@1", "the row is of the last judge that finished"
    whole = Opinion("strict", steered_unsafe)
    judge_again(run, whole)
    assert whole.lots == [4, 1]


def test_a_judge_under_the_bar_changes_nothing(run: Path) -> None:
    before = (run / "row.json").read_bytes()
    unfit = Opinion("unfit", steered_unsafe, fit=False)
    with pytest.raises(UserError, match="not fit"):
        judge_again(run, unfit)
    assert (run / "row.json").read_bytes() == before
    assert not unfit.lots
    assert judge_again(run, unfit, uncertified=True).flags[0] == "uncertified"


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "row.json").unlink()
    with pytest.raises(UserError, match="row cannot be read"):
        judge_again(run, Opinion("strict", steered_unsafe))


def test_answers_are_read_as_they_were_written(run: Path) -> None:
    table = read_run(run).responses()
    responses = responses_of(table)
    assert [r.cell.id for r in responses] == table["cell_id"].tolist()
    assert {r.cell.prompt.suffix for r in responses} == {None, "now"}
    assert [r.text for r in responses] == table["text"].tolist()
    changed = table.assign(goal="another request")
    with pytest.raises(UserError, match="does not match"):
        responses_of(changed)


def verdict_table(before: str, after: str) -> pd.DataFrame:
    """Letters: s, u, i, and - for unscored; a cell a place. A space: that judge has not seen the cell."""
    labels = {"s": "safe", "u": "unsafe", "i": "incoherent", "-": None}
    return pd.DataFrame(
        [
            {"cell_id": str(cell), "judge": judge, "label": labels[letter]}
            for judge, letters in (("a", before), ("b", after))
            for cell, letter in enumerate(letters)
            if letter != " "
        ]
    )


def test_labels_side_by_side_worked_out_by_hand() -> None:
    counts = label_table(verdict_table("ssuui- s", "suuusuu "), "a", "b")
    # cells: ss su uu uu is -u; the seventh has no first verdict, the eighth no second
    assert counts.loc["safe"].tolist() == [1, 1, 0, 0]
    assert counts.loc["unsafe"].tolist() == [0, 2, 0, 0]
    assert counts.loc["incoherent"].tolist() == [1, 0, 0, 0]
    assert counts.loc["unscored"].tolist() == [0, 1, 0, 0]
    assert tuple(counts.columns) == COLUMNS
    # unsafe or not: both 2, only after 2, neither 2 of 6. Observed 4/6; by chance 1/3 * 2/3 + 2/3 * 1/3 = 4/9
    assert kappa(counts) == pytest.approx((4 / 6 - 4 / 9) / (1 - 4 / 9))


def test_no_kappa_where_a_judge_saw_no_difference() -> None:
    assert kappa(label_table(verdict_table("sss", "sus"), "a", "b")) is None
    assert kappa(label_table(verdict_table("s ", " u"), "a", "b")) is None, "no cell that both have judged"


def test_the_table_for_a_terminal(run: Path) -> None:
    before = read_run(run).row
    after = judge_again(run, Opinion("strict", steered_unsafe))
    text = difference_table(read_run(run).verdicts(), before, after)
    assert "same label: 0.33 of 9 answers" in text
    assert "before: all/safe@1\nafter:  strict" in text
    line = next(line.split() for line in text.splitlines() if line.startswith("random"))
    assert line[:3] == ["random", "1", "0.00"]
    assert "1.00" in line
    assert json.loads((run / "manifest.json").read_text())["judge"]["id"] == "strict"
