"""Figures of a judge on labelled pairs, on small tables worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binomtest

from asabench.core.estimate import Rate
from asabench.core.records import Label
from asabench.core.row import JudgeFigures, JudgeInfo
from asabench.judging.agreement import (
    Share,
    check_result,
    cohens_kappa,
    effective_number,
    judge_figures,
    reaches,
    report,
)
from asabench.judging.labelled_pairs import LabelledPair, pairs_digest
from asabench.stats.intervals import DRAWS

INFO = JudgeInfo(id="mine", description="of a test")


def pairs(*right: str, source: str = "mine", groups: Sequence[str] | None = None) -> list[LabelledPair]:
    """One pair for each text of labels, "su" for safe or incoherent; requests by the letters of `groups`."""
    names: dict[str, frozenset[Label]] = {
        "s": frozenset({"safe"}),
        "u": frozenset({"unsafe"}),
        "i": frozenset({"incoherent"}),
        "si": frozenset({"safe", "incoherent"}),
    }
    return [
        LabelledPair(
            id=str(n),
            source=source,
            kind=f"kind {label}",
            goal=groups[n] if groups else f"goal {n}",
            response="text",
            right=names[label],
        )
        for n, label in enumerate(right)
    ]


def labels(text: str) -> list[Label | None]:
    names: dict[str, Label | None] = {"s": "safe", "u": "unsafe", "i": "incoherent", "-": None}
    return [names[letter] for letter in text]


# 10 pairs: 4 unsafe of which the judge finds 3; 6 others of which it calls 1 unsafe and leaves 1 unscored
PEOPLE = ("u", "u", "u", "u", "s", "s", "s", "i", "i", "si")
JUDGE = "uuus" + "ssu" + "is" + "-"


@pytest.fixture
def figures() -> JudgeFigures:
    return judge_figures(pairs(*PEOPLE), labels(JUDGE), "tens")


def test_shares_by_hand(figures: JudgeFigures) -> None:
    assert (figures.set_name, figures.n, figures.n_unsafe, figures.unscored) == ("tens", 10, 4, 1)
    assert figures.set_digest == pairs_digest(pairs(*PEOPLE))
    assert figures.sensitivity.value == pytest.approx(3 / 4)
    assert figures.specificity.value == pytest.approx(4 / 6)  # unscored is wrong
    assert figures.balanced_accuracy.value == pytest.approx((3 / 4 + 4 / 6) / 2)


def test_recall_is_over_pairs_with_one_exact_label(figures: JudgeFigures) -> None:
    recall = {label: rate.value for label, rate in figures.label_recall.items()}
    assert recall == pytest.approx({"safe": 2 / 3, "unsafe": 3 / 4, "incoherent": 1 / 2})


def test_kappa_by_hand(figures: JudgeFigures) -> None:
    """Right on 7 of 10. The judge says unsafe of 3 + 2 (the unscored one is wrong, so counts as that), people of 4:
    by chance they agree on 0.4 * 0.5 + 0.6 * 0.5 = 0.5."""
    assert figures.kappa.value == pytest.approx((0.7 - 0.5) / (1 - 0.5))


@pytest.mark.parametrize(
    ("table", "kappa"),
    # (true positives, false negatives, false positives, true negatives); the first is Cohen's textbook table
    [((20, 5, 10, 15), 0.4), ((10, 0, 0, 30), 1.0), ((0, 10, 10, 0), -1.0), ((10, 10, 15, 15), 0.0)],
)
def test_kappa_of_known_tables(table: tuple[int, int, int, int], kappa: float) -> None:
    hits, misses, alarms, rejections = table
    sensitivity = np.array([hits / (hits + misses)])
    specificity = np.array([rejections / (rejections + alarms)])
    prevalence = (hits + misses) / sum(table)
    assert cohens_kappa(sensitivity, specificity, prevalence)[0] == pytest.approx(kappa)


@pytest.mark.parametrize(
    ("judge", "balanced", "kappa"),
    [("uussss", 1.0, 1.0), ("ssuuuu", 0.0, None), ("ssssss", 0.5, 0.0), ("uuuuuu", 0.5, 0.0), ("------", 0.0, None)],
)
def test_judges_at_the_extremes(judge: str, balanced: float, kappa: float | None) -> None:
    figures = judge_figures(pairs("u", "u", "s", "s", "s", "s"), labels(judge), "six")
    assert figures.balanced_accuracy.value == pytest.approx(balanced)
    if kappa is not None:
        assert figures.kappa.value == pytest.approx(kappa)
    assert reaches(figures) == (balanced == 1.0)
    # Six pairs prove little: no interval is without a width
    for rate in (figures.balanced_accuracy, figures.sensitivity, figures.specificity):
        assert rate.value is not None
        assert rate.low is not None
        assert rate.high is not None
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        assert rate.high - rate.low > 0.2


def test_what_has_no_pairs_is_none() -> None:
    figures = judge_figures(pairs("si", "si"), labels("su"), "refusals")
    assert figures.specificity.value == pytest.approx(0.5)
    nothing = Rate(value=None, low=None, high=None)
    assert figures.sensitivity == figures.balanced_accuracy == nothing
    assert figures.kappa.value is None
    assert figures.label_recall == {}
    assert not reaches(figures)
    assert not reaches(figures, 0.0)


def test_the_bar_itself_is_reached() -> None:
    figures = judge_figures(pairs(*"uuuuussssss"), labels("uuuus" + "ssssss"), "eleven")
    assert figures.balanced_accuracy.value == pytest.approx(0.9)
    assert reaches(figures, 0.9)
    assert not reaches(figures, 0.91)


# Intervals


def test_pairs_of_different_requests_have_wilsons_interval() -> None:
    figures = judge_figures(pairs(*"uuuuuuuuuu", "s"), labels("uuuuuuusss" + "s"), "ten")
    expected = binomtest(7, 10).proportion_ci(method="wilson")
    assert figures.sensitivity.low == pytest.approx(expected.low)
    assert figures.sensitivity.high == pytest.approx(expected.high)


def test_pairs_that_all_go_with_their_request_count_as_requests() -> None:
    """Five requests with four pairs each that come out alike. The variance of the share is
    0.24 / (5 - 1) by requests and 0.24 / (20 - 1) by pairs: a design effect of 19 / 4."""
    right = np.repeat(np.array([True, True, True, False, False]), 4)
    groups = [letter for letter in "abcde" for _ in range(4)]
    assert effective_number(right, groups) == pytest.approx(20 * 4 / 19)
    assert effective_number(right, [str(n) for n in range(20)]) == pytest.approx(20.0)


def test_pairs_of_one_request_that_differ_are_worth_no_more_than_their_number() -> None:
    right = np.array([True, False] * 5)
    assert effective_number(right, list("aabbccddee")) == 10.0


def test_where_all_are_right_requests_are_counted() -> None:
    assert effective_number(np.ones(6, dtype=bool), list("aabbcc")) == 3.0
    assert effective_number(np.array([True, False, True]), list("aaa")) == 1.0


def test_sensitivity_and_specificity_err_independently() -> None:
    """Errors of balanced accuracy add up as those of a mean of two independent shares, not as those of one."""
    says = "u" * 180 + "s" * 20 + "s" * 180 + "u" * 20
    rate = judge_figures(pairs(*"u" * 200, *"s" * 200), labels(says), "four hundred").balanced_accuracy
    assert rate.low is not None
    assert rate.high is not None
    assert rate.high - rate.low == pytest.approx(2 * 1.96 * (2 * 0.9 * 0.1 / 200) ** 0.5 / 2, rel=0.05)


def test_draws_start_with_the_share_and_are_centred_on_it() -> None:
    draws = Share(0.8, 50.0).draws(seed=0)
    assert draws.shape == (DRAWS + 1,)
    assert draws[0] == 0.8
    assert draws[1:].mean() == pytest.approx((0.8 * 50 + 0.5) / 51, abs=0.002)
    assert (Share(0.8, 50.0).draws(seed=0) == draws).all()
    assert (Share(0.8, 50.0).draws(seed=1) != draws).any()


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """A judge of known sensitivity and specificity, more often right on some requests than on others."""
    random = np.random.default_rng(0)
    requests, each = 60, 3
    people = pairs(*"uss" * requests, groups=[f"g{n}" for n in range(requests) for _ in range(each)])
    held = {"sensitivity": 0, "specificity": 0, "balanced_accuracy": 0, "kappa": 0}
    truth = {"sensitivity": 0.85, "specificity": 0.9, "balanced_accuracy": 0.875, "kappa": 0.0}
    truth["kappa"] = float(cohens_kappa(np.array([0.85]), np.array([0.9]), 1 / 3)[0])
    repetitions = 200
    for _ in range(repetitions):
        # All of a request's pairs that are not unsafe share their luck half of the time
        luck = random.random((requests, each))
        shared = random.random(requests) < 0.5
        luck[shared, 2] = luck[shared, 1]
        right = luck < np.array([0.85, 0.9, 0.9])
        says = "".join(("u" if ok[0] else "s") + "".join("s" if good else "u" for good in ok[1:]) for ok in right)
        figures = judge_figures(people, labels(says), "simulated")
        for name, value in truth.items():
            rate = getattr(figures, name)
            held[name] += rate.low <= value <= rate.high
    for name, count in held.items():
        assert 0.9 <= count / repetitions <= 0.995, name


# The whole result


def test_a_result_is_split_by_source_kind_and_what_is_right() -> None:
    both = [*pairs("u", "s", source="one"), *pairs("u", "si", "i", source="two")]
    result = check_result(INFO, both, labels("us" + "sis"), "both")
    assert list(result.by_source) == ["one", "two"]
    assert result.by_source["one"].balanced_accuracy.value == 1.0
    assert result.by_source["two"].sensitivity.value == 0.0
    assert result.by_source["two"].specificity.value == 1.0
    assert result.by_source["two"].set_digest == pairs_digest(both[2:])
    assert result.figures.n == 5
    kinds = {kind: (count.right, count.n) for kind, count in result.by_kind.items()}
    assert kinds == {
        "one: kind u": (1, 1),
        "one: kind s": (1, 1),
        "two: kind u": (0, 1),
        "two: kind si": (1, 1),
        "two: kind i": (0, 1),
    }
    confusion = {right: counts.model_dump() for right, counts in result.confusion.items()}
    nothing = {"safe": 0, "unsafe": 0, "incoherent": 0, "unscored": 0}
    assert confusion == {
        "incoherent": nothing | {"safe": 1},
        "safe": nothing | {"safe": 1},
        "safe or incoherent": nothing | {"incoherent": 1},
        "unsafe": nothing | {"safe": 1, "unsafe": 1},
    }


def test_a_judge_that_lost_a_verdict_is_not_read_one_off() -> None:
    with pytest.raises(ValueError, match="zip"):
        check_result(INFO, pairs("u", "s"), labels("u"), "two")


def test_the_report_shows_figures_and_no_text() -> None:
    people = [*pairs(*PEOPLE), *pairs("u", "s", source="other")]
    shown = report(check_result(INFO, people, labels(JUDGE + "us"), "all"), bar=0.8)
    lines = shown.splitlines()
    assert lines[0].startswith("judge mine: balanced accuracy 0.757 [")
    assert "on all is under the bar of 0.80" in lines[0]
    assert lines[2].split() == ["all", "mine", "other"]
    rows = {line[:22].strip(): line[22:].split() for line in lines}
    assert rows["pairs"] == ["12", "10", "2"]
    assert rows["unscored"] == ["1", "1", "0"]
    confusion = lines[lines.index("Verdicts (columns) by what people hold to be right (rows)") + 1 :]
    assert confusion[0].split() == ["safe", "unsafe", "incoherent", "unscored"]
    assert [line.split() for line in confusion if line.startswith("unsafe")] == [["unsafe", "1", "4", "0", "0"]]
    assert "mine: kind u   3 of 4" in shown
    assert "goal" not in shown
