"""Options that several commands share say one thing, and every command and page that a text names is there."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from asabench.cli.app import PAGES, app
from asabench.core.links import REPOSITORY, link
from tests.conftest import ROOT

PACKAGES = ("asabench", "harness", "leaderboard")
GROUP = typer.main.get_command(app)
ALL = {
    **{name: command for name, command in GROUP.commands.items() if name != "leaderboard"},  # type: ignore[attr-defined]
    **{f"leaderboard {name}": each for name, each in GROUP.commands["leaderboard"].commands.items()},  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", ["", *ALL])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_a_short_name(name: str, option: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), option])
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")


@pytest.mark.parametrize("name", ALL)
def test_every_option_says_what_it_does(name: str) -> None:
    for parameter in ALL[name].params:
        help_text = getattr(parameter, "help", None)
        assert help_text, parameter.name
        assert not re.match(r"(?i)as for|for --rerun. as for", help_text), "the reader has not read the other command"


def test_options_of_one_name_say_the_same_where_they_mean_the_same() -> None:
    shared = (
        "allow_pickle",
        "allow_remote_code",
        "bar",
        "chat_template",
        "dry_run",
        "max_rows",
        "seeds",
        "uncertified",
    )
    texts: dict[str, set[str]] = defaultdict(set)
    for command in ALL.values():
        for parameter in command.params:
            texts[str(parameter.name)].add(str(getattr(parameter, "help", None)))
    for name in shared:
        assert len(texts[name]) == 1, name


def test_addresses_are_those_of_the_repository_s_files() -> None:
    """Texts that users read name files by their address: an installed package has neither docs nor configs."""
    named = [page for _, *pages in PAGES for page in pages]
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            named += re.findall(r"""(?:link|page)\(['"]([^'"]+)['"]\)""", path.read_text(encoding="utf-8"))
    assert len(named) > len(PAGES)
    for page in named:
        assert (ROOT / page).is_file(), page
        assert link(page) == f"{REPOSITORY}/blob/main/{page}"


def test_no_message_names_a_page_without_its_address() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                quoted = re.search(r"""["'][^"']*\b(docs|configs)/[a-z0-9-]+\.(md|yaml)""", line)
                allowed = "link(" in line or "page(" in line or '"""' in line or path.name == "app.py"
                assert not quoted or allowed, f"{path.relative_to(ROOT)}:{number}"


def test_the_repository_has_one_address() -> None:
    for name in ("CITATION.cff", "pyproject.toml", "README.md"):
        for address in re.findall(r"https://github\.com/[\w-]+/asabench\b", Path(ROOT / name).read_text("utf-8")):
            assert address == REPOSITORY, name
