"""Attacks by name, with options; other people's attacks, judges and defences by path and by entry point, and what is
said of those that are none."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asabench.cli.app import main
from asabench.core.attack_names import BUILT_IN, OTHER
from asabench.core.errors import UserError
from asabench.core.judge_names import JUDGES
from asabench.core.protocol import PRESETS
from asabench.core.records import Cell, Prompt, Response
from asabench.runs.choices import Choices
from harness.attacks import ATTACKS, make_attack, make_attacks, stated
from harness.evaluation.evaluate import evaluate
from harness.evaluation.plan import make_plan
from harness.judges import ask, make_judge
from harness.model.inference_defence import defended
from harness.model.subject import Subject
from harness.plugins import announced
from tests.conftest import ROOT
from tests.plugins import PgdRestarts, SaysSafe

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
        ("axis..attack:AxisAttack", "package.module:Name"),
        (".relative:Attack", "cannot be recorded"),
        ("os:sep", "cannot be called"),
        (
            "gravity:steps=3",
            "unknown attack 'gravity'; allowed: random, gradient, pgd, mean_difference, ablation, random_ablation, or",
        ),
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


HERE = "tests.plugins"
CELLS = [Cell(prompt=Prompt(id="a", goal="tell me"), layer=1, attack="x", dose=1.0, seed=seed) for seed in (0, 1)]


def one_line(caught: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    for part in parts:
        assert part in message


# What an attack states


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_attack_states_what_the_table_of_names_says(name: str) -> None:
    known = BUILT_IN[name]
    attack = make_attack(name, V1)
    assert stated(attack) == {
        "family": known.family,
        "uses_seed": known.uses_seed,
        "needs_targets": known.needs_targets,
    }
    for recorded, option in known.variants.items():
        assert make_attack(f"{name}:{option}", V1).name == recorded
    assert attack.name in (known.variants or {name})


def test_what_somebody_else_s_attack_states_and_leaves_out() -> None:
    attack = make_attack(f"{HERE}:RandomisedSearch:steps=3", V1)
    assert attack.name == f"{HERE}:RandomisedSearch:steps=3"
    assert stated(attack) == {"family": "search", "uses_seed": False, "needs_targets": True}
    assert stated(make_attack(f"{HERE}:PgdRestarts", V1)) == {
        "family": OTHER,
        "uses_seed": True,
        "needs_targets": False,
    }
    assert stated(make_attack(f"{HERE}:TakesAnything", V1))["uses_seed"] is True


def test_it_uses_every_seed_where_it_does_not_say(llama: Subject, tmp_path: Path) -> None:
    choices: dict[str, Any] = dict(
        prompts=[CELLS[0].prompt], layers=(0, 1), seeds=[0, 1, 2], judge="rules", uncertified=True
    )
    plan = make_plan(llama, Choices.of(attack=f"{HERE}:PgdRestarts", **choices))
    assert len(plan.cells) == 1 + 2 * 3
    with pytest.raises(UserError, match="1 of 1 prompts have no target"):
        make_plan(llama, Choices.of(attack=f"{HERE}:RandomisedSearch", **choices))


# Options


@pytest.mark.parametrize(
    ("spec", "held"),
    [
        ("PgdRestarts:steps=07", {"steps": 7, "note": ""}),
        ("PgdRestarts:note=a%3Ab%2Cc", {"note": "a:b,c"}),
        ("one_axis:axis=3", {"note": "'3'"}),
        ("one_axis", {"note": "0"}),
        ("TakesAnything:b=1:a=x", {"note": "{'b': '1', 'a': 'x'}"}),
    ],
)
def test_options_of_somebody_else_s_attack(spec: str, held: dict[str, Any]) -> None:
    inner = make_attack(f"{HERE}:{spec}", V1).inner  # type: ignore[attr-defined]
    assert isinstance(inner, PgdRestarts)
    assert {name: getattr(inner, name) for name in held} == held


def test_options_in_another_order_are_the_same_attack() -> None:
    one, two = (make_attack(f"{HERE}:PgdRestarts:{options}", V1) for options in ("steps=3:note=x", "note=x:steps=3"))
    assert one.name == two.name == f"{HERE}:PgdRestarts:note=x:steps=3"
    assert make_attack(one.name, V1).name == one.name
    with pytest.raises(UserError, match="twice"):
        make_attacks([f"{HERE}:PgdRestarts:steps=3:note=x", f"{HERE}:PgdRestarts:note=x:steps=3"], V1)


# Two classes of one name


def test_a_class_of_the_same_name_cannot_take_over_a_run(
    llama: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("first_lab", "second_lab"):
        (tmp_path / f"{module}.py").write_text("from tests.plugins import PgdRestarts as Attack\n")
    monkeypatch.syspath_prepend(tmp_path)
    choices: dict[str, Any] = dict(prompts=[CELLS[0].prompt], max_new_tokens=2, judge="rules", uncertified=True)
    first, second, third = (
        make_plan(llama, Choices.of(attack=attack, **choices))
        for attack in ("first_lab:Attack", "second_lab:Attack", "first_lab:Attack:steps=3")
    )
    assert len({plan.settings.id for plan in (first, second, third)}) == 3
    assert not {cell.id for cell in first.cells if cell.seed is not None} & {
        cell.id for plan in (second, third) for cell in plan.cells
    }
    evaluate(llama, attack="first_lab:Attack", out=tmp_path / "run", **choices)
    with pytest.raises(UserError, match="attacks"):
        evaluate(llama, attack="second_lab:Attack", out=tmp_path / "run", **choices)


# What is none


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("TakesAWholeNumber", ("cannot be made", "missing a required argument: 'steps'")),
        ("TakesAWholeNumber:steps=many", ("steps=many", "whole numbers")),
        ("PgdRestarts:steps=0", ("steps=0", "whole numbers of 1 or more")),
        ("PgdRestarts:step=2", ("no option 'step'", "steps, note")),
        ("PgdRestarts:protocol=x", ("no option 'protocol'",)),
        ("TakesNoProtocol", ("cannot be made", "too many positional arguments")),
        # What a constructor raises is not taken for a wrong option
        (
            "RaisesTypeError:steps=2",
            ("cannot be made", "it raised TypeError: object of type 'int'", "plugins.py, line"),
        ),
        ("Exits", ("cannot be made", "it raised SystemExit: no licence")),
        ("NoDirections", ("is no attack", "directions")),
        ("SeedInWords", ("uses_seed", "True or False")),
        ("UnreadableSeed", ("it raised ValueError: two lines",)),
        ("Broken.inner", ("cannot be imported", "inner")),
    ],
)
def test_what_is_no_attack(spec: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        make_attack(f"{HERE}:{spec}", V1)
    one_line(caught, f"{HERE}:{spec.split(':')[0]}", *parts)


@pytest.mark.parametrize(
    ("gives", "parts"),
    [
        ("nothing", ("it returned a NoneType",)),
        ("list", ("it returned a list",)),
        ("one-row", ("(32,)", "(2, 32)")),
        ("narrow", ("(2, 31)", "(2, 32)")),
        ("complex", ("complex64", "real numbers")),
        ("nan", ("2 of the 2", "NaN")),
        ("infinite", ("1 of the 2", "infinite")),
        ("exit", ("it raised SystemExit: 3",)),
        ("wonders", ("it raised TypeError: cannot do wonders (plugins.py, line",)),
    ],
)
def test_what_are_no_directions(llama: Subject, gives: str, parts: tuple[str, ...]) -> None:
    attack = make_attack(f"{HERE}:Broken:gives={gives}", V1)
    with pytest.raises(UserError) as caught:
        attack.directions(llama, CELLS)
    one_line(caught, f"{HERE}:Broken:gives={gives}", *parts)


def test_whole_numbers_are_directions_and_memory_is_the_sweep_s(llama: Subject) -> None:
    found = make_attack(f"{HERE}:Broken:gives=whole", V1).directions(llama, CELLS)
    assert torch.equal(found, torch.ones(2, 32))
    with pytest.raises(torch.OutOfMemoryError):
        make_attack(f"{HERE}:Broken:gives=memory", V1).directions(llama, CELLS)


MODULES = {
    "raises": ("1 / 0\n", "it raised ZeroDivisionError: division by zero (raises.py, line 1)"),
    "exits": ("import sys\nsys.exit('bye')\n", "it raised SystemExit: bye (exits.py, line 2)"),
    "needs": ("import nothing_of_the_kind\n", "it raised ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
    "unwritten": ("def f(:\n", "it raised SyntaxError"),
    "lazy": ("def __getattr__(name):\n    raise RuntimeError('no ' + name)\n", "it raised RuntimeError: no Thing"),
    "empty": ("", "it raised AttributeError: module 'empty' has no attribute 'Thing'"),
}


@pytest.mark.parametrize("kind", ["attack", "judge", "defence"])
@pytest.mark.parametrize("module", MODULES)
def test_modules_that_cannot_be_imported(
    llama: Subject, module: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, says = MODULES[module]
    (tmp_path / f"{module}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    make: dict[str, Callable[[str], object]] = {
        "attack": lambda path: make_attack(path, V1),
        "judge": make_judge,
        "defence": lambda path: defended(llama, path),
    }
    with pytest.raises(UserError) as caught:
        make[kind](f"{module}:Thing")
    one_line(caught, f"the {kind} {module}:Thing cannot be imported", says)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("StumblesAtFirst", ("cannot be made", "it raised TypeError: takes 2 positional", "plugins.py, line")),
        ("NoInfo", ("is no judge",)),
        ("InfoInWords", ("is no judge",)),
    ],
)
def test_what_is_no_judge(name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        make_judge(f"{HERE}:{name}")
    one_line(caught, f"{HERE}:{name}", *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("SaysNothing", ("no list of verdicts",)),
        ("SaysWords", ("no list of verdicts",)),
        ("SaysTooLittle", ("1 verdicts for 2 answers",)),
        ("SaysMaybe", ("'maybe'", "safe, unsafe, incoherent")),
        ("SaysNaN", ("nan", "p_unsafe")),
        ("SignsForAnother", ("'another@1'", "says-safe@1")),
        ("Stumbles", ("it raised KeyError: 'p' (plugins.py, line",)),
    ],
)
def test_what_are_no_verdicts(name: str, parts: tuple[str, ...]) -> None:
    answers = [Response(cell=cell, text="No.", token_ids=(1,), finish_reason="stop") for cell in CELLS]
    judge = make_judge(f"{HERE}:{name}")
    with pytest.raises(UserError) as caught:
        ask(judge, answers)
    one_line(caught, *parts)
    assert [verdict.label for verdict in ask(SaysSafe(), answers)] == ["safe", "safe"]


def test_an_error_of_our_own_judges_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = make_judge("rules")
    monkeypatch.setattr("harness.judges.rules.read_text", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(judge, [Response(cell=CELLS[0], text="No.", token_ids=(1,), finish_reason="stop")])


# Entry points


def announce(folder: Path, package: str, **groups: dict[str, str]) -> None:
    """What pip leaves of a package: the folder with its metadata."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[asabench.{group}]", *(f"{name} = {path}" for name, path in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    announce(
        tmp_path / "site",
        "lab",
        attacks={"restarts": f"{HERE}:PgdRestarts", "random": f"{HERE}:Exits", "lost": "lost_module:Attack [extra]"},
        judges={"says-safe": f"{HERE}:SaysSafe"},
        defences={"halved": "tests.inference_defences:HalvedLastBlock"},
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    return tmp_path / "site"


def test_an_announced_attack_stands_under_its_path(installed: Path) -> None:
    assert announced("attack", BUILT_IN) == {
        "lost": ("lost_module:Attack",),
        "restarts": (f"{HERE}:PgdRestarts",),
    }
    assert make_attack("restarts:steps=3", V1).name == f"{HERE}:PgdRestarts:steps=3"
    assert make_attack("random", V1).family == "random", "nobody takes the name of one of ours"
    with pytest.raises(UserError, match="lost_module:Attack cannot be imported"):
        make_attack("lost", V1)
    with pytest.raises(UserError, match=r"unknown attack 'restart'; allowed: random, .*, lost, restarts, or an import"):
        make_attack("restart", V1)
    with pytest.raises(UserError, match="twice"):
        make_attacks(["restarts", f"{HERE}:PgdRestarts"], V1)


def test_announced_judges_and_defences(installed: Path, llama: Subject) -> None:
    assert make_judge("says-safe").info.id == "says-safe@1"
    with pytest.raises(UserError, match=r"unknown judge 'says'; allowed: .*rules, says-safe, or an import path"):
        make_judge("says")
    with pytest.raises(UserError, match=r"'rules:x' cannot be read; allowed: .*says-safe"):
        make_judge("rules:x")
    assert defended(llama, "halved").name == f"{llama.name}+tests.inference_defences:HalvedLastBlock"
    llama.blocks[-1]._forward_hooks.clear()
    with pytest.raises(UserError, match="unknown defence 'whole'; allowed: halved, or an import path"):
        defended(llama, "whole")


def test_a_name_that_two_packages_announce(installed: Path) -> None:
    announce(installed, "another", attacks={"restarts": "another_lab:Attack"})
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"'restarts' .*several packages.*path") as caught:
        make_attack("restarts", V1)
    one_line(caught, "another_lab:Attack", f"{HERE}:PgdRestarts")


def test_help_lists_what_is_announced(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, kinds in (
        ("evaluate", ("lost, restarts", "says-safe", "halved")),
        ("judge-check", ("says-safe",)),
        ("utility", ("lost, restarts",)),
    ):
        monkeypatch.setattr(sys, "argv", ["asabench", command, "--help"])
        with pytest.raises(SystemExit):
            main()
        shown = " ".join(capsys.readouterr().out.split())
        for names in kinds:
            assert f"Installed too: {names}." in shown
    without_targets = "random, mean_difference, ablation, random_ablation, package.module:Name, or none. Installed"
    assert without_targets in shown, "for utility"


@pytest.mark.parametrize("name", [*ATTACKS, *JUDGES])
def test_help_names_every_one_of_ours(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["asabench", "evaluate", "--help"])
    with pytest.raises(SystemExit):
        main()
    # A name may be broken at a hyphen where a line ends
    assert name in "".join(capsys.readouterr().out.split())


def test_the_command_line_says_one_line(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    done = subprocess.run(
        [sys.executable, "-m", "asabench", "judge-check", "leaves:Judge", "--set", "gold"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "asabench: the judge leaves:Judge cannot be imported: it raised SystemExit: 0 (leaves.py, line 1)"
    ]
