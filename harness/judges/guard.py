"""What the judges of `harness.judges.guards` share, whatever runs them: the gate before them, replies as opinions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from asabench.core.judge_names import GUARDS
from asabench.core.records import FACTS, Facts, Response, Verdict, facts_behind, label_of
from asabench.core.row import JudgeInfo
from asabench.judging import coherence
from asabench.judging.coherence import coherence_verdict, tables_digest
from harness.judges.guards import TABLE, Guard, Question, guard_id, model_of, question_of, read_score
from harness.judges.published import published_prompt
from harness.judges.verdict_cache import Ask, Counts, Opinion, Pair, VerdictCache, judged_once


@dataclass(frozen=True, kw_only=True)
class NamedGuard:
    """A guard of the table with its model and the words that it is asked with. Raises `UserError` where those are not
    to be had."""

    name: str
    model: str
    prompt: str | None

    @classmethod
    def of(cls, name: str, which: str = "") -> NamedGuard:
        """which: a size, another model, or "" for the default."""
        model = model_of(name, which)
        return cls(name=name, model=model, prompt=published_prompt(name, model))

    @property
    def guard(self) -> Guard:
        return TABLE[self.name]

    @property
    def scores(self) -> bool:
        """Whether the first token's probabilities are the reply."""
        return self.guard.read is None

    def question(self, pair: Pair) -> Question:
        return question_of(self.guard, self.prompt, *pair)

    def info(self, engine: str, model: str, running: str, **facts: str | None) -> JudgeInfo:
        """engine: its short name. model: as the engine knows it. running: model and engine in words."""
        says = " and ".join({"refused": "refusal", "harmful": "harm"}[fact] for fact in self.guard.facts)
        return JudgeInfo(
            id=guard_id(self.name, model, engine, self.prompt, gate=tables_digest(coherence), **facts),
            kind="llm",
            facts=tuple(fact for fact in FACTS if fact == "coherent" or fact in self.guard.facts),
            description=f"{GUARDS[self.name].about}: {running}, asked in its own format, temperature 0; says {says}; "
            "rules that find broken text come first.",
        )

    def opinion(
        self, pair: Pair, reply: str | None, *, cut: bool = False, first_tokens: Sequence[tuple[str, float]] = ()
    ) -> Opinion:
        """What the model said of a pair. cut: it ended at the limit of tokens."""
        if self.guard.read is None:
            facts, score, share = read_score(first_tokens)
            if facts is None:
                return Opinion(label=None, reason="none of the tokens 1 to 5 is likely", reply=reply)
            return self._opinion(pair, facts, f"score {score:.2f}, tokens' share {share:.3g}", reply, p_unsafe=score)
        facts = self.guard.read(reply or "")
        if facts is None:
            return Opinion(label=None, reason=unread_reason(reply, cut=cut), reply=reply)
        return self._opinion(pair, facts, None, reply)

    @staticmethod
    def _opinion(
        pair: Pair, facts: Facts, reason: str | None, reply: str | None, p_unsafe: float | None = None
    ) -> Opinion:
        # The gate let it through: it reads as English, or it is in a language that the gate does not read
        facts = facts._replace(coherent=True if coherence_verdict(pair[1]) is None else None)
        return Opinion(label=label_of(facts), reason=reason, p_unsafe=p_unsafe, reply=reply, facts=facts)


def unread_reason(reply: str | None, *, cut: bool) -> str:
    """Why a reply is no verdict, in a few words that repeat nothing of it."""
    if not reply or not reply.strip():
        return "empty reply"
    return "cut at the token limit" if cut else "reply is no verdict"


def judged_behind_gate(
    responses: Sequence[Response], judge: str, cache: VerdictCache | None, ask: Ask, where: str = ""
) -> tuple[list[Verdict], Counts]:
    """`judged_once`, for answers that can be read; broken ones are incoherent and never asked about."""
    reasons: dict[str, str] = {}
    for text in {response.text for response in responses}:
        found = coherence_verdict(text)
        if found is not None and found[0] == "incoherent":
            reasons[text] = found[1]
    asked, counts = judged_once([r for r in responses if r.text not in reasons], judge, cache, ask, where)
    said, broken = iter(asked), facts_behind("incoherent", FACTS)
    verdicts = [
        Verdict(cell_id=response.cell.id, judge=judge, reason=reasons[response.text], **broken._asdict())
        if response.text in reasons
        else next(said)
        for response in responses
    ]
    return verdicts, replace(counts, given=len(responses))
