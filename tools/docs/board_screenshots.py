"""Pictures of the board for the documentation, taken by headless Chromium from the built pages.

    python -m tools.docs.board_screenshots [--rows FOLDER ...] [--out docs/images] [--entry SLUG]

Without --rows the board is of `runs` and `submissions`, with --generated N of so many generated entries too. Writes
board-light.png, board-dark.png and board-phone.png of the tables, board-entry.png of one entry's page (the first
ranked, if --entry names none) and board-compare.png of that entry and its neighbours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from leaderboard.build import build
from tools.speed.board_entries import write_entries

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=Path, action="append")
    parser.add_argument("--generated", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--entry", help="the slug of the entry whose page is taken")
    options = parser.parse_args()
    rows = options.rows or [folder for folder in (Path("runs"), Path("submissions")) if folder.is_dir()]
    with tempfile.TemporaryDirectory() as temporary:
        if options.generated:
            write_entries(Path(temporary) / "generated", options.generated, verdicts=True)
            rows.append(Path(temporary) / "generated")
        take(build(rows, Path(temporary) / "site").parent, options.out, options.entry)


def take(site: Path, out: Path, entry: str | None) -> None:
    """Writes the pictures of the built `site` into `out`."""
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("ASABENCH_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])

        def picture(
            name: str, page_name: str, scheme: str, width: int, height: int, *, whole: bool = False
        ) -> list[str]:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.goto(f"{site.as_uri()}/{page_name}")
            page.wait_for_load_state("networkidle")
            page.screenshot(path=out / f"board-{name}.png", full_page=whole)
            slugs = [str(link.get_attribute("href"))[8:-5] for link in page.locator(".board tbody th a").all()[:3]]
            context.close()
            print(out / f"board-{name}.png")
            return slugs

        first = picture("light", "index.html", "light", 1440, 1000)
        picture("dark", "index.html", "dark", 1440, 1000)
        picture("phone", "index.html", "light", 390, 1400)
        picture("entry", f"entries/{entry or first[0]}.html", "light", 1200, 900, whole=True)
        chosen = list(dict.fromkeys([*([entry] if entry else []), *first]))[:3]
        picture("compare", f"compare.html?entries={','.join(chosen)}", "light", 1200, 900, whole=True)
        browser.close()


if __name__ == "__main__":
    main()
