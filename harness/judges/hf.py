"""One of the judges that people use, in transformers, in this process: `hf:qwen3guard:0.6b`.

On a CPU in float32, where the small ones run; on a GPU in bfloat16. Verdicts are kept a batch at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version

from asabench.core.errors import UserError
from asabench.core.judge_names import GUARDS, guard_in
from asabench.core.protocol import LabelSet
from asabench.core.records import Response, Verdict
from asabench.core.row import JudgeInfo
from harness.judges.guard import NamedGuard, judged_behind_gate
from harness.judges.guards import SCORE_TOKENS, Chat
from harness.judges.judge_prompt import base_name
from harness.judges.verdict_cache import Counts, Keep, Pair, VerdictCache
from harness.model.files import locate
from harness.model.generator import Generator, dtype_on

CHUNK = 64
"""Pairs whose verdicts are kept at once."""


class HfGuard:
    """The judge; see the module. It satisfies `harness.judges.Judge`. The weights are loaded when it first judges.

    device: as `harness.model.subject.load` takes it. cache: None reads and keeps nothing. `UserError` for a model that
    is not at hand.
    """

    def __init__(self, named: NamedGuard, device: str = "auto", cache: VerdictCache | None = None) -> None:
        self.named = named
        self.device = device
        self.cache = cache
        self.counts = Counts(given=0, pairs=0, cached=0, asked=0)
        files = locate(named.model)
        dtype, engine = dtype_on(device), f"transformers {version('transformers')}"
        self._info = named.info(
            "hf",
            files.name,
            f"{base_name(files.name)} ({files.revision[:19]}) in {engine}, {dtype}",
            revision=files.revision,
            dtype=dtype,
            version=version("transformers"),
        )

    @property
    def info(self) -> JudgeInfo:
        return self._info

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        verdicts, self.counts = judged_behind_gate(responses, self._info.id, self.cache, self._ask)
        return verdicts

    def fresh(self) -> HfGuard:
        """The same judge, under the same id and with the same weights, without the cache."""
        self._model  # noqa: B018  # loaded once for both
        twin = copy.copy(self)
        twin.cache = None
        return twin

    @cached_property
    def _model(self) -> Generator:
        return Generator(self.named.model, device=self.device)

    def _ask(self, pairs: Sequence[Pair], keep: Keep) -> None:
        for start in range(0, len(pairs), CHUNK):
            chunk = pairs[start : start + CHUNK]
            prompts = [self._tokens(pair) for pair in chunk]
            if self.named.scores:
                for pair, likely in zip(chunk, self._model.likelihoods(prompts, SCORE_TOKENS), strict=True):
                    keep(pair, self.named.opinion(pair, None, first_tokens=likely))
                continue
            said = self._model.replies(prompts, self.named.guard.max_tokens)
            for pair, (text, cut) in zip(chunk, said, strict=True):
                keep(pair, self.named.opinion(pair, text, cut=cut))

    def _tokens(self, pair: Pair) -> list[int]:
        question = self.named.question(pair)
        if isinstance(question, Chat):
            return self._model.chat_tokens(list(question.messages))
        return self._model.raw_tokens(question.text)


def make(rest: str, labels: LabelSet) -> HfGuard:
    found = guard_in(rest)
    if found is None:
        raise UserError(
            f"the judge hf:{rest} names no judge that is known; write hf:GUARD or hf:GUARD:MODEL with one of "
            f"{', '.join(GUARDS)}"
        )
    return HfGuard(NamedGuard.of(*found), cache=VerdictCache())
