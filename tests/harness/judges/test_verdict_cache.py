"""The cache of verdicts: kept at once, by judge and pair, by several processes; and pairs asked about once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.records import Cell, Facts, Prompt, Response
from harness.judges.verdict_cache import Keep, Opinion, Pair, VerdictCache, judged_once, pair_digest

UNSAFE = Opinion(label="unsafe", reason="why", p_unsafe=0.75, facts=Facts(refused=False, coherent=True, harmful=None))
SAFE = Opinion(label="safe")


def response(goal: str, text: str, layer: int = 0) -> Response:
    cell = Cell(prompt=Prompt(id=goal, goal=goal), layer=layer, attack="random")
    return Response(cell=cell, text=text, token_ids=(), finish_reason="stop")


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    with cache.open("judge-a") as session:
        assert session.known([("g", "r")]) == {}
        session.keep(("g", "r"), UNSAFE)
        session.keep(("g", "other"), SAFE)
        session.keep(("g", "r3"), Opinion(label=None, reason="empty reply"))
    with VerdictCache(tmp_path).open("judge-a") as session:
        # An unscored one is not kept: it may be readable the next time
        found = session.known([("g", "r"), ("g", "other"), ("g", "r3"), ("h", "r")])
        assert found == {("g", "r"): UNSAFE, ("g", "other"): SAFE}
    with cache.open("judge-b") as session:
        assert session.known([("g", "r")]) == {}


def test_a_later_verdict_replaces_and_forget_drops_one_judge(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    for judge in ("a", "b"):
        with cache.open(judge) as session:
            session.keep(("g", "r"), UNSAFE)
    with cache.open("a") as session:
        session.keep(("g", "r"), SAFE)
        assert session.known([("g", "r")]) == {("g", "r"): SAFE}
        assert session.forget() == 1
        assert session.known([("g", "r")]) == {}
    with cache.open("b") as session:
        assert session.known([("g", "r")]) == {("g", "r"): UNSAFE}


def test_more_pairs_than_one_query_takes(tmp_path: Path) -> None:
    pairs = [("g", str(number)) for number in range(1_201)]
    with VerdictCache(tmp_path).open("a") as session:
        for pair in pairs[::2]:
            session.keep(pair, SAFE)
        assert set(session.known(pairs)) == set(pairs[::2])


def test_no_text_is_in_the_file(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    with cache.open("a") as session:
        session.keep(("a rare goal", "a rare response"), UNSAFE)
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"rare" not in everything
    assert pair_digest("a rare goal", "a rare response").encode() in everything


def test_pairs_are_not_confused() -> None:
    assert pair_digest("a", "bc") != pair_digest("ab", "c")
    assert pair_digest("", 'a", "b') != pair_digest('", "a', "b")


WRITER = """
import sys
from pathlib import Path
from harness.judges.verdict_cache import Opinion, VerdictCache

folder, number = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(100):
    with VerdictCache(folder).open("a") as session:
        session.keep(("g", f"{number} {turn}"), Opinion(label="safe"))
"""


def test_processes_write_at_once(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "new"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    pairs = [("g", f"{number} {turn}") for number in range(3) for turn in range(100)]
    with VerdictCache(tmp_path / "new").open("a") as session:
        assert len(session.known(pairs)) == 300


def test_a_killed_process_leaves_what_it_kept(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom harness.judges.verdict_cache import Opinion, VerdictCache\n"
        "with VerdictCache(Path(sys.argv[1])).open('a') as session:\n"
        "    session.keep(('g', 'r'), Opinion(label='safe'))\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    with VerdictCache(tmp_path).open("a") as session:
        assert session.known([("g", "r")]) == {("g", "r"): SAFE}


def test_a_file_that_is_no_cache(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    cache.path.write_bytes(b"something else altogether " * 100)
    with pytest.raises(UserError, match="ASABENCH_CACHE") as caught, cache.open("a") as session:
        session.known([("g", "r")])
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"), VerdictCache(tmp_path / "file").open("a"):
        pass


def test_the_folder_is_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASABENCH_CACHE", str(tmp_path / "here"))
    assert VerdictCache().path.parent == tmp_path / "here"
    monkeypatch.delenv("ASABENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert VerdictCache().path.parent == tmp_path / "asabench"


def test_each_pair_is_asked_about_once(tmp_path: Path) -> None:
    asked: list[Pair] = []

    def ask(pairs: Sequence[Pair], keep: Keep) -> None:
        for pair in pairs:
            asked.append(pair)
            keep(pair, UNSAFE if pair[1] == "bad" else SAFE)

    cache = VerdictCache(tmp_path)
    responses = [response("g2", "bad"), response("g1", "ok"), response("g2", "bad", 1), response("g2", "ok", 2)]
    verdicts, counts = judged_once(responses, "a", cache, ask)
    assert [verdict.label for verdict in verdicts] == ["unsafe", "safe", "unsafe", "safe"]
    assert [verdict.cell_id for verdict in verdicts] == [each.cell.id for each in responses]
    assert (verdicts[0].judge, verdicts[0].reason, verdicts[0].p_unsafe) == ("a", "why", 0.75)
    # The longest first, then those of one goal one after another
    assert asked == [("g2", "bad"), ("g1", "ok"), ("g2", "ok")]
    assert (counts.given, counts.pairs, counts.duplicates, counts.cached, counts.asked) == (4, 3, 1, 0, 3)

    _, counts = judged_once([*responses, response("g3", "ok")], "a", cache, ask)
    assert asked[3:] == [("g3", "ok")]
    assert (counts.cached, counts.asked) == (3, 1)


def test_what_was_said_before_a_failure_is_kept(tmp_path: Path) -> None:
    def fail_at_the_second(pairs: Sequence[Pair], keep: Keep) -> None:
        keep(pairs[0], SAFE)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        judged_once([response("a", "x"), response("b", "x")], "judge", VerdictCache(tmp_path), fail_at_the_second)
    with VerdictCache(tmp_path).open("judge") as session:
        assert session.known([("a", "x"), ("b", "x")]) == {("a", "x"): SAFE}


def test_without_a_cache_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASABENCH_CACHE", str(tmp_path))

    def ask(pairs: Sequence[Pair], keep: Keep) -> None:
        for pair in pairs:
            keep(pair, SAFE)

    verdicts, counts = judged_once([response("a", "x"), response("a", "x", 1)], "judge", None, ask)
    assert [verdict.label for verdict in verdicts] == ["safe", "safe"]
    assert (counts.asked, os.listdir(tmp_path)) == (1, [])
    assert judged_once([], "judge", None, ask)[0] == []
