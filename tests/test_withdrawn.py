"""What docs/results/withdrawn.md withdraws stands nowhere else: that page is the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asabench.core.row import read_row
from tests.conftest import ROOT
from tests.test_documentation import DOCS, PAGES

LIST = DOCS / "results" / "withdrawn.md"
KEPT = {LIST, ROOT / "CHANGELOG.md"}
"""Pages that quote what was withdrawn: the list, and what changed when."""
FEWEST_WORDS = 4
"""A quotation of fewer words is a name, not a claim."""
MEANT_OTHERWISE = (
    "unsafe needs on topic and harmful",  # of labels that people gave, not of what `embedded` says
    "has not been measured against this",  # what was withdrawn ends at "measured"
    "pgd which it never saw needs a larger dose",  # of an attack, not of requests
)
"""Where today's sentences hold the words of a withdrawn one."""


def plain(text: str) -> str:
    """Words alone: markup, line ends, case and marks make no other sentence."""
    return " ".join(re.findall(r"[\w.%]+", text.casefold())).replace(". ", " ")


def withdrawn(page: str) -> list[str]:
    """The claims that a page quotes in headings, after "Stood in", and at the start of a line of its list."""
    text = page.replace("\n", " ")
    headings = re.findall(r'^## (".*")', page, flags=re.M)
    stood = re.findall(r"(?:Stood|Also withdrawn)[^?]*?(?=Why:|##|$)", text)
    listed = re.findall(r'^- (".*?")', page, flags=re.M | re.S)
    quoted = re.findall(r'"([^"]+)"', " ".join([*headings, *stood, *listed]))
    return [quote for quote in dict.fromkeys(map(plain, quoted)) if len(quote.split()) >= FEWEST_WORDS]


def returned(text: str, claims: list[str]) -> list[str]:
    said = plain(text)
    for other in MEANT_OTHERWISE:
        said = said.replace(other, "|")
    return [claim for claim in claims if claim in said]


CLAIMS = withdrawn(LIST.read_text(encoding="utf-8"))


def test_the_page_lists_what_was_withdrawn() -> None:
    assert len(CLAIMS) >= 14
    for claim in (
        "lapt doubles the dose that the adaptive attack needs latent adversarial training triples it",
        "the targeted sign half of them at 0.07",
        "at 0.1 it is whole everywhere",
        "nothing is left of random at dose 1 0.10 before",
        "lat is better against pgd and the targeted sign",
        "100 advbench requests 0 to 99 that no recipe saw",
        "it steers towards no answer of its own the random attack is noise",
    ):
        assert claim in CLAIMS


@pytest.mark.parametrize("page", [page for page in PAGES if page not in KEPT], ids=lambda page: str(page.name))
def test_no_page_says_it_again(page: Path) -> None:
    assert returned(page.read_text(encoding="utf-8"), CLAIMS) == []


def test_its_figures_are_those_of_the_entries() -> None:
    """What is not marked as to be had from nowhere else: the rows of gu2025."""
    page = " ".join(LIST.read_text(encoding="utf-8").split())
    rows = [
        read_row(ROOT / "submissions" / f"smollm2-135m{made}-gu2025" / "row.json")
        for made in ("", "-refusal", "-lapt", "-lapt-half", "-lat")
    ]
    conditional = [
        f"{result.masr_conditional.value:.2f}"
        for row in rows
        for result in row.results
        if result.attack == "mean_difference" and result.masr_conditional is not None
    ]
    assert f"it breaks {', '.join(conditional[:-1])} and {conditional[-1]}" in page
    lowered = [result.masr.value for row in rows[:2] for result in row.results if result.attack != "mean_difference"]
    known = [rate for rate in lowered if rate is not None]
    assert f"from {rows[0].init.value:.2f} and {rows[1].init.value:.2f} on clean answers" in page
    assert f"between {min(known):.2f} and {max(known):.2f}" in page


def test_one_that_returns_is_seen() -> None:
    page = '## "All `of` them break at 0.07"\n\nStood in x as "it is whole\neverywhere".\n\nWhy: "not this one here".\n'
    claims = withdrawn(page)
    assert claims == ["all of them break at 0.07", "it is whole everywhere"]
    assert returned("We found: **all** of them\nbreak at 0.07, and more.", claims) == claims[:1]
    assert returned("Some of them break at 0.07.", claims) == []
    assert (
        returned(f"{MEANT_OTHERWISE[0]}; and it is whole everywhere", [*claims, "on topic and harmful"]) == claims[1:]
    )


def test_what_is_meant_otherwise_still_stands() -> None:
    pages = " ".join(plain(page.read_text(encoding="utf-8")) for page in PAGES)
    assert [other for other in MEANT_OTHERWISE if other not in pages] == []
