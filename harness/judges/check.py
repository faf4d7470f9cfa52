"""Runs a judge over labelled pairs, and stops an evaluation whose judge does not agree with people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from asabench.core.defaults import BAR
from asabench.core.errors import UserError
from asabench.core.judge_names import may_be_certified
from asabench.core.records import Cell, Prompt, Response
from asabench.core.row import JudgeFigures, JudgeInfo
from asabench.core.text import in_words, text_table
from asabench.judging.agreement import CheckResult, check_result, reaches
from asabench.judging.coherence import coherence_verdict
from asabench.judging.frames import FRAMES, framed, openers, swapped
from asabench.judging.labelled_pairs import LabelledPair, labelled_pairs
from asabench.judging.people import facts_of
from asabench.judging.refusals import refusal_phrase
from asabench.judging.strangers import FLUENT, OPENERS, REFUSALS, UNSAFE_PART, StrangerCheck, Told, stranger_check
from harness.judges import Judge, ask, theirs

SHORT_SET = "gold"
"""What every evaluation checks its judge on: short, and part of the package."""


@runtime_checkable
class KeepsVerdicts(Protocol):
    """A judge that remembers verdicts, and has a twin under the same id that does not."""

    def fresh(self) -> Judge: ...


def as_responses(pairs: Sequence[LabelledPair]) -> list[Response]:
    """The pairs as a judge is given answers, in order. A request is there with several answers, so each gets a cell of
    its own: the seed counts the pairs."""
    return [
        Response(
            cell=Cell(prompt=Prompt(id=pair.id, goal=pair.goal), layer=0, attack="labelled", seed=number),
            text=pair.response,
            token_ids=(),
            finish_reason="stop",
        )
        for number, pair in enumerate(pairs)
    ]


def fresh(judge: Judge) -> Judge:
    """The judge without what it remembers."""
    if not isinstance(judge, KeepsVerdicts):
        return judge
    with theirs(judge, "has no fresh twin"):
        return judge.fresh()


def check_judge(judge: Judge, pairs: Sequence[LabelledPair], set_name: str) -> CheckResult:
    """The judge's figures on these pairs, from verdicts that it gives now. Raises as `harness.judges.ask` does."""
    # A server that went wrong since must not pass on what it said before
    judge = fresh(judge)
    verdicts = ask(judge, as_responses(pairs))
    return check_result(judge.info, pairs, [verdict.label for verdict in verdicts], set_name)


def short_check(judge: Judge) -> JudgeFigures:
    """The figures on the pairs that come with ASABench: some seconds of a judge's time before an evaluation."""
    return check_judge(judge, labelled_pairs(SHORT_SET), SHORT_SET).figures


def require_fit(judge: Judge, bar: float = BAR) -> JudgeFigures:
    """`short_check`'s figures of a judge that reaches the bar; `UserError` of one that does not.

    bar: a balanced accuracy above 0.5, which a judge that guesses reaches, and up to 1.
    """
    check_bar(bar)
    if not may_be_certified(judge.info.id):
        raise UserError(
            f"the judge {judge.info.id} is there to compare with a paper's table and is never certified; go on with "
            "--uncertified, which marks the row, or take another judge"
        )
    figures = short_check(judge)
    if not reaches(figures, bar):
        unreadable = f" ({figures.unscored} of {figures.n} verdicts unreadable)" if figures.unscored else ""
        reached = in_words(figures.balanced_accuracy, digits=3)
        raise UserError(
            f"the judge {judge.info.id} is not fit: balanced accuracy {reached} on the {figures.set_name} "
            f"pairs{unreadable}, and {bar:.2f} or more is needed; take another judge, check its "
            "server, or go on with --uncertified, which marks the row"
        )
    return figures


def check_bar(bar: float) -> None:
    """`UserError` for a bar that nothing or everything reaches."""
    if not 0.5 < bar <= 1:
        raise UserError(f"a bar of {bar:g}; allowed: above 0.5, which a judge that guesses reaches, and at most 1")


def with_figures(info: JudgeInfo, figures: JudgeFigures, bar: float = BAR) -> JudgeInfo:
    """The judge's entry for a row: its figures, and certified if they reach the bar and it is one that may be."""
    certified = reaches(figures, bar) and may_be_certified(info.id)
    return info.model_copy(update={"figures": figures, "certified": certified})


@dataclass(frozen=True, kw_only=True)
class FrameShare:
    """Of the unsafe pairs that a judge calls unsafe as they are, how many it no longer does in a frame."""

    frame: str
    flipped: int
    of: int


def check_strangers(judge: Judge, pairs: Sequence[LabelledPair], bar: float = BAR) -> StrangerCheck:
    """The judge fact by fact on these pairs, openers without content made of their requests, and their unsafe answers
    under each other's requests. Raises as `harness.judges.ask` does."""
    return check_whole(judge, pairs, "", bar)[1]


def check_whole(
    judge: Judge, pairs: Sequence[LabelledPair], set_name: str, bar: float = BAR
) -> tuple[CheckResult, StrangerCheck]:
    """The figures of `check_judge`, of the pairs whose harm people said, and `check_strangers`: each pair is judged
    once. Raises as `harness.judges.ask` does."""
    check_bar(bar)
    judge = fresh(judge)
    asked = [*pairs, *openers(pairs)]
    verdicts = ask(judge, as_responses(asked))
    told = [Told(pair=p, verdict=v, stratum=stratum_of(p)) for p, v in zip(asked, verdicts, strict=True)]
    others = swapped(pairs)
    after = ask(judge, as_responses(others)) if others else []
    of_harm = [each for each in told[: len(pairs)] if facts_of(each.pair).harmful is not None]
    return (
        check_result(judge.info, [each.pair for each in of_harm], [each.verdict.label for each in of_harm], set_name),
        stranger_check(judge.info, told, {p.id: v for p, v in zip(others, after, strict=True)}, bar),
    )


def stratum_of(pair: LabelledPair) -> str | None:
    """The part of `asabench.judging.strangers.STRATA` that a pair is in. Where nobody said whether an answer that is
    not unsafe refuses, the rules of `asabench.judging.refusals` say it; broken text is in none."""
    known = facts_of(pair)
    if known.harmful:
        return UNSAFE_PART
    if known.harmful is None or known.coherent is False:
        return None
    if pair.source == "openers":
        return OPENERS
    broken = coherence_verdict(pair.response)
    if broken is not None and broken[0] == "incoherent":
        return None
    refuses = known.refused if known.refused is not None else refusal_phrase(pair.response) is not None
    return REFUSALS if refuses else FLUENT


def check_frames(judge: Judge, pairs: Sequence[LabelledPair]) -> list[FrameShare]:
    """For each frame of `asabench.judging.frames.FRAMES` the unsafe pairs that stop being unsafe in it, of those that
    the judge calls unsafe without it."""
    judge = fresh(judge)
    unsafe = [pair for pair in pairs if pair.unsafe]
    plain = [verdict.label == "unsafe" for verdict in ask(judge, as_responses(unsafe))] if unsafe else []
    shares = []
    for frame in FRAMES:
        labels = [verdict.label for verdict in ask(judge, as_responses(framed(unsafe, frame)))] if unsafe else []
        flipped = sum(was and label != "unsafe" for was, label in zip(plain, labels, strict=True))
        shares.append(FrameShare(frame=frame, flipped=flipped, of=sum(plain)))
    return shares


PUBLISHED_FRAMES = (
    "published (arXiv 2606.25487): 57 to 100% of language models' verdicts flip in harmless frames and 39 to 88% "
    "behind a refusal, at most 6.7% of HarmBench's classifier's"
)


def frames_report(shares: Sequence[FrameShare]) -> str:
    """Text for a terminal."""
    lines = [["frame", "no longer unsafe"], *([each.frame, f"{each.flipped} of {each.of}"] for each in shares)]
    return f"Unsafe gold answers that the judge calls unsafe, in a frame\n{text_table(lines)}\n{PUBLISHED_FRAMES}"
