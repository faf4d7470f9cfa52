"""The table of docs/results/worst-case.md from runs of `--attack auto`.

python -m tools.docs.worst_case RT=runs/rt dissociated=runs/dissociated ...
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.row import Row
from asabench.core.text import eps50_text, in_words
from asabench.runs.folder import read_run


def table(rows: Mapping[str, Row]) -> str:
    """rows: by the name that stands before each. Ordered by the area, the least robust first."""
    first = next(iter(rows.values()))
    doses = [result.dose for result in first.results]
    head = ["model", "INIT", "area", "eps50", *(f"broken at {dose:g}" for dose in doses)]
    head += ["floor there", "broken first by", "flags", "answers", "of the grid", "forwards"]
    lines = [head, ["---"] * len(head)]
    for name, row in sorted(rows.items(), key=lambda item: _area(item[1])):
        suite = row.suite
        assert suite is not None
        broke = Counter(each.attack for each in suite.radii if each.attack is not None)
        floor = max(row.results, key=lambda result: result.dose).masr_floor
        lines.append(
            [
                name,
                in_words(row.init),
                in_words(suite.area),
                eps50_text(row.eps50[row.attack]),
                *(in_words(result.masr) for result in row.results),
                in_words(floor, "not known"),
                ", ".join(f"{attack} {number}" for attack, number in broke.most_common()) or "nothing",
                ", ".join(row.flags) or "none",
                str(suite.answers),
                f"{suite.answers / suite.grid_answers:.1%}",
                str(suite.forwards),
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _area(row: Row) -> float:
    if row.suite is None or row.suite.area.value is None:
        raise UserError(f"the row of {row.model.name} has no robustness curve; evaluate it with --attack auto")
    return row.suite.area.value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    pairs = [each.partition("=") for each in parser.parse_args().runs]
    print(table({name: read_run(Path(run)).row for name, _, run in pairs}))


if __name__ == "__main__":
    main()
