"""Replies of judges are kept beside a run, can be read again, and several judges are set side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.records import Facts, Prompt, Response
from asabench.core.row import JudgeInfo
from asabench.judging.labelled_pairs import gold_pairs
from asabench.judging.several import agreement_table, both_readings, rates_table
from asabench.runs.folder import read_run
from harness.evaluation.evaluate import evaluate
from harness.evaluation.judge import judge_again, unread_both_ways
from harness.evaluation.parse_again import parse_again, reader_of
from harness.judges import guards
from harness.judges.guards import TABLE
from tests.conftest import tiny_subject
from tests.harness.evaluation.test_judge_run import Opinion

PROMPTS = [Prompt(id=f"p{n}", goal="count to " + "nine " * n) for n in range(1, 4)]
RIGHT = {(pair.goal, pair.response): min(pair.right) for pair in gold_pairs()}


class Replying:
    """A judge under a guard's id that reads its own replies as that guard's are read."""

    def __init__(self, reply: Callable[[Response], str], name: str = "harmbench-cls-m-vllm-0123456789ab") -> None:
        self.info = JudgeInfo(id=name, description="for tests.", kind="llm", facts=("coherent", "harmful"))
        self.reply = reply

    def __call__(self, responses: list[Response]) -> list[object]:
        from asabench.core.records import Verdict, facts_behind

        told: list[object] = []
        for response in responses:
            if response.cell.attack == "labelled":
                label = RIGHT[response.cell.prompt.goal, response.text]
                told.append(Verdict(cell_id=response.cell.id, judge=self.info.id, label=label))
                continue
            opinion = reader_of(self.info.id)(response, self.reply(response), None)
            told.append(
                Verdict(
                    cell_id=response.cell.id,
                    judge=self.info.id,
                    label=opinion.label,
                    reason=opinion.reason,
                    reply=opinion.reply,
                    **(opinion.facts if opinion.label else facts_behind(None, ()))._asdict(),
                )
            )
        return told


def yes_where_steered(response: Response) -> str:
    return "no" if response.cell.is_clean else "certainly"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    judge = Opinion("all/safe@1", lambda _: "safe")
    evaluate(tiny_subject("llama"), prompts=PROMPTS, layers="0,2", max_new_tokens=3, judge=judge, out=tmp_path / "run")
    return tmp_path / "run"


def test_replies_are_kept_once_and_never_in_the_verdicts(run: Path) -> None:
    judge = Replying(yes_where_steered)
    judge_again(run, judge, uncertified=True)
    judge_again(run, judge, uncertified=True)
    replies = read_run(run).replies()
    assert sorted(replies["reply"]) == ["certainly"] * 6 + ["no"] * 3
    assert "reply" not in read_run(run).verdicts()


def test_replies_are_read_as_they_are_read_now(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Replying(yes_where_steered)
    before = judge_again(run, judge, uncertified=True)
    assert before.results[0].verdicts.unscored == 6
    (same,) = parse_again(run)
    assert (same.replies, same.changed, same.unread_before, same.unread_now, same.row) == (9, 0, 6, 6, None)
    # As when a later version knows more words
    read = guards.read_yes_no
    later = replace(
        TABLE["harmbench-cls"], read=lambda text: Facts(harmful=True) if text == "certainly" else read(text)
    )
    monkeypatch.setattr("harness.judges.guards.TABLE", {**TABLE, "harmbench-cls": later})
    monkeypatch.setattr("harness.judges.guard.TABLE", {**TABLE, "harmbench-cls": later})
    (other,) = parse_again(run, (judge.info.id,))
    assert (other.changed, other.unread_before, other.unread_now) == (6, 6, 0)
    assert other.row is not None
    assert other.row.judge.id.startswith(f"{judge.info.id}-read-")
    assert not other.row.judge.certified
    assert other.row.masr.value == 1.0
    # The verdicts of then are there, and the same reading is stored once
    assert read_run(run).row_of(judge.info.id) == before
    stored = len(read_run(run).verdicts())
    assert parse_again(run, (judge.info.id,))[0].row.judge.id == other.row.judge.id  # type: ignore[union-attr]
    assert len(read_run(run).verdicts()) == stored


def test_what_cannot_be_read_again(run: Path) -> None:
    with pytest.raises(UserError, match="keeps no replies; judges"):
        parse_again(run)
    judge_again(run, Replying(yes_where_steered), uncertified=True)
    with pytest.raises(UserError, match="keeps no replies of mine; it keeps those of harmbench-cls-m"):
        parse_again(run, ("mine",))
    for judge in ("strongreject-m-hf-0123456789ab", "embedded-12345678"):
        with pytest.raises(UserError, match="is not known here"):
            reader_of(judge)


def test_label_words_are_read_again_by_the_id() -> None:
    read = reader_of("vllm-QwQ-32B-two-0123456789ab")
    response = Response(cell=None, text="", token_ids=(), finish_reason="stop")  # type: ignore[arg-type]
    assert read(response, "<think>hm</think>\nUnsafe.", None).label == "unsafe"
    assert read(response, "incoherent", None).label is None
    assert read(response, "safe", "cut at the token limit").label is None


def test_unread_answers_under_both_readings(run: Path) -> None:
    row = judge_again(run, Replying(yes_where_steered), uncertified=True)
    as_safe, as_unsafe, unscored = unread_both_ways(read_run(run), row)
    assert (as_safe.masr.value, as_unsafe.masr.value, unscored) == (0.0, 1.0, 6)
    assert "6 answers have no readable verdict" in both_readings(as_safe, as_unsafe, unscored)


def test_several_judges_side_by_side(run: Path) -> None:
    rows = {
        row.judge.id: row
        for row in (
            judge_again(run, Opinion("strict", lambda r: "safe" if r.cell.is_clean else "unsafe")),
            judge_again(run, Opinion("mild", lambda r: "unsafe" if r.cell.layer == 0 else "safe")),
        )
    }
    # Of 9 answers the second calls 3 of the first's 6 unsafe: same 6 of 9, by chance (6*3 + 3*6)/81 = 4/9, kappa 0.4
    table = agreement_table(read_run(run).verdicts(), list(rows)).splitlines()
    assert table[-1].split() == ["strict", "mild", "9", "0.67", "0.40"]
    shown = rates_table(rows)
    assert "(1) strict\n(2) mild" in shown
