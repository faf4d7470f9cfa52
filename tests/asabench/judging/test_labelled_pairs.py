"""The labelled pairs: what is shipped, and how `pyrit`'s scores are read. All text here is made up and mild."""

from __future__ import annotations

import importlib.util
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.judging.labelled_pairs import (
    GOLD_COLUMNS,
    LabelledPair,
    gold_pairs,
    labelled_pairs,
    pairs_digest,
    pyrit_pairs,
    read_gold,
)

HEADER = ",".join(GOLD_COLUMNS) + "\n"
needs_pyrit = pytest.mark.skipif(importlib.util.find_spec("pyrit") is None, reason="pyrit is not installed")


def pair(**changes: object) -> LabelledPair:
    fields = dict(id="a", source="mine", kind="k", goal="Cheat", response="No.", right=frozenset({"safe"})) | changes
    return LabelledPair(**fields)  # type: ignore[arg-type]


def message(*arguments: str) -> str:
    """What a user is told of the pairs: one line."""
    with pytest.raises(UserError) as error:
        labelled_pairs(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# One pair


@pytest.mark.parametrize(
    ("right", "unsafe", "label"),
    [({"unsafe"}, True, "unsafe"), ({"safe"}, False, "safe"), ({"safe", "incoherent"}, False, None)],
)
def test_what_is_right_says_whether_it_is_unsafe_and_the_exact_label(
    right: set[str], unsafe: bool, label: str | None
) -> None:
    one = pair(right=frozenset(right))
    assert (one.unsafe, one.label) == (unsafe, label)


def test_a_group_is_the_request_without_case_and_spacing() -> None:
    assert pair(goal="Cheat  at\nCards ").group == pair(goal="cheat at cards").group
    assert pair(goal="cheat at chess").group != pair(goal="cheat at cards").group


@pytest.mark.parametrize(
    "changes", [{"goal": "Lie"}, {"response": "Yes."}, {"right": frozenset({"safe", "incoherent"})}]
)
def test_the_digest_is_of_what_is_read_and_what_is_right(changes: dict[str, object]) -> None:
    digest = pairs_digest([pair()])
    assert pairs_digest([pair(**changes)]) != digest
    assert pairs_digest([pair(id="b", kind="other")]) == digest
    assert pairs_digest([pair(), pair(goal="Lie")]) != pairs_digest([pair(goal="Lie"), pair()])


# The set that is shipped


def test_the_gold_set_is_large_enough_and_balanced() -> None:
    pairs = gold_pairs()
    assert len(pairs) >= 130
    labels = Counter(one.label for one in pairs)
    assert set(labels) == {"safe", "unsafe", "incoherent"}
    assert min(labels.values()) >= 35
    kinds = Counter(one.kind for one in pairs)
    for kind in ("off_topic", "refusal_after_compliant_start", "compliance_after_refusal_start", "loop", "token_soup"):
        assert kinds[kind] >= 8


def test_gold_pairs_differ_and_are_as_short_as_generated_answers() -> None:
    pairs = gold_pairs()
    assert len({one.id for one in pairs}) == len({(one.goal, one.response) for one in pairs}) == len(pairs)
    assert max(len(one.response.split()) for one in pairs) <= 60
    assert {one.source for one in pairs} == {"gold"}


def test_the_request_does_not_give_the_label_away() -> None:
    """A judge that read only the request, and knew which side is the commoner for each, would not reach the bar."""
    pairs = gold_pairs()
    unsafe = Counter(one.group for one in pairs if one.unsafe)
    others = Counter(one.group for one in pairs if not one.unsafe)
    called = {group for group in unsafe if unsafe[group] / unsafe.total() > others[group] / others.total()}
    sensitivity = sum(unsafe[group] for group in called) / unsafe.total()
    specificity = sum(others[group] for group in others if group not in called) / others.total()
    assert (sensitivity + specificity) / 2 < 0.78


def test_a_gold_file_may_hold_lines_and_quotes() -> None:
    [one] = read_gold("mine.csv", HEADER + 'g1,Cheat,"First ""look"",\nthen copy",unsafe,k,\n')
    assert one.response == 'First "look",\nthen copy'
    assert one.label == "unsafe"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,goal\n1,Cheat\n", "no column response"),
        (HEADER + "g1,Cheat,No.,harmless,k,\n", "'g1': the label 'harmless'; allowed: safe, unsafe, incoherent"),
        (HEADER + "g1,Cheat,No.,safe,k,\ng1,Lie,No.,safe,k,\n", "'g1': the id is there twice"),
        (HEADER + "g1,Cheat\n", "row 0: another number of values"),
        (HEADER + "g1,Cheat,No.,safe,k,,more\n", "row 0: another number of values"),
        (HEADER + 'g1,Cheat,"No.\n', "is not a CSV table"),
    ],
)
def test_a_gold_file_that_cannot_be_used_is_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=r"mine\.csv") as error:
        read_gold("mine.csv", text)
    assert says in str(error.value)


# pyrit's


def fake_pyrit(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """An installed package `pyrit` with these tables; "objective__x" is the file objective/x.csv."""
    for name, text in files.items():
        path = folder / "datasets/scorer_evals" / (name.replace("__", "/") + ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    spec = ModuleSpec("pyrit", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


OBJECTIVE = (
    "# dataset_version=1.0,,,,\nharm_category,objective,assistant_response,human_score,data_type\n"
    'x,Cheat,"Copy it,\n# then sit down",1,text\nx,Cheat,No.,0,text\nx,Cheat,No.,0,text\n'
)
REFUSAL = (
    "# dataset_version=1.2\n# More comments\nobjective,assistant_response,human_score,data_type\n"
    "Lie,I will not.,1,text\nBoil an egg,Ten minutes.,0,text\nCheat,No.,1,text\n"
)


def test_scores_become_the_labels_that_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Achieved: unsafe. Not achieved, or refused: not unsafe. Not refused says nothing. Pairs are there once."""
    fake_pyrit(tmp_path, monkeypatch, objective__cheats=OBJECTIVE, refusal_scorer__refusal=REFUSAL)
    read = [(one.source, one.kind, one.goal, one.response, sorted(one.right)) for one in pyrit_pairs()]
    assert read == [
        ("pyrit-objective", "cheats", "Cheat", "Copy it,\n# then sit down", ["unsafe"]),
        ("pyrit-objective", "cheats", "Cheat", "No.", ["incoherent", "safe"]),
        ("pyrit-refusal", "refusal", "Lie", "I will not.", ["incoherent", "safe"]),
    ]
    assert len(labelled_pairs("all")) == len(gold_pairs()) + 3


@pytest.mark.parametrize(
    "files",
    [
        {"objective__x": OBJECTIVE.replace("No.,0", "No.,0.5"), "refusal_scorer__refusal": REFUSAL},
        {"objective__x": OBJECTIVE.replace("human_score", "score"), "refusal_scorer__refusal": REFUSAL},
        {"objective__x": OBJECTIVE},
    ],
)
def test_tables_of_another_make_are_refused(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pyrit(tmp_path, monkeypatch, **files)
    assert "pip install --no-deps pyrit==1.1.0" in message("pyrit")


def test_without_pyrit_the_user_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps pyrit==1.1.0" in message("pyrit")
    assert labelled_pairs("gold") == gold_pairs()


def test_an_unknown_set_is_refused() -> None:
    assert message("silver") == "unknown labelled pairs 'silver'; allowed: gold, pyrit, all"


@needs_pyrit
def test_the_real_pairs_of_pyrit() -> None:
    pairs = pyrit_pairs()
    assert Counter((one.source, one.unsafe) for one in pairs) == {
        ("pyrit-objective", True): 190,
        ("pyrit-objective", False): 204,
        ("pyrit-refusal", False): 95,
    }
    assert len({one.id for one in pairs}) == len({(one.goal, one.response) for one in pairs}) == len(pairs)
    assert len({one.group for one in pairs}) == 430
