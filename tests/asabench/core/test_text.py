"""Estimates and tables as they are written."""

from __future__ import annotations

import pytest

from asabench.core.estimate import Change, Estimate, Kappa, Rate
from asabench.core.text import changes, in_words, interval_text, text_table


@pytest.mark.parametrize(
    ("estimate", "written"),
    [
        (Rate(value=0.844, low=0.78, high=0.9), "0.84 [0.78, 0.90]"),
        (Kappa(value=-0.104, low=-0.2, high=0.0), "-0.10 [-0.20, 0.00]"),
        # A difference has its sign, and nothing is no minus
        (Change(value=0.1, low=-0.05, high=0.2), "+0.10 [-0.05, +0.20]"),
        (Change(value=0.0, low=-0.001, high=0.001), "+0.00 [+0.00, +0.00]"),
        (Rate(value=-0.001, low=-0.001, high=0.2), "0.00 [0.00, 0.20]"),
        # Without an interval, without a value, and where there is none at all
        (Rate(value=0.5, low=None, high=None), "0.50"),
        (Rate(value=0.5, low=0.4, high=None), "0.50"),
        (Change(value=None, low=None, high=None), "none scored"),
        (None, "none scored"),
    ],
)
def test_estimates_in_words(estimate: Estimate | None, written: str) -> None:
    assert in_words(estimate) == written


def test_other_digits_and_words_for_nothing() -> None:
    assert in_words(Rate(value=0.7984, low=0.7, high=0.9), digits=3) == "0.798 [0.700, 0.900]"
    assert in_words(Change(value=0.7984, low=0.7, high=0.9), digits=3) == "+0.798 [+0.700, +0.900]"
    assert in_words(None, "-") == "-"


def test_the_interval_alone() -> None:
    assert interval_text(Rate(value=0.5, low=0.25, high=0.75)) == "[0.25, 0.75]"
    assert interval_text(Rate(value=0.5, low=None, high=None)) == ""


def test_what_changed_is_named_with_both_values() -> None:
    old = {"layers": [0, 1], "model": "tiny", "attack": "x" * 80}
    assert changes(old, dict(old)) == ""
    assert changes(old, {**old, "model": "small"}) == 'model was "tiny", is now "small"'
    assert changes(old, {**old, "layers": [0], "seed": 1}) == "layers was [0, 1], is now [0]; seed was null, is now 1"
    assert changes(old, {**old, "attack": None}, most=20) == f'attack was "{"x" * 16}..., is now null'


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert text_table([["", "n"], ["unsafe", "10"], ["safe", ""]]) == "        n\nunsafe  10\nsafe"
