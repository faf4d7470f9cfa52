"""How long checking takes: 500 generated submissions of standard size, each in itself and against all others.

    python -m tools.speed.submission_scale [--count 500] [--jobs 2] [--folder KEPT]

Prints the seconds, in all and for each submission, and the longest file. Exits with 1 where one is not valid, or where
checking takes 10 minutes or more. Making them takes about as long and is not counted; `--folder` keeps them, and makes
only those that are not there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from asabench.submission.validate import report, validate
from tools.speed.board_entries import write_entries
from tools.speed.processor_time import processor_seconds

MOST_SECONDS = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--folder", type=Path, help="keep the submissions here, and use them again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        paths = write_entries(options.folder or Path(temporary), options.count, verdicts=True, jobs=options.jobs)
        print(f"{len(paths)} submissions at hand after {time.perf_counter() - start:.0f} s", flush=True)
        start, before = time.perf_counter(), processor_seconds()
        done = validate(paths, jobs=options.jobs)
        seconds, busy = time.perf_counter() - start, processor_seconds() - before
        size, name = max((file.stat().st_size, file.name) for path in paths for file in path.iterdir())
        invalid = [each for each in done if not each.ok]
        print(
            f"checked: {seconds:.1f} s in {options.jobs} processes, {seconds / len(paths):.2f} s a submission, "
            f"{busy:.1f} s of processors"
        )
        print(f"longest file: {name}, {size / 1e6:.2f} MB; invalid: {len(invalid)}")
        print(f"under {MOST_SECONDS / 60:g} minutes: {'yes' if seconds < MOST_SECONDS else 'NO'}")
        if invalid:
            print(report(invalid[:3]))
        return int(bool(invalid) or seconds >= MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
