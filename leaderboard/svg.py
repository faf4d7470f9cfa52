"""A row's numbers as the page and the terminal show them: rates as text, LASR by layer as inline SVG.

Pure functions of a `Row`; nothing here reads a file or needs matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from asabench.row import AttackResult, Rate, Row

NONE = "—"
"""What stands for a number that does not exist (nothing was scored)."""


def format_number(value: float | None, none: str = NONE) -> str:
    """A share with two decimals, or `none`."""
    return none if value is None else f"{value:z.2f}"


def format_interval(rate: Rate) -> str:
    """`[0.87, 0.98]`, or nothing when the rate has no interval."""
    return "" if rate.low is None or rate.high is None else f"[{rate.low:z.2f}, {rate.high:z.2f}]"


def format_rate(rate: Rate, none: str = NONE) -> str:
    """`0.94 [0.87, 0.98]`; without the brackets where there is no interval, `none` where there is no value."""
    if rate.value is None:
        return none
    return f"{rate.value:z.2f} {format_interval(rate)}".rstrip()


def bounds(rate: Rate) -> tuple[float, float]:
    """The ends of a rate's interval; a rate without one is a point. The rate must have a value."""
    assert rate.value is not None
    return (rate.value if rate.low is None else rate.low, rate.value if rate.high is None else rate.high)


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


def series(row: Row) -> Sequence[AttackResult]:
    """The results to draw: all of them, or the headline alone in a row that lists none."""
    if row.results:
        return row.results
    return (
        AttackResult(
            attack=row.attack,
            dose=row.dose,
            masr=row.masr,
            pasr=row.pasr,
            peak_layer=row.peak_layer,
            lasr=row.lasr,
            verdicts=row.verdicts,
        ),
    )


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


def lasr_svg(row: Row) -> Markup:
    """LASR by layer at the headline attack and dose: a line with its 95% band, a dot per measured block.

    The x axis covers all `n_layers` blocks, measured or not; gaps stay gaps. Everything taken from the row is escaped.
    """
    last = max([row.model.n_layers - 1, *(int(layer) for layer in row.lasr)])

    def x(layer: int) -> float:
        return _LEFT + 8 + (_RIGHT - _LEFT - 16) * (layer / last if last > 0 else 0.5)

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * value

    def at(layer: int, value: float) -> str:
        return f"{_coordinate(x(layer))},{_coordinate(y(value))}"

    parts: list[str] = []
    for value in (0.0, 0.5, 1.0):
        height = _coordinate(y(value))
        parts.append(f'<path class="grid" d="M{_LEFT} {height}H{_RIGHT}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{_coordinate(y(value) + 4)}">{value:g}</text>')
    for layer in range(0, last + 1, tick_step(last + 1)):
        parts.append(f'<text class="x" x="{_coordinate(x(layer))}" y="{_BOTTOM + 17}">{layer}</text>')
    parts.append(f'<text class="x" x="{(_LEFT + _RIGHT) // 2}" y="{_HEIGHT - 6}">decoder block</text>')

    runs = segments(row.lasr)
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
        peak = layer == row.peak_layer
        centre = f'cx="{_coordinate(x(layer))}" cy="{_coordinate(y(value))}"'
        dot = f'class="peak" r="5" {centre}' if peak else f'r="2.5" {centre}'
        label = f"layer {layer}: {format_rate(row.lasr[str(layer)])}"
        parts.append(f"<circle {dot}><title>{label}</title></circle>")
        if peak:
            # Near an edge the label is set inwards, so that it stays in the picture.
            anchor = "start" if x(layer) < _LEFT + 60 else "end" if x(layer) > _RIGHT - 60 else "middle"
            place = f'x="{_coordinate(x(layer))}" y="{_coordinate(y(value) - 10)}"'
            parts.append(f'<text class="peak-label" {place} text-anchor="{anchor}">peak: layer {layer}</text>')
    # Only numbers stand in `parts`; the one text that came from outside goes through Markup.format, which escapes it.
    head = Markup('<svg class="lasr" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
        _WIDTH, _HEIGHT, describe_lasr(row), f"LASR by layer: {row.model.name}"
    )
    return head + Markup("".join(parts)) + Markup("</svg>")


def describe_lasr(row: Row) -> str:
    """The chart in one sentence, for whoever cannot see it."""
    peak = None if row.peak_layer is None else row.lasr.get(str(row.peak_layer))
    scored = [rate.value for rate in row.lasr.values() if rate.value is not None]
    start = f"LASR by layer of {row.model.name}, {row.attack} at dose {row.dose:g}"
    if peak is None or not scored:
        return f"{start}: no layer has a rate."
    return (
        f"{start}: peak {format_rate(peak)} at layer {row.peak_layer} of {row.model.n_layers}; "
        f"lowest {format_number(min(scored))}; {len(scored)} layers measured."
    )


def strip_svg(rate: Rate) -> Markup:
    """A rate as a dot on a rail from 0 to 1, its interval as a bar: overlaps can be seen down a column.

    Decoration beside the number, so hidden from screen readers; empty where the rate has no value.
    """
    if rate.value is None:
        return Markup("")
    low, high = (100 * end for end in bounds(rate))
    return Markup(
        '<svg class="strip" viewBox="-4 0 108 8" aria-hidden="true"><path class="rail" d="M0 4H100"/>'
        '<path class="span" d="M{} 4H{}"/><circle cx="{}" cy="4" r="2.8"/></svg>'
    ).format(_coordinate(low), _coordinate(high), _coordinate(100 * rate.value))
