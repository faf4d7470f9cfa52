"""The commands of the board: build, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from asabench.cli.options import option
from asabench.core.errors import UserError

Rows = Annotated[
    Optional[list[Path]], option("Folders to look for row.json in.", "--rows", default="runs, submissions")
]
Site = Annotated[Path, option("Where the pages go.")]
SITE = Path("leaderboard/site")


def build(
    rows: Rows = None,
    out: Site = SITE,
    url: Annotated[
        Optional[str], option("Where the pages will stand, for the links of the feed and of citations.")
    ] = None,
) -> None:
    """Build the static pages from the entries in the folders."""
    print(f"page: {_build(rows, out, url)}")


def serve(
    rows: Rows = None,
    out: Site = SITE,
    port: Annotated[int, option("0 takes any that is free.")] = 8000,
) -> None:
    """Build the pages and serve them on this machine, until Ctrl-C."""
    _build(rows, out, None)
    from leaderboard.serve import serve

    serve(out, port)


def _build(rows: list[Path] | None, out: Path, url: str | None) -> Path:
    from leaderboard.build import build

    folders = rows or [folder for folder in (Path("runs"), Path("submissions")) if folder.is_dir()]
    if not folders:
        raise UserError("there is neither runs/ nor submissions/ here; name a folder with --rows")
    return build(folders, out, url)
