"""Attacks that act on no one block, and differences to matched controls, worked out by hand."""

from __future__ import annotations

import pytest

from asabench.core.attack_names import control_of, doses_of, has_blocks, layers_of
from asabench.core.grid import cells_of
from asabench.core.protocol import PRESETS
from asabench.core.records import Prompt
from asabench.core.row import worst_case
from asabench.stats.dose_response import attacks_of, eps50_by_attack, masking_flag
from asabench.stats.metrics import attack_result
from asabench.stats.paired import against_control, difference
from asabench.stats.worst import worst_case_rate
from tests.tables import bounds, clean_lines, frame, line, lines, wilson

ABLATION, JOINT = "ablation", "pgd:blocks=joint"


def whole(letters: str, attack: str = ABLATION, dose: float = 1.0, seed: int | None = None) -> list[dict[str, object]]:
    return [line(n, letter, layer=None, attack=attack, dose=dose, seed=seed) for n, letter in enumerate(letters)]


TABLE = frame(
    clean_lines("sssssssu"),
    lines({(0, 0): "ussssssu", (3, 0): "uussssss", (0, 1): "sssssssu", (3, 1): "ssssssss"}, "random", 1.0),
    lines({(0, None): "uuuussss", (3, None): "ssssuiss"}, "pgd", 1.0),
    whole("uuuuuu?i"),
    whole("ussssssu", "random_ablation", seed=0),
    whole("ssssssss", "random_ablation", seed=1),
    whole("uuuuuuus", JOINT, 1.0),
)


def test_its_rate_is_the_share_of_prompts_and_it_has_no_layers() -> None:
    result = attack_result(TABLE, ABLATION, 1.0)
    assert result.masr.value == pytest.approx(6 / 7), "one is unscored"
    assert bounds(result.masr)[0] == pytest.approx(wilson(6, 8)[0])
    assert bounds(result.masr)[1] == pytest.approx(wilson(7, 8)[1])
    assert (result.lasr, result.peak_layer, result.asr_at_k) == ({}, None, {})
    assert result.pasr.value is None
    assert result.pasr_held_out is None
    assert result.masr_conditional is not None
    assert result.masr_conditional.value == pytest.approx(1.0), "the last one was broken without an attack"
    assert result.masr_coherent is not None
    assert result.masr_coherent.value == pytest.approx(1.0)
    assert (result.verdicts.unsafe, result.verdicts.incoherent, result.verdicts.unscored) == (6, 1, 1)
    assert attack_result(TABLE, "random_ablation", 1.0).masr.value == pytest.approx((2 / 8 + 0) / 2)


def test_it_is_in_the_worst_case_and_has_no_eps50() -> None:
    results = [attack_result(TABLE, attack, 1.0) for attack in attacks_of(TABLE)]
    worst = worst_case(results)
    assert worst is not None
    assert worst.attack == JOINT
    assert worst_case_rate(TABLE, results).value == pytest.approx(7 / 8)
    assert set(eps50_by_attack(TABLE)) == {"random", "pgd", JOINT}
    assert not masking_flag(results)


def test_differences_to_controls_are_paired_by_prompt() -> None:
    found = against_control(TABLE, "pgd", "random", 1.0)
    # By prompt: pgd breaks 0 to 4; random, the mean of two seeds, 0 and 1 half of the time and 7 always
    assert found.masr.value == pytest.approx(((1 - 0.5) + (1 - 0.5) + 3 + (0 - 1)) / 8)
    assert found.pasr.value == pytest.approx(4 / 8 - 3 / 16)
    assert found.masr.low is not None
    assert found.masr.high is not None
    assert found.masr.low < found.masr.value < found.masr.high
    removed = against_control(TABLE, ABLATION, "random_ablation", 1.0)
    assert removed.attack == "random_ablation"
    assert removed.masr.value == pytest.approx((0.5 + 5 + (0 - 0.5)) / 7), "the unscored prompt leaves the value"
    assert removed.pasr.value is None


def test_two_runs_differ_in_masr_alone() -> None:
    other = frame(clean_lines("ssssssss"), whole("uussssss"))
    found = difference(TABLE, other, ABLATION, 1.0)
    assert found.masr.value == pytest.approx(-4 / 7)
    assert found.pasr.value is None
    assert found.asr_at_k == {}
    assert (found.only_a, found.only_b) == (4, 0)


@pytest.mark.parametrize(
    ("attack", "control"),
    [
        ("random", None),
        ("random:blocks=joint", None),
        ("random_ablation:act=add", None),
        ("pgd:steps=4", "random"),
        ("gradient-descend", "random"),
        ("pgd:towards=sure-here-is", "random"),
        ("mean_difference:texts=0123abcd", "random"),
        ("mine:Attack:x=1", "random"),
        ("pgd:steps=4:blocks=joint", "random:blocks=joint"),
        ("ablation", "random_ablation"),
        ("ablation:act=subtract:texts=0123abcd", "random_ablation:act=subtract:texts=0123abcd"),
    ],
)
def test_controls(attack: str, control: str | None) -> None:
    assert control_of(attack) == control


def test_cells() -> None:
    protocol = PRESETS["asabench-v1"].model_copy(update={"doses": (0.1, 0.3), "seeds": (0, 1)})
    uses = {"random": True, "ablation": False, "random_ablation": True, "pgd:blocks=joint": False, "mine:A:x=1": False}
    cells = list(cells_of([Prompt(id="a", goal="tell me")], [2, 5], uses, protocol))
    found = {name: [(c.layer, c.dose, c.seed) for c in cells if c.attack == name] for name in uses}
    assert len(found["random"]) == 2 * 2 * 2
    assert found["ablation"] == [(None, 1.0, None)]
    assert found["random_ablation"] == [(None, 1.0, 0), (None, 1.0, 1)]
    assert found["pgd:blocks=joint"] == [(None, 0.1, None), (None, 0.3, None)]
    assert len(found["mine:A:x=1"]) == 4
    assert [cell.is_clean for cell in cells] == [True] + [False] * (len(cells) - 1)
    assert len({cell.id for cell in cells}) == len(cells)
    assert (has_blocks("mine:Attack:blocks=joint"), has_blocks("pgd:blocks=joint")) == (True, False)
    assert (layers_of("pgd", [1]), doses_of("ablation:act=add", [0.1])) == ([1], (1.0,))
