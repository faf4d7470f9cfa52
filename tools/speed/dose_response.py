"""What a full dose-response costs beyond its generated tokens, and what batching does for the loss landscape.

    python -m tools.speed.dose_response                        size `full` of asabench-v1, all attacks, one prompt
    python -m tools.speed.dose_response --target "..."         longer targets cost pgd more

The sweep is run once; the time that attacks take to propose directions is measured inside it. Printed: each attack's
share, and the ratio of the whole to what generation alone took (1.3 is the limit that the project sets itself). Then
the landscape of one prompt at four layers: points a second in batches, one call a point, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

import harness.probes.measures
from asabench.core.defaults import TARGET
from asabench.core.numbers import evenly_spaced
from asabench.core.protocol import SIZES
from asabench.core.records import Cell
from asabench.runs.choices import Choices
from harness.attacks import Attack
from harness.engine.sweep import sweep
from harness.evaluation.plan import Plan, make_plan
from harness.model.subject import Subject
from harness.probes.measures import landscape

ATTACKS = ("random", "gradient:direction=ascend", "gradient:direction=descend", "mean_difference", "pgd")


class Timed:
    """An attack, and the seconds that it took to propose."""

    def __init__(self, attack: Attack) -> None:
        self.attack, self.name, self.uses_seed, self.seconds = attack, attack.name, attack.uses_seed, 0.0

    def directions(self, subject: Subject, cells: Sequence[Cell]) -> Tensor:
        started = time.perf_counter()
        found = self.attack.directions(subject, cells)
        self.seconds += time.perf_counter() - started
        return found


def dose_response(plan: Plan) -> None:
    timed = {name: Timed(attack) for name, attack in plan.attacks.items()}
    started = time.perf_counter()
    tokens = sum(len(r.token_ids) for batch in sweep(plan.subject, plan.cells, plan.protocol, timed) for r in batch)
    whole = time.perf_counter() - started
    generating = whole - sum(attack.seconds for attack in timed.values())
    counts = Counter(cell.attack for cell in plan.cells)
    print(f"{len(plan.cells)} cells, {tokens} tokens generated in {generating:.1f} s")
    for name, attack in timed.items():
        print(f"  {name:20}{counts[name]:>6} cells  {attack.seconds:7.1f} s to propose")
    print(f"whole / generation: {whole / generating:.2f}")


def landscape_in_batches(plan: Plan, side: int, alone: int) -> None:
    layers = evenly_spaced(plan.layers, 4)
    attacks = list(plan.attacks.values())

    def seconds(values: Sequence[float]) -> float:
        started = time.perf_counter()
        landscape(plan.subject, plan.prompts.prompts, layers, plan.protocol, attacks[1], attacks[0], values, values)
        return time.perf_counter() - started

    seconds([0.0])  # the clean answer and the gradients, which both ways share
    batched = seconds(np.linspace(-1, 1, side).tolist()) / (side**2 * len(layers))
    harness.probes.measures._rows_that_fit = lambda *_: 1
    one_by_one = seconds(np.linspace(-1, 1, alone).tolist()) / (alone**2 * len(layers))
    print(
        f"landscape {side} x {side} at {len(layers)} layers: {1 / batched:.1f} points/s in batches, "
        f"{1 / one_by_one:.1f} one a call: {one_by_one / batched:.1f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=1, help="prompts of the dose-response")
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--side", type=int, default=20, help="points along each axis of the landscape")
    given = parser.parse_args()
    size = SIZES["asabench-v1"]["full"]
    choices = Choices.of(limit=given.limit, attack=ATTACKS, doses=size.doses, seeds=size.seeds, target=given.target)
    plan = make_plan(given.model, choices)
    dose_response(plan)
    landscape_in_batches(plan, given.side, alone=4)


if __name__ == "__main__":
    main()
