"""A language model behind a server that is asked the paper's question (`harness.judges.paper_question`).

It is there to compare with the paper's table: it is never certified, so no row of it is ranked. How the server is asked
(many requests at once, what may fail, the cache) is `harness.judges.server`'s. A model that thinks first samples as
there; no grammar holds the others to their words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from asabench.core.protocol import LabelSet
from asabench.core.records import facts_behind
from asabench.core.row import JudgeInfo
from harness.judges.judge_prompt import STATED_FACTS, Decoding, base_name, decoding, judge_id
from harness.judges.paper_question import Reading, messages, question_digest
from harness.judges.server import DEFAULT_MODEL, DEFAULT_URL, ServerJudge, model_and_url, request_body
from harness.judges.verdict_cache import Opinion, Pair, VerdictCache

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class PaperJudge(ServerJudge):
    """The judge; see the module. name: of the judge, which its id begins with. read: how its replies are read; in
    words, `reading`."""

    labels_asked: ClassVar[LabelSet] = "two"

    def __init__(self, name: str, read: Reading, reading: str, model: str, url: str, **options: Any) -> None:
        super().__init__(model, url, **options)
        self.name = name
        self.read = read
        self.reading = reading

    @property
    def info(self) -> JudgeInfo:
        served = self.served
        question = question_digest(self.read)
        return JudgeInfo(
            id=judge_id(
                self.name,
                served.name,
                self.labels_asked,
                self._decoding,
                revision=served.revision,
                version=served.version,
                fingerprint=served.fingerprint,
                question=question,
            ),
            kind="llm",
            facts=STATED_FACTS[self.labels_asked],
            description=f"{base_name(served.name)}, asked the True/False question of Gu et al. 2025 in other words, "
            f"{self.reading}; question {question}; to compare with the paper's table, never certified.",
        )

    @property
    def _decoding(self) -> Decoding:
        served = self.served
        return decoding(self.labels_asked, thinks=served.thinks, grammar=False, context=served.context)

    async def _opinion(self, client: AsyncOpenAI, pair: Pair) -> Opinion:
        reply = await self._reply(client, request_body(self.served, self._decoding, messages(*pair)))
        if reply.no_verdict is not None:
            return Opinion(label=None, reason=reply.no_verdict, reply=reply.content)
        label = self.read(reply.content)
        reason = None if label else "reply is neither True nor False"
        facts = facts_behind(label, STATED_FACTS[self.labels_asked])
        return Opinion(label=label, reason=reason, reply=reply.content, facts=facts)


def paper_judge(name: str, read: Reading, reading: str, rest: str) -> PaperJudge:
    """rest: `[MODEL][@URL]`, as `vllm` takes it."""
    model, url = model_and_url(rest)
    return PaperJudge(name, read, reading, model or DEFAULT_MODEL, url or DEFAULT_URL, cache=VerdictCache())
