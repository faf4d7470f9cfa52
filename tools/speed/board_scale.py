"""How long the board takes to build, and how large its first view is: 500 generated submissions of standard size.

    python -m tools.speed.board_scale [--entries 500] [--folder KEPT]

Prints the seconds for the build (paired differences included, as every submission comes with its verdicts), the bytes
that a browser loads before the first view, and the bytes of the whole site. Exits with 1 where a build takes more than
60 s or the first view 300 KB or more.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from leaderboard.build import build
from tools.speed.board_entries import write_entries
from tools.speed.processor_time import processor_seconds

FIRST_VIEW = ("index.html", "style.css", "board.js")
MOST_SECONDS = 60
MOST_BYTES = 300_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="keep the submissions and the site here, and use them again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        submissions, site = folder / "submissions", folder / "site"
        if not submissions.is_dir():
            start = time.perf_counter()
            write_entries(submissions, options.entries, verdicts=True, jobs=os.cpu_count() or 1)
            print(f"generated {options.entries} submissions in {time.perf_counter() - start:.1f} s", flush=True)
        start, before = time.perf_counter(), processor_seconds()
        build(submissions, site)
        seconds, busy = time.perf_counter() - start, processor_seconds() - before
        first = sum((site / name).stat().st_size for name in FIRST_VIEW)
        whole = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
        print(f"build: {seconds:.1f} s, {busy:.1f} s of processors")
        print(f"first view: {first} bytes; whole site: {whole / 1e6:.1f} MB")
        return int(seconds > MOST_SECONDS or first >= MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
