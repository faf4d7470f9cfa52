"""The same command is the same run whatever is installed: the package with AdvBench's goals, or the hub with its goals
and targets. And a run goes on under the ids it began with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from asabench.core.errors import NotAtHand, UserError
from asabench.core.records import Prompt, Response, Verdict
from asabench.core.row import JudgeInfo
from asabench.runs.choices import Choices
from asabench.submission.make import read_judged
from harness.attacks.random import RandomAttack
from harness.defences.examples import chosen_prompts
from harness.evaluation.evaluate import Evaluation, evaluate
from harness.evaluation.plan import make_plan
from harness.model.subject import Subject
from harness.probes.run import probe
from tests.advbench_fixtures import PAIRS, install, publish, publish_digests, use_hub, without
from tests.conftest import tiny_subject
from tests.hub_server import HubServer

NOWHERE = "http://127.0.0.1:9"
TARGET = "Sure, here is"
DESCEND = "gradient:direction=descend"


class Unsure:
    """A judge that finds nothing."""

    info = JudgeInfo(id="unsure-1", description="for tests")

    def __call__(self, responses: Sequence[Response]) -> list[Verdict]:
        return [Verdict(cell_id=each.cell.id, judge=self.info.id, label="safe") for each in responses]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_subject("llama")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        publish(server)
        yield server


Machine = Callable[[str], None]


@pytest.fixture
def machine(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine with the package and no network, or with the hub and no package, or with both."""
    publish_digests(tmp_path, monkeypatch)
    install(tmp_path, monkeypatch)

    def become(kind: str) -> None:
        use_hub(NOWHERE if kind == "package" else hub.url, tmp_path / f"cache of {kind}", monkeypatch)
        monkeypatch.setattr("importlib.util.find_spec", found)
        if kind == "hub":
            without(monkeypatch, "pyrit")

    import importlib.util

    found = importlib.util.find_spec
    return become


def run(subject: Subject, out: Path, **choices: Any) -> Evaluation:
    small: dict[str, Any] = {"max_new_tokens": 3, "layers": "0,2", "judge": Unsure(), "uncertified": True}
    return evaluate(subject, out=out, **{"prompts": "advbench", **small, **choices})


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"limit": 1},
        {"target": TARGET, "attack": ["random", DESCEND]},
        {"target": PAIRS[0][1], "limit": 2},
    ],
    ids=str,
)
def test_package_and_hub_give_one_run(
    subject: Subject, machine: Machine, tmp_path: Path, choices: dict[str, Any]
) -> None:
    done = {}
    for kind in ("package", "hub"):
        machine(kind)
        done[kind] = run(subject, tmp_path / kind, **choices)
    a, b = done["package"], done["hub"]
    assert a.row.run_id == b.row.run_id
    assert a.row.model_copy(update={"created": ""}) == b.row.model_copy(update={"created": ""})
    for table in ("prompts.parquet", "responses"):
        pd.testing.assert_frame_equal(*(pd.read_parquet(tmp_path / kind / table) for kind in done))
    held = [read_judged(tmp_path / kind) for kind in done]
    assert held[0].prompts == held[1].prompts
    own = choices.get("target")
    assert [each.settings.protocol.target for each in held] == [own, own]


def test_a_targeted_attack_has_the_published_words_or_none(subject: Subject, machine: Machine, tmp_path: Path) -> None:
    machine("package")
    with pytest.raises(NotAtHand, match=r"AdvBench's targets are not here.*--target") as error:
        run(subject, tmp_path / "package", attack=DESCEND)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "package").exists(), "refused before anything ran"
    done = {}
    for kind in ("hub", "both"):
        machine(kind)
        done[kind] = run(subject, tmp_path / kind, attack=["random", DESCEND])
    assert done["hub"].row.run_id == done["both"].row.run_id
    tables = [each.responses.sort_values("cell_id")["direction_sha256"].tolist() for each in done.values()]
    assert tables[0] == tables[1], "the package's goals took the hub's targets"
    prompts = make_plan(subject, Choices.of(prompts="advbench", attack=DESCEND, judge=Unsure())).prompts.prompts
    assert [prompt.target for prompt in prompts] == [target for _, target in PAIRS]
    text = b"".join(path.read_bytes() for path in tmp_path.glob("hub/*.parquet"))
    assert all(target.encode() not in text for _, target in PAIRS)


def test_a_run_that_began_with_the_package_goes_on_with_the_hub(
    subject: Subject, machine: Machine, tmp_path: Path
) -> None:
    machine("package")
    first = run(subject, tmp_path / "run")
    machine("hub")
    again = run(subject, tmp_path / "run")
    assert again.row.run_id == first.row.run_id
    assert len(again.responses) == len(first.responses)


def test_probes_and_defences_name_the_set_alike(subject: Subject, machine: Machine, tmp_path: Path) -> None:
    named, trained = [], []
    for kind in ("package", "hub"):
        machine(kind)
        plan = make_plan(subject, Choices.of(prompts="advbench", max_new_tokens=2, judge=Unsure()))
        out = probe(
            subject, plan.prompts.prompts, [0], plan.protocol, RandomAttack(), [0.5], tmp_path / kind, what=["nll"]
        )
        named.append(json.loads((out / "manifest.json").read_text())["settings"]["prompts"])
        trained.append((chosen_prompts("advbench:0-1"), chosen_prompts("advbench:0-1").digest))
    assert named[0] == named[1]
    assert trained[0] == trained[1]
    assert all(prompt.target is prompt.target_sha256 is None for prompt in trained[0][0].prompts)


# Ids


def csv_file(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def unfinish(out: Path) -> None:
    """As if the run had been killed after its first part."""
    for table in ("responses", "verdicts"):
        for part in sorted((out / table).glob("part-*.parquet"))[1:]:
            part.unlink()
    (out / "row.json").unlink()


def test_a_run_goes_on_when_its_prompts_file_was_renamed(subject: Subject, tmp_path: Path) -> None:
    content = "goal\ntell me how\nwhy?\nand then what\nwho goes there\n"
    out = tmp_path / "run"
    evaluate_csv = {"max_new_tokens": 3, "judge": Unsure(), "uncertified": True, "max_rows": 3, "out": out}
    first = evaluate(subject, prompts=csv_file(tmp_path, "goals.csv", content), **evaluate_csv)
    unfinish(out)
    again = evaluate(subject, prompts=csv_file(tmp_path, "renamed.csv", content), **evaluate_csv)
    assert set(again.responses["prompt_id"]) == {f"prompt-00{n}" for n in range(4)}
    columns = ["cell_id", "prompt_id", "text"]
    pd.testing.assert_frame_equal(
        *(each.responses[columns].sort_values("cell_id", ignore_index=True) for each in (first, again))
    )


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ("id,goal\na,one\nb,two\n", "id,goal\na,one\nc,two\n", r"other ids \(b, which is now c\)"),
        ("goal\none\ntwo\n", "id,goal\none-one,one\n,two\n", r"other ids \(prompt-000, which is now one-one\)"),
        ("id,goal\na,one\nb,two\n", "id,goal\nb,one\na,two\n", r"other ids \(a, which is now b\)"),
    ],
)
def test_the_same_prompts_under_other_ids_are_refused(
    subject: Subject, tmp_path: Path, then: str, now: str, said: str
) -> None:
    """Cells are known by their content: answers that are there would keep the ids of then, and others get new ones."""
    out = tmp_path / "run"
    choices: dict[str, Any] = {"max_new_tokens": 3, "judge": Unsure(), "uncertified": True, "out": out}
    evaluate(subject, prompts=csv_file(tmp_path, "then.csv", then), **choices)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=said) as error:
        evaluate(subject, prompts=csv_file(tmp_path, "now.csv", now), **choices)
    assert "\n" not in str(error.value)
    assert (out / "manifest.json").read_bytes() == before


def test_prompts_of_python_keep_their_ids(subject: Subject, tmp_path: Path) -> None:
    done = run(subject, tmp_path / "run", prompts=[Prompt(id="mine", goal="count to nine", target="One")])
    table = pd.read_parquet(tmp_path / "run" / "prompts.parquet")
    assert table["id"].tolist() == ["mine"]
    assert table["target"].tolist() == ["One"]
    assert set(done.responses["prompt_id"]) == {"mine"}
