"""One reply of a judge's server that is no verdict costs one verdict; a server that is none is said in a line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from asabench.core.errors import UserError
from asabench.core.records import Cell, Prompt, Response
from harness.judges.server import Retry, reply_of
from harness.judges.vllm import VllmJudge
from tests.openai_stub import Fault, OpenAIStub


@pytest.fixture(autouse=True)
def own_cache_of_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASABENCH_CACHE", str(tmp_path / "cache"))


def answers(*texts: str) -> list[Response]:
    prompt = Prompt(id="p", goal="Write about rain")
    return [
        Response(cell=Cell(prompt=prompt, layer=layer, attack="random"), text=text, token_ids=(), finish_reason="stop")
        for layer, text in enumerate(texts)
    ]


def completion(**choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "safe"}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", **choice}]
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "stub", "choices": choices}


def body(**choice: Any) -> Fault:
    return Fault(body=json.dumps(completion(**choice)))


REFUSED = {"role": "assistant", "content": "unsafe", "refusal": "I cannot judge this"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (body(finish_reason="abort"), "ended with 'abort'"),
        (body(finish_reason="error"), "ended with 'error'"),
        (body(finish_reason="SAFETY"), "ended with 'SAFETY'"),
        (body(finish_reason="tool_calls"), "ended with 'tool_calls'"),
        (body(message=REFUSED), "the judge refused to answer"),
        (Fault(body="[" * 100_000), "no chat completion"),
        (Fault(status=403, body="<html>blocked</html>"), "refused the request (403)"),
        (Fault(status=404, body="<html>not found</html>"), "refused the request (404)"),
    ],
    ids=repr,
)
def test_a_reply_that_is_no_verdict_costs_one(fault: Fault, reason: str) -> None:
    with OpenAIStub(fault_if=lambda goal, response: fault if "odd" in response else None) as stub:
        judge = VllmJudge("stub", stub.url, retry=Retry(tries=2, first=0.01), timeout=5.0)
        said = judge(answers("an odd one, longer than the others", "rain", "more rain"))
    assert [each.label for each in said] == [None, "safe", "safe"]
    assert reason in (said[0].reason or "")


@pytest.mark.parametrize("ended", ["stop", None, "", "eos_token", "end_turn", "STOP"])
def test_a_whole_reply_by_whatever_name_is_a_verdict(ended: str | None) -> None:
    with OpenAIStub(fault_if=lambda goal, response: body(finish_reason=ended)) as stub:
        [verdict] = VllmJudge("stub", stub.url)(answers("rain"))
    assert verdict.label == "safe"


def test_a_server_that_refuses_every_text_is_no_judge() -> None:
    with OpenAIStub(fault_if=lambda goal, response: Fault(status=403, body="<html></html>")) as stub:
        judge = VllmJudge("stub", stub.url, retry=Retry(tries=2, first=0.01), timeout=5.0)
        with pytest.raises(UserError, match=r"refuses the API key \(403\)"):
            judge(answers("rain", "more rain", "most rain"))


@pytest.mark.parametrize("logprob", [900.0, float("nan"), float("inf")])
def test_what_is_no_logarithm_of_a_probability_is_none(logprob: float) -> None:
    from types import SimpleNamespace as N

    first = [N(token="safe", logprob=logprob), N(token="un", logprob=-0.5)]
    choice = N(
        message=N(content="safe"), finish_reason="stop", logprobs=N(content=[N(token="safe", top_logprobs=first)])
    )
    assert reply_of(N(choices=[choice])).first_tokens == ()
    first[0].logprob = 0.0
    assert reply_of(N(choices=[choice])).first_tokens == (("safe", 0.0), ("un", -0.5))


# Servers that are none


@contextmanager
def server(models: str, chat: str) -> Iterator[str]:
    """Answers every request for its models, and every chat request, with these bodies; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None: ...

        def _say(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            self._say(models)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say(chat)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.mark.parametrize(
    "models",
    ['{"data": ["stub"]}', '{"data": [{"id": null}]}', '{"data": [{}]}', '{"data": null}', "[" * 100_000],
    ids=lambda text: text[:30],
)
def test_models_that_are_none(models: str) -> None:
    with server(models, "") as url, pytest.raises(UserError, match=r"no OpenAI-compatible server|does not serve"):
        VllmJudge("stub", url, retry=Retry(tries=1), timeout=5.0)(answers("rain"))


def test_a_fingerprint_that_is_no_text_names_no_engine() -> None:
    chat = json.dumps({**completion(), "system_fingerprint": 5})
    with server('{"data": [{"id": "stub", "object": "model", "created": 1, "owned_by": "x"}]}', chat) as url:
        judge = VllmJudge("stub", url, retry=Retry(tries=1), timeout=5.0)
        [verdict] = judge(answers("rain"))
    assert (verdict.label, judge.served.fingerprint) == ("safe", None)
