"""Hooks of mkdocs.yml: the pages at the top of the repository join those of docs/, and the built site is checked.

Links are written for the repository. Here each of them leads to the page of the site, if it has that page, and else to
the file in the repository.
"""

from __future__ import annotations

import logging
import posixpath
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
"""Pages of the site that are not in docs/: their name in the site, and their file in the repository."""
TOP = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "responsible-use.md": "RESPONSIBLE_USE.md",
    "security-policy.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
PAGES = {file: page for page, file in TOP.items()}
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")

# Below mkdocs's own logger: --strict counts its warnings
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, file in TOP.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    folder = posixpath.dirname(TOP.get(here) or f"docs/{here}")

    def led(link: re.Match[str]) -> str:
        if urlsplit(link["target"]).scheme:
            return link[0]
        file = posixpath.normpath(posixpath.join(folder, link["target"]))
        there = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if there is None:
            if not (ROOT / file).exists():
                log.warning("%s: no file %s", here, file)
            return f"{REPOSITORY}/blob/main/{file}{link['anchor'] or ''}"
        if (ROOT / "docs" / there).is_dir():
            there += "/README.md"
        return posixpath.relpath(there, posixpath.dirname(here) or ".") + (link["anchor"] or "")

    return LINK.sub(led, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Warns of links to what is not in the site, and of anything that a page would load from the network."""
    site = Path(config.site_dir)
    pages = {path: _Links.of(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loaded:
            if _is_elsewhere(address):
                log.warning("%s: loads %s", name, address)
        for address in page.followed + page.loaded:
            if _is_elsewhere(address):
                continue
            url = urlsplit(address)
            # The page of errors is shown at any address, so its links start at the site's root
            start = site if url.path.startswith("/") else path.parent
            target = (start / unquote(url.path).lstrip("/")).resolve() if url.path else path
            if not target.is_file():
                log.warning("%s: no file for the link %s", name, address)
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].anchors:
                log.warning("%s: no place for the link %s", name, address)


def _is_elsewhere(address: str) -> bool:
    url = urlsplit(address)
    return bool(url.scheme or url.netloc)


class _Links(HTMLParser):
    """The addresses in a page, those it loads by itself apart from those that a reader follows, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.followed: list[str] = []
        self.anchors: set[str] = set()

    @classmethod
    def of(cls, path: Path) -> _Links:
        links = cls()
        links.feed(path.read_text(encoding="utf-8"))
        return links

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        given = {name: value for name, value in attrs if value}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.followed.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])
