"""A card's pictures as inline SVG: rates by attack and dose, and curves over the steps of a fine-tuning.

Pure functions. The pictures by layer are those of `leaderboard.charts.svg`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from asabench.core.estimate import Rate
from asabench.core.row import Row
from leaderboard.charts.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    Point,
    chart,
    coordinate,
    height,
    rails,
    series,
    tick_step,
)
from leaderboard.text import bounds, format_estimate, format_number

if TYPE_CHECKING:
    from asabench.card.records import Curves

_NAMES = 158
"""Width left of the rates, for the names of attacks and doses."""
_LINE = 26
_LONGEST = 19


def rates_svg(row: Row, base: Row | None = None) -> Markup:
    """MASR of every attack at every dose: a dot with its 95% interval, and the base's below it."""
    results = series(row)
    of_base = {} if base is None else {(each.attack, each.dose): each.masr for each in base.results}
    lines: list[tuple[str, str, Rate, Rate | None]] = [
        ("clean (INIT)", "", row.init, None if base is None else base.init)
    ]
    lines += [(r.attack, f"{r.dose:g}", r.masr, of_base.get((r.attack, r.dose))) for r in results]
    bottom = 8 + _LINE * len(lines)

    def x(share: float) -> float:
        return _NAMES + (RIGHT - _NAMES) * share

    parts: list[str] = []
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<path class="grid" d="M{coordinate(x(share))} 4V{bottom}"/>')
        parts.append(f'<text class="x" x="{coordinate(x(share))}" y="{bottom + 17}">{share:g}</text>')
    parts.append(f'<text class="x" x="{(_NAMES + RIGHT) // 2}" y="{bottom + 34}">MASR</text>')
    for place, (attack, dose, own, theirs) in enumerate(lines):
        middle = 8 + _LINE * place + _LINE / 2
        name = attack if len(attack) <= _LONGEST else attack[: _LONGEST - 1] + "…"
        parts.append(Markup('<text class="name" x="0" y="{}">{}</text>').format(coordinate(middle + 4), name))
        parts.append(f'<text class="y" x="{_NAMES - 12}" y="{coordinate(middle + 4)}">{dose}</text>')
        for who, rate, level in (("base", theirs, middle + 5), ("model", own, middle - 4)):
            if rate is not None and rate.value is not None:
                low, high = bounds(rate)
                whisker = f"M{coordinate(x(low))} {coordinate(level)}H{coordinate(x(high))}"
                parts.append(f'<path class="interval {who}" d="{whisker}"/>')
                parts.append(
                    Markup('<circle class="{}" r="3.5" cx="{}" cy="{}"><title>{}: {}</title></circle>').format(
                        who, coordinate(x(rate.value)), coordinate(level), who, format_estimate(rate)
                    )
                )
    said = "; ".join(
        f"{attack} {dose}".strip()
        + f" {format_number(own.value)}"
        + ("" if theirs is None else f", base {format_number(theirs.value)}")
        for attack, dose, own, theirs in lines
    )
    return chart(parts, "rates", f"MASR of {row.model.name}: {said}.", f"MASR: {row.model.name}", bottom + 40)


def loss_svg(model: Curves, base: Curves) -> Markup:
    """The held-out loss by step: the model's curve with its band, and the base's as a dashed one."""
    own, theirs = ([Point(p.step, p.value, p.low, p.high) for p in curves.learning] for curves in (model, base))
    return _curves_svg(own, theirs, round_top(max(point.high for point in (*own, *theirs))), "held-out loss")


def refusals_svg(model: Curves, base: Curves) -> Markup:
    """The share of refused requests by step, likewise."""
    own, theirs = (
        [Point(p.step, p.refused.value, *bounds(p.refused)) for p in curves.erosion if p.refused.value is not None]
        for curves in (model, base)
    )
    return _curves_svg(own, theirs, 1.0, "share of requests refused")


def _curves_svg(model: Sequence[Point], base: Sequence[Point], top: float, what: str) -> Markup:
    last = max((point.place for point in (*model, *base)), default=0) or 1

    def at(step: int, value: float) -> str:
        return f"{coordinate(x(step))},{coordinate(height(value / top))}"

    def x(step: int) -> float:
        return LEFT + 8 + (RIGHT - LEFT - 16) * step / last

    parts = rails(top)
    for step in range(0, last + 1, tick_step(last + 1)):
        parts.append(f'<text class="x" x="{coordinate(x(step))}" y="{BOTTOM + 17}">{step}</text>')
    parts.append(f'<text class="x" x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 6}">step of fine-tuning</text>')
    for who, points in (("base", base), ("model", model)):
        if len(points) > 1:
            outline = [at(p.place, p.low) for p in points] + [at(p.place, p.high) for p in reversed(points)]
            parts.append(f'<path class="band {who}" d="M{"L".join(outline)}Z"/>')
            parts.append(f'<path class="line {who}" d="M{"L".join(at(p.place, p.value) for p in points)}"/>')
        for point in points:
            centre = f'cx="{coordinate(x(point.place))}" cy="{coordinate(height(point.value / top))}"'
            label = f"{who}: step {point.place}: {point.value:.3f} [{point.low:.3f}, {point.high:.3f}]"
            parts.append(f'<circle class="{who}" r="3" {centre}><title>{label}</title></circle>')
    said = "; ".join(
        f"{who} {', '.join(f'{point.value:.2f} at step {point.place}' for point in points)}"
        for who, points in (("model", model), ("base", base))
    )
    return chart(parts, "curves", f"{what.capitalize()}: {said}.", what.capitalize())


def round_top(largest: float) -> float:
    """The least of 1, 2, 4 or 10 times a power of ten that is not below `largest`: its half is a short number too."""
    power = 10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
    return next(factor * power for factor in (1.0, 2.0, 4.0, 10.0) if factor * power >= largest)
