"""How often 95% intervals hold the truth before and after decision 0011, on simulated verdicts.

Makes the tables of docs/results/coverage.md.

    python -m tools.docs.coverage

The truth is known, as the verdicts are drawn; seeds are fixed. Under a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd

from asabench.card.layers import layer_shares
from asabench.core.estimate import Rate
from asabench.stats.dose_response import surely_between
from asabench.stats.facts import fact_shares
from asabench.stats.intervals import Array, Interval, Share, mean_interval, peak_interval, rate_within, wilson
from asabench.stats.metrics import Outcomes, asr_at_k, masr_rate, pasr_held_out, pasr_rate
from asabench.stats.noise_floor import masr_floor, pasr_floor
from tools.docs.withdrawn_intervals import (
    asr_at_k_over_cells,
    corrected_rate,
    eps50_interval,
    percentile_interval,
)

REPETITIONS = 400
GRID = (0.1, 0.3, 1.0)
Thresholds = Callable[[np.random.Generator, int], Array]


def log_logistic(median: float, shape: float) -> Thresholds:
    """The dose at which a prompt breaks; the larger the shape, the steeper the response."""

    def draw(random: np.random.Generator, number: int) -> Array:
        share = random.random(number)
        return np.asarray(median * (share / (1 - share)) ** (1 / shape))

    return draw


def mixture(first: Thresholds, second: Thresholds, share: float) -> Thresholds:
    """Prompts of two kinds; `share` of them are of the first."""

    def draw(random: np.random.Generator, number: int) -> Array:
        return np.where(random.random(number) < share, first(random, number), second(random, number))

    return draw


def uniform(last: float) -> Thresholds:
    return lambda random, number: random.uniform(0, last, number)


def median_of(thresholds: Thresholds) -> float:
    return float(np.median(thresholds(np.random.default_rng(0), 1_000_000)))


EPS50_CASES: dict[str, tuple[Thresholds, tuple[float, ...]]] = {
    "uniform on 0 to 2 (linear, as was assumed)": (uniform(2.0), (0.4, 0.8, 1.3, 1.8)),
    "log-logistic, median 0.15, shape 8": (log_logistic(0.15, 8), GRID),
    "log-logistic, median 0.35, shape 8": (log_logistic(0.35, 8), GRID),
    "log-logistic, median 0.5, shape 4": (log_logistic(0.5, 4), GRID),
    "log-logistic, median 0.3 (a measured dose), shape 2": (log_logistic(0.3, 2), GRID),
    "45% near 0.05, the others near 0.4": (mixture(log_logistic(0.05, 8), log_logistic(0.4, 12), 0.45), GRID),
    "55% near 0.12, the others near 3": (mixture(log_logistic(0.12, 12), log_logistic(3, 8), 0.55), GRID),
}


def eps50_intervals(
    thresholds: Thresholds, grid: tuple[float, ...], prompts: int, repetitions: int
) -> Iterator[tuple[Interval, Interval]]:
    """(before, after) of one simulated sweep after another; dose 0 breaks nothing."""
    random, doses = np.random.default_rng(50), np.array([0.0, *grid])
    for _ in range(repetitions):
        broken = (thresholds(random, prompts)[:, None] < doses).astype(float)
        bands = np.array([mean_interval(column[:, None]) for column in broken.T])
        after = surely_between(doses, broken.mean(axis=0), bands[:, 0], bands[:, 1])
        yield eps50_interval(doses, broken), after


def held(intervals: Iterable[Interval], truth: float) -> float:
    """The share of intervals that hold the truth."""
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def eps50_lines(repetitions: int = REPETITIONS) -> Iterator[str]:
    for name, (thresholds, grid) in EPS50_CASES.items():
        truth = median_of(thresholds)
        cells = []
        for prompts in (40, 100):
            before, after = zip(*eps50_intervals(thresholds, grid, prompts, repetitions), strict=True)
            cells += [f"{held(before, truth):.0%}", f"{held(after, truth):.0%}"]
        yield f"| {name} | {', '.join(f'{dose:g}' for dose in grid)} | {truth:.2f} | {' | '.join(cells)} |"


def checked(share: float, number: int) -> Rate:
    return Share(share, number).rate


def corrected_intervals(
    truth: float, of_check: float, of_run: float, repetitions: int, sensitivity: float = 0.9
) -> Iterator[Interval]:
    """Corrected rates over 100 prompts, by a judge checked on 52 unsafe and 121 other pairs; specificity as given."""
    random = np.random.default_rng(7)
    for _ in range(repetitions):
        unsafe = random.random(100) < truth
        called = np.where(unsafe, random.random(100) < sensitivity, random.random(100) >= of_run).astype(float)
        low, high = percentile_interval(called[:, None])
        rate = rate_within(float(called.mean()), [(low, high)])
        found = corrected_rate(
            rate, checked(random.binomial(52, sensitivity) / 52, 52), checked(random.binomial(121, of_check) / 121, 121)
        )
        assert found.low is not None
        assert found.high is not None
        yield found.low, found.high


def corrected_lines(repetitions: int = REPETITIONS) -> Iterator[str]:
    for truth in (0.05, 0.2):
        for of_run in (0.86, 0.98, 0.70):
            share = held(corrected_intervals(truth, 0.86, of_run, repetitions), truth)
            yield f"| {truth:g} | 0.86 | {of_run:g} | {share:.0%} | none given |"


def corrected_ends(number: int) -> Interval:
    """The corrected interval of so many of 100 unsafe, under a judge with sensitivity 0.81 and specificity 0.86."""
    share = number / 100
    low, high = percentile_interval(np.repeat([1.0, 0.0], [number, 100 - number])[:, None])
    found = corrected_rate(rate_within(share, [(low, high)]), checked(0.81, 52), checked(0.86, 121))
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


WORST_CASES: dict[str, Array] = {
    "15 alike": np.zeros(15),
    "one well above 14": np.array([1.5, *np.zeros(14)]),
    "3 alike, 12 far below": np.array([0.0] * 3 + [-2.0] * 12),
}


def worst_samples(logits: Array, prompts: int, repetitions: int) -> Iterator[Array]:
    """Which prompts break under each attack and dose: (prompt, 1, column); prompts are weak or strong against all."""
    random = np.random.default_rng(15)
    for _ in range(repetitions):
        shares = 1 / (1 + np.exp(-(logits + random.standard_normal((prompts, 1)))))
        yield (random.random(shares.shape) < shares).astype(float)[:, None, :]


def worst_truth(logits: Array) -> float:
    strengths, weights = np.polynomial.hermite_e.hermegauss(60)
    shares = 1 / (1 + np.exp(-(logits + strengths[:, None])))
    return float((weights / weights.sum() @ shares).max())


def worst_lines(repetitions: int = REPETITIONS) -> Iterator[str]:
    for name, logits in WORST_CASES.items():
        truth, cells = worst_truth(logits), []
        for prompts in (40, 100):
            before, after = [], []
            for values in worst_samples(logits, prompts, repetitions):
                chosen = int(values.mean(axis=(0, 1)).argmax())
                before.append(percentile_interval(values[:, :, chosen]))
                after.append(peak_interval(values))
            cells += [f"{held(before, truth):.0%}", f"{held(after, truth):.0%}"]
        yield f"| {name} | {truth:.2f} | {' | '.join(cells)} |"


def mean_lines(repetitions: int = 5 * REPETITIONS) -> Iterator[str]:
    for truth in (0.01, 0.03, 0.1, 0.5):
        random, before, after = np.random.default_rng(1), [], []
        for _ in range(repetitions):
            values = (random.random((100, 1)) < truth).astype(float)
            before.append(percentile_interval(values))
            after.append(mean_interval(values))
        yield f"| {truth:g} | {held(before, truth):.0%} | {held(after, truth):.0%} |"


def cells(logits: Array, prompts: int, seeds: int, random: np.random.Generator) -> Array:
    """Verdicts (prompt, seed, layer) of prompts of unequal strength: layers of one prompt go together."""
    shares = 1 / (1 + np.exp(-(logits + random.standard_normal((prompts, 1, 1)))))
    return (random.random((prompts, seeds, len(logits))) < shares).astype(float)


def asr_line(k: int = 5, prompts: int = 2000) -> str:
    """Six layers that break unequally; with each number of seeds, over the same prompts' strengths."""
    logits = np.array([-4.0, -4.0, -3.0, -2.0, -1.0, 0.0])
    before, after = [], []
    for seeds in (1, 3, 5, 20):
        unsafe = cells(logits, prompts, seeds, np.random.default_rng(3))
        before.append(f"{asr_at_k_over_cells(unsafe, k):.2f}")
        after.append(f"{asr_at_k(Outcomes(unsafe, tuple(range(6))), k).value:.2f}")
    return f"| before | {' | '.join(before)} |\n| after | {' | '.join(after)} |"


PROFILES = {
    "flat, 30 layers": np.full(30, -1.0),
    "a wide peak": -1.5 + 1.7 * np.exp(-((np.arange(30) - 7) ** 2) / 8),
    "one layer": np.array([1.0, *np.full(29, -2.0)]),
}


def pasr_lines(repetitions: int = REPETITIONS // 2) -> Iterator[str]:
    for name, logits in PROFILES.items():
        truth = worst_truth(logits)
        found = []
        for prompts in (25, 100):
            random, plain, other = np.random.default_rng(4), [], []
            for _ in range(repetitions):
                data = Outcomes(cells(logits, prompts, 1, random), tuple(range(len(logits))))
                rate = pasr_rate(data)[0]
                plain.append(rate.value)
                other.append(pasr_held_out(data, rate).value)
            found += [f"{np.mean(plain) - truth:+.3f}", f"{np.mean(other) - truth:+.3f}"]
        yield f"| {name} | {truth:.2f} | {' | '.join(found)} |"


def floor_lines(repetitions: int = REPETITIONS) -> Iterator[str]:
    """Nothing is broken; the judge errs on each of 30 answers to 100 prompts independently."""
    for share in (0.01, 0.05, 0.14):
        random = np.random.default_rng(6)
        alarms = random.random((repetitions, 100, 30)) < share
        masr, pasr = alarms.any(axis=2).mean(), alarms.mean(axis=1).max(axis=1).mean()
        yield (
            f"| {1 - share:.2f} | {masr:.2f} | {masr_floor(share, 30):.2f} | {pasr:.2f} | "
            f"{pasr_floor(share, 30, 100):.2f} |"
        )


def shared_lines(repetitions: int = REPETITIONS) -> Iterator[str]:
    """A vector serves all prompts, and some vectors break far more of them than others."""
    truth = worst_truth_of_vectors()
    for seeds in (1, 3, 5, 10):
        random, before, after = np.random.default_rng(8), [], []
        for _ in range(repetitions):
            vector, prompt = random.standard_normal((1, seeds)), random.standard_normal((100, 1))
            values = (random.random((100, seeds)) < 1 / (1 + np.exp(-(vector + prompt - 1)))).astype(float)
            before.append(percentile_interval(values))
            rate = masr_rate(Outcomes(values[:, :, None], (0,), shared=True))
            assert rate.low is not None
            assert rate.high is not None
            after.append((rate.low, rate.high))
        note = " (flagged `one-noise-vector`)" if seeds == 1 else ""
        yield f"| {seeds} | {held(before, truth):.0%} | {held(after, truth):.0%}{note} |"


def worst_truth_of_vectors() -> float:
    """The mean of 1 / (1 + exp(1 - v - p)) over two standard normal numbers, whose sum has variance 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(weights / weights.sum() @ (1 / (1 + np.exp(1 - np.sqrt(2) * nodes))))


def shared_tables(seeds: int, repetitions: int, prompts: int = 60) -> Iterator[pd.DataFrame]:
    """Verdicts at three blocks under vectors that all prompts share, in which an answer is unsafe where it does not
    refuse; the truth is `worst_truth_of_vectors` for each block."""
    random = np.random.default_rng(9)
    place = pd.MultiIndex.from_product([range(prompts), range(seeds), range(3)], names=["prompt", "seed", "layer"])
    cells = place.to_frame(index=False)
    for _ in range(repetitions):
        strength = random.standard_normal((1, seeds, 1)) + random.standard_normal((prompts, 1, 1)) - 1
        unsafe = (random.random((prompts, seeds, 3)) < 1 / (1 + np.exp(-strength))).ravel()
        yield pd.DataFrame(
            {
                "prompt_id": cells["prompt"].map("p{:03d}".format),
                "layer": cells["layer"].astype("Int32"),
                "attack": "random",
                "dose": 1.0,
                "seed": cells["seed"].astype("Int64"),
                "label": np.where(unsafe, "unsafe", "safe"),
                "refused": pd.array(~unsafe, dtype="boolean"),
            }
        )


def share_intervals(
    share: Callable[[pd.DataFrame, bool], Rate], seeds: int, repetitions: int
) -> Iterator[tuple[Interval, Interval]]:
    """(before, after) of a share that is made of such a table, without and with regard to shared vectors."""
    for table in shared_tables(seeds, repetitions):
        before, after = (share(table, shared) for shared in (False, True))
        assert before.low is not None
        assert before.high is not None
        assert after.low is not None
        assert after.high is not None
        yield (before.low, before.high), (after.low, after.high)


def share_refused(table: pd.DataFrame, shared: bool) -> Rate:
    return fact_shares(table, "random", 1.0, shared=shared)["refused"]


def mean_over_blocks(table: pd.DataFrame, shared: bool) -> Rate:
    """A card's mean LASR at the blocks that training perturbed."""
    (found,) = layer_shares(table, None, [("random", 1.0)], (0, 1), shared=shared)
    return found.trained


def share_lines(repetitions: int = REPETITIONS) -> Iterator[str]:
    truth = worst_truth_of_vectors()
    for name, share, true in (
        ("refused (facts)", share_refused, 1 - truth),
        ("mean LASR of two blocks (card)", mean_over_blocks, truth),
    ):
        cells = []
        for seeds in (3, 5):
            before, after = zip(*share_intervals(share, seeds, repetitions), strict=True)
            cells += [f"{held(before, true):.0%}", f"{held(after, true):.0%}"]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    both = "40 prompts, before | after | 100 prompts, before | after"

    def table(heading: str, columns: str, lines: Iterable[str]) -> None:
        print(f"\n## {heading}\n\n| {columns} |\n{'|---' * (columns.count('|') + 1)}|")
        print("\n".join(lines), flush=True)

    table("eps50", f"thresholds of the prompts | doses | eps50 | {both}", eps50_lines())
    table(
        "Corrected rates",
        "true rate | specificity, checked | on the run's answers | before | after",
        corrected_lines(),
    )
    for number in (6, 7, 8, 9):
        print(f"{number} of 100: up to {corrected_ends(number)[1]:.3f}")
    table("The worst case", f"15 attacks and doses | largest true MASR | {both}", worst_lines())
    table("Means", "true rate | before | after", mean_lines())
    for number in (0, 1, 2):
        values = np.repeat([1.0, 0.0], [number, 100 - number])[:, None]
        print(f"{number} of 100: up to {percentile_interval(values)[1]:.3f}, now {wilson(number / 100, 100)[1]:.3f}")
    table("ASR@5 by number of seeds", "| 1 | 3 | 5 | 20", [asr_line()])
    columns = "profile | true PASR | 25 prompts, PASR | held out | 100 prompts, PASR | held out"
    table("PASR less the true one", columns, pasr_lines())
    columns = "specificity | MASR of nothing | its floor | PASR of nothing | its floor"
    table("The noise floor", columns, floor_lines())
    table("Noise vectors that all prompts share", "seeds | before | after", shared_lines())
    columns = "share | 3 seeds, before | after | 5 seeds, before | after"
    table("Shares of facts, and means over blocks, under such vectors", columns, share_lines())


if __name__ == "__main__":
    main()
