"""The look of every picture, and how one is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asabench.core.errors import UserError
from asabench.core.files import disk_errors, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which people with any colour vision can tell apart; then the markers change too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[str, Any] = {
    "axes.edgecolor": "#888888",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 9.5,
    "legend.frameon": False,
    "svg.hashsalt": "asabench",  # otherwise the ids in an SVG are random
    "text.parse_math": False,  # a model's name may hold a dollar sign
}


def save_figure(draw: Callable[[Figure], None], size: tuple[float, float], path: Path) -> Path:
    """Draws a figure of `size` inches into a `.png` or `.svg`, whole or not at all; returns `path`.

    Equal drawings give equal bytes with one matplotlib version. `UserError` for another suffix or a place that cannot
    be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UserError(f"cannot draw {path}: allowed are .png and .svg; choose one of these endings")
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # From matplotlib's own defaults, so that a reader's matplotlibrc does not change the picture. The Figure has its
    # own canvas: pyplot, with its global state and windows, stays out.
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        # The one field of metadata that differs from run to run or machine to machine.
        metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, durable=False) as file:
                figure.savefig(file, format=suffix[1:], dpi=160, metadata=metadata)
    return path
