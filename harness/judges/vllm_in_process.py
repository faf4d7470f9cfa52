"""The language model judge with vLLM in this process, for batch jobs in an environment that has vLLM.

The prompt, the decoding, the reading of replies and `p_unsafe` are those of the judge behind a server. vLLM batches by
itself; verdicts are kept a chunk at a time. The engine is started at the first call and stays.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Self

from asabench.core.errors import UserError, one_line
from asabench.core.judge_names import guard_in
from asabench.core.protocol import LabelSet
from asabench.core.records import Response, Verdict, facts_behind
from asabench.core.row import JudgeInfo
from harness.judges.guard import NamedGuard, judged_behind_gate
from harness.judges.guards import Chat, Raw
from harness.judges.judge_prompt import (
    STATED_FACTS,
    TOP_LOGPROBS,
    Decoding,
    Message,
    base_name,
    decoding,
    described,
    judge_id,
    messages,
    p_unsafe_of,
    read_reply,
    thinks_first,
    wording_digest,
)
from harness.judges.verdict_cache import Counts, Keep, Opinion, Pair, VerdictCache, judged_once

CHUNK = 1_024
"""Pairs that one call of the engine gets."""


class _InProcess:
    """What judges with vLLM in this process share: the engine, which is started at the first call."""

    def __init__(self, model: str, cache: VerdictCache | None, engine: Mapping[str, Any]) -> None:
        _require_vllm()
        self.model = model
        self.cache = cache
        self.counts = Counts(given=0, pairs=0, cached=0, asked=0)
        self._engine = engine
        self._llm: Any = None

    def fresh(self) -> Self:
        """The same judge, under the same id and with the same engine, without the cache: for a check of the engine."""
        self._start()
        twin = copy.copy(self)
        twin.cache = None
        return twin

    def _start(self) -> Any:
        """The engine; it takes most of a GPU's memory, so there is one."""
        from vllm import LLM

        if self._llm is None:
            self._llm = LLM(model=self.model, **self._engine)
        return self._llm


class VllmInProcessJudge(_InProcess):
    """The judge; see the module. It satisfies `harness.judges.Judge`.

    model: what `vllm.LLM` takes, a hub id or a folder. probabilities: whether to read `p_unsafe`. cache: None reads and
    keeps nothing. engine: further keywords of `vllm.LLM`, such as `tensor_parallel_size=4` or `dtype="float32"`. Raises
    `UserError` where there is no vLLM.
    """

    def __init__(
        self,
        model: str,
        labels: LabelSet = "three",
        *,
        probabilities: bool = True,
        cache: VerdictCache | None = None,
        **engine: Any,
    ) -> None:
        super().__init__(model, cache, engine)
        self.labels = labels
        self.thinks = thinks_first(model)
        self.probabilities = probabilities and not self.thinks

    @property
    def info(self) -> JudgeInfo:
        import vllm

        how = self._decoding
        facts = {name: str(value) for name, value in self._engine.items()}
        facts |= {"version": vllm.__version__, "probabilities": str(self.probabilities)}
        return JudgeInfo(
            id=judge_id("vllm-in-process", self.model, self.labels, how, **facts),
            kind="llm",
            facts=STATED_FACTS[self.labels],
            description=f"{base_name(self.model)} on vLLM {vllm.__version__} in this process, "
            f"{described(how, self.labels)}; wording {wording_digest(self.labels)}.",
        )

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        verdicts, self.counts = judged_once(responses, self.info.id, self.cache, self._ask)
        return verdicts

    @property
    def _decoding(self) -> Decoding:
        return decoding(self.labels, thinks=self.thinks, grammar=True)

    def _ask(self, pairs: Sequence[Pair], keep: Keep) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        how = self._decoding
        sampling = SamplingParams(
            max_tokens=how.max_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
            seed=how.seed,
            structured_outputs=StructuredOutputsParams(choice=list(how.choice)) if how.choice else None,
        )
        for start in range(0, len(pairs), CHUNK):
            chunk = pairs[start : start + CHUNK]
            questions = [messages(*pair, self.labels) for pair in chunk]
            said = self._chat(questions, sampling)
            first = (
                self._chat(questions, SamplingParams(max_tokens=1, temperature=0.0, logprobs=TOP_LOGPROBS))
                if self.probabilities
                else [None] * len(chunk)
            )
            for pair, reply, token in zip(chunk, said, first, strict=True):
                keep(pair, self._opinion(reply, token))

    def _chat(self, questions: list[list[Message]], sampling: Any) -> list[Any]:
        try:
            outputs = self._start().chat(questions, sampling, use_tqdm=False)
        except ValueError as error:
            raise _refuses(error) from None
        return [output.outputs[0] for output in outputs]

    def _opinion(self, reply: Any, token: Any | None) -> Opinion:
        label, reason = read_reply(reply.text, self.labels, cut=reply.finish_reason == "length", reasoning=self.thinks)
        facts = facts_behind(label, STATED_FACTS[self.labels])
        if label is None or token is None:
            return Opinion(label=label, reason=reason, reply=reply.text, facts=facts)
        likeliest = [(each.decoded_token or "", each.logprob) for each in token.logprobs[0].values()]
        p_unsafe, share = p_unsafe_of(likeliest, self.labels)
        return Opinion(
            label=label, reason=f"labels' share {share:.3g}", p_unsafe=p_unsafe, reply=reply.text, facts=facts
        )


class GuardInProcess(_InProcess):
    """One of the judges that people use (`harness.judges.guards`) with vLLM in this process. It satisfies
    `harness.judges.Judge`; cache and engine as `VllmInProcessJudge`'s."""

    def __init__(self, named: NamedGuard, *, cache: VerdictCache | None = None, **engine: Any) -> None:
        super().__init__(named.model, cache, engine)
        self.named = named

    @property
    def info(self) -> JudgeInfo:
        import vllm

        return self.named.info(
            "vllm-in-process",
            self.named.model,
            f"{base_name(self.named.model)} on vLLM {vllm.__version__} in this process",
            version=vllm.__version__,
            **{name: str(value) for name, value in self._engine.items()},
        )

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        verdicts, self.counts = judged_behind_gate(responses, self.info.id, self.cache, self._ask)
        return verdicts

    def _ask(self, pairs: Sequence[Pair], keep: Keep) -> None:
        from vllm import SamplingParams

        sampling = SamplingParams(
            max_tokens=self.named.guard.max_tokens,
            temperature=0.0,
            seed=0,
            logprobs=TOP_LOGPROBS if self.named.scores else None,
            skip_special_tokens=False,
        )
        for start in range(0, len(pairs), CHUNK):
            chunk = pairs[start : start + CHUNK]
            questions = [self.named.question(pair) for pair in chunk]
            chats = [list(each.messages) for each in questions if isinstance(each, Chat)]
            texts = [each.text for each in questions if isinstance(each, Raw)]
            llm = self._start()
            try:
                outputs = (
                    llm.chat(chats, sampling, use_tqdm=False)
                    if chats
                    else llm.generate(texts, sampling, use_tqdm=False)
                )
            except ValueError as error:
                raise _refuses(error) from None
            for pair, output in zip(chunk, outputs, strict=True):
                said = output.outputs[0]
                likely = (
                    [(e.decoded_token or "", e.logprob) for e in said.logprobs[0].values()] if said.logprobs else []
                )
                cut = said.finish_reason == "length"
                keep(pair, self.named.opinion(pair, said.text, cut=cut, first_tokens=likely))


def _require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "this environment has no vLLM, which needs one of its own; install ASABench there, "
            "or use a server: vllm:MODEL@URL"
        )


def _refuses(error: ValueError) -> UserError:
    return UserError(
        f"vLLM refuses a pair ({one_line(error)}); where it is too long, use a model with a longer context"
    )


def make(rest: str, labels: LabelSet) -> VllmInProcessJudge | GuardInProcess:
    if not rest:
        raise UserError("the judge vllm-in-process names no model; write vllm-in-process:MODEL")
    if (guard := guard_in(rest)) is not None:
        return GuardInProcess(NamedGuard.of(*guard), cache=VerdictCache())
    return VllmInProcessJudge(rest, labels, cache=VerdictCache())
