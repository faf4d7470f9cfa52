"""An entry's badge: a small picture for a README or a model card, and the Markdown that shows it. Pure functions."""

from __future__ import annotations

from markupsafe import Markup

from leaderboard.downloads import MARK
from leaderboard.ranking import Placed, Track
from leaderboard.text import NONE, format_number

HEIGHT, PADDING, LETTER = 20, 7, 6.6
"""Of the badge in px; `LETTER` is about the mean width of a letter of 11 px, which `textLength` makes exact."""
GROUND, RANKED, UNRANKED = "#3b4148", "#0b5c86", "#6b7078"


def said(placed: Placed) -> str:
    """What a badge says of an entry: the number that it ranks by, and its rank."""
    suite = placed.entry.row.suite
    if suite is not None:
        number = f"area {format_number(suite.area.value)}"
    else:
        number = f"worst case {NONE if placed.worst_masr is None else format_number(placed.worst_masr.value)}"
    rank = "not ranked" if placed.rank is None else f"rank {placed.rank}{' (shared)' if placed.tied else ''}"
    return f"{number}, {rank}"


def badge_svg(track: Track, placed: Placed) -> Markup:
    """The badge as a file that needs nothing else: its colours and font are in it."""
    left, right = f"ASABench {track.protocol}", said(placed)
    widths = [round(len(text) * LETTER) + 2 * PADDING for text in (left, right)]
    whole = sum(widths)
    label = f"{left}: {right}"
    parts = [
        Markup('<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" role="img" aria-label="{}">').format(
            whole, HEIGHT, label
        ),
        Markup("<title>{}</title>").format(label),
    ]
    start = 0
    for text, width, ground in zip(
        (left, right), widths, (GROUND, UNRANKED if placed.rank is None else RANKED), strict=True
    ):
        parts.append(
            Markup(
                '<rect x="{}" width="{}" height="{}" fill="{}"/><text x="{}" y="14" fill="#fff" '
                'font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" textLength="{}" '
                'lengthAdjust="spacingAndGlyphs">{}</text>'
            ).format(start, width, HEIGHT, ground, start + PADDING, width - 2 * PADDING, text)
        )
        start += width
    return Markup("").join([*parts, Markup("</svg>")])


def badge_file(track: Track, placed: Placed) -> str:
    return f"<!-- {MARK} -->\n{badge_svg(track, placed)}\n"


def badge_markdown(placed: Placed, url: str | None) -> str:
    """To paste into a README. Without the board's address a word in capital letters stands for it."""
    page = f"{url or 'ADDRESS-OF-THE-BOARD/'}entries/{placed.entry.slug}"
    return f"[![ASABench: {said(placed)}]({page}.svg)]({page}.html)"
