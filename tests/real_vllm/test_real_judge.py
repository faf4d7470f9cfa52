"""The judge behind a real server, and in vLLM's own process: structured choices, log probabilities, and the check that
finds this model unfit to judge."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asabench.core.errors import UserError
from asabench.core.records import LABELS, Response
from harness.judge_server.server import JudgeServer
from harness.judges import make_judge
from harness.judges.check import require_fit
from harness.judges.judge_prompt import TOP_LOGPROBS, LabelSet, messages, p_unsafe_of
from harness.judges.vllm import VllmJudge
from harness.model.files import locate
from tests.real_vllm import smollm2

ANSWERS = smollm2.mild_answers(12)


@pytest.fixture(scope="module")
def server(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeServer]:
    with smollm2.server(vllm_environment, tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture(autouse=True)
def _own_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads what another one was told; the model's files stay where they are."""
    folder = locate(smollm2.MODEL).folder.parent
    monkeypatch.setenv("ASABENCH_CACHE", str(tmp_path))
    (tmp_path / "models").symlink_to(folder)


@cache
def _model() -> tuple[object, object]:
    folder = locate(smollm2.MODEL).folder
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def _p_unsafe_by_transformers(response: Response, labels: LabelSet) -> float | None:
    """P(unsafe) of the same question, computed without vLLM."""
    model, tokenizer = _model()
    question = messages(response.cell.prompt.goal, response.text, labels)
    tokens = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        logprobs = model(**tokens).logits[0, -1].log_softmax(-1)  # type: ignore[operator]
    values, ids = logprobs.topk(TOP_LOGPROBS)
    likeliest = [(tokenizer.decode([token]), value) for token, value in zip(ids.tolist(), values.tolist(), strict=True)]  # type: ignore[attr-defined]
    return p_unsafe_of(likeliest, labels)[0]


def test_what_the_server_can_do_is_found_out(server: JudgeServer) -> None:
    served = VllmJudge(server.model, server.url).served
    assert (served.name, served.version, served.context) == (smollm2.MODEL, "0.32.0", smollm2.CONTEXT)
    assert served.grammar
    assert served.logprobs
    assert not served.thinks


@pytest.mark.parametrize("labels", ["three", "two"])
def test_every_answer_gets_a_label_from_the_grammar(server: JudgeServer, labels: LabelSet) -> None:
    verdicts = make_judge(server.judge, labels)(ANSWERS)
    allowed = set(LABELS) if labels == "three" else {"safe", "unsafe"}
    assert [verdict.cell_id for verdict in verdicts] == [answer.cell.id for answer in ANSWERS]
    assert {verdict.label for verdict in verdicts} <= allowed


def test_p_unsafe_is_what_the_model_says_without_vllm(server: JudgeServer) -> None:
    """The log probabilities come without the grammar's mask, from an engine that computes as it should."""
    answers = ANSWERS[:3]
    verdicts = VllmJudge(server.model, server.url)(answers)
    expected = [_p_unsafe_by_transformers(answer, "three") for answer in answers]
    assert None not in expected
    assert [verdict.p_unsafe for verdict in verdicts] == pytest.approx(expected, abs=2e-3)


def test_judging_again_in_another_batch_gives_the_same(server: JudgeServer) -> None:
    together = VllmJudge(server.model, server.url)(ANSWERS)
    alone = VllmJudge(server.model, server.url, in_flight=1)(ANSWERS)
    assert [verdict.label for verdict in together] == [verdict.label for verdict in alone]


def test_this_model_is_found_unfit_to_judge(server: JudgeServer) -> None:
    with pytest.raises(
        UserError, match=r"is not fit: balanced accuracy 0\.\d+ .* on the gold pairs, and 0\.80 or more"
    ) as no:
        require_fit(make_judge(server.judge))
    # Every verdict could be read: it is the opinions that are worth nothing
    assert "unreadable" not in str(no.value)


def test_a_model_that_is_not_served_is_named(server: JudgeServer) -> None:
    with pytest.raises(UserError, match=r"does not serve 'another'; it serves smollm2-135m"):
        make_judge(f"vllm:another@{server.url}")([*ANSWERS])


def test_an_answer_too_long_for_the_context_is_refused_in_one_line(server: JudgeServer) -> None:
    # Each of these characters is a token or more; what the judge is shown of an answer is bounded in characters
    long = "\u16a0" * 8_000
    response = Response(cell=ANSWERS[0].cell, text=long, token_ids=(), finish_reason="length")
    with pytest.raises(UserError, match="a pair to judge does not fit the context"):
        VllmJudge(server.model, server.url)([response])


def test_in_process_vllm_gives_the_same_verdicts(server: JudgeServer, vllm_environment: Path) -> None:
    """The same prompt, the same parser, the same numbers, with no server between."""
    expected = VllmJudge(server.model, server.url)(ANSWERS)
    done = subprocess.run(
        [
            vllm_environment / "bin" / "python",
            Path(__file__).with_name("judge_in_process.py"),
            locate(smollm2.MODEL).folder,
            str(len(ANSWERS)),
        ],
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2_000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    verdicts = json.loads(lines[-1])
    assert [verdict["label"] for verdict in verdicts] == [verdict.label for verdict in expected]
    assert [verdict["p_unsafe"] for verdict in verdicts] == pytest.approx(
        [verdict.p_unsafe for verdict in expected], abs=2e-3
    )
