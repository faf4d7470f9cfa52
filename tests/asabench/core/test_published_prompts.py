"""Sets that others publish, in files laid out as theirs: by name from a hub, as NAME=FILE, and any table of the hub."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pytest

from asabench.core.errors import UserError
from asabench.core.prompts import load_prompts
from asabench.core.published_prompts import PUBLISHED
from tests.advbench_fixtures import use_hub
from tests.hub_server import HubServer

NOWHERE = "http://127.0.0.1:9"
MILD = ("Paint a fence", "Bake bread")


def csv_of(*rows: str) -> bytes:
    return ("\n".join(rows) + "\n").encode()


def parquet_of(**columns: list[object]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


def json_lines(*rows: Mapping[str, object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


LAYOUTS: dict[str, dict[str, bytes]] = {
    "hex-phi": {"category_1.csv": csv_of('"Paint a fence"'), "category_2.csv": csv_of('"Bake bread"'), "x.md": b""},
    "jbb": {
        "data/harmful-behaviors.csv": csv_of(
            "Index,Goal,Target,Behavior,Category,Source",
            '0,Paint a fence,"Sure, here is how",Paint,Home,Original',
            "1,Bake bread,Here is bread,Bake,Food,Original",
        ),
        "data/benign-behaviors.csv": csv_of("Index,Goal,Target,Behavior,Category,Source", "0,Wash,Ok,Wash,Home,Own"),
    },
    "jbb-benign": {
        "data/harmful-behaviors.csv": csv_of("Index,Goal,Target,Behavior,Category,Source", "0,Other,Ok,W,Home,Own"),
        "data/benign-behaviors.csv": csv_of(
            "Index,Goal,Target,Behavior,Category,Source", "0,Paint a fence,A,P,H,O", "1,Bake bread,B,P,H,O"
        ),
    },
    "harmbench": {
        "standard/train-00000-of-00001.parquet": parquet_of(prompt=list(MILD), category=["home", "food"]),
        "contextual/train-00000-of-00001.parquet": parquet_of(prompt=["Other"], context=["c"], category=["home"]),
    },
    "strongreject": {
        "data/train-00000-of-00001.parquet": parquet_of(prompt=list(MILD), category=["home", "food"], source=["a", "b"])
    },
    "sorry-bench": {
        "question.jsonl": json_lines(
            {"question_id": 1, "category": "1", "turns": ["Paint a fence"], "prompt_style": "base"},
            {"question_id": 2, "category": "1", "turns": ["Pnt a fnce"], "prompt_style": "misspellings"},
            {"question_id": 3, "category": "2", "turns": ["Bake bread"], "prompt_style": "base"},
        )
    },
    "xstest": {
        "data/test-00000-of-00001.parquet": parquet_of(
            prompt=["Safe", *MILD],
            type=["homonyms", "contrast_homonyms", "contrast_x"],
            label=["safe", *["unsafe"] * 2],
        )
    },
    "or-bench": {
        "or-bench-hard-1k.csv": csv_of("prompt,category", "Paint a fence,home", "Bake bread,food"),
        "or-bench-toxic.csv": csv_of("prompt,category", "Other,home"),
    },
    "or-bench-toxic": {
        "or-bench-hard-1k.csv": csv_of("prompt,category", "Other,home"),
        "or-bench-toxic.csv": csv_of("prompt,category", "Paint a fence,home", "Bake bread,food"),
    },
}
FILES: dict[str, tuple[str, bytes]] = {
    "harmbench": (
        "harmbench_behaviors_text_all.csv",
        csv_of(
            "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID",
            "Paint a fence,standard,home,,,paint",
            "Other,copyright,home,,,other",
            "Bake bread,standard,food,,,bake",
        ),
    ),
    "strongreject": (
        "strongreject_dataset.csv",
        csv_of("category,source,forbidden_prompt", "home,custom,Paint a fence", "food,custom,Bake bread"),
    ),
    "xstest": (
        "xstest_prompts.csv",
        csv_of("id,type,prompt", "1,homonyms,Safe", "2,contrast_homonyms,Paint a fence", "3,contrast_x,Bake bread"),
    ),
}
"""The files of the sets' own repositories, where they differ from the hub's."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        use_hub(server.url, tmp_path / "hub", monkeypatch)
        yield server


def refusal(name: str, column: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_prompts(name, column)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_set_has_a_layout_here() -> None:
    assert LAYOUTS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_from_the_hub(name: str, hub: HubServer) -> None:
    published = PUBLISHED[name]
    commit = published.revision or "c" * 40
    repo = hub.publish(published.repository, commit, LAYOUTS[name])
    if published.revision is None:
        commit = repo.branches["main"]
    loaded = load_prompts(name)
    assert loaded.name == f"{name}@{commit}"
    assert tuple(prompt.goal for prompt in loaded.prompts) == MILD
    # By the commit in its name the same set is had again, without a network too
    asked = len(hub.requests)
    assert load_prompts(loaded.name).digest == loaded.digest
    assert not [each for each in hub.requests[asked:] if each.method == "GET" and "/resolve/" in each.path]


def test_targets_and_further_columns_come_along(hub: HubServer) -> None:
    hub.publish(PUBLISHED["jbb"].repository, str(PUBLISHED["jbb"].revision), LAYOUTS["jbb"])
    first = load_prompts("jbb").prompts[0]
    assert first.target == "Sure, here is how"
    assert dict(first.extra)["Category"] == "Home"


@pytest.mark.parametrize("name", FILES)
def test_a_set_from_its_makers_file(name: str, tmp_path: Path) -> None:
    file, content = FILES[name]
    (tmp_path / file).write_bytes(content)
    loaded = load_prompts(f"{name}={tmp_path / file}")
    assert (loaded.name, tuple(prompt.goal for prompt in loaded.prompts)) == (name, MILD)


def test_any_table_of_the_hub(hub: HubServer) -> None:
    files = {
        "home/test-0.parquet": parquet_of(request=list(MILD), room=["garden", "kitchen"]),
        "home/train-0.parquet": parquet_of(request=["Other"], room=["hall"]),
        "work/test-0.parquet": parquet_of(request=["Other"], room=["office"]),
    }
    commit = hub.create("ada/requests", files).branches["main"]
    loaded = load_prompts("hub:ada/requests:home:request")
    assert loaded.name == f"hub:ada/requests@{commit}:home:request"
    assert tuple(prompt.goal for prompt in loaded.prompts) == MILD
    assert [dict(prompt.extra) for prompt in loaded.prompts] == [{"room": "garden"}, {"room": "kitchen"}]
    assert load_prompts(loaded.name).digest == loaded.digest
    assert load_prompts("hub:ada/requests:home", "request").digest == loaded.digest
    assert "has no goal column but request, room" in refusal("hub:ada/requests:home")
    assert "has no file like" in refusal("hub:ada/requests:garden")
    assert "names no table of the hub" in refusal("hub:requests")


def test_a_gated_set_and_one_that_cannot_be_reached(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(PUBLISHED["hex-phi"].repository, "c" * 40, LAYOUTS["hex-phi"], gated="auto")
    assert "accepted its terms" in refusal("hex-phi")
    use_hub(NOWHERE, tmp_path / "nothing", monkeypatch)
    assert "give jbb=FILE" in refusal("jbb")


def test_a_file_of_another_layout(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question\nPaint a fence\n")
    assert "no column Goal but question" in refusal(f"jbb={tmp_path / 'a.csv'}")
    (tmp_path / "b.csv").write_text("prompt\nPaint a fence\n")
    assert "no column 'type'" in refusal(f"xstest={tmp_path / 'b.csv'}")
    assert "cannot be read" in refusal(f"jbb={tmp_path / 'none.csv'}")


# Files of one's own in every format


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", csv_of("ask,room", "Paint a fence,garden", "Bake bread,kitchen")),
        ("a.jsonl", json_lines({"ask": MILD[0], "room": "garden"}, {"ask": MILD[1], "room": "kitchen"})),
        ("a.parquet", parquet_of(ask=list(MILD), room=["garden", "kitchen"])),
    ],
)
def test_a_column_of_ones_own(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    loaded = load_prompts(str(tmp_path / name), "ask")
    assert tuple(prompt.goal for prompt in loaded.prompts) == MILD
    assert [dict(prompt.extra)["room"] for prompt in loaded.prompts] == ["garden", "kitchen"]
    assert "--prompt-column" in refusal(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"goal": "one"}\n[1]\n', "line 2 is no object"),
        ("a.jsonl", b'{"goal": "one"\n', "cannot be read"),
        ("a.jsonl", b"[" * 100_000, "cannot be read"),
        ("a.parquet", b"PAR1 and nothing", "cannot be read"),
        ("a.parquet", parquet_of(goal=[None]), "row 0: the goal is empty"),
    ],
)
def test_files_that_cannot_be_used(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(str(tmp_path / name))


def test_further_columns_decide_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv_of("goal,room", "Paint a fence,garden"))
    (tmp_path / "b.csv").write_bytes(csv_of("goal", "Paint a fence"))
    a, b = (load_prompts(str(tmp_path / name)) for name in ("a.csv", "b.csv"))
    assert a.prompts == b.prompts
    assert a.digest == b.digest
