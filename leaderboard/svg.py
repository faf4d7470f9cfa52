"""A row's rates as inline SVG: LASR by layer, MASR by dose.

Pure functions of a `Row`; nothing here reads a file or needs matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from asabench.row import AttackResult, Rate, Row, VerdictCounts
from leaderboard.text import bounds, format_number, format_rate


def by_layer(lasr: Mapping[str, Rate]) -> list[tuple[int, Rate]]:
    """(block, rate) in the order of the blocks."""
    return sorted((int(layer), rate) for layer, rate in lasr.items())


class Point(NamedTuple):
    """A scored layer; where the rate has no interval, `low` and `high` are the value."""

    layer: int
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
        if runs and runs[-1][-1].layer == layer - 1:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def headline(row: Row) -> AttackResult:
    """The row's own numbers, as one of its results."""
    return AttackResult(
        attack=row.attack,
        dose=row.dose,
        masr=row.masr,
        pasr=row.pasr,
        peak_layer=row.peak_layer,
        lasr=row.lasr,
        verdicts=row.verdicts,
    )


def series(row: Row) -> Sequence[AttackResult]:
    """The results to draw: all of them, or the headline alone in a row that lists none."""
    return row.results or (headline(row),)


def tick_step(count: int, most: int = 8) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that puts at most `most` ticks on `count` layers."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if math.ceil(count / step) <= most:
                return step
        power *= 10


# The chart's box, in SVG user units. The text is 12 units, so at a phone's width it is still readable.
_WIDTH, _HEIGHT = 460, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 450, 22, 150


def _coordinate(value: float) -> str:
    """One decimal at most: a tenth of a unit cannot be seen, and the page holds many charts."""
    return f"{value:.1f}".removesuffix(".0")


def _rails() -> list[str]:
    """The lines at 0, a half and 1, with their numbers."""
    parts = []
    for value in (0.0, 0.5, 1.0):
        height = _coordinate(_height(value))
        parts.append(f'<path class="grid" d="M{_LEFT} {height}H{_RIGHT}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{_coordinate(_height(value) + 4)}">{value:g}</text>')
    return parts


def _height(value: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * value


def _chart(parts: Sequence[str], kind: str, description: str, title: str) -> Markup:
    """`parts` hold only numbers; the texts, which came from outside, go through Markup.format, which escapes them."""
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
        kind, _WIDTH, _HEIGHT, description, title
    )
    return head + Markup("".join(parts)) + Markup("</svg>")


def lasr_svg(row: Row, result: AttackResult | None = None) -> Markup:
    """LASR by layer of one result (the headline, if none is given): a line with its 95% band, a dot per measured block.

    The x axis covers all `n_layers` blocks, measured or not; gaps stay gaps. Everything taken from the row is escaped.
    """
    result = headline(row) if result is None else result
    last = max([row.model.n_layers - 1, *(int(layer) for layer in result.lasr)])

    def x(layer: int) -> float:
        return _LEFT + 8 + (_RIGHT - _LEFT - 16) * (layer / last if last > 0 else 0.5)

    def at(layer: int, value: float) -> str:
        return f"{_coordinate(x(layer))},{_coordinate(_height(value))}"

    parts = _rails()
    for layer in range(0, last + 1, tick_step(last + 1)):
        parts.append(f'<text class="x" x="{_coordinate(x(layer))}" y="{_BOTTOM + 17}">{layer}</text>')
    parts.append(f'<text class="x" x="{(_LEFT + _RIGHT) // 2}" y="{_HEIGHT - 6}">decoder block</text>')

    runs = segments(result.lasr)
    for run in runs:
        if len(run) == 1:
            alone = run[0]
            parts.append(f'<path class="whisker" d="M{at(alone.layer, alone.low)}L{at(alone.layer, alone.high)}"/>')
        else:
            lower = [at(point.layer, point.low) for point in run]
            upper = [at(point.layer, point.high) for point in reversed(run)]
            line = [at(point.layer, point.value) for point in run]
            parts.append(f'<path class="band" d="M{"L".join(lower + upper)}Z"/>')
            parts.append(f'<path class="line" d="M{"L".join(line)}"/>')
    for layer, value in ((point.layer, point.value) for run in runs for point in run):
        peak = layer == result.peak_layer
        centre = f'cx="{_coordinate(x(layer))}" cy="{_coordinate(_height(value))}"'
        dot = f'class="peak" r="5" {centre}' if peak else f'r="2.5" {centre}'
        label = f"layer {layer}: {format_rate(result.lasr[str(layer)])}"
        parts.append(f"<circle {dot}><title>{label}</title></circle>")
        if peak:
            # Near an edge the label is set inwards, so that it stays in the picture.
            anchor = "start" if x(layer) < _LEFT + 60 else "end" if x(layer) > _RIGHT - 60 else "middle"
            place = f'x="{_coordinate(x(layer))}" y="{_coordinate(_height(value) - 10)}"'
            parts.append(f'<text class="peak-label" {place} text-anchor="{anchor}">peak: layer {layer}</text>')
    return _chart(parts, "lasr", describe_lasr(row, result), f"LASR by layer: {row.model.name}, {result.attack}")


def describe_lasr(row: Row, result: AttackResult | None = None) -> str:
    """The chart in one sentence, for whoever cannot see it."""
    result = headline(row) if result is None else result
    peak = None if result.peak_layer is None else result.lasr.get(str(result.peak_layer))
    scored = [rate.value for rate in result.lasr.values() if rate.value is not None]
    start = f"LASR by layer of {row.model.name}, {result.attack} at dose {result.dose:g}"
    if peak is None or not scored:
        return f"{start}: no layer has a rate."
    return (
        f"{start}: peak {format_rate(peak)} at layer {result.peak_layer} of {row.model.n_layers}; "
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
        return _LEFT + 8 + (_RIGHT - _LEFT - 16) * dose / last

    def at(dose: float, value: float) -> str:
        return f"{_coordinate(x(dose))},{_coordinate(_height(value))}"

    parts = _rails()
    for dose in _spaced([point.dose for point in own], last):
        parts.append(f'<text class="x" x="{_coordinate(x(dose))}" y="{_BOTTOM + 17}">{dose:g}</text>')
    parts.append(f'<text class="x" x="{(_LEFT + _RIGHT) // 2}" y="{_HEIGHT - 6}">dose</text>')
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
            centre = f'cx="{_coordinate(x(point.dose))}" cy="{_coordinate(_height(point.masr.value or 0.0))}"'
            dot = 'class="base" r="2.5"' if points is other else 'r="3"'
            label = f"{who}dose {point.dose:g}: {format_rate(point.masr)}"
            parts.append(f"<circle {dot} {centre}><title>{label}</title></circle>")
    said = ", ".join(f"{format_number(point.masr.value)} at {point.dose:g}" for point in own) or "nothing scored"
    theirs = ", ".join(f"{format_number(point.masr.value)} at {point.dose:g}" for point in other)
    start = f"MASR by dose of {row.model.name} under {attack}: {said}"
    description = f"{start}; base model: {theirs}." if theirs else f"{start}."
    return _chart(parts, "dose", description, f"MASR by dose: {row.model.name}, {attack}")


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
            parts.append(f'<rect class="{label}" x="{_coordinate(start)}" width="{_coordinate(width)}" height="8"/>')
        start += width
    return Markup('<svg class="mix" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        Markup("".join(parts))
    )
