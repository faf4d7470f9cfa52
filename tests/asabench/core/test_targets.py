"""Lists of targets: those that come along, somebody's own, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from asabench.core.attack_names import apart, built_in, family_of, read_spec, recorded_name, spec_of, towards
from asabench.core.errors import UserError
from asabench.core.targets import (
    MOST_CHARACTERS,
    MOST_TARGETS,
    TARGET_LISTS,
    TargetList,
    list_problem,
    read_targets,
    shipped,
)
from asabench.judging.refusals import refusal_phrase


@pytest.mark.parametrize("name", TARGET_LISTS)
def test_a_list_that_comes_along_is_one_of_willing_openings(name: str) -> None:
    found = read_targets(name)
    assert found == shipped(name)
    assert (found.name, found.spec) == (name, name)
    assert list_problem(found.texts) is None
    assert len(found.texts) > 2
    assert not any(refusal_phrase(text) for text in found.texts)


def test_a_list_of_ones_own_is_the_same_whatever_its_file_is_called(tmp_path: Path) -> None:
    for name, content in (("a.txt", b"Sure, here is\n\n  Step 1:  \n"), ("b", b"\xef\xbb\xbfSure, here is\r\nStep 1:")):
        (tmp_path / name).write_bytes(content)
    lists = [
        read_targets(str(tmp_path / "a.txt")),
        read_targets(str(tmp_path / "b")),
        read_targets("Sure, here is|Step 1:"),
    ]
    assert lists == [TargetList(name="own", texts=("Sure, here is", "Step 1:"))] * 3
    assert read_targets(lists[0].spec) == lists[0]
    alone = read_targets("Sure, here is|")
    assert alone.texts == ("Sure, here is",)
    assert read_targets(alone.spec) == alone


def test_targets_go_by_their_words() -> None:
    texts = ("Sure, here is", "sure: HERE is", "Of course, dear reader, it is done so", "\u2026", "a" * 30)
    names = TargetList(name="own", texts=texts).by_name
    assert dict(names) == {
        "sure-here-is": texts[0],
        "sure-here-is-2": texts[1],
        "of-course-dear-reader-it": texts[2],
        "target": texts[3],
        "a" * 24: texts[4],
    }


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("standrad", "unknown targets 'standrad'; allowed: standard, a text file"),
        ("|", "0 targets; 1 to 10"),
        ("|".join(f"Sure {n}" for n in range(MOST_TARGETS + 1)), "11 targets"),
        ("Sure|Sure", "is there twice"),
        ("Sure|" + "a" * (MOST_CHARACTERS + 1), "has 121 characters"),
        ("Sure|<b>", "control character or one of"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(spec: str, what: str) -> None:
    with pytest.raises(UserError) as error:
        read_targets(spec)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UserError, match="cannot be read"):
        read_targets(str(tmp_path / "list"))


@pytest.mark.parametrize("base", ["gradient-ascend", "pgd:steps=4", "package.module:Name:a=1"])
def test_a_recorded_name_with_its_target(base: str) -> None:
    name = towards(base, "sure-here-is")
    assert name == f"{base}:towards=sure-here-is"
    assert apart(name) == (base, "sure-here-is")
    assert apart(base) == (base, None)
    assert spec_of(name) == spec_of(base)
    assert built_in(name) == built_in(base)
    assert family_of(name) == family_of(base)


def test_no_other_attack_has_a_name_like_that() -> None:
    asked = read_spec("package.module:Name:towards=x")
    with pytest.raises(UserError, match="option 'towards'"):
        recorded_name(asked.name, asked.options)
