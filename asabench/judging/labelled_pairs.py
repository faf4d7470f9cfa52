"""Pairs of a request and an answer with the label that is right: what judges are checked against (docs/judges.md).

`gold` comes with ASABench, each answer written to have its label. `pyrit` is read from the installed package of that
name (Microsoft's PyRIT, MIT licence), which ships answers that people scored; its text complies with harmful requests,
so it is neither copied nor shown here.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.records import LABELS, NOTHING_KNOWN, Facts, Label, sha256_hex

PYRIT_PACKAGE = "pyrit"
PYRIT_INSTALL = "pip install --no-deps pyrit==1.1.0"
PYRIT_FOLDER = "datasets/scorer_evals"
PYRIT_COLUMNS = ("objective", "assistant_response", "human_score")
GOLD_COLUMNS = ("id", "goal", "response", "label", "kind", "note")

NOT_UNSAFE: frozenset[Label] = frozenset({"safe", "incoherent"})
UNSAFE: frozenset[Label] = frozenset({"unsafe"})


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    """One request, one answer, and the labels that are right for it.

    `right` has more than one label where people were asked something coarser than our three: an objective that was
    not achieved may have been refused or drowned in gibberish. `source` names the set of labels, `kind` what sort of
    pair it is within the source. `facts`: those that are known of it, beside what `right` says
    (`asabench.judging.people.facts_of`).
    """

    id: str
    source: str
    kind: str
    goal: str
    response: str
    right: frozenset[Label]
    facts: Facts = NOTHING_KNOWN

    @property
    def unsafe(self) -> bool:
        """Whether the one right label is unsafe."""
        return self.right == UNSAFE

    @property
    def label(self) -> Label | None:
        """The exact label, None where people's answer leaves more than one open."""
        return next(iter(self.right)) if len(self.right) == 1 else None

    @property
    def group(self) -> str:
        """The request without its case and spacing: pairs of one group are alike and stay on one side of a split."""
        return " ".join(self.goal.casefold().split())


def labelled_pairs(name: str) -> tuple[LabelledPair, ...]:
    """The set of that name: `gold`, `pyrit`, or `all`, which is both. `UserError` for another name, or what the
    loaders below raise."""
    if name not in PAIR_SETS:
        raise UserError(f"unknown labelled pairs {name!r}; allowed: {', '.join(PAIR_SETS)}")
    return tuple(PAIR_SETS[name]())


def pairs_digest(pairs: Iterable[LabelledPair]) -> str:
    """SHA-256, in hex, of what judges read and of what is held to be right, in order; ids and kinds do not count."""
    content = [[pair.source, pair.goal, pair.response, sorted(pair.right)] for pair in pairs]
    return sha256_hex(json.dumps(content, ensure_ascii=False))


def gold_pairs() -> tuple[LabelledPair, ...]:
    """ASABench's own short pairs, each with one exact label and nothing in it that is harmful in itself."""
    text = (files("asabench") / "data" / "judge_gold.csv").read_text(encoding="utf-8")
    return read_gold("asabench/data/judge_gold.csv", text)


def read_gold(where: str, text: str) -> tuple[LabelledPair, ...]:
    """Pairs from the text of a CSV file with the columns GOLD_COLUMNS; `UserError` names the pair that is wrong."""
    rows = _rows(where, text, GOLD_COLUMNS)
    seen: set[str] = set()
    for row in rows:
        if row["label"] not in LABELS:
            raise UserError(f"{where}, pair {row['id']!r}: the label {row['label']!r}; allowed: {', '.join(LABELS)}")
        if row["id"] in seen:
            raise UserError(f"{where}, pair {row['id']!r}: the id is there twice; give every pair its own")
        seen.add(row["id"])
    return tuple(
        LabelledPair(
            id=row["id"],
            source="gold",
            kind=row["kind"],
            goal=row["goal"],
            response=row["response"],
            right=frozenset({label for label in LABELS if label == row["label"]}),
        )
        for row in rows
    )


def pyrit_pairs() -> tuple[LabelledPair, ...]:
    """The pairs of the installed `pyrit` that say whether an answer is harmful, each once; `UserError` without it.

    - `pyrit-objective`: was the (harmful) objective achieved? Yes is unsafe; no is safe or incoherent.
    - `pyrit-refusal`: was it refused? Its scorers counted an answer about something else as a refusal too, so yes is
      safe or incoherent. No says nothing of harm, as most of its requests are harmless: those pairs are left out.
    """
    folder = _pyrit_folder()
    pairs: dict[tuple[str, str], LabelledPair] = {}
    for pair in (*_pyrit_objective(folder / "objective"), *_pyrit_refusal(folder / "refusal_scorer")):
        pairs.setdefault((pair.goal, pair.response), pair)
    return tuple(pairs.values())


def _pyrit_objective(folder: Path) -> Iterator[LabelledPair]:
    for kind, number, row in _pyrit_rows(folder):
        right = UNSAFE if row["human_score"] == "1" else NOT_UNSAFE
        yield _pyrit_pair("pyrit-objective", kind, number, row, right)


def _pyrit_refusal(folder: Path) -> Iterator[LabelledPair]:
    for kind, number, row in _pyrit_rows(folder):
        if row["human_score"] == "1":
            yield _pyrit_pair("pyrit-refusal", kind, number, row, NOT_UNSAFE)


def _pyrit_pair(source: str, kind: str, number: int, row: dict[str, str], right: frozenset[Label]) -> LabelledPair:
    return LabelledPair(
        id=f"{source}-{kind}-{number:03d}",
        source=source,
        kind=kind,
        goal=row["objective"],
        response=row["assistant_response"],
        right=right,
    )


def pyrit_harm_rows() -> list[tuple[str, int, dict[str, str]]]:
    """Answers that people graded for harm, of the installed `pyrit`: (file stem, row from 0, columns). `UserError`
    without it. A file has a grade of each person in a column of its own, `human_score` and what follows."""
    return _pyrit_rows(_pyrit_folder() / "harm", columns=PYRIT_COLUMNS[:2], scores=None)


def _pyrit_folder() -> Path:
    # find_spec imports nothing: the package's own dependencies are not installed
    spec = importlib.util.find_spec(PYRIT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the labelled pairs of {PYRIT_PACKAGE} are not installed; `{PYRIT_INSTALL}`, or use the set gold"
        )
    return Path(next(iter(spec.submodule_search_locations))) / PYRIT_FOLDER


def _pyrit_rows(
    folder: Path, columns: Sequence[str] = PYRIT_COLUMNS, scores: tuple[str, ...] | None = ("0", "1")
) -> list[tuple[str, int, dict[str, str]]]:
    """(file stem, line of the table from 0, columns) of every CSV file in the folder, by name. scores: what may be
    scored, where it is known."""
    rows = []
    try:
        for path in sorted(folder.glob("*.csv")):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            # The files start with comments that name their version
            table = "".join(lines[next((n for n, line in enumerate(lines) if not line.startswith("#")), 0) :])
            for number, row in enumerate(_rows(path.name, table, columns)):
                if scores is not None and row["human_score"] not in scores:
                    raise UserError(f"{path.name}, row {number}: the human_score {row['human_score']!r}")
                rows.append((path.stem, number, row))
        if not rows:
            raise UserError("there are none")
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(
            f"the labelled pairs in the installed {PYRIT_PACKAGE} cannot be read ({error}); "
            f"install it again with `{PYRIT_INSTALL}`"
        ) from None
    return rows


def _rows(where: str, text: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV table that has these columns; others are let be."""
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{where} is not a CSV table: {error}") from None
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise UserError(f"{where} has no column {', '.join(missing)}; expected: {', '.join(columns)}")
    for number, row in enumerate(rows):
        if any(row[column] is None for column in columns) or None in row:
            raise UserError(f"{where}, row {number}: another number of values than in the header")
    return rows


PAIR_SETS: dict[str, Callable[[], Sequence[LabelledPair]]] = {
    "gold": gold_pairs,
    "pyrit": pyrit_pairs,
    "all": lambda: (*gold_pairs(), *pyrit_pairs()),
}
