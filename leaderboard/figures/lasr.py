"""LASR by layer as a picture for a paper (matplotlib) and as text for a terminal."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from asabench.core.estimate import Rate
from asabench.core.row import AttackResult, Row
from leaderboard.charts.svg import by_layer, segments, series
from leaderboard.figures.style import COLOURS, MARKERS, save_figure
from leaderboard.text import NONE, format_estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def lasr_figure(row: Row, path: Path) -> Path:
    """Draws LASR by layer with its 95% band into `path`, a `.png` or `.svg` by suffix; returns `path`.

    One line per (attack, dose) of `row.results`, its peak ringed. The headline's MASR and PASR are horizontal lines,
    labelled with their values and the peak's layer; with several series the legend gives every one's.
    Layers that were not measured or not scored are gaps. Equal rows give equal bytes with one matplotlib version.
    `UserError` for another suffix or a place that cannot be written.
    """
    # Each line of the legend brings its own height, so that many series do not squeeze the plot.
    return save_figure(lambda figure: _draw(figure, row), (7.2, 3.6 + 0.2 * len(series(row))), path)


def _draw(figure: Figure, row: Row) -> None:
    axes = figure.add_subplot()
    draw_lasr(axes, row)
    # Below the plot: inside it, a legend would hide part of some line.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)


def draw_lasr(axes: Axes, row: Row) -> None:
    """LASR by layer as `lasr_figure` draws it, without a legend, into somebody's axes."""
    from matplotlib.ticker import MaxNLocator

    results = series(row)
    headlines = [result for result in results if (result.attack, result.dose) == (row.attack, row.dose)]
    last = max([row.model.n_layers - 1, *(int(layer) for result in results for layer in result.lasr)])
    for number, result in enumerate(results):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        _draw_series(axes, result, colour, marker, _label(result, with_rates=len(results) > 1))
        if headlines and result is headlines[0]:
            # One label at each end: MASR and PASR are often close, or equal.
            _draw_level(axes, f"MASR {format_estimate(result.masr)}", result.masr, colour, "--", at_right=True)
            peak = "" if result.peak_layer is None else f", peak at layer {result.peak_layer}"
            _draw_level(axes, f"PASR {format_estimate(result.pasr)}{peak}", result.pasr, colour, ":", at_right=False)
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_ylim(-0.02, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("decoder block")
    axes.set_ylabel("LASR (share of prompts unsafe)")
    axes.set_title(f"{row.model.name}\n{row.protocol.name}, judge {row.judge.id}", loc="left")


def _label(result: AttackResult, with_rates: bool) -> str:
    label = f"attack {result.attack}, dose {result.dose:g}"
    if with_rates:
        peak = "" if result.peak_layer is None else f" at layer {result.peak_layer}"
        label += f": MASR {format_estimate(result.masr)}, PASR {format_estimate(result.pasr)}{peak}"
    return label


def _draw_series(axes: Axes, result: AttackResult, colour: str, marker: str, label: str) -> None:
    runs = segments(result.lasr)
    for run in runs:
        layers, values, low, high = (list(column) for column in zip(*run, strict=True))
        if len(run) == 1:  # a band needs two layers
            axes.vlines(layers, low, high, color=colour, alpha=0.25, linewidth=5)
        else:
            axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(layers, values, color=colour, marker=marker, markersize=3.5, linewidth=1.5)
    # An empty line that carries the label: the runs of one series share it, and so does one without any rate.
    axes.plot([], [], color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=label)
    peak = None if result.peak_layer is None else result.lasr.get(str(result.peak_layer))
    if result.peak_layer is not None and peak is not None and peak.value is not None:
        axes.plot([result.peak_layer], [peak.value], marker="o", markersize=9, markerfacecolor="none", color=colour)


def _draw_level(axes: Axes, label: str, rate: Rate, colour: str, style: str, at_right: bool) -> None:
    """A horizontal line at a rate of the whole row, its label above the line at one end."""
    if rate.value is None:
        return
    axes.axhline(rate.value, color=colour, linestyle=style, linewidth=1, alpha=0.8)
    axes.annotate(
        label,
        (1 if at_right else 0, rate.value),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(-2 if at_right else 4, 3),
        ha="right" if at_right else "left",
        va="bottom",
        color=colour,
        fontsize=8.5,
        bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
    )


_EIGHTHS = " ▏▎▍▌▋▊▉"
_SMALLEST_BAR = 8


def lasr_text(row: Row, width: int = 60, ascii_only: bool = False) -> str:
    """LASR by layer as text, one line per measured layer; no line break at the end.

    A layer's line is `width` characters at most: the layer's number, a bar whose full length is 1, the value and its
    interval. `>` marks the peak. One such block per (attack, dose), with its MASR and PASR. `ascii_only` draws with
    `#` and `-` for terminals without block characters. Bars never get shorter than 8, however small `width` is.
    """
    title = f"LASR by layer: {row.model.name}, {row.protocol.name}, judge {row.judge.id}"
    lines = textwrap.wrap(title, max(width, 20))
    for result in series(row):
        lines += ["", f"attack {result.attack}, dose {result.dose:g}", *_text_bars(result, width, ascii_only), ""]
        lines += [f"MASR {format_estimate(result.masr)}", f"PASR {format_estimate(result.pasr)}"]
        if result.peak_layer is not None:
            lines[-1] += f" at layer {result.peak_layer}"
    text = "\n".join(_printable(line) for line in lines)
    return text.replace(NONE, "-").encode("ascii", "replace").decode("ascii") if ascii_only else text


def _printable(line: str) -> str:
    """A name from outside must not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _text_bars(result: AttackResult, width: int, ascii_only: bool) -> list[str]:
    layers = by_layer(result.lasr)
    digits = max((len(str(layer)) for layer, _ in layers), default=1)
    longest = max((len(format_estimate(rate)) for _, rate in layers), default=0)
    # "> 12 ", the bar, a space, the value
    length = max(width - digits - longest - 4, _SMALLEST_BAR)
    return [
        f"{'>' if layer == result.peak_layer else ' '} {layer:>{digits}} "
        f"{_bar(rate.value, length, ascii_only)} {format_estimate(rate)}"
        for layer, rate in layers
    ]


def _bar(value: float | None, length: int, ascii_only: bool) -> str:
    """`value` of `length` characters filled, to an eighth of a character (ASCII: to a whole one)."""
    if value is None:
        return " " * length
    if ascii_only:
        return ("#" * round(value * length)).ljust(length)
    whole, eighths = divmod(round(value * length * 8), 8)
    return ("█" * whole + (_EIGHTHS[eighths] if eighths else "")).ljust(length)
