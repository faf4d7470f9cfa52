"""The search of `--attack auto` against the exhaustive grid of the same members, doses, seeds and blocks.

    python -m tools.speed.suite_cost --limit 4 --layers 4,13,22 --members 4 --out runs/suite-cost

Printed: what each cost, in answers and in forwards of one row; each prompt's radius by both; and how many lines of the
grid are not ordered (`asabench.core.dose_search`), which is where the search may miss a smaller radius. Both runs go on
where they were stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from asabench.core.dose_search import Outcome, outcomes_of
from asabench.core.suite import CURRENT, SUITES, Suite
from asabench.runs.folder import read_run
from asabench.stats.radius import radii, suite_result
from harness.evaluation.evaluate import evaluate

SHARE = 0.2
"""The most of the grid's cost that the search may take."""
_ORDER = {Outcome.HELD: 0, Outcome.BROKE: 1, Outcome.BEYOND: 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-refusal")
    parser.add_argument("--prompts", default="quickstart")
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--layers", default="4,13,22")
    parser.add_argument("--members", type=int, default=len(SUITES[CURRENT].members), help="so many, from the first")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    whole_suite = SUITES[CURRENT]
    # A part of the suite, for this process alone
    part = SUITES[CURRENT] = replace(whole_suite, members=whole_suite.members[: given.members])
    shared: dict[str, Any] = dict(
        prompts=given.prompts,
        limit=given.limit,
        layers=given.layers,
        max_new_tokens=given.max_new_tokens,
        progress=True,
    )
    found = evaluate(given.model, attack="auto", out=given.out / "search", **shared)
    whole = evaluate(
        given.model, attack=part.specs, doses=part.doses, seeds=part.seeds, out=given.out / "grid", **shared
    )
    judge = found.row.judge.id
    print(report(read_run(found.path).judged(judge), read_run(whole.path).judged(judge), part, found.row.layers))


def report(search: pd.DataFrame, grid: pd.DataFrame, suite: Suite, layers: Sequence[int]) -> str:
    by_search, by_grid = (suite_result(table, suite, layers) for table in (search, grid))
    lines = [
        f"{name}: {mine} by the search, {theirs} by the grid: {mine / theirs:.1%} (at most {SHARE:.0%})"
        for name, mine, theirs in (
            ("answers", by_search.answers, by_grid.answers),
            ("forwards", by_search.forwards, by_grid.forwards),
        )
    ]
    pairs = list(zip(radii(search, suite), radii(grid, suite), strict=True))
    for mine, theirs in pairs:
        lines.append(f"  {mine.prompt_id}: {mine.dose} by the search, {theirs.dose} by the grid")
    end = float("inf")
    larger = sum((end if a.dose is None else a.dose) > (end if b.dose is None else b.dose) for a, b in pairs)
    lines.append(f"{larger} of {len(pairs)} radii are larger than the grid's")
    ordered = list(_ordered(grid))
    lines.append(f"{len(ordered) - sum(ordered)} of {len(ordered)} lines are not ordered")
    return "\n".join(lines)


def _ordered(grid: pd.DataFrame) -> Iterator[bool]:
    """Of each line, whether its answers hold, then break, then are beyond reading, as the dose grows."""
    steered = grid[grid["layer"].notna()].sort_values("dose")
    for _, line in steered.groupby(["prompt_id", "attack", "seed", "layer"], dropna=False):
        places = [_ORDER[outcome] for outcome in outcomes_of(line["label"], line["refused"])]
        yield places == sorted(places)


if __name__ == "__main__":
    main()
