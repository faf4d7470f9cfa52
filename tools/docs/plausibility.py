"""What the rules of `asabench.submission.checks.plausibility` measure on real entries, and their false alarms there.

python -m tools.docs.plausibility [FOLDER]     the entries in submissions/
"""

from __future__ import annotations

import sys
from pathlib import Path

from asabench.core.row import Row, read_row
from asabench.submission.checks.plausibility import Measured, impossible, measured, oddities
from asabench.submission.schema import ROW_FILE, SUBMISSION_FILE, VERDICTS_FILE
from asabench.submission.tracks import collapse, incoherent_shares
from asabench.submission.verdict_table import read_verdicts


def entries(folder: Path) -> list[Path]:
    """The entries in a folder, sorted."""
    return sorted(path.parent for path in folder.glob(f"*/{SUBMISSION_FILE}"))


def alarms(folder: Path) -> list[str]:
    """What the rules say against an entry."""
    row = read_row(folder / ROW_FILE)
    table = read_verdicts(folder / VERDICTS_FILE)
    found = [finding.line for finding in impossible(table, row.judge.id, at_inference=False)]
    return [*found, *oddities(table)]


def _line(name: str, row: Row, found: Measured) -> str:
    shares = [found.misordered, found.one_answer, found.stayed, None if found.moved is None else 1 - found.moved]
    clean, steered = incoherent_shares(row)
    numbers = [found.longest_token, found.characters_a_token, found.against_p, *shares, found.unscored, clean, steered]
    cells = " ".join(f"{'-' if number is None else f'{number:.3f}':>9}" for number in numbers)
    return f"{name:36} {cells} {'collapsed' if collapse(row) else ''}".rstrip()


def main(folder: Path) -> None:
    """Prints a line an entry, and the alarms."""
    heads = (
        "longest",
        "mean",
        "against P",
        "misorder",
        "one text",
        "stayed",
        "unmoved",
        "unscored",
        "clean inc",
        "inc",
    )
    print(f"{'':36} {' '.join(f'{head:>9}' for head in heads)}")
    said = []
    for path in entries(folder):
        print(_line(path.name, read_row(path / ROW_FILE), measured(read_verdicts(path / VERDICTS_FILE))))
        said += [f"{path.name}: {line}" for line in alarms(path)]
    print("\n".join([f"false alarms: {len(said)}", *said]))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "submissions"))
