"""Prompt sets by name and from CSV files, and what is said of those that cannot be used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from asabench.core.errors import UserError
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.records import Prompt


def csv_file(folder: Path, content: str | bytes, name: str = "mine.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def load(folder: Path, content: str | bytes) -> tuple[Prompt, ...]:
    return load_prompts(csv_file(folder, content)).prompts


def message(name: str) -> str:
    """What a user is told of prompts that cannot be used: one line."""
    with pytest.raises(UserError) as error:
        load_prompts(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def refusal(folder: Path, content: str | bytes) -> str:
    text = message(csv_file(folder, content))
    assert "mine.csv" in text
    return text


# The set that is shipped


def test_quickstart_loads() -> None:
    loaded = load_prompts("quickstart")
    assert loaded.name == "quickstart"
    assert len(loaded.prompts) >= 16
    for field in ("id", "goal"):
        assert len({getattr(prompt, field) for prompt in loaded.prompts}) == len(loaded.prompts)
    assert all(prompt.target and prompt.suffix is None for prompt in loaded.prompts)


# CSV files


def test_ids_default_to_the_place_whatever_the_file_is_called(tmp_path: Path) -> None:
    loaded = load_prompts(csv_file(tmp_path, "goal\none\ntwo\n", "own set.csv"))
    assert loaded.name == "own set.csv"
    assert loaded.prompts == (Prompt(id="prompt-000", goal="one"), Prompt(id="prompt-001", goal="two"))
    assert load_prompts(csv_file(tmp_path, "goal\none\ntwo\n", "other.csv")).prompts == loaded.prompts


def test_every_column_in_any_order(tmp_path: Path) -> None:
    assert load(tmp_path, "suffix,target,goal,id\n!! x,Sure,one,first\n,,two,second\n,,three,\n") == (
        Prompt(id="first", goal="one", target="Sure", suffix="!! x"),
        Prompt(id="second", goal="two"),
        Prompt(id="prompt-002", goal="three"),
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_quoted_commas_quotes_and_newlines(tmp_path: Path, newline: str) -> None:
    """A checkout may have ended the lines with a carriage return: the prompts are the same."""
    content = newline.join(["id,goal", 'a,"one, ""two""', 'three"', "b,four", ""])
    assert load(tmp_path, content) == (
        Prompt(id="a", goal='one, "two"\nthree'),
        Prompt(id="b", goal="four"),
    )


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeffgoal,id\nCafé,a\n") == (Prompt(id="a", goal="Café"),)


def test_blank_lines_and_space_around_a_goal_do_not_count(tmp_path: Path) -> None:
    assert [prompt.goal for prompt in load(tmp_path, "goal\n\n one two  \n\n\n")] == ["one two"]


def test_space_at_the_ends_of_target_and_suffix_is_kept(tmp_path: Path) -> None:
    [prompt] = load(tmp_path, "goal,target,suffix\none, Sure , !! \n")
    assert (prompt.target, prompt.suffix) == (" Sure ", " !! ")


def test_one_goal_may_come_with_several_suffixes(tmp_path: Path) -> None:
    assert [prompt.suffix for prompt in load(tmp_path, "goal,suffix\none,a\none,b\none,\n")] == ["a", "b", None]


def test_a_path_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    csv_file(tmp_path, "goal\none\n")
    assert len(load_prompts("~/mine.csv").prompts) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,goal\na,one\na,two\n", ["line 3", "same id", "line 2"]),
        ("goal,id\none,prompt-001\ntwo,\n", ["line 3", "same id", "line 2"]),
        ("goal\none\ntwo\n one \n", ["line 4", "same goal", "line 2"]),
        ("goal,suffix\none,a\none,a\n", ["line 3", "same goal and suffix", "line 2"]),
        ("id,goal\na,one\nb,\n", ["line 3", "goal is empty"]),
        ("goal,id\n   ,a\n", ["line 2", "goal is empty"]),
        ("goal\n\u200b\u200d\n", ["line 2", "goal is empty"]),
        ("goal\n\0\n", ["line 2", "goal is empty"]),
        ('id,goal\n"a\nb",one\n', ["line 3", "'a\\nb'", "plain"]),
        ("id,goal\na\x1b[31m,one\n", ["line 2", "'a\\x1b[31m'", "plain"]),
        ("prompt,id\none,a\n", ["no goal column", "prompt, id", "--prompt-column"]),
        ("Goal\none\n", ["no goal column", "Goal"]),
        ("goal,tagret\none,a\n", ["the column tagret", "is target meant"]),
        ("goal,id,goal\none,a,two\n", ["goal twice"]),
        ("goal,id\none,a\ntwo, and more,b\n", ["line 3", "2 values", "quote"]),
        ("goal,id\none,a\ntwo\n", ["line 3", "2 values"]),
        ("", ["no goal column", "nothing"]),
        ("\n\n", ["no goal column"]),
        ("goal,id\n", ["no prompts", "at least one"]),
        ('goal\n"one\ntwo\n', ["cannot be read"]),
        ("goal\n" + "a" * 200_000 + "\n", ["cannot be read", "field"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", ["cannot be read", "UTF-8"]),
        ("goal\none\n".encode("utf-16"), ["cannot be read", "UTF-8"]),
        ("goal\nCafé\n".encode("latin-1"), ["cannot be read", "UTF-8"]),
        (b"PK\x03\x04\x00\x00\x00\x00", ["no goal column"]),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, str | bytes) else None,
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, content: str | bytes, said: list[str]) -> None:
    text = refusal(tmp_path, content)
    assert [words for words in said if words not in text] == []


@pytest.mark.parametrize("name", ["no-such-file.csv", "quickstrat", "", ".", "x" * 5000, "~nobody-of-that-name/a.csv"])
def test_an_unknown_name_is_told_the_allowed_ones(name: str) -> None:
    text = message(name)
    assert all(allowed in text for allowed in ("unknown prompts", "quickstart", "advbench", "CSV file"))


def test_a_directory_is_not_a_prompt_set(tmp_path: Path) -> None:
    text = message(str(tmp_path))
    assert str(tmp_path) in text
    assert "CSV file" in text


# Limits and digests

SET = PromptSet("mine", (Prompt(id="a", goal="one"), Prompt(id="b", goal="two"), Prompt(id="c", goal="three")))


@pytest.mark.parametrize(("limit", "ids"), [(None, "abc"), (1, "a"), (2, "ab"), (3, "abc"), (99, "abc")])
def test_first(limit: int | None, ids: str) -> None:
    first = SET.first(limit)
    assert "".join(prompt.id for prompt in first.prompts) == ids
    assert first.name == "mine"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing_is_refused(limit: int) -> None:
    with pytest.raises(UserError, match=rf"^--limit {limit} .*1 or more$"):
        SET.first(limit)


def test_a_set_digest_is_a_hash_of_what_reaches_the_model() -> None:
    content = [["Café", "Sure", "!!"], ["two", None, None]]
    loaded = PromptSet("x", (Prompt(id="a", goal="Café", target="Sure", suffix="!!"), Prompt(id="b", goal="two")))
    expected = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
    assert loaded.digest == expected


def test_a_set_digest_ignores_ids_and_the_name_but_no_text_and_no_order() -> None:
    def digest(*rows: tuple[str, str | None, str | None], name: str = "x", first_id: int = 0) -> str:
        named = (
            Prompt(id=f"{first_id + n}", goal=goal, target=target, suffix=suffix)
            for n, (goal, target, suffix) in enumerate(rows)
        )
        return PromptSet(name, tuple(named)).digest

    one, two = ("one", "t", "s"), ("two", None, None)
    base = digest(one, two)
    assert digest(one, two, name="y", first_id=7) == base
    others = {
        digest(two, one),
        digest(one),
        digest(one, two, ("three", None, None)),
        digest(("One", "t", "s"), two),
        digest(("one", "T", "s"), two),
        digest(("one", None, "s"), two),
        digest(("one", "t", "S"), two),
        digest(("one", "t", None), two),
        digest(("one", "s", "t"), two),
    }
    assert len(others) == 9
    assert base not in others


def test_the_digest_of_a_limited_set_is_that_of_its_prompts() -> None:
    assert SET.first(2).digest == PromptSet("other", SET.prompts[:2]).digest != SET.digest
