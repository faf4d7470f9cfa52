"""Attacks by name, with options, and someone else's by import path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asabench.core.errors import UserError
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from harness.attacks import ATTACKS, make_attack, make_attacks
from harness.evaluation.evaluate import evaluate
from harness.model.subject import Subject
from tests.conftest import ROOT

V1 = PRESETS["asabench-v1"]

# The example of docs/attacks.md, word for word
DOCS = ROOT / "docs" / "attacks.md"


AXIS = "axis_attack:AxisAttack:axis=3"
"""The attack of the docs as it is asked for, which is its recorded name too."""


def example() -> str:
    text = DOCS.read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```")[0]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "axis_attack.py").write_text(example())
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("outside")
def test_the_attack_in_the_docs_runs(llama: Subject, tmp_path: Path) -> None:
    prompts = [Prompt(id="a", goal="tell me"), Prompt(id="b", goal="and again")]
    done = evaluate(
        llama,
        prompts=prompts,
        attack=["random", AXIS],
        seeds=[0, 1],
        max_new_tokens=3,
        out=tmp_path / "run",
        judge="rules",
        uncertified=True,
    )
    counts = done.responses.groupby("attack").size().to_dict()
    # It uses no seed: one cell per prompt and layer, where random has two
    assert counts == {"none": 2, "random": 2 * 2 * 4, AXIS: 2 * 4}
    assert done.responses.loc[done.responses["attack"] == AXIS, "seed"].isna().all()
    assert [result.attack for result in done.row.results] == ["random", AXIS]
    assert done.row.results[1].pasr.value is not None
    attack = make_attack(AXIS, V1)
    assert torch.equal(attack.directions(llama, [None])[0], torch.eye(32)[3])  # type: ignore[list-item]


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gravity", "random"),
        ("no.such.module:Attack", "cannot be imported"),
        ("axis_attack:Nothing", "cannot be imported"),
        ("axis_attack:AxisAttack:axis", "name:option=value"),
        ("axis_attack:AxisAttack:colour=red", "cannot be made"),
        ("random:colour=red", "cannot be made"),
        ("os.path", "package.module:Name"),
    ],
)
def test_attacks_that_cannot_be(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make_attack(spec, V1)
    assert "\n" not in str(caught.value)


def test_an_attack_twice_and_none() -> None:
    with pytest.raises(UserError, match="twice"):
        make_attacks(["random", "random"], V1)
    with pytest.raises(UserError, match="no attack"):
        make_attacks([], V1)
    assert set(ATTACKS) >= {"random"}
