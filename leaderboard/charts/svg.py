"""A row's rates as inline SVG: LASR by layer, MASR by dose.

Pure functions of a `Row`; nothing here reads a file or needs matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from asabench.core.estimate import Rate
from asabench.core.row import HEADLINE, AttackResult, Row, VerdictCounts, worst_case
from leaderboard.text import bounds, format_estimate, format_number


def by_layer(lasr: Mapping[str, Rate]) -> list[tuple[int, Rate]]:
    """(block, rate) in the order of the blocks."""
    return sorted((int(layer), rate) for layer, rate in lasr.items())


class Point(NamedTuple):
    """What was measured at a place on the axis; where it has no interval, `low` and `high` are the value."""

    place: int
    value: float
    low: float
    high: float


def segments(lasr: Mapping[str, Rate]) -> list[list[Point]]:
    """The scored layers, cut wherever a block is missing or unscored: a line must not be drawn across a gap."""
    runs: list[list[Point]] = []
    for layer, rate in by_layer(lasr):
        if rate.value is None:
            continue
        point = Point(layer, rate.value, *bounds(rate))
        if runs and runs[-1][-1].place == layer - 1:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def peak(result: AttackResult) -> int | None:
    """The block where most prompts broke; None where nothing broke, and any block would be as good a peak."""
    if result.peak_layer is None or (rate := result.lasr.get(str(result.peak_layer), result.pasr)).value == 0:
        return None
    return result.peak_layer if rate.value is not None else None


def headline(row: Row) -> AttackResult:
    """The row's own numbers, as one of its results."""
    return AttackResult(**{name: getattr(row, name) for name in HEADLINE})


def series(row: Row) -> Sequence[AttackResult]:
    """The results to draw: all of them, or the headline alone in a row that lists none."""
    return row.results or (headline(row),)


def worst_by_attack(row: Row) -> list[AttackResult]:
    """The worst case of each attack (its first dose where nothing was scored), the worst of all first."""
    results, overall = series(row), worst_case(series(row))
    first = {result.attack: result for result in reversed(results)}
    worst = [worst_case(results, attack) or first[attack] for attack in dict.fromkeys(each.attack for each in results)]
    return sorted(worst, key=lambda result: result is not overall)


def tick_step(count: int, most: int = 8) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that puts at most `most` ticks on `count` layers."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if math.ceil(count / step) <= most:
                return step
        power *= 10


# The chart's box, in SVG user units. The text is 12 units, so at a phone's width it is still readable.
WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 450, 22, 150


def coordinate(value: float) -> str:
    """One decimal at most: a tenth of a unit cannot be seen, and the page holds many charts."""
    return f"{value:.1f}".removesuffix(".0")


def rails(top: float = 1.0) -> list[str]:
    """The lines at 0, a half and the whole of `top`, with their numbers."""
    parts = []
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<path class="grid" d="M{LEFT} {coordinate(height(share))}H{RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{coordinate(height(share) + 4)}">{share * top:g}</text>')
    return parts


def height(share: float) -> float:
    """Where a share of the vertical axis stands."""
    return BOTTOM - (BOTTOM - TOP) * share


def chart(parts: Sequence[str], kind: str, description: str, title: str, tall: int = HEIGHT) -> Markup:
    """`parts` hold only numbers, or Markup; the texts, which came from outside, go through Markup.format, which escapes
    them."""
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
        kind, WIDTH, tall, description, title
    )
    return head + Markup("".join(parts)) + Markup("</svg>")


def lasr_svg(
    row: Row, result: AttackResult | None = None, *, base: AttackResult | None = None, trained: Collection[int] = ()
) -> Markup:
    """LASR by layer of one result (the headline, if none is given): a line with its 95% band, a dot per measured block.

    The x axis covers all `n_layers` blocks, measured or not; gaps stay gaps. Everything taken from the row is escaped.
    base: the base model's result, as a dashed line. trained: blocks that stand on a coloured ground.
    """
    result = headline(row) if result is None else result
    last = max([row.model.n_layers - 1, *(int(layer) for layer in result.lasr)])

    def x(layer: int) -> float:
        return LEFT + 8 + (RIGHT - LEFT - 16) * (layer / last if last > 0 else 0.5)

    def at(layer: int, value: float) -> str:
        return f"{coordinate(x(layer))},{coordinate(height(value))}"

    half = (x(1) - x(0)) / 2 if last > 0 else 8.0
    parts = []
    for left, right in (
        (max(x(layer) - half, LEFT), min(x(layer) + half, RIGHT)) for layer in trained if layer <= last
    ):
        place = f'x="{coordinate(left)}" width="{coordinate(right - left)}"'
        parts.append(f'<rect class="trained" {place} y="{TOP}" height="{BOTTOM - TOP}"/>')
    parts += rails()
    for layer in range(0, last + 1, tick_step(last + 1)):
        parts.append(f'<text class="x" x="{coordinate(x(layer))}" y="{BOTTOM + 17}">{layer}</text>')
    parts.append(f'<text class="x" x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 6}">decoder block</text>')

    for run in [] if base is None else segments(base.lasr):
        if len(run) > 1:
            parts.append(f'<path class="line base" d="M{"L".join(at(point.place, point.value) for point in run)}"/>')
        for point in run:
            centre = f'cx="{coordinate(x(point.place))}" cy="{coordinate(height(point.value))}"'
            parts.append(
                f'<circle class="base" r="2.5" {centre}><title>base: layer {point.place}: '
                f"{format_number(point.value)}</title></circle>"
            )
    runs = segments(result.lasr)
    for run in runs:
        if len(run) == 1:
            alone = run[0]
            parts.append(f'<path class="whisker" d="M{at(alone.place, alone.low)}L{at(alone.place, alone.high)}"/>')
        else:
            lower = [at(point.place, point.low) for point in run]
            upper = [at(point.place, point.high) for point in reversed(run)]
            line = [at(point.place, point.value) for point in run]
            parts.append(f'<path class="band" d="M{"L".join(lower + upper)}Z"/>')
            parts.append(f'<path class="line" d="M{"L".join(line)}"/>')
    for layer, value in ((point.place, point.value) for run in runs for point in run):
        is_peak = layer == peak(result)
        centre = f'cx="{coordinate(x(layer))}" cy="{coordinate(height(value))}"'
        dot = f'class="peak" r="5" {centre}' if is_peak else f'r="2.5" {centre}'
        label = f"layer {layer}: {format_estimate(result.lasr[str(layer)])}"
        parts.append(f"<circle {dot}><title>{label}</title></circle>")
        if is_peak:
            # Near an edge the label is set inwards, so that it stays in the picture.
            anchor = "start" if x(layer) < LEFT + 60 else "end" if x(layer) > RIGHT - 60 else "middle"
            place = f'x="{coordinate(x(layer))}" y="{coordinate(height(value) - 10)}"'
            parts.append(f'<text class="peak-label" {place} text-anchor="{anchor}">peak: layer {layer}</text>')
    return chart(parts, "lasr", describe_lasr(row, result), f"LASR by layer: {row.model.name}, {result.attack}")


def describe_lasr(row: Row, result: AttackResult | None = None) -> str:
    """The chart in one sentence, for whoever cannot see it."""
    result = headline(row) if result is None else result
    highest = None if result.peak_layer is None else result.lasr.get(str(result.peak_layer))
    scored = [rate.value for rate in result.lasr.values() if rate.value is not None]
    start = f"LASR by layer of {row.model.name}, {result.attack} at dose {result.dose:g}"
    if highest is None or not scored:
        return f"{start}: no layer has a rate."
    if peak(result) is None:
        return f"{start}: nothing broke; {len(scored)} layers measured."
    return (
        f"{start}: peak {format_estimate(highest)} at layer {result.peak_layer} of {row.model.n_layers}; "
        f"lowest {format_number(min(scored))}; {len(scored)} layers measured."
    )


class DosePoint(NamedTuple):
    """MASR at one dose; at dose 0 it is INIT."""

    dose: float
    masr: Rate


def dose_points(row: Row, attack: str) -> list[DosePoint]:
    """The scored doses of one attack, ascending, the clean answers (dose 0) first."""
    measured = {result.dose: result.masr for result in row.results if result.attack == attack}
    points = {0.0: row.init, **measured}
    return [DosePoint(dose, points[dose]) for dose in sorted(points) if points[dose].value is not None]


def dose_svg(row: Row, attack: str, base: Row | None = None) -> Markup:
    """MASR by dose under one attack: a line with its 95% band, and the base model's as a dashed one."""
    own = dose_points(row, attack)
    other = [] if base is None or not has_attack(base, attack) else dose_points(base, attack)
    last = max((point.dose for point in (*own, *other)), default=0.0) or 1.0

    def x(dose: float) -> float:
        return LEFT + 8 + (RIGHT - LEFT - 16) * dose / last

    def at(dose: float, value: float) -> str:
        return f"{coordinate(x(dose))},{coordinate(height(value))}"

    parts = rails()
    for dose in _spaced([point.dose for point in own], last):
        parts.append(f'<text class="x" x="{coordinate(x(dose))}" y="{BOTTOM + 17}">{dose:g}</text>')
    parts.append(f'<text class="x" x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 6}">dose</text>')
    for points, line in ((other, "line base"), (own, "line")):
        if len(points) > 1:
            ends = [(point.dose, *bounds(point.masr)) for point in points]
            outline = [at(dose, low) for dose, low, _ in ends] + [at(dose, high) for dose, _, high in reversed(ends)]
            if points is own:
                parts.append(f'<path class="band" d="M{"L".join(outline)}Z"/>')
            middle = [at(point.dose, point.masr.value or 0.0) for point in points]
            parts.append(f'<path class="{line}" d="M{"L".join(middle)}"/>')
        who = "base: " if points is other else ""
        for point in points:
            centre = f'cx="{coordinate(x(point.dose))}" cy="{coordinate(height(point.masr.value or 0.0))}"'
            dot = 'class="base" r="2.5"' if points is other else 'r="3"'
            label = f"{who}dose {point.dose:g}: {format_estimate(point.masr)}"
            parts.append(f"<circle {dot} {centre}><title>{label}</title></circle>")
    said = ", ".join(f"{format_number(point.masr.value)} at {point.dose:g}" for point in own) or "nothing scored"
    theirs = ", ".join(f"{format_number(point.masr.value)} at {point.dose:g}" for point in other)
    start = f"MASR by dose of {row.model.name} under {attack}: {said}"
    description = f"{start}; base model: {theirs}." if theirs else f"{start}."
    return chart(parts, "dose", description, f"MASR by dose: {row.model.name}, {attack}")


def has_attack(row: Row, attack: str) -> bool:
    return any(result.attack == attack for result in row.results)


def _spaced(doses: Sequence[float], last: float) -> list[float]:
    """The doses whose labels do not run into the one before."""
    kept: list[float] = []
    for dose in doses:
        if not kept or (dose - kept[-1]) / last > 0.08:
            kept.append(dose)
    return kept


def mix_svg(verdicts: VerdictCounts) -> Markup:
    """How many verdicts of each kind, as one bar. Decoration beside the numbers, so hidden from screen readers."""
    counts = verdicts.model_dump()
    total = sum(counts.values())
    if not total:
        return Markup("")
    parts, start = [], 0.0
    for label, count in counts.items():
        width = 100 * count / total
        if count:
            parts.append(f'<rect class="{label}" x="{coordinate(start)}" width="{coordinate(width)}" height="8"/>')
        start += width
    return Markup('<svg class="mix" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        Markup("".join(parts))
    )
