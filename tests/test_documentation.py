"""Links lead somewhere, in the repository and on the package index; what stands in several files is the same in all."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import asabench
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb"), ROOT / "submissions" / "README.md"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]


def links(markdown: str) -> Iterator[str]:
    """The targets of links and pictures outside of code."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", markdown, flags=re.M | re.S)
    yield from re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(markdown: str) -> set[str]:
    """The places in a page that a link may name: its headings as GitHub writes them."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def lost(page: Path, link: str) -> bool:
    """Whether a relative link names no file of the repository, or no heading of that page."""
    target, _, anchor = link.partition("#")
    file = (page.parent / target).resolve() if target else page
    if not file.exists() or not file.is_relative_to(ROOT):
        return True
    return bool(anchor) and anchor not in anchors(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_resolves(page: Path) -> None:
    relative = [link for link in links(page.read_text(encoding="utf-8")) if not re.match(r"\w+:", link)]
    assert [link for link in relative if lost(page, link)] == []


def test_a_lost_link_is_seen() -> None:
    page = DOCS / "attacks.md"
    assert not lost(page, "results/defences.md")
    assert not lost(page, "#your-own")
    assert lost(page, "#nowhere")
    assert lost(page, "results/nowhere.md")
    assert lost(page, "../../outside.md")
    assert list(links("[a](b.md) `[c](d.md)`\n```\n[e](f.md)\n```\n![g](h.png)")) == ["b.md", "h.png"]


def test_the_readme_on_the_package_index_links_to_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    monkeypatch.setitem(sys.modules, "setuptools", SimpleNamespace(setup=given.update))
    runpy.run_path(str(ROOT / "setup.py"))
    assert given["long_description_content_type"] == "text/markdown"
    there = list(links(given["long_description"]))
    here = list(links((ROOT / "README.md").read_text(encoding="utf-8")))
    assert len(there) == len(here) > 20
    for before, after in zip(here, there, strict=True):
        if before.startswith(("https://", "#")):
            assert after == before
        else:
            kind = "raw" if before.endswith(".png") else "blob"
            assert after == f"{REPOSITORY}/{kind}/main/{before}"


def test_the_project_has_one_address() -> None:
    urls = PROJECT["urls"]
    assert all(urls[name].startswith(REPOSITORY + "/") for name in ("Documentation", "Changelog", "Issues"))
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["repository-code"] == REPOSITORY
    assert urls["Paper"] == cited["references"][0]["url"] == f"https://doi.org/{cited['references'][0]['doi']}"


def test_version_and_changelog_agree() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == asabench.__version__
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert sections[:2] == ["Unreleased", asabench.__version__]
