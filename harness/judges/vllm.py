"""A language model behind an OpenAI-compatible server (vLLM, or any other that speaks it) as the judge.

How requests are sent, tried again and kept is `harness.judges.server`'s; what is here is the question and its reading.

What the server can do is found out before the first verdict: which models it serves, whether it takes a grammar
(`structured_outputs`, vLLM's field), whether it gives log probabilities, whether the model thinks before it answers.

- A model that answers at once is held to the label words by a grammar where the server takes one, at temperature 0.
- A model that thinks first (QwQ-32B, the paper's judge) is not held to anything, as a grammar would keep it from
  thinking; it samples as its makers advise, with a fixed seed, since greedy decoding sends such models into loops. Its
  verdict is what it says after thinking; thoughts that never end are no verdict.

`p_unsafe` comes from one more request per pair, for one token without a grammar (a grammar's mask would come before the
log probabilities): among the server's most likely first tokens, the probability of those that begin the word `unsafe`,
over that of all that begin a label (`p_unsafe_of`). It is recorded raw: not calibrated, and it says little where the
labels' share of all probability, given as the verdict's reason, is small. None for models that think, and for servers
that give no log probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asabench.core.judge_names import guard_in
from asabench.core.protocol import LabelSet
from asabench.core.records import facts_behind
from asabench.core.row import JudgeInfo
from harness.judges.guard_server import make_guard
from harness.judges.judge_prompt import (
    STATED_FACTS,
    TOP_LOGPROBS,
    Decoding,
    Message,
    decoding,
    described,
    judge_id,
    messages,
    p_unsafe_of,
    read_reply,
    wording_digest,
)
from harness.judges.server import (
    DEFAULT_MODEL,
    DEFAULT_URL,
    Failed,
    Retry,
    Served,
    ServerJudge,
    model_and_url,
    request_body,
)
from harness.judges.verdict_cache import Opinion, Pair, VerdictCache

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Retry", "VllmJudge", "make"]


class VllmJudge(ServerJudge):
    """The judge; see the module. It satisfies `harness.judges.Judge`.

    labels: `asabench.core.protocol.LabelSet`. probabilities: whether to ask for `p_unsafe`. The others:
    `harness.judges.server.ServerJudge`.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        url: str = DEFAULT_URL,
        labels: LabelSet = "three",
        *,
        probabilities: bool = True,
        **how: Any,
    ) -> None:
        super().__init__(model, url, **how)
        self.labels = labels
        self.probabilities = probabilities

    @property
    def info(self) -> JudgeInfo:
        served, how = self.served, self._decoding
        return JudgeInfo(
            id=judge_id(
                "vllm",
                served.name,
                self.labels,
                how,
                revision=served.revision,
                version=served.version,
                fingerprint=served.fingerprint,
                probabilities=self._asks_probabilities,
            ),
            kind="llm",
            facts=STATED_FACTS[self.labels],
            description=f"{self.engine}, {described(how, self.labels)}; wording {wording_digest(self.labels)}.",
        )

    @property
    def _decoding(self) -> Decoding:
        served = self.served
        return decoding(self.labels, thinks=served.thinks, grammar=served.grammar, context=served.context)

    @property
    def _asks_probabilities(self) -> bool:
        return self.probabilities and self.served.logprobs and not self.served.thinks

    async def _opinion(self, client: AsyncOpenAI, pair: Pair) -> Opinion:
        served, how = self.served, self._decoding
        body = request_body(served, how, messages(*pair, self.labels))
        reply = await self._reply(client, body)
        if reply.no_verdict is not None:
            return Opinion(label=None, reason=reply.no_verdict, reply=reply.content)
        label, reason = read_reply(
            reply.content, self.labels, cut=reply.cut, reasoning=served.thinks and not reply.thoughts
        )
        facts = facts_behind(label, STATED_FACTS[self.labels])
        if label is None or not self._asks_probabilities:
            return Opinion(label=label, reason=reason, reply=reply.content, facts=facts)
        try:
            first = await self._reply(client, first_token_body(served, body["messages"]))
        except Failed as failed:
            if failed.unscored is None:
                raise
            # The verdict is there; its probability is not
            return Opinion(label=label, reply=reply.content, facts=facts)
        p_unsafe, share = p_unsafe_of(first.first_tokens, self.labels)
        return Opinion(
            label=label, reason=f"labels' share {share:.3g}", p_unsafe=p_unsafe, reply=reply.content, facts=facts
        )


def first_token_body(served: Served, question: list[Message]) -> dict[str, Any]:
    """The keywords of one request for the likeliest first tokens, without a grammar."""
    return {
        "model": served.name,
        "messages": question,
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
    }


def make(rest: str, labels: LabelSet) -> ServerJudge:
    """rest: `[MODEL][@URL]`, or `GUARD[:SIZE][@URL]`."""
    model, url = model_and_url(rest)
    if (guard := guard_in(model)) is not None:
        return make_guard(guard[0], rest.removeprefix(guard[0]).removeprefix(":"))
    return VllmJudge(model or DEFAULT_MODEL, url or DEFAULT_URL, labels, cache=VerdictCache())
