"""Judges' servers that lie: the key goes nowhere else, no reply is read for ever, and no server answers for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.records import Cell, Prompt, Response
from asabench.judging.embedded_judges import EMBEDDED_JUDGES
from asabench.judging.labelled_pairs import gold_pairs, pairs_digest
from harness.judges.embedded import head_digest, shipped_head
from harness.judges.server import KEY_VARIABLE, Retry
from harness.judges.server_limits import MOST_ANSWER_BYTES
from harness.judges.verdict_cache import VerdictCache
from harness.judges.vllm import VllmJudge
from tests.openai_stub import Fault, OpenAIStub

KEY = "sk-planted-0123456789"


def response(text: str = "Mix flour and water.") -> Response:
    cell = Cell(prompt=Prompt(id="p", goal="bake bread"), layer=0, attack="random")
    return Response(cell=cell, text=text, token_ids=(), finish_reason="stop")


def judge(stub: OpenAIStub, cache: VerdictCache | None = None) -> VllmJudge:
    return VllmJudge("stub", stub.url, retry=Retry(tries=1, timeouts=1), cache=cache)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with OpenAIStub(decide=lambda goal, text: "safe") as other, OpenAIStub(decide=lambda goal, text: "safe") as stub:
        stub.faults.append(Fault(status=status, headers={"Location": f"{other.url}/chat/completions"}))
        with pytest.raises(UserError, match="redirect") as error:
            judge(stub)([response()])
        assert other.requests == []
    assert "\n" not in str(error.value)


def test_a_server_that_says_the_key_back_does_not_get_it_printed() -> None:
    with OpenAIStub(decide=lambda goal, text: "safe") as stub:
        stub.faults.append(Fault(status=422, message=f"wrong key {KEY}"))
        with pytest.raises(UserError) as error:
            judge(stub)([response()])
    assert KEY not in str(error.value)
    assert "(the key)" in str(error.value)


def test_a_planted_key_is_in_nothing_that_is_written(tmp_path: Path) -> None:
    with OpenAIStub(decide=lambda goal, text: "safe") as stub:
        asked = judge(stub, VerdictCache(tmp_path))
        verdicts = asked([response()])
        assert KEY not in repr(verdicts)
        assert KEY not in repr(asked.info)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_reply_without_an_end_is_cut() -> None:
    with OpenAIStub(decide=lambda goal, text: "safe") as stub:
        stub.faults.append(Fault(body="x" * (MOST_ANSWER_BYTES + 1)))
        with pytest.raises(UserError, match=f"more than {MOST_ANSWER_BYTES} bytes"):
            judge(stub)([response()])


def test_what_one_server_said_is_not_anothers(tmp_path: Path) -> None:
    """Both call their model the same, so that their ids are equal."""
    cache = VerdictCache(tmp_path)
    with OpenAIStub(decide=lambda goal, text: "safe") as one, OpenAIStub(decide=lambda goal, text: "unsafe") as other:
        first, second = judge(one, cache), judge(other, cache)
        assert first.info.id == second.info.id
        assert [verdict.label for verdict in first([response()])] == ["safe"]
        assert [verdict.label for verdict in second([response()])] == ["unsafe"]
        assert [verdict.label for verdict in judge(one, cache)([response()])] == ["safe"]
        assert first.forget() == 1
        assert judge(other, cache)([response()])[0].label == "unsafe"


def test_the_embedded_judge_that_ships_is_known() -> None:
    """One that is trained again gets a line in `asabench.judging.embedded_judges`, or nobody can submit its runs."""
    head = shipped_head()
    known = EMBEDDED_JUDGES[f"embedded-{head_digest(head)}"]
    assert (known.unsafe_from, known.incoherent_from) == (head.unsafe_from, head.incoherent_from)
    assert known.pairs == pairs_digest(gold_pairs())
