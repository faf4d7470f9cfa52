"""Verdicts of judges that cost something, kept on disk: a pair is asked about once, also when a run is cut short.

One SQLite file in the user's cache folder, or in the folder that the environment variable `ASABENCH_CACHE` names. It
holds what a judge said under its id, the address of its server and the digest of a pair: no request and no answer, but
the replies of judges that are language models. Several processes may use it at once (on a local disk: SQLite's
write-ahead log does not work across machines).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.records import LABELS, NOTHING_KNOWN, Facts, Label, Response, Verdict
from harness.model.files import cache_folder

# The number is that of the table's form: a later form gets a file of its own
FILE_NAME = "verdicts-2.sqlite"

BUSY_SECONDS = 30.0
"""How long a process waits for another one's write."""

PAIRS_A_QUERY = 500

Pair = tuple[str, str]
"""A goal and a response, as the judge is given them."""


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a judge says of a pair, whatever cells it came from; the fields are those of
    `asabench.core.records.Verdict`."""

    label: Label | None
    reason: str | None = None
    p_unsafe: float | None = None
    facts: Facts = NOTHING_KNOWN
    reply: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One call of a judge: so many responses were `given`, which are so many different `pairs`; of these `cached` were
    on disk and `asked` were asked about."""

    given: int
    pairs: int
    cached: int
    asked: int

    @property
    def duplicates(self) -> int:
        """Responses that needed no question, as another one of the call is the same pair."""
        return self.given - self.pairs


Keep = Callable[[Pair, Opinion], None]
Ask = Callable[[Sequence[Pair], Keep], None]
"""Asks about each of the pairs and hands every opinion on as soon as it is there."""


class Session:
    """The cache, opened for one judge."""

    def __init__(self, connection: sqlite3.Connection, judge: str) -> None:
        self._connection = connection
        self._judge = judge

    def known(self, pairs: Iterable[Pair]) -> dict[Pair, Opinion]:
        """The opinions that are there."""
        by_digest = {pair_digest(*pair): pair for pair in pairs}
        digests = list(by_digest)
        found: dict[Pair, Opinion] = {}
        for start in range(0, len(digests), PAIRS_A_QUERY):
            some = digests[start : start + PAIRS_A_QUERY]
            lines = self._connection.execute(
                "SELECT pair, label, reason, p_unsafe, refused, coherent, harmful, reply FROM opinions "
                f"WHERE judge = ? AND pair IN ({','.join('?' * len(some))})",
                (self._judge, *some),
            )
            for digest, label, reason, p_unsafe, *facts, reply in lines:
                if label in LABELS:
                    known = Facts(*(None if fact is None else bool(fact) for fact in facts))
                    found[by_digest[digest]] = Opinion(
                        label=label, reason=reason, p_unsafe=p_unsafe, facts=known, reply=reply
                    )
        return found

    def keep(self, pair: Pair, opinion: Opinion) -> None:
        """Writes one opinion, at once. Unscored ones are not kept: they may be read the next time."""
        if opinion.label is not None:
            self._connection.execute(
                "INSERT OR REPLACE INTO opinions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._judge,
                    pair_digest(*pair),
                    opinion.label,
                    opinion.reason,
                    opinion.p_unsafe,
                    *opinion.facts,
                    opinion.reply,
                ),
            )

    def forget(self) -> int:
        """Drops all of this judge's opinions; how many there were."""
        return self._connection.execute("DELETE FROM opinions WHERE judge = ?", (self._judge,)).rowcount


class VerdictCache:
    """The cache in `folder`, or in the user's cache folder. The file is made when it is first opened."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder()) / FILE_NAME

    @contextmanager
    def open(self, judge: str, where: str = "") -> Iterator[Session]:
        """where: the address of a judge's server. Two servers may call their model the same, and what the one said is
        not the other's. Raises `UserError` when the file cannot be used."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(self._connect()) as connection:
                yield Session(connection, f"{judge} at {where}" if where else judge)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"the verdict cache {self.path} cannot be used ({error}); delete the file, "
                "or set ASABENCH_CACHE to a folder that can be written"
            ) from None

    def _connect(self) -> sqlite3.Connection:
        # Each statement commits by itself; a client may run its event loop in another thread than the caller's
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        # The mode is the file's: where another process is just setting it, this one need not
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS opinions (judge TEXT NOT NULL, pair TEXT NOT NULL, label TEXT NOT NULL, "
            "reason TEXT, p_unsafe REAL, refused INTEGER, coherent INTEGER, harmful INTEGER, reply TEXT, "
            "PRIMARY KEY (judge, pair)) WITHOUT ROWID"
        )
        return connection


def pair_digest(goal: str, response: str) -> str:
    """SHA-256, in hex, of a pair as it is given."""
    return hashlib.sha256(json.dumps([goal, response]).encode()).hexdigest()


def judged_once(
    responses: Sequence[Response], judge: str, cache: VerdictCache | None, ask: Ask, where: str = ""
) -> tuple[list[Verdict], Counts]:
    """Verdicts in the order of `responses`: each different pair is looked up, and asked about where it is not there.

    What `ask` hands on before it raises is in the cache. The longest pair comes to it first, so that a context too
    small shows at once; the others sorted, so that those of one goal, whose prompts begin alike, follow one another.
    """
    pairs = [(response.cell.prompt.goal, response.text) for response in responses]
    different = sorted(set(pairs))
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(cache.open(judge, where)) if cache is not None else None
        opinions = session.known(different) if session else {}
        cached = len(opinions)

        def keep(pair: Pair, opinion: Opinion) -> None:
            if session:
                session.keep(pair, opinion)
            opinions[pair] = opinion

        missing = [pair for pair in different if pair not in opinions]
        if missing:
            longest = max(missing, key=lambda pair: sum(len(text.encode("utf-8", "replace")) for text in pair))
            missing = [longest, *(pair for pair in missing if pair != longest)]
            ask(missing, keep)
    verdicts = [
        Verdict(
            cell_id=response.cell.id,
            judge=judge,
            label=said.label,
            reason=said.reason,
            p_unsafe=said.p_unsafe,
            **said.facts._asdict(),
            reply=said.reply,
        )
        for response, said in zip(responses, (opinions[pair] for pair in pairs), strict=True)
    ]
    return verdicts, Counts(given=len(pairs), pairs=len(different), cached=cached, asked=len(missing))
