"""The headline of a row: its worst case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asabench.core.row import AttackResult, Rate, headline_fields, read_row, with_headline, worst_case
from tests.rows import NO_RATE, make_result, make_row, rate, write_row


def result(attack: str, dose: float, masr: Rate, pasr: Rate = NO_RATE) -> AttackResult:
    return make_result(attack=attack, dose=dose, masr=masr, pasr=pasr)


LOW, HIGH = rate(0.2, 0.1, 0.3), rate(0.9, 0.8, 1.0)


@pytest.mark.parametrize(
    ("results", "worst"),
    [
        # neither the first attack nor the largest dose: the highest MASR
        ([("random", 1.0, LOW), ("pgd", 0.3, HIGH), ("pgd", 1.0, LOW)], ("pgd", 0.3)),
        # an attack that nobody requires counts too
        ([("random", 1.0, LOW), ("mypackage.attacks:Mine", 0.1, HIGH)], ("mypackage.attacks:Mine", 0.1)),
        # of equal values the one whose interval lies higher
        ([("a", 1.0, rate(0.5, 0.3, 0.7)), ("b", 1.0, rate(0.5, 0.4, 0.6))], ("b", 1.0)),
        # then the smaller dose, then the first
        ([("a", 1.0, LOW), ("b", 0.3, LOW), ("c", 0.3, LOW)], ("b", 0.3)),
        # what was not scored is nobody's worst case
        ([("a", 1.0, NO_RATE), ("b", 1.0, rate(0.0, 0.0, 0.1))], ("b", 1.0)),
    ],
)
def test_the_worst_case_is_the_highest_masr_of_all(
    results: list[tuple[str, float, Rate]], worst: tuple[str, float]
) -> None:
    found = worst_case([result(*each) for each in results])
    assert found is not None
    assert (found.attack, found.dose) == worst


def test_equal_masrs_are_told_apart_by_pasr() -> None:
    found = worst_case([result("a", 0.1, LOW, rate(0.1, 0.0, 0.2)), result("b", 1.0, LOW, rate(0.2, 0.1, 0.3))])
    assert found is not None
    assert found.attack == "b"


def test_the_worst_case_of_one_attack_and_of_nothing() -> None:
    results = [result("random", 0.3, LOW), result("random", 1.0, HIGH), result("pgd", 1.0, NO_RATE)]
    found = worst_case(results, "random")
    assert found is not None
    assert found.dose == 1.0
    assert worst_case(results, "pgd") is None
    assert worst_case([]) is None


def test_where_nothing_was_scored_the_headline_is_the_first_result() -> None:
    assert headline_fields([result("a", 0.3, NO_RATE), result("b", 1.0, NO_RATE)])["attack"] == "a"


def test_a_row_of_the_first_schema_gets_the_headline_that_follows_from_its_results(tmp_path: Path) -> None:
    """Its first attack at dose 1 broke little; pgd at 0.3 broke all."""
    old = make_row(results=(result("random", 1.0, LOW), result("pgd", 0.3, HIGH)))
    written = json.loads(old.model_dump_json())
    kind = json.loads(result("random", 1.0, LOW).model_dump_json())
    written |= {"schema_version": 1, **{name: kind[name] for name in ("attack", "dose", "masr", "pasr", "peak_layer")}}
    path = write_row(tmp_path, old)
    path.write_text(json.dumps(written))
    row = read_row(path)
    assert (row.schema_version, row.attack, row.dose, row.masr) == (2, "pgd", 0.3, HIGH)
    assert row == with_headline(row)
