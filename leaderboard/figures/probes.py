"""The probes of a model as pictures for a paper: NLL rise by layer, KL by answer position, the loss landscape.

Pandas tables in (`asabench probe` writes them), PNG or SVG out, in the style of `leaderboard.figures.lasr`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asabench.runs.probe_settings import read_probe
from leaderboard.figures.style import COLOURS, MARKERS, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES_AT_MOST = len(COLOURS)
"""More layers than this are a heat map: that many lines cannot be told apart."""
_COLOUR_MAP = "viridis"
_PANELS_A_LINE = 4


def probe_figures(folder: Path, out: Path | None = None, suffix: str = ".png") -> list[Path]:
    """Draws every table that the folder of a probe holds into `out` (default: the folder); returns the pictures.

    `UserError` when the folder holds no finished probe.
    """
    settings = read_probe(folder).settings
    title = f"{settings.model}\n{settings.protocol.name}, attack {settings.attack}"
    drawings: dict[str, Callable[..., Path]] = {
        "nll": nll_figure,
        "kl": kl_figure,
        "landscape": landscape_figure,
    }
    pictures = []
    for name, draw in drawings.items():
        table = folder / f"{name}.parquet"
        if table.is_file():
            more = {}
            if name == "landscape" and settings.landscape is not None:
                more = {"a_name": settings.landscape.a_attack, "b_name": settings.landscape.b_attack}
            pictures.append(draw(pd.read_parquet(table), (out or folder) / f"{name}{suffix}", title=title, **more))
    return pictures


def nll_figure(table: pd.DataFrame, path: Path, *, title: str = "") -> Path:
    """The rise of the clean answer's NLL by perturbed block; a line a (attack, dose); returns `path`.

    table: prompt_id, layer, attack, dose, rise. Lines are medians over prompts (each the mean of its seeds), bands
    reach from the first to the third quartile over prompts. Where the lines differ twentyfold, the axis is logarithmic
    but for a linear part around zero. Layers that were not measured are gaps.
    """
    by_prompt = table.groupby(["attack", "dose", "layer", "prompt_id"])["rise"].mean()
    quartiles = by_prompt.groupby(level=[0, 1, 2]).quantile(np.array([0.25, 0.5, 0.75])).unstack()
    series = list(quartiles.groupby(level=[0, 1]))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, ((attack, dose), own) in enumerate(series):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            own = own.droplevel([0, 1])
            own = own.reindex(range(int(own.index.min()), int(own.index.max()) + 1)) if _dense(own.index) else own
            x = own.index.to_numpy()
            axes.fill_between(x, own[0.25], own[0.75], color=colour, alpha=0.15, linewidth=0)
            label = f"attack {attack}, dose {dose:g}"
            axes.plot(x, own[0.5], color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=label)
        peaks = [float(own[0.5].abs().max()) for _, own in series]
        if max(peaks) > 20 * min(peaks) > 0:
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # powers would come as formulas, switched off
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        _whole_numbers(axes)
        axes.set_xlabel("perturbed decoder block")
        axes.set_ylabel("rise of the clean answer's NLL (nats)")
        n = table["prompt_id"].nunique()
        axes.set_title(_below(title, f"median and quartiles over {_counted(n)}"), loc="left")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)

    return save_figure(draw, (7.2, 3.6 + 0.2 * len(series)), path)


def kl_figure(table: pd.DataFrame, path: Path, *, title: str = "") -> Path:
    """KL(clean || steered) by answer position, the mean over prompts (each the mean of its seeds); returns `path`.

    table: prompt_id, layer, attack, dose, position, kl. A panel a (attack, dose): a line a layer, or with many layers a
    heat map layer by position with the mean over layers above it. The few prompts with the longest answers alone make
    the last positions: those that less than half of the prompts reach are not drawn.
    """
    by_prompt = table.groupby(["attack", "dose", "layer", "position", "prompt_id"])["kl"].mean()
    cells = by_prompt.groupby(level=[0, 1, 2, 3]).agg(["mean", "size"])
    means: Any = cells.loc[cells["size"] * 2 >= table["prompt_id"].nunique(), "mean"]
    panels = [(f"attack {attack}, dose {dose:g}", own) for (attack, dose), own in means.groupby(level=[0, 1])]

    def draw(figure: Figure) -> None:
        parts = figure.subfigures(1, len(panels), squeeze=False)[0]
        for part, (label, own) in zip(parts, panels, strict=True):
            layers = pd.DataFrame(own.droplevel([0, 1]).unstack())  # (layer, position)
            if len(layers) <= _LINES_AT_MOST:
                axes = part.subplots()
                for number, (layer, line) in enumerate(layers.iterrows()):
                    axes.plot(line.index, line, color=COLOURS[number], linewidth=1.5, label=f"block {layer}")
                axes.legend(ncols=2)
                axes.set_ylim(bottom=0)
            else:
                axes = _kl_map(part, layers)
            _whole_numbers(axes)
            axes.set_xlabel("answer position")
            part.suptitle(label, x=0.02, ha="left", fontsize=10)
        n = table["prompt_id"].nunique()
        figure.suptitle(_below(title, f"KL(clean || steered) in nats, mean over {_counted(n)}"), x=0.01, ha="left")

    return save_figure(draw, (max(7.2, 4.2 * len(panels)), 5.2), path)


def _kl_map(figure: Any, layers: pd.DataFrame) -> Axes:
    """A heat map of (layer, position) under the mean over layers; returns the map's axes."""
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.4])
    above.plot(layers.columns, layers.mean(), color=COLOURS[0], linewidth=1.5)
    above.set_ylim(bottom=0)
    above.set_ylabel("mean over blocks")
    x, y = layers.columns.to_numpy(), np.arange(len(layers))
    mesh = axes.pcolormesh(x, y, layers.to_numpy(), cmap=_COLOUR_MAP, vmin=0, shading="nearest", rasterized=True)
    # Rows, not block numbers, so that blocks that were not measured leave no hole
    some = np.unique(np.linspace(0, len(layers) - 1, 8).round().astype(int))
    axes.set_yticks(some, [str(layers.index[row]) for row in some])
    axes.set_ylabel("perturbed decoder block")
    figure.colorbar(mesh, ax=[axes], label="KL (nats)")
    return axes


def landscape_figure(table: pd.DataFrame, path: Path, *, title: str = "", a_name: str = "A", b_name: str = "B") -> Path:
    """NLL of the clean answer over the plane of two directions, the mean over prompts; a panel a layer.

    table: prompt_id, layer, a, b, nll. All panels share one colour scale and one set of contour lines; a cross marks
    the unperturbed model. a_name, b_name: the attacks that gave the directions. Returns `path`.
    """
    means = table.groupby(["layer", "a", "b"])["nll"].mean()
    layers = [int(layer) for layer in means.index.unique(level="layer")]
    low, high = float(means.min()), float(means.max())
    columns = min(len(layers), _PANELS_A_LINE)
    lines = math.ceil(len(layers) / columns)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        mesh: Any = None
        for number, axes in enumerate(panels.flat):
            if number >= len(layers):
                axes.remove()
                continue
            plane = means.loc[layers[number]].unstack()  # (a, b)
            a, b, values = plane.index.to_numpy(), plane.columns.to_numpy(), plane.to_numpy().T
            mesh = axes.pcolormesh(
                a, b, values, cmap=_COLOUR_MAP, vmin=low, vmax=high, shading="nearest", rasterized=True
            )
            if min(values.shape) >= 2 and high > low:
                levels = np.linspace(low, high, 9)[1:-1]
                with contextlib.suppress(ValueError):
                    axes.contour(a, b, values, levels=levels, colors="white", linewidths=0.6)
            axes.plot([0], [0], marker="+", color="white", markersize=8)
            axes.set_title(f"block {layers[number]}", loc="left")
            if number >= len(layers) - columns:
                axes.set_xlabel(f"a ({a_name})")
                axes.tick_params(labelbottom=True)
        for line in panels[:, 0]:
            line.set_ylabel(f"b ({b_name})")
        n = table["prompt_id"].nunique()
        figure.colorbar(mesh, ax=list(panels.flat)[: len(layers)], label="NLL of the clean answer (nats)")
        figure.suptitle(_below(title, f"loss landscape, mean over {_counted(n)}"), x=0.01, ha="left")

    return save_figure(draw, (max(4.5, 2.6 * columns + 1.2), 2.6 * lines + 0.9), path)


def _dense(index: pd.Index[Any]) -> bool:
    """Whether most layers of the range were measured: then one that is missing is a gap, not a step."""
    return len(index) * 2 > int(index.max()) - int(index.min())


def _counted(prompts: int) -> str:
    return "1 prompt" if prompts == 1 else f"{prompts} prompts"


def _below(title: str, line: str) -> str:
    return f"{title}\n{line}" if title else line


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
