"""The board's first pictures as inline SVG: what refuses under attack against what still answers, and how refusals fall
with the dose. Pure functions of placed entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from asabench.core.estimate import Rate
from asabench.core.row import Eps50, Row, worst_case
from asabench.core.text import eps50_text
from leaderboard.charts.svg import coordinate
from leaderboard.ranking import Placed, smallest_eps50
from leaderboard.text import bounds, format_number

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 506, 16, 252
SHOWN = 4
"""So many entries have a curve of their own: more cannot be told apart."""
MOST = 16
"""So many entries have a point: the best, those with a rank first. The page of a large board stays small."""
NAMED = 8
"""So many points have their name beside them; every point says it to who hovers or listens."""


class Spot(NamedTuple):
    """Where an entry stands: harmless requests answered, and how robust its refusals are, as shares of the two axes,
    each a value with a 95% interval; `said` is its robustness in words."""

    placed: Placed
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    said: str


class Axis(NamedTuple):
    """The upright axis: its name, and what stands at which share of it."""

    name: str
    ticks: tuple[tuple[float, str], ...]


HOLD = Axis("refusals that hold in the worst case", ((0.0, "0%"), (0.5, "50%"), (1.0, "100%")))
FIRST, DECADES = 0.02, 2.0
EPS50 = Axis(
    "dose that breaks half of the refusals",
    tuple((math.log10(dose / FIRST) / DECADES, f"{dose:g}") for dose in (0.02, 0.1, 0.3, 1.0, 2.0)),
)
"""Even steps of the axis are even ratios of doses: from two hundredths to two."""


def of_dose(dose: float) -> float:
    """The place of a dose on the axis of eps50, within its ends."""
    return min(max(math.log10(max(dose, FIRST) / FIRST) / DECADES, 0.0), 1.0)


def _of_eps50(eps50: Eps50) -> tuple[float, float, float]:
    """Value, low and high on that axis; what lies beyond the measured doses at their end."""

    def place(dose: float | None, censored: str | None) -> float:
        if dose is not None:
            return of_dose(dose)
        return of_dose((eps50.last or 0.0) if censored == "above" else (eps50.first or 0.0))

    return (
        place(eps50.value, eps50.censored),
        place(eps50.low, eps50.low_censored),
        place(eps50.high, eps50.high_censored),
    )


def held(rate: Rate) -> tuple[float, float, float]:
    """One less a rate of what broke: value, low, high."""
    low, high = bounds(rate)
    return 1 - (rate.value or 0.0), 1 - high, 1 - low


def spots(placed: Sequence[Placed]) -> tuple[Axis, list[Spot]]:
    """The best entries of which it is known what they answer and how robust they are.

    The axis is the smallest eps50 over the attacks where every one has it, since at the largest dose nearly every
    refusal breaks; else the worst case.
    """
    known: list[tuple[Placed, tuple[float, float, float]]] = []
    for each in placed:
        utility, masr = each.entry.utility, each.worst_masr
        answers = None if utility is None else utility.clean.benign_answer_rate
        if masr is not None and masr.value is not None and answers is not None and answers.value is not None:
            known.append((each, (answers.value, *bounds(answers))))
    smallest = {each.entry.slug: smallest_eps50(each.entry.row) for each, _ in known}
    axis = EPS50 if known and all(smallest.values()) else HOLD
    found = []
    for each, x in known:
        least = smallest[each.entry.slug]
        if axis is EPS50 and least is not None:
            found.append(Spot(each, x, _of_eps50(least[1]), f"eps50 {eps50_text(least[1])} under {least[0]}"))
        elif each.worst_masr is not None:
            y = held(each.worst_masr)
            found.append(Spot(each, x, y, f"{y[0]:.0%} of refusals hold in the worst case"))
    return axis, sorted(found, key=lambda spot: (spot.placed.rank is None, -spot.y[0]))[:MOST]


def frontier_svg(placed: Sequence[Placed]) -> Markup:
    """A point an entry with its intervals, and an arrow from a base to what was made of it; empty where nothing is
    known."""
    axis, found = spots(placed)
    if not found:
        return Markup("")
    by_slug = {spot.placed.entry.slug: spot for spot in found}
    parts = [
        f'<rect class="best" x="{coordinate(_x(0.8))}" y="{TOP}" width="{coordinate(RIGHT - _x(0.8))}" '
        f'height="{coordinate(_y(0.8) - TOP)}"/>',
        f'<text class="corner" x="{RIGHT - 6}" y="{TOP + 14}">best</text>',
    ]
    for share, name in axis.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {coordinate(_y(share))}H{RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{coordinate(_y(share) + 4)}">{name}</text>')
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<text class="x" x="{coordinate(_x(share))}" y="{BOTTOM + 17}">{share:.0%}</text>')
    parts.append(f'<text class="x" x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 8}">harmless requests answered</text>')
    parts.append(f'<text class="x" transform="translate(11 {(TOP + BOTTOM) // 2}) rotate(-90)">{axis.name}</text>')
    for spot in found:
        base = None if spot.placed.base is None else by_slug.get(spot.placed.base.slug)
        if base is not None:
            parts.append(_arrow(base, spot))
    # The ranked last, over the others
    drawn = sorted(found, key=lambda spot: (spot.placed.rank is not None, spot.y[0]))
    labelled = {id(spot) for spot in found[:NAMED]}
    texts = _labels([spot for spot in drawn if id(spot) in labelled])
    for spot in drawn:
        parts.append(_point(spot))
    named = Markup("").join([Markup("".join(parts)), *texts])
    said = "; ".join(
        f"{spot.placed.entry.name}: {spot.said}, {spot.x[0]:.0%} of harmless requests answered"
        for spot in found[:NAMED]
    )
    head = Markup('<svg class="frontier" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH, HEIGHT, f"{axis.name.capitalize()} against harmless requests answered. {said}."
    )
    return head + named + Markup("</svg>")


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _point(spot: Spot) -> str:
    x, y = _x(spot.x[0]), _y(spot.y[0])
    kind = "ranked" if spot.placed.rank is not None else "unranked"
    cross = (
        f'<path class="whiskers" d="M{coordinate(_x(spot.x[1]))} {coordinate(y)}H{coordinate(_x(spot.x[2]))}'
        f'M{coordinate(x)} {coordinate(_y(spot.y[1]))}V{coordinate(_y(spot.y[2]))}"/>'
    )
    title = Markup("<title>{}</title>").format(
        f"{spot.placed.entry.name}: {spot.said}; {format_number(spot.x[0])} of harmless requests answered"
    )
    circle = f'<circle class="{kind}" r="5" cx="{coordinate(x)}" cy="{coordinate(y)}">'
    return f"{cross}{circle}{title}</circle>"


def _arrow(base: Spot, spot: Spot) -> str:
    """A line from the base's point to the entry's, which ends before both circles; nothing where they lie together."""
    (x0, y0), (x1, y1) = ((_x(each.x[0]), _y(each.y[0])) for each in (base, spot))
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    if length < 18:
        return ""
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    start, end = (x0 + 6 * ux, y0 + 6 * uy), (x1 - 8 * ux, y1 - 8 * uy)
    left, right = ((end[0] - 7 * ux - side * 4 * uy, end[1] - 7 * uy + side * 4 * ux) for side in (1, -1))
    points = [start, end, left, end, right]
    return '<path class="arrow" d="M{}L{}M{}L{}L{}"/>'.format(*(f"{coordinate(x)} {coordinate(y)}" for x, y in points))


def _labels(found: Sequence[Spot]) -> list[Markup]:
    """The names beside their points, moved down where they would run into one that is there."""
    taken: list[tuple[float, float, float]] = []
    texts = []
    for spot in sorted(found, key=lambda spot: _y(spot.y[0])):
        name = spot.placed.entry.defence or spot.placed.entry.name
        name = name if len(name) <= 30 else f"{name[:29]}…"
        x, y = _x(spot.x[0]), _y(spot.y[0]) - 8
        at_end = x > (LEFT + RIGHT) / 2
        wide = 6.2 * len(name)
        left = x - wide - 8 if at_end else x + 8
        while any(abs(y - other) < 12 and left < end and start < left + wide for start, end, other in taken):
            y += 12
        if y > BOTTOM - 2:
            continue
        taken.append((left, left + wide, y))
        anchor = "end" if at_end else "start"
        texts.append(
            Markup('<text class="name" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                coordinate(x - 8 if at_end else x + 8), coordinate(y), anchor, name
            )
        )
    return texts


class DoseCurve(NamedTuple):
    """An entry and (dose, share of refusals that hold there under the worst attack), from dose 0."""

    name: str
    slug: str
    points: list[tuple[float, float]]


def dose_curve(row: Row) -> list[tuple[float, float]]:
    """By dose the share of prompts that hold at it under the worst attack, or at a smaller one where fewer do, from the
    clean answers on. A larger dose can break the text before it breaks the refusal: that is no refusal that holds."""
    doses = sorted({result.dose for result in row.results})
    points = [] if row.init.value is None else [(0.0, 1 - row.init.value)]
    for dose in doses:
        worst = worst_case([result for result in row.results if result.dose == dose])
        if worst is not None and worst.masr.value is not None:
            points.append((dose, min([1 - worst.masr.value, *(share for _, share in points)])))
    return points


def best_curves(placed: Sequence[Placed]) -> list[DoseCurve]:
    """Of the best few entries, those with a rank first: their curves."""
    known = [each for each in placed if each.worst_masr is not None and each.worst_masr.value is not None]
    curves = [(each, dose_curve(each.entry.row)) for each in known]
    curves.sort(key=lambda item: (item[0].rank is None, -fmean(share for _, share in item[1] or [(0.0, 0.0)])))
    return [DoseCurve(each.entry.name, each.entry.slug, points) for each, points in curves[:SHOWN]]


def curves_svg(placed: Sequence[Placed]) -> Markup:
    """Refusals that hold, by dose, of the best few entries; doses stand at even steps, as they double and treble."""
    curves = [curve for curve in best_curves(placed) if len(curve.points) > 1]
    if not curves:
        return Markup("")
    doses = sorted({dose for curve in curves for dose, _ in curve.points})

    def x(dose: float) -> float:
        return LEFT + 8 + (RIGHT - LEFT - 16) * doses.index(dose) / (len(doses) - 1)

    parts = []
    for share in (0.0, 0.5, 1.0):
        parts.append(f'<path class="grid" d="M{LEFT} {coordinate(_y(share))}H{RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{coordinate(_y(share) + 4)}">{share:.0%}</text>')
    name = "refusals that hold"
    parts.append(f'<text class="x" transform="translate(11 {(TOP + BOTTOM) // 2}) rotate(-90)">{name}</text>')
    for dose in doses:
        label = "clean" if dose == 0 else f"{dose:g}"
        parts.append(f'<text class="x" x="{coordinate(x(dose))}" y="{BOTTOM + 17}">{label}</text>')
    parts.append(f'<text class="x" x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 8}">dose of the worst attack</text>')
    for number, curve in enumerate(curves):
        line = "L".join(f"{coordinate(x(dose))},{coordinate(_y(share))}" for dose, share in curve.points)
        parts.append(f'<path class="line line-{number}" d="M{line}"/>')
        for dose, share in curve.points:
            title = Markup("<title>{}</title>").format(f"{curve.name}, dose {dose:g}: {format_number(share)} hold")
            centre = f'cx="{coordinate(x(dose))}" cy="{coordinate(_y(share))}"'
            parts.append(f'<circle class="line-{number}" r="3" {centre}>{title}</circle>')
    said = "; ".join(
        f"{curve.name}: " + ", ".join(f"{share:.0%} at {dose:g}" for dose, share in curve.points) for curve in curves
    )
    head = Markup('<svg class="curves" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH, HEIGHT, f"Refusals that hold by dose. {said}."
    )
    return head + Markup("".join(parts)) + Markup("</svg>")
