"""The folder of all entries is checked as it stands, and what a pull request is told is made of a checked report."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.submission.comment import MOST_COMMENT, Report, Said, comment, main, read_report, report_of
from asabench.submission.findings import Refused
from asabench.submission.tree import Changes, changes, entry_digests, read_tree
from asabench.submission.validate import validate_whole
from tests.command_line import asabench
from tests.conftest import ROOT

BASE = "smollm2-135m-refusal-gu2025"
MADE = "smollm2-135m-lat-gu2025"


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """An entry and the base that it names."""
    folder = tmp_path / "submissions"
    for slug in (BASE, MADE, "smollm2-135m-gu2025"):
        shutil.copytree(ROOT / "submissions" / slug, folder / slug)
    (folder / "README.md").write_text("Entries.\n")
    return folder


def file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


ODD = {
    "a hidden folder": lambda c: file(c / ".é" / "evil" / "row.json"),
    "a hidden folder with an option in its name": lambda c: file(c / ".x --help" / "evil" / "row.json"),
    "another hidden folder": lambda c: file(c / ".y" / "evil" / "row.json"),
    "an option": lambda c: file(c / "--help" / "row.json"),
    "a space": lambda c: file(c / "two words" / "row.json"),
    "a line break": lambda c: file(c / "two\nlines" / "row.json"),
    "capitals": lambda c: file(c / BASE.upper() / "row.json"),
    "letters that look like others": lambda c: file(c / "sm\u043ellm2" / "row.json"),
    "no text": lambda c: os.mkdir(os.fsencode(c) + b"/\xff\xfe"),
    "a name of Windows's": lambda c: file(c / "con" / "row.json"),
    "a file": lambda c: file(c / "row.json"),
    "a hidden file": lambda c: file(c / ".gitattributes"),
    "a link to an entry": lambda c: (c / "linked").symlink_to(c / BASE),
    "a link for the readme": lambda c: ((c / "README.md").unlink(), (c / "README.md").symlink_to("/etc/hostname")),
    "a folder for the readme": lambda c: ((c / "README.md").unlink(), file(c / "README.md" / "row.json")),
    "a long readme": lambda c: (c / "README.md").write_bytes(b"x" * 10**6),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_entry_is_refused(kind: str, collection: Path) -> None:
    assert read_tree(collection).findings == ()
    ODD[kind](collection)
    (found,) = read_tree(collection).findings
    assert found.line.isprintable()
    assert found.line.count(";") == 2
    assert read_tree(collection).slugs == tuple(sorted((BASE, MADE, "smollm2-135m-gu2025")))


def test_a_folder_with_the_name_of_an_entry_is_checked_as_one(collection: Path) -> None:
    """Also where it is empty, as a submodule is, or holds its files deeper down."""
    (collection / "empty").mkdir()
    file(collection / "deep" / "more" / "row.json")
    done = {each.slug: each for each in validate_whole(collection)[0]}
    assert not done["empty"].ok
    assert not done["deep"].ok
    assert done[MADE].ok


def test_an_entry_that_others_are_made_from_stays(collection: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(collection, before)
    shutil.rmtree(collection / BASE)
    done, changed = validate_whole(collection, before=before)
    assert changed == Changes((), (), (BASE,))
    (invalid,) = [each for each in done if not each.ok]
    assert invalid.slug == MADE
    assert any(f"{BASE} is not there" in finding.line for finding in invalid.findings)
    assert f"Taken out: `{BASE}`" in comment(report_of(done, changed))


def test_changes_are_seen_by_content() -> None:
    before, after = {"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}
    assert changes(before, after) == Changes(("d",), ("c",), ("a",))


def test_digests_tell_a_file_from_a_link_and_a_name_from_a_content(tmp_path: Path) -> None:
    for number, make in enumerate(
        (
            lambda folder: (folder / "ab").write_text("c"),
            lambda folder: (folder / "a").write_text("bc"),
            lambda folder: (folder / "a").symlink_to("bc"),
            lambda folder: (folder / "a").mkdir(),
        )
    ):
        folder = tmp_path / f"e{number}"
        folder.mkdir()
        make(folder)
    assert len(set(entry_digests(tmp_path).values())) == 4


def test_the_command_line_checks_the_whole_folder(collection: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    good = asabench("validate", collection, "--whole", "--before", collection, "--report", report)
    assert good.returncode == 0, good.stdout
    assert read_report(report.read_bytes()) == Report(checked=3, said=())
    file(collection / ".hidden" / "row.json")
    bad = asabench("validate", collection, "--whole", "--report", report)
    assert bad.returncode == 1
    assert ".hidden: the name: no name of an entry" in bad.stdout
    assert main([str(report)]) == 0
    assert asabench("validate", collection, "--before", collection).returncode == 2
    with pytest.raises(UserError, match="no folder"):
        read_tree(collection / "README.md")


# The report


def test_a_comment_is_text_whatever_the_report_says() -> None:
    hostile = "`@everyone` [x](http://e.example) | ![i](u) <b> # \u202e"
    said = Said(
        slug=hostile,
        state="valid",
        findings=(hostile,),
        lines=((hostile, hostile, hostile),),
        base=hostile,
        flags=(hostile,),
        notices=(hostile,),
    )
    text = comment(Report(checked=1, said=(said,), removed=(hostile,)))
    outside = "".join(text.split("`")[::2])
    for word in ("@", "http", "[", "<", "!", "\u202e"):
        assert word not in outside
    assert "\u202e" not in text
    cells = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.replace("\\|", "").count("|") for line in cells] == [4, 4, 4], "no cell ends early"


def test_a_comment_is_short_whatever_the_report_says() -> None:
    line = ("x" * 1000, "y" * 1000, "z" * 1000)
    said = Said(slug="a", state="invalid", findings=("f" * 1000,) * 20, lines=(line,) * 500)
    assert len(comment(Report(checked=1, said=(said,) * 20))) <= MOST_COMMENT + 20


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"checked": 1, "said": [], "body": "# hello"}',
        b'{"checked": -1, "said": []}',
        b'{"checked": 1, "said": [{"slug": "a", "state": "great"}]}',
        b'{"checked": 1, "said": [{"slug": "a\\nb", "state": "valid"}]}',
        b'{"checked": 1, "said": [], "removed": ["' + b"x" * 5000 + b'"]}',
        b" " * 2_000_000,
    ],
)
def test_what_is_no_report_makes_no_comment(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused):
        read_report(content)
    (tmp_path / "report.json").write_bytes(content)
    assert main([str(tmp_path / "report.json")]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1


def test_a_report_is_read_as_it_was_written() -> None:
    report = Report(checked=2, said=(Said(slug="a", state="not checked", not_checked="no disk"),), more=1)
    assert read_report(json.dumps(report.model_dump(mode="json")).encode()) == report
    assert read_report(report.model_dump_json(indent=2).encode()) == report
