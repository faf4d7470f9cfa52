"""The board: every entry under some folders, as a folder of static pages that needs no server and no network.

    index.html              the tables of all tracks, whole without JavaScript
    entries/SLUG.html       one page an entry; SLUG.json is it as data, SLUG.svg its badge, and SLUG.js has its
                            numbers for the compare page
    changes.html            the entries by date
    compare.html            two to four entries side by side
    rank-stability.json     how far two judges of the same entries agree on their order
    rows.json, rows.csv     the same as data; reported-gu2025.csv; feed.xml

The pages hold no model text: only rates, names and digests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.files import disk_errors, write_whole
from leaderboard import downloads, pages
from leaderboard.badge import badge_file
from leaderboard.differences import paired_differences
from leaderboard.entries import read_entries
from leaderboard.judges_agree import as_data, judges_agree
from leaderboard.ranking import Track, group_tracks
from leaderboard.reported import read_reported, reported_text
from leaderboard.trained_blocks import block_shares


def build(rows: Path | Sequence[Path], out: Path, url: str | None = None) -> Path:
    """Writes the pages into the folder `out`; returns the path of `index.html`.

    `rows`: folders searched for `row.json` (at any depth), or such files themselves. `url`: where the pages will stand,
    for the links of the feed and of citations. Equal entries give equal bytes. Pages of entries that are no longer
    there are removed. `UserError` when a folder is missing, when there is no row at all, or when a file is not
    readable.
    """
    roots = [rows] if isinstance(rows, Path) else list(rows)
    entries = read_entries(roots)
    if not entries:
        raise UserError(
            f"no row.json under {', '.join(map(str, roots)) or 'no folder at all'}; "
            "an evaluation writes one: run `asabench evaluate --model smollm2-135m` first"
        )
    tracks = group_tracks(entries)
    with disk_errors(out):
        _write_site(tracks, out, _checked_url(url))
    return out / "index.html"


def _checked_url(url: str | None) -> str | None:
    """With a slash at its end."""
    if url is None:
        return None
    if not url.startswith(("https://", "http://")) or any(not c.isprintable() or c in " <>\"'{}\\" for c in url):
        raise UserError(f"--url {url!r} is no address; give one such as https://example.org/board/")
    return url.rstrip("/") + "/"


def _write_site(tracks: Sequence[Track], out: Path, url: str | None) -> None:
    folder = out / "entries"
    folder.mkdir(parents=True, exist_ok=True)
    kept = set()
    differences = paired_differences(tracks)
    agree = {track.key: judges_agree(track) for track in tracks}
    for track in tracks:
        for placed in track.placed:
            slug = placed.entry.slug
            page = pages.render_entry(track, placed, differences[slug], block_shares(track, placed), url)
            files = {
                f"{slug}.html": page,
                f"{slug}.js": downloads.render_entry_script(track, placed),
                f"{slug}.json": downloads.render_entry_json(track, placed),
                f"{slug}.svg": badge_file(track, placed),
            }
            for name, text in files.items():
                _write(folder / name, text)
                kept.add(name)
    _remove_older(folder, kept)
    _write(out / "style.css", pages.render_style(tracks))
    for name in pages.SCRIPTS:
        _write(out / name, pages.source(name))
    _write(out / "data.js", downloads.render_index_script(tracks))
    _write(out / "compare.html", pages.render_compare())
    _write(out / "reported-gu2025.csv", reported_text())
    _write(out / "rows.json", downloads.render_json(tracks))
    across = [line for track in tracks for line in as_data(track, agree[track.key])]
    _write(out / "rank-stability.json", json.dumps(across, indent=1, allow_nan=False) + "\n")
    _write(out / "rows.csv", downloads.render_csv(tracks))
    _write(out / "changes.html", pages.render_changes(tracks, url))
    _write(out / "feed.xml", downloads.render_feed(tracks, url))
    # The first page last: whoever finds it finds what it links to.
    _write(out / "index.html", pages.render_index(tracks, read_reported(), agree, url))


def _remove_older(folder: Path, kept: set[str]) -> None:
    """Removes what an earlier build put there for entries that are gone; other people's files stay."""
    for path in folder.iterdir():
        if path.suffix in (".html", ".js", ".json", ".svg") and path.name not in kept and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                made_here = downloads.MARK in file.read(400)
            if made_here:
                path.unlink()


def _write(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of one."""
    # A lone surrogate, which JSON can hold, is no text that a file can. A page is made again rather than waited for
    write_whole(path, text.encode("utf-8", errors="replace"), durable=False)
