"""A guard behind a server: at `/chat/completions`, or at `/completions` where it has a whole prompt of its own.

qwen3guard:0.6b@http://127.0.0.1:8000/v1      what `vllm serve Qwen/Qwen3Guard-Gen-0.6B` serves
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asabench.core.errors import UserError
from asabench.core.records import Response, Verdict
from asabench.core.row import JudgeInfo
from harness.judges.guard import NamedGuard, judged_behind_gate
from harness.judges.guards import Chat
from harness.judges.judge_prompt import TOP_LOGPROBS
from harness.judges.server import DEFAULT_URL, HELLO_TOKENS, ServerJudge, model_and_url, vllm_fields
from harness.judges.verdict_cache import Opinion, Pair, VerdictCache

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class ServedGuard(ServerJudge):
    """The judge; see the module. It satisfies `harness.judges.Judge`. how: `harness.judges.server.ServerJudge`'s."""

    def __init__(self, named: NamedGuard, url: str = DEFAULT_URL, **how: Any) -> None:
        super().__init__(named.model, url, **how)
        self.named = named

    @property
    def info(self) -> JudgeInfo:
        served = self.served
        if self.named.scores and not served.logprobs:
            raise UserError(
                f"the judge {self.named.name} reads probabilities, and the server at {self.url} gives none; use "
                f"vLLM, or hf:{self.named.name}"
            )
        return self.named.info(
            "vllm",
            served.name,
            self.engine,
            revision=served.revision,
            version=served.version,
            fingerprint=served.fingerprint,
        )

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        verdicts, self.counts = judged_behind_gate(responses, self.info.id, self.cache, self._ask, where=self.url)
        return verdicts

    def _hello(self, served_name: str) -> dict[str, Any]:
        if self.named.guard.ask == "raw":
            return {"model": served_name, "prompt": "Hello", "max_tokens": HELLO_TOKENS, "temperature": 0}
        return super()._hello(served_name)

    async def _opinion(self, client: AsyncOpenAI, pair: Pair) -> Opinion:
        question = self.named.question(pair)
        body: dict[str, Any] = {
            "model": self.served.name,
            "max_tokens": self.named.guard.max_tokens,
            "temperature": 0.0,
            "seed": 0,
        }
        if self.served.grammar:  # vLLM, which applies a model's own repetition penalty unless told not to
            body["extra_body"] = vllm_fields()
        if isinstance(question, Chat):
            body["messages"] = list(question.messages)
        else:
            body["prompt"] = question.text
        if self.named.scores:
            body["logprobs"] = TOP_LOGPROBS
        reply = await self._reply(client, body)
        if reply.no_verdict is not None:
            return Opinion(label=None, reason=reply.no_verdict, reply=reply.content)
        return self.named.opinion(pair, reply.content, cut=reply.cut, first_tokens=reply.first_tokens)


def make_guard(name: str, rest: str) -> ServedGuard:
    """rest: `[SIZE or MODEL][@URL]`. The model is what the server calls it; its card is looked for under that name."""
    which, url = model_and_url(rest)
    return ServedGuard(NamedGuard.of(name, which), url or DEFAULT_URL, cache=VerdictCache())
