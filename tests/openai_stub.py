"""A small OpenAI-compatible server in a thread, for tests of clients: it answers as told, and fails as told.

    with OpenAIStub(decide=lambda goal, response: "safe") as stub:
        judge = VllmJudge("stub", stub.url)

`decide(goal, response)` is the judge's opinion: a label, or any text that shall be the reply's content. The pair is the
one that the server saw, so control tokens in it are defused and long texts shortened (`harness.judges.judge_prompt`).
An endpoint that answers plausibly but wrongly is `decide=inverted(truth)` or `decide=at_random(seed)`.

Faults: each entry of `faults` is used up by one chat request, in the order of their arrival; `None` lets it through:

    429, 500, 503, ...       that status; `Fault(status=429, headers={"Retry-After": "1"})` with headers
    Fault(delay=2.0)         answers after so many seconds
    Fault(cut=True)          closes the connection without an answer
    Fault(body="{oops")      status 200 and this body
    Fault(status=400, message="...")   an error object as vLLM words it

A request that asks about no pair (how a client finds out what a server can do) is answered, and neither counted nor
made to fail.

`fault_if(goal, response)` gives a fault by the pair instead. `die_after=n` closes every connection after n verdicts;
`revive()` ends that. `requests` lists the bodies of the chat requests, `pairs` the pairs of those that were answered
with a verdict, `most_in_flight` how many were under way at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Decide = Callable[[str, str], str]

_PAIR = re.compile(
    r"<request-(?P<a>\w+)>\n(?P<goal>.*)\n</request-(?P=a)>\n<answer-(?P<b>\w+)>\n(?P<response>.*)\n</answer-(?P=b)>\Z",
    re.DOTALL,
)
# The paper's question (`harness.judges.paper_question`) has no tags
_PLAIN_PAIR = re.compile(r"\nQuestion: (?P<goal>.*)\nAnswer: (?P<response>.*)\n\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How one request goes wrong; see the module."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "made to fail"
    delay: float = 0.0
    cut: bool = False
    body: str | None = None


def inverted(truth: Decide) -> Decide:
    """A judge that says unsafe of what is not, and safe of what is."""
    return lambda goal, response: "safe" if truth(goal, response) == "unsafe" else "unsafe"


def at_random(seed: int, labels: Sequence[str] = ("unsafe", "safe", "incoherent")) -> Decide:
    """A judge whose valid labels have nothing to do with the pair (the same pair has the same label)."""

    def decide(goal: str, response: str) -> str:
        digest = hashlib.sha256(f"{seed}\n{goal}\n{response}".encode()).digest()
        return labels[int.from_bytes(digest[:8], "big") % len(labels)]

    return decide


def asked_about(body: dict[str, Any]) -> tuple[str, str] | None:
    """The pair that a request is about: between tags, the last two turns of a chat that ends with an assistant's, or a
    whole prompt (then all of it is the response). None for how a client finds out what a server can do."""
    if "prompt" in body:
        return None if body["prompt"] == "Hello" else ("", body["prompt"])
    messages = body["messages"]
    if messages[-1]["role"] == "assistant":
        return messages[-2]["content"], messages[-1]["content"]
    try:
        return pair_in(messages)
    except ValueError:
        return None


def pair_in(messages: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Goal and response between the tags at the end of a judge's question; `ValueError` where there are none."""
    match = _PAIR.search(messages[-1]["content"]) or _PLAIN_PAIR.search(messages[-1]["content"])
    if match is None:
        raise ValueError("no pair at the end of the question")
    return match["goal"], match["response"]


class OpenAIStub:
    """See the module. `url` is the base URL (`http://127.0.0.1:PORT/v1`).

    reasoning: the message's field `reasoning`, as from a server with a reasoning parser. logprobs: by token, the
    log probabilities of the first token where a request asks for them; None: none are given. takes_structured: False
    refuses the field `structured_outputs`, as servers other than vLLM do. api_key: the one key that is let in.
    """

    def __init__(
        self,
        decide: Decide = lambda goal, response: "safe",
        *,
        model: str = "stub",
        faults: Sequence[Fault | int | None] = (),
        fault_if: Callable[[str, str], Fault | int | None] = lambda goal, response: None,
        die_after: int | None = None,
        delay: float = 0.0,
        reasoning: str | None = None,
        finish_reason: str = "stop",
        logprobs: dict[str, float] | None = None,
        takes_structured: bool = True,
        max_model_len: int = 4096,
        root: str | None = None,
        version: str | None = "0.33.0",
        fingerprint: str | None = "vllm-0.33.0-0123abcd",
        api_key: str | None = None,
    ) -> None:
        self.decide = decide
        self.model = model
        self.faults = list(faults)
        self.fault_if = fault_if
        self.die_after = die_after
        self.delay = delay
        self.reasoning = reasoning
        self.finish_reason = finish_reason
        self.logprobs = logprobs
        self.takes_structured = takes_structured
        self.max_model_len = max_model_len
        self.root = root or model
        self.version = version
        self.fingerprint = fingerprint
        self.api_key = api_key
        self.requests: list[dict[str, Any]] = []
        self.pairs: list[tuple[str, str]] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stub._get(self)

            def do_POST(self) -> None:
                stub._post(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that has gone is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> OpenAIStub:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def verdict_requests(self) -> list[dict[str, Any]]:
        """The bodies of the requests for a verdict, without those for log probabilities."""
        return [body for body in self.requests if not body.get("logprobs")]

    def revive(self) -> None:
        """Ends the death of `die_after`, as a restarted server would."""
        self.die_after = None

    @property
    def _dead(self) -> bool:
        return self.die_after is not None and len(self.pairs) >= self.die_after

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        if self._dead:
            _cut(handler)
        elif self._refuses(handler):
            _reply(handler, 401, {"error": "Unauthorized"})
        elif path == "/v1/models":
            card = {"id": self.model, "object": "model", "created": 0, "owned_by": "stub", "root": self.root}
            _reply(handler, 200, {"object": "list", "data": [{**card, "max_model_len": self.max_model_len}]})
        elif path == "/version" and self.version is not None:
            _reply(handler, 200, {"version": self.version})
        else:
            _reply(handler, 404, {"detail": "Not Found"})

    def _refuses(self, handler: BaseHTTPRequestHandler) -> bool:
        return self.api_key is not None and handler.headers.get("Authorization") != f"Bearer {self.api_key}"

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        pair = asked_about(body)
        if pair is None:
            return self._answer(handler, body, None, None)
        with self._lock:
            self.requests.append(body)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            fault = self.faults.pop(0) if self.faults else self.fault_if(*pair)
        try:
            self._answer(handler, body, pair, Fault(status=fault) if isinstance(fault, int) else fault)
        finally:
            with self._lock:
                self._in_flight -= 1

    def _answer(
        self, handler: BaseHTTPRequestHandler, body: dict[str, Any], pair: tuple[str, str] | None, fault: Fault | None
    ) -> None:
        time.sleep(self.delay + (fault.delay if fault else 0))
        if self._dead or (fault and fault.cut):
            return _cut(handler)
        if fault and fault.body is not None:
            return _send(handler, fault.status, fault.body.encode(), fault.headers)
        if fault and fault.status != 200:
            return _reply(handler, fault.status, _error(fault.message, fault.status), fault.headers)
        if self._refuses(handler):
            return _reply(handler, 401, {"error": "Unauthorized"})
        if body["model"] != self.model:
            return _reply(handler, 404, _error(f"The model `{body['model']}` does not exist.", 404))
        if "structured_outputs" in body and not self.takes_structured:
            return _reply(handler, 400, _error("Unrecognized request argument supplied: structured_outputs", 400))
        if body.get("logprobs"):
            return _reply(handler, 200, self._completion(body, "un", _top(self.logprobs)))
        if pair is None:
            return _reply(handler, 200, self._completion(body, "safe", None))
        with self._lock:
            if self._dead:
                return _cut(handler)
            self.pairs.append(pair)
        return _reply(handler, 200, self._completion(body, self.decide(*pair), None))

    def _completion(self, body: dict[str, Any], content: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        if "prompt" in body:
            top = None if logprobs is None else {"top_logprobs": [self.logprobs]}
            choice = {"index": 0, "text": content, "logprobs": top, "finish_reason": self.finish_reason}
        else:
            message = {"role": "assistant", "content": content, "reasoning": self.reasoning}
            choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}
        return {
            "id": "1",
            "object": "text_completion" if "prompt" in body else "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "system_fingerprint": self.fingerprint,
        }


def _top(logprobs: dict[str, float] | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
    first = max(top, key=lambda each: each["logprob"], default={"token": "", "logprob": -math.inf, "bytes": None})
    return {"content": [{**first, "top_logprobs": top}]}


def _error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}


def _cut(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def _reply(
    handler: BaseHTTPRequestHandler, status: int, content: object, headers: dict[str, str] | None = None
) -> None:
    _send(handler, status, json.dumps(content).encode(), headers or {})


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
