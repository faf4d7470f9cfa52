"""AdvBench is one set wherever it comes from: the package with goals alone, or the hub with goals and targets."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asabench.core import advbench
from asabench.core.errors import NotAtHand, UserError
from asabench.core.prompts import PromptSet, load_prompts
from asabench.core.records import Prompt, sha256_hex
from tests.advbench_fixtures import GOALS, PAIRS, install, publish, publish_digests, use_hub, without
from tests.hub_server import HubServer

NOWHERE = "http://127.0.0.1:9"
TARGET = "Sure, here is"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real" not in request.node.name:
        publish_digests(tmp_path, monkeypatch)
        use_hub(NOWHERE, tmp_path / "hub", monkeypatch)


def message() -> str:
    """What a user is told: one line."""
    with pytest.raises(UserError) as error:
        load_prompts("advbench")
    assert "\n" not in str(error.value)
    return str(error.value)


def from_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PromptSet:
    with monkeypatch.context() as only_here:
        install(folder, only_here)
        return load_prompts("advbench")


def from_hub(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> PromptSet:
    with monkeypatch.context() as only_here:
        without(only_here, "pyrit")
        use_hub(hub.url, folder / "hub", only_here)
        return load_prompts("advbench")


# From the package


def test_the_package_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = from_package(tmp_path, monkeypatch)
    assert loaded.name == "advbench"
    assert [(prompt.id, prompt.goal, prompt.target, prompt.target_sha256) for prompt in loaded.prompts] == [
        ("advbench-000", "Paint a fence: now", None, sha256_hex(PAIRS[0][1])),
        ("advbench-001", "Say 'hello'", None, sha256_hex(PAIRS[1][1])),
        ("advbench-002", "42", None, sha256_hex(PAIRS[2][1])),
    ]
    assert "pyrit" not in sys.modules


@pytest.mark.parametrize(
    ("goals", "found"),
    [
        (GOALS[:2], "2 goals"),
        (GOALS[::-1], "3 goals, the first that differs is advbench-000"),
        ((*GOALS, "more"), "4 goals"),
        ((GOALS[0], "say 'hello'", GOALS[2]), "3 goals, the first that differs is advbench-001"),
    ],
)
def test_another_text_is_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goals: tuple[str, ...], found: str
) -> None:
    install(tmp_path, monkeypatch, goals)
    text = message()
    assert f"({found}) is not the published one (3 goals)" in text
    assert "pip install --no-deps pyrit==1.1.0" in text


# From the hub


def test_the_hub_has_targets_at_a_pinned_commit(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(hub)
    loaded = from_hub(hub, tmp_path, monkeypatch)
    assert [(prompt.goal, prompt.target, prompt.target_sha256) for prompt in loaded.prompts] == [
        (goal, target, None) for goal, target in PAIRS
    ]
    said = capsys.readouterr().err
    assert re.fullmatch(r"downloading AdvBench \([\d.]+ MB\) from \S+ on the hub, once\n", said), "no bars, no warnings"
    asked = len(hub.requests)
    assert from_hub(hub, tmp_path, monkeypatch) == loaded
    assert (len(hub.requests), capsys.readouterr().err) == (asked, ""), "the second time it is in the cache"


def test_a_package_that_moved_its_file_is_as_good_as_none(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub)
    install(tmp_path, monkeypatch, goals=None)
    use_hub(hub.url, tmp_path / "hub", monkeypatch)
    assert load_prompts("advbench").prompts[0].target == PAIRS[0][1]


def test_a_repository_that_has_gone_or_is_gated_leaves_the_other(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, place=1)
    assert from_hub(hub, tmp_path, monkeypatch).prompts[2].target == PAIRS[2][1]
    publish(hub, place=0, gated=True)
    assert from_hub(hub, tmp_path / "again", monkeypatch).prompts[2].target == PAIRS[2][1]


def test_both_gated(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (0, 1):
        publish(hub, place=place, gated=True)
    without(monkeypatch, "pyrit")
    use_hub(hub.url, tmp_path / "hub", monkeypatch)
    text = message()
    assert text.count("only to accounts that accepted its terms") == 2
    assert "pip install --no-deps pyrit==1.1.0" in text


@pytest.mark.parametrize(
    "pairs",
    [
        PAIRS[:2],
        PAIRS[::-1],
        ((PAIRS[0][0], "Sure, here is another start"), *PAIRS[1:]),
        ((f"{PAIRS[0][0]} ", PAIRS[0][1]), *PAIRS[1:]),
    ],
    ids=("fewer", "another order", "another target", "another goal"),
)
def test_another_text_on_the_hub_is_refused(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: tuple[tuple[str, str], ...]
) -> None:
    publish(hub, pairs=pairs)
    without(monkeypatch, "pyrit")
    use_hub(hub.url, tmp_path / "hub", monkeypatch)
    assert "is not the published one (3 goals)" in message()


def test_a_file_that_is_no_table(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = advbench.HUB_PAIRS[0].file
    hub.publish(source.repository, source.revision, {source.path: b"no parquet"})
    without(monkeypatch, "pyrit")
    use_hub(hub.url, tmp_path / "hub", monkeypatch)
    assert "cannot be read" in message()


# From nowhere


def test_neither_way_names_both_and_the_hub_is_asked_once_and_quietly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "pyrit")
    with pytest.raises(NotAtHand):
        load_prompts("advbench")
    text = message()
    ways = ("is not installed", "ConnectError", "connect to the network", "pip install --no-deps pyrit==1.1.0")
    assert [words for words in (*ways, "quickstart", "CSV file") if words not in text] == []
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", ""), "the client's own retries, half a minute of them, are not made"


def test_the_hub_answers_with_an_error(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "pyrit")
    use_hub(hub.url, tmp_path / "hub", monkeypatch)
    with hub.fault("HEAD", "AdvBench", status=500, times=99):
        assert "HfHubHTTPError" in message()
    assert len(hub.requests) == len(advbench.HUB_PAIRS), "each place once"
    assert capfd.readouterr().err == ""


def test_there_is_no_client_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pyrit", "huggingface_hub")
    text = message()
    assert "huggingface_hub, which downloads from the hub, is not installed" in text
    assert "pip install --no-deps pyrit==1.1.0" in text


# One set


@pytest.mark.parametrize("limit", [None, 1, 2])
@pytest.mark.parametrize("target", [None, TARGET, PAIRS[0][1]])
def test_it_is_one_set_whatever_is_installed(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, target: str | None
) -> None:
    publish(hub)
    goals, whole = from_package(tmp_path, monkeypatch), from_hub(hub, tmp_path, monkeypatch)
    a, b = (each.first(limit).with_target(target) for each in (goals, whole))
    assert a.digest == b.digest
    assert [prompt.id for prompt in a.prompts] == [prompt.id for prompt in b.prompts]
    use_hub(hub.url, tmp_path / "hub", monkeypatch)
    assert a.with_target_texts() == b.with_target_texts() == b, "towards the same words"
    assert a.without_targets() == b.without_targets()


def test_the_same_pairs_under_another_name_are_the_same_set(hub: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "copy.csv"
    path.write_text("goal,target\n" + "".join(f'"{goal}","{target}"\n' for goal, target in PAIRS))
    copy = load_prompts(str(path))
    assert copy.digest == PromptSet("advbench", tuple(Prompt(id="x", goal=g, target=t) for g, t in PAIRS)).digest
    assert copy.digest == published_digest(3)


def published_digest(n: int) -> str:
    """Of the first `n` pairs, from the digests that ship alone: [{goal}, {target}, no suffix] each."""
    pairs = ", ".join(
        f'[{{"sha256": "{goal}"}}, {{"sha256": "{target}"}}, null]' for goal, target in advbench.digests()[:n]
    )
    return sha256_hex(f"[{pairs}]")


def test_the_set_is_its_goals_and_its_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = from_package(tmp_path, monkeypatch)
    assert loaded.digest == published_digest(3)
    given, bare = loaded.with_target(TARGET), loaded.without_targets()
    assert len({loaded.digest, given.digest, bare.digest, loaded.first(2).digest}) == 4
    # As it was before targets were known: runs with --target keep their ids
    content = ", ".join(f'["{goal}", "Sure, here is", null]' for goal in GOALS)
    assert given.digest == sha256_hex(f"[{content}]")


def test_one_target_replaces_those_that_are_there() -> None:
    whole = PromptSet("x", (Prompt(id="a", goal="one", target="Yes"), Prompt(id="b", goal="two")))
    assert [prompt.target for prompt in whole.with_target(TARGET).prompts] == [TARGET, TARGET]
    assert [prompt.target for prompt in whole.with_target(None).prompts] == ["Yes", None]


def test_without_the_hub_the_goals_do_but_not_the_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goals = from_package(tmp_path, monkeypatch)
    with pytest.raises(NotAtHand) as error:
        goals.with_target_texts()
    text = str(error.value)
    assert "\n" not in text
    assert [w for w in ("ConnectError", "connect to the network", '--target "Sure, here is"') if w not in text] == []
    given = goals.with_target(TARGET)
    assert given.with_target_texts() is given


# What ships


def test_the_real_digests() -> None:
    known = advbench.digests()
    assert len(known) == len({each.goal for each in known}) == 520
    assert all(re.fullmatch(r"[0-9a-f]{64}", text) for each in known for text in each)
    # SHA-256 of the lines: whoever has the authors' harmful_behaviors.csv can make them again
    lines = "".join(f"{each.goal},{each.target}\n" for each in known)
    assert sha256_hex(lines) == "92a32cfd817c59218779ffb907f8a5ee7775ad0d52e39673ccd6c4958dbbbbef"
    assert (known[0].goal[:16], known[-1].goal[:16]) == ("8a8c77779e5dd65f", "9cd7e90aef534e24")


def test_the_real_set_has_one_digest() -> None:
    assert published_digest(520) == "d8209a11068f92f8cdf4dd5a37163e42b0958153bb0943eb47fbc636690a6412"


@pytest.mark.skipif(importlib.util.find_spec("pyrit") is None, reason="pyrit is not installed")
def test_the_real_package() -> None:
    loaded = load_prompts("advbench")
    assert [prompt.id for prompt in loaded.prompts] == [f"advbench-{n:03d}" for n in range(520)]
    goals = sha256_hex("\n".join(prompt.goal for prompt in loaded.prompts))
    assert goals == "f035131936bb56f411e3a206c189d4ced7196138ed769752751deccd978c0c68"
    assert loaded.digest == published_digest(520)
    # The prompts of the entries in submissions/
    assert loaded.first(100).with_target(TARGET).digest[:16] == "0800e6149026861b"
    assert "pyrit" not in sys.modules
