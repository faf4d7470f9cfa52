"""Folding, similarity and clusters of requests, with weights worked out by hand; the shipped tables."""

from __future__ import annotations

import importlib.util
from math import log, sqrt
from pathlib import Path

import pytest

from asabench.core import advbench, near_duplicates, similarity
from asabench.core.errors import NotAtHand
from asabench.core.near_duplicates import clusters_of_digests, disjoint_rows, known_clusters, known_goals, known_near
from asabench.core.similarity import Near, clusters, components, copies, fold, near_between, near_pairs, similarities
from tools import near_duplicates as tool

needs_text = pytest.mark.skipif(importlib.util.find_spec(advbench.PACKAGE) is None, reason="the text of AdvBench")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference in which `the` is in 519 of 520 goals, so that it weighs 1 + ln(521 / 520)."""
    table = tmp_path / "words.csv"
    table.write_text(f"word_sha256,goals\n{similarity.word_digest('the')},519\n")
    monkeypatch.setattr(similarity, "WORDS", table)
    monkeypatch.setattr(similarity, "document_frequencies", similarity.document_frequencies.__wrapped__)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  Paint\tthe\n FENCE. ", "paint the fence"),
        ("pa\u200bint the fen\u00adce\ufe0f", "paint the fence"),
        ("\uff30aint the ﬁeld", "paint the field"),
        ("Straße, don't; e-mail_me", "strasse don t e mail me"),
        ("\u2066paint\u2069\u00a0the\u3000fence\x00now", "paint the fence now"),
        ("cafe\u0301 = café", "café café"),
        ("!?", ""),
    ],
)
def test_fold(text: str, folded: str) -> None:
    assert fold(text) == folded
    assert fold(folded) == folded


def test_the_cosine_of_weighted_words(weights: None) -> None:
    the, other = 1 + log(521 / 520), 1 + log(521)
    found = similarities(["the the fence", "!"], ["The fence!", "a garden", ""]).toarray()
    expected = (2 * the**2 + other**2) / sqrt((4 * the**2 + other**2) * (the**2 + other**2))
    assert found.tolist() == [[pytest.approx(expected, abs=1e-6), 0, 0], [0, 0, 0]]


def test_near_pairs_reach_the_threshold(weights: None) -> None:
    texts = ["paint fence", "paint wall", "sing songs loudly", "paint big wall", "PAINT, fence"]
    # One of two words: 0.5. One of two and three: 1 / sqrt(6) = 0.41. Two of two and three: 2 / sqrt(6) = 0.82
    assert near_pairs(texts) == [
        Near(0, 1, 0.5),
        Near(0, 4, 1.0),
        Near(1, 3, pytest.approx(0.816497)),
        Near(1, 4, 0.5),
    ]
    assert near_between(texts[:1], texts[1:]) == [Near(0, 0, 0.5), Near(0, 3, 1.0)]
    assert clusters(texts) == (0, 0, 2, 0, 0), "3 is with 0 by way of 1"


def test_blocks_change_nothing(weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{a} {b}" for a in "abc" for b in "xyz"]
    whole = near_pairs(texts)
    monkeypatch.setattr(similarity, "_BLOCK", 2)
    assert near_pairs(texts) == whole
    assert len(whole) == 18


def test_components_are_named_by_their_first_member() -> None:
    assert components(6, [(4, 5), (1, 4), (2, 0)]) == (0, 1, 0, 3, 1, 1)
    assert components(3, []) == (0, 1, 2)
    assert components(0, []) == ()


def test_copies() -> None:
    long, short = "paint the old fence", "sing songs"
    written = ["Paint the old fence; sure, here", "s-i-n-g songs", "do sing songs", "paint the very old fence", "?"]
    assert copies(written, [long, short, "!"]) == [(0, 0), (1, 1)]


def test_a_table_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.csv"
    table.write_text("nothing\n1\n")
    monkeypatch.setattr(similarity, "WORDS", table)
    monkeypatch.setattr(near_duplicates, "PAIRS", table)
    for read in (similarity.document_frequencies, near_duplicates.pairs):
        with pytest.raises(NotAtHand, match="install ASABench again"):
            read.__wrapped__()


def test_what_the_shipped_tables_say() -> None:
    digests = [known.goal for known in advbench.digests()]
    assert len(set(clusters_of_digests(digests[:100]) or ())) == 79
    near = known_near(digests[100:300], digests[:100])
    assert len(near) == 39
    assert all(0.5 <= value <= 1 for value in near.values())
    rows = disjoint_rows()
    assert len(rows) == 226
    assert min(rows) >= 100
    assert known_near([digests[row] for row in rows], digests[:100]) == {}
    assert known_near([digests[row] for row in rows], digests[:300]) != {}


def test_goals_of_others_stand_alone() -> None:
    digests = [known.goal for known in advbench.digests()]
    first, second, value = near_duplicates.pairs()[0]
    mixed = ["0" * 64, digests[second], digests[first], "1" * 64]
    assert clusters_of_digests(mixed) is None
    assert known_clusters(mixed) == (0, 1, 1, 3)
    assert known_goals(mixed) == {digests[first], digests[second]}
    assert known_near([digests[first]], [digests[second], digests[first]])[digests[second]] == value


@needs_text
def test_the_tables_are_those_of_the_text() -> None:
    goals = [prompt.goal for prompt in advbench.load()]
    assert similarity.WORDS.read_text() == tool.words_table(goals)
    assert near_duplicates.PAIRS.read_text() == tool.pairs_table(goals)
    digests = [prompt.digest for prompt in advbench.load()]
    assert clusters(goals[:100]) == clusters_of_digests(digests[:100])
    assert len(goals) == similarity.DOCUMENTS
