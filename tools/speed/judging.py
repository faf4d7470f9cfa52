"""Verdicts a second of a judge behind a server: many requests in flight against one at a time, on the same server.

    python -m tools.speed.judging --model MODEL --url http://127.0.0.1:8000/v1
    python -m tools.speed.judging --model MODEL --pairs 2000 --one-at-a-time 60 --in-flight 64,256

The pairs are made up and mild: some requests, each with many answers, as a sweep gives them, some of them the same. No
pair is judged twice, so that no verdict and no answer's prefix comes from an earlier arm; the fixed text is in the
server's prefix cache in all arms. Arms take turns, and each arm's median is reported. Where the server has vLLM's
`/metrics`, the share of prompt tokens that came from its prefix cache is given too.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from asabench.core.protocol import LabelSet
from asabench.core.records import Cell, Prompt, Response
from harness.judges.server import DEFAULT_MODEL, DEFAULT_URL
from harness.judges.vllm import VllmJudge

GOALS = (
    "Write a poem about the sea",
    "Explain how bread rises",
    "Give me a plan for a small garden",
    "Tell a story about a lost umbrella",
    "Say how to learn to juggle",
    "Describe the way from the station to the museum",
    "List games for a rainy afternoon",
    "Explain why the sky is blue",
)
OPENINGS = ("Sure, here is", "I'm sorry, but I can't help with", "Well, let me think about", "The the the the", "Once,")
WORDS = ("water", "light", "morning", "the", "and", "of", "a", "wind", "slowly", "garden", "bread", "two", "bright")
ANSWER_WORDS = (20, 40)
SAME_SHARE = 0.2
"""Share of the answers of a call that repeat another one, as refusals do in a sweep."""

_PREFIX_COUNTER = re.compile(r"^vllm:prefix_cache_(queries|hits)_total(?:{[^}]*})?\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One call of the judge."""

    verdicts: int
    asked: int
    unscored: int
    seconds: float

    @property
    def asked_per_second(self) -> float:
        return self.asked / self.seconds


def answers(seed: int) -> Iterator[Response]:
    """Made-up responses without end, each in a cell of its own; `SAME_SHARE` of them say what another one said."""
    draw = random.Random(seed)
    recent: list[tuple[str, str]] = []
    number = 0
    while True:
        if recent and draw.random() < SAME_SHARE:
            goal, text = draw.choice(recent)
        else:
            goal = draw.choice(GOALS)
            words = draw.choices(WORDS, k=draw.randint(*ANSWER_WORDS))
            text = f"{draw.choice(OPENINGS)} {' '.join(words)}."
            recent = [*recent[-7:], (goal, text)]
        cell = Cell(prompt=Prompt(id=goal, goal=goal), layer=number, attack="made up")
        number += 1
        yield Response(cell=cell, text=text, token_ids=(), finish_reason="stop")


def timed(judge: VllmJudge, responses: Sequence[Response]) -> Timing:
    """How long one call takes."""
    started = time.perf_counter()
    verdicts = judge(responses)
    seconds = time.perf_counter() - started
    return Timing(
        verdicts=len(verdicts),
        asked=judge.counts.asked,
        unscored=sum(verdict.label is None for verdict in verdicts),
        seconds=seconds,
    )


def prefix_counters(url: str) -> tuple[float, float] | None:
    """Prompt tokens that vLLM looked up in its prefix cache, and found there; None where a server does not say."""
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as answer:
            return parse_prefix_counters(answer.read().decode())
    except (urllib.error.URLError, TimeoutError, ValueError):
        return None


def parse_prefix_counters(metrics: str) -> tuple[float, float] | None:
    """The same, from the text of `/metrics`; engines in parallel are added up."""
    totals: dict[str, float] = {}
    for name, value in _PREFIX_COUNTER.findall(metrics):
        totals[name] = totals.get(name, 0.0) + float(value)
    return (totals["queries"], totals["hits"]) if len(totals) == 2 else None


def hit_share(before: tuple[float, float] | None, after: tuple[float, float] | None) -> str:
    """The share of tokens found between two readings, in words."""
    if before is None or after is None or after[0] == before[0]:
        return "not known"
    return f"{(after[1] - before[1]) / (after[0] - before[0]):.1%}"


def run(model: str, url: str, labels: LabelSet, pairs: int, alone: int, widths: Sequence[int], repeats: int) -> None:
    """Times all arms and prints a Markdown table."""
    stream = answers(random.SystemRandom().randrange(2**32))
    # The arms differ in what is in flight only: probabilities would double the requests of both
    arms = {width: VllmJudge(model, url, labels, in_flight=width, probabilities=False) for width in (1, *widths)}
    timings: dict[int, list[Timing]] = {width: [] for width in arms}
    hits: dict[int, list[str]] = {width: [] for width in arms}
    print(f"{arms[1].info.description}\n", flush=True)
    timed(arms[max(widths)], [next(stream) for _ in range(2 * max(widths))])  # the first call warms the server up
    for _ in range(repeats):
        for width, judge in arms.items():
            responses = [next(stream) for _ in range(alone if width == 1 else pairs)]
            before = prefix_counters(judge.url)
            timings[width].append(timed(judge, responses))
            hits[width].append(hit_share(before, prefix_counters(judge.url)))
    single = statistics.median(timing.asked_per_second for timing in timings[1])
    print("| in flight | pairs asked a second | ratio | verdicts a second, with duplicates | prefix hits | unscored |")
    print("|---|---|---|---|---|---|")
    for width, runs in timings.items():
        rate = statistics.median(timing.asked_per_second for timing in runs)
        given = statistics.median(timing.verdicts / timing.seconds for timing in runs)
        unscored = sum(timing.unscored for timing in runs)
        total = sum(timing.verdicts for timing in runs)
        shares = ", ".join(hits[width])
        print(f"| {width} | {rate:.2f} | {rate / single:.1f} | {given:.2f} | {shares} | {unscored} of {total} |")
    asked, total = (sum(getattr(t, name) for runs in timings.values() for t in runs) for name in ("asked", "verdicts"))
    print(f"\nDuplicates saved {total - asked} of {total} requests ({1 - asked / total:.1%}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--labels", choices=get_args(LabelSet), default="three")
    parser.add_argument("--pairs", type=int, default=400, help="answers a call with many in flight")
    parser.add_argument("--one-at-a-time", type=int, default=40, help="answers a call with one in flight")
    parser.add_argument("--in-flight", default="64", help="one or several numbers, such as 16,64,256")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    widths = [int(width) for width in options.in_flight.split(",")]
    run(
        options.model,
        options.url,
        options.labels,
        options.pairs,
        options.one_at_a_time,
        widths,
        options.repeats,
    )


if __name__ == "__main__":
    main()
