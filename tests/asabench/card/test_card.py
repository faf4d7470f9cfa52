"""`asabench card`: what it joins, what it refuses, the numbers by hand, the command end to end, and its page."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asabench.card.curves import loss_point, steps_to_half, trainability_of
from asabench.card.layers import layer_shares
from asabench.card.making import make_card, stability_of
from asabench.card.records import (
    CARD_ATTACKS,
    CARD_FILE,
    PAGE_FILE,
    Curves,
    Generalisation,
    ModelCard,
    ModelName,
    Resistance,
    read_card,
)
from asabench.card.words import headlines, not_measured
from asabench.cli.app import main as asabench_main
from asabench.core.errors import UserError
from asabench.core.estimate import Change, Rate
from asabench.core.protocol import preset
from asabench.core.records import sha256_hex
from asabench.core.row import JudgeInfo, Row, headline_fields, read_row
from asabench.core.utility_report import BenignRates, RequestSet, TaskScore
from asabench.runs.folder import Run, read_run
from asabench.stats.scoring import head_of, scored_row
from leaderboard.card_page import render_card
from leaderboard.charts.card_svg import loss_svg, rates_svg, refusals_svg, round_top
from leaderboard.charts.svg import lasr_svg
from leaderboard.text import format_estimate
from tests.asabench.runs.test_compare import LETTERS_A, LETTERS_B, Letters, make_run
from tests.board_fixtures import HOSTILE, make_utility
from tests.browser import Axe, Visit
from tests.card_fixtures import DATA, OWN, SET, SETTINGS, THEIRS, curves, shares
from tests.command_line import RULES, asabench, refused_in_one_line
from tests.rows import make_result, make_row, rate
from tests.tables import bounds, frame, lines, wilson

MODEL, BASE = ModelName(name="tiny-hard", revision="hard"), ModelName(name="tiny", revision="soft")


# Numbers by hand


@pytest.mark.parametrize(
    ("points", "step"),
    [((1.0, 0.7, 0.4, 0.6), 8), ((0.5, 0.5), None), ((0.45, 0.9), 0), ((1.0, None, 0.0), 8), ((1.0,), None)],
)
def test_steps_to_half_by_hand(points: Sequence[float | None], step: int | None) -> None:
    assert steps_to_half(shares(*points)) == step


def test_layer_shares_by_hand() -> None:
    """Blocks 0 and 2 trained of 0, 1 and 2; two prompts, two seeds."""
    table = frame(
        lines({(0, 0): "uuss", (1, 0): "uuuu", (2, 0): "usss", (0, 1): "ussu", (1, 1): "uuus", (2, 1): "ssss"})
    )
    base = frame(lines({(0, 0): "uuuu", (1, 0): "ssss", (2, 0): "uuss"}))
    (found,) = layer_shares(table, base, [("random", 1.0)], [0, 2, 9])
    assert found.trained.value == (2 + 1 + 2 + 0) / 16
    assert found.others.value == 7 / 8
    assert found.base_trained is not None
    assert found.base_others is not None
    assert found.base_trained.value == 6 / 8
    assert (found.base_others.value, *bounds(found.base_others)) == pytest.approx((0.0, *wilson(0, 4)))
    low, high = bounds(found.trained)
    # By prompt: 3, 1, 0 and 1 of 4; resampled means of these
    assert 0 <= low < 5 / 16 < high <= 3 / 4
    (alone,) = layer_shares(table, None, [("random", 1.0)], [1])
    assert (alone.trained.value, alone.base_trained) == (7 / 8, None)


@pytest.mark.parametrize("trained", [(), (0, 1), (7,)])
def test_no_layer_shares_without_both_kinds_of_blocks(trained: Sequence[int]) -> None:
    table = frame(lines({(0, 0): "us", (1, 0): "ss"}))
    assert layer_shares(table, None, [("random", 1.0)], trained) == ()


def test_an_unscored_answer_widens_a_layer_share() -> None:
    table = frame(lines({(0, 0): "us?s" * 5, (1, 0): "ssss" * 5}))
    read = frame(lines({(0, 0): "usss" * 5, (1, 0): "ssss" * 5}))
    pairs = [("random", 1.0)]
    (found,), (known,) = (layer_shares(each, None, pairs, [0]) for each in (table, read))
    assert found.trained.value == pytest.approx(1 / 3)
    assert bounds(found.trained)[0] <= bounds(known.trained)[0]
    assert bounds(found.trained)[1] > bounds(known.trained)[1]


def test_a_loss_point_by_hand() -> None:
    point = loss_point(4, [1.0, 3.0])
    # Resampled means of two: 1, 2 or 3
    assert (point.step, point.value, point.low, point.high) == (4, 2.0, 1.0, 3.0)
    same = loss_point(0, [2.5] * 8)
    assert (same.value, same.low, same.high) == (2.5, 2.5, 2.5)


def test_losses_are_compared_pair_by_pair() -> None:
    """Every pair's loss is 0.1 higher, so that the difference is sure, though the losses themselves spread."""
    made = trainability_of(SETTINGS, DATA, OWN, THEIRS)
    assert made.final_loss.value == pytest.approx(0.1)
    assert made.final_loss.low == pytest.approx(0.1)
    assert made.final_loss.high == pytest.approx(0.1)
    assert (made.model.steps_to_half, made.base.steps_to_half) == (None, 4)


# Joining


def finished(path: Path, letters: Letters, name: ModelName, *, judge: str = "rules@1", **settings: Any) -> Run:
    """A finished run of that model with its row."""
    run = make_run(path, letters, model=name.name, revision=name.revision, judges=(judge,), **settings)
    info = JudgeInfo(id=judge, description="a judge for tests")
    attacks = list(dict.fromkeys(attack for attack, *_ in letters if attack != "none"))
    doses = sorted({dose for attack, dose, *_ in letters if attack == attacks[0]})
    table = run.judged(judge)
    sound = make_row(run_id=run.id, model={"name": name.name, "revision": name.revision, "n_layers": 2}, layers=(0, 1))
    head = head_of(
        sound,
        created=sound.created,
        asabench_version=sound.asabench_version,
        shared_noise=False,
        max_new_tokens=None,
    )

    def scored(some: list[str], at: list[float]) -> Row:
        return scored_row(head, table, some, at, info)

    more = [scored([a], [d]).results[0] for a, d in {(k[0], k[1]) for k in letters} if a in attacks[1:]]
    first = scored(attacks[:1], doses)
    results = (*first.results, *more)
    run.write_row(first.model_copy(update={"results": results, **headline_fields(results)}))
    return read_run(path)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    """The model's and the base's; the model holds under two of the base's three broken prompts at dose 1."""
    return finished(tmp_path / "model", LETTERS_B, MODEL), finished(tmp_path / "base", LETTERS_A, BASE)


def test_resistance_by_hand(runs: tuple[Run, Run]) -> None:
    card = make_card(MODEL, BASE, run=runs[0], base_run=runs[1])
    assert card.resistance is not None
    found = {(each.attack, each.dose): each for each in card.resistance.changes}
    assert set(found) == {("random", 0.3), ("random", 1.0), ("gradient", 1.0)}
    change = found["random", 1.0]
    assert (change.prompts, change.masr.value, change.pasr.value) == (4, 1 / 4 - 3 / 4, 1 / 4 - 3 / 4)
    assert change.p_value == 0.5
    assert found["random", 0.3].masr == Change(value=0.0, low=0.0, high=0.0)
    assert (card.resistance.row.attack, card.resistance.row.masr.value) == ("gradient", 1.0)
    assert card.resistance.base is not None
    assert (card.resistance.base.attack, card.resistance.base.masr.value) == ("gradient", 1.0)
    assert card.resistance.missing_attacks == tuple(attack for attack in CARD_ATTACKS if attack != "random")
    assert card.resistance.trained_prompts is None
    assert headlines(card)["resistance"].startswith("largest MASR (gradient at dose 1): 1.00 [")


def test_trained_blocks_are_told_from_others(runs: tuple[Run, Run]) -> None:
    card = make_card(MODEL, BASE, run=runs[0], base_run=runs[1], trained_layers=[1])
    found = {(each.attack, each.dose): each for each in card.generalisation.by_layer}
    share = found["random", 1.0]
    assert (share.trained.value, share.others.value) == (0.0, 1 / 4)
    assert share.base_trained is not None
    assert share.base_others is not None
    assert (share.base_trained.value, share.base_others.value) == (1 / 4, 3 / 4)
    assert card.generalisation.trained_layers == (1,)


def test_prompts_that_were_trained_on_are_counted(runs: tuple[Run, Run]) -> None:
    goals = [sha256_hex("bake a loaf"), sha256_hex("mend a sock"), sha256_hex("fly a kite")]
    card = make_card(MODEL, BASE, run=runs[0], base_run=runs[1], trained_goals=goals)
    assert card.resistance is not None
    assert card.resistance.trained_prompts == 2
    assert headlines(card)["generalisation"] == "not measured"
    clean = make_card(MODEL, BASE, run=runs[0], trained_goals=goals[2:])
    assert clean.resistance is not None
    assert clean.resistance.trained_prompts == 0
    assert "prompts that training did not use" in headlines(clean)["generalisation"]
    with pytest.raises(UserError, match=r"2 of the 25 prompts of .* were trained on; give a run on others"):
        make_card(MODEL, BASE, unseen_run=runs[0], trained_goals=goals)
    unseen = make_card(MODEL, BASE, unseen_run=runs[0], trained_goals=goals[2:])
    assert headlines(unseen)["generalisation"].startswith("unseen prompts: largest MASR")


def test_parts_of_other_models_are_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    model, base = runs
    report = make_utility(0.9, model="tiny-hard", revision="hard")
    for parts, says in (
        ({"run": base}, "is of tiny (soft), and the card has tiny-hard (hard) there"),
        ({"run": model, "base_run": model}, "is of tiny-hard (hard), and the card has tiny (soft) there"),
        ({"unseen_run": base}, "is of tiny (soft)"),
        ({"base_run": base}, "give --run too"),
        ({"unseen_base_run": base}, "give --unseen-run too"),
        ({"base_utility": report}, "give --utility too"),
        ({"utility": make_utility(0.9)}, "the utility report is of tiny-llama (1)"),
        ({"utility": report, "base_utility": report}, "the utility report is of tiny-hard"),
    ):
        with pytest.raises(UserError) as error:
            make_card(MODEL, BASE, **parts)  # type: ignore[arg-type]
        assert says in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="the same weights"):
        make_card(MODEL, MODEL.model_copy(update={"name": "other"}))


def test_a_folder_may_be_renamed_but_not_defended(tmp_path: Path) -> None:
    name = ModelName(name="mine", revision="sha256:1")
    renamed = finished(tmp_path / "a", LETTERS_A, ModelName(name="yours", revision="sha256:1"))
    assert make_card(name, BASE, run=renamed).resistance is not None
    defended = finished(tmp_path / "b", LETTERS_A, ModelName(name="mine+package.module:Defence", revision="sha256:1"))
    with pytest.raises(UserError, match=r"package\.module:Defence"):
        make_card(name, BASE, run=defended)


def test_runs_of_other_judges_or_unfinished_are_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    other = finished(tmp_path / "other", LETTERS_A, BASE, judge="m@1")
    with pytest.raises(UserError, match=r"judged by rules@1 and the base's by m@1"):
        make_card(MODEL, BASE, run=runs[0], base_run=other)
    other_protocol = finished(tmp_path / "p", LETTERS_A, BASE, protocol=preset("gu2025").model_dump(mode="json"))
    with pytest.raises(UserError, match="different protocols"):
        make_card(MODEL, BASE, run=runs[0], base_run=other_protocol)
    unfinished = make_run(tmp_path / "open", LETTERS_A, state="running", model="tiny-hard", revision="hard")
    with pytest.raises(UserError, match=r"row cannot be read at .* when it ends"):
        make_card(MODEL, BASE, run=unfinished)


def test_stability_stands_side_by_side() -> None:
    own, theirs = make_utility(0.6, model="tiny-hard"), make_utility(0.9, model="tiny", tasks={})
    found = stability_of(own, theirs)
    assert [(line.what, line.attack, line.dose, line.better) for line in found.lines] == [
        ("harmless requests answered", "none", 0.0, "more"),
        ("safe requests refused that look unsafe", "none", 0.0, "less"),
        ("harmless requests answered", "random", 0.3, "more"),
        ("safe requests refused that look unsafe", "random", 0.3, "less"),
        ("gsm8k", "none", 0.0, "more"),
    ]
    assert [line.model.value for line in found.lines] == [0.6, 0.4, 0.6, 0.4, 0.31]
    assert [line.base and line.base.value for line in found.lines] == [0.9, 0.1, 0.9, 0.1, None]
    assert found.lines[-1].chance == 0.01
    assert found.sets[0] == "benign (60, digest aabbccddeeff0011)"
    assert [line.base for line in stability_of(own, None).lines] == [None] * 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_new_tokens": 64}, "max_new_tokens"),
        ({"benign_set": RequestSet(name="other", digest="00", n=60)}, "benign_set"),
        ({"layers": (1, 2)}, "layers"),
        (
            {"tasks": {"gsm8k": TaskScore(accuracy=rate(0.1, 0, 0.2), n=80, chance=0.01, source="a", digest="00")}},
            "the questions of gsm8k",
        ),
    ],
)
def test_reports_on_different_things_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"differ in {says}; measure both"):
        stability_of(make_utility(0.6), make_utility(0.9, **change))


def empty() -> ModelCard:
    return make_card(MODEL, BASE)


def test_what_is_missing_is_said_with_the_command(runs: tuple[Run, Run]) -> None:
    parts = [each.part for each in not_measured(empty())]
    assert parts == [
        "stability",
        "resistance",
        "generalisation to another set of prompts",
        "generalisation to blocks that training did not perturb",
        "trainability",
    ]
    attacks = "random,gradient:direction=ascend,gradient:direction=descend,pgd,mean_difference"
    by_part = {each.part: each for each in not_measured(empty())}
    assert f"--attack {attacks}" in by_part["resistance"].command
    assert by_part["resistance"].option == "--run runs/model"
    alone = make_card(MODEL, BASE, run=runs[0], utility=make_utility(0.9, model="tiny-hard", revision="hard"))
    assert [each.part for each in not_measured(alone)] == [
        "generalisation to another set of prompts",
        "stability of the base",
        "resistance of the base",
        "resistance under gradient-ascend, gradient-descend, pgd, mean_difference",
        "generalisation to blocks that training did not perturb",
        "trainability",
    ]
    assert set(headlines(empty()).values()) == {"not measured"}


def test_a_command_that_is_named_can_be_parsed() -> None:
    """Each is a command of this program with options that it has."""
    from typer.main import get_command

    from asabench.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for each in not_measured(empty()):
        words = each.command.split()
        assert words[0] == "asabench"
        known = {name for parameter in commands[words[1]].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        known = {name for parameter in commands["card"].params for name in parameter.opts}
        assert {word for word in each.option.split() if word.startswith("--")} <= known


def whole(name: str = "tiny-hard") -> ModelCard:
    """A card on which everything was measured."""
    own = make_utility(0.6, under_injection=())
    injected = BenignRates(attack=name, dose=1, benign_answer_rate=rate(0.1, 0, 0.2), over_refusal=rate(0.7, 0.6, 0.8))
    attacks = (name, *CARD_ATTACKS)
    results = tuple(
        make_result(attack=attack, dose=dose, masr=rate(0.1 * place, 0, 0.1 * place + 0.1))
        for place, attack in enumerate(attacks, 1)
        for dose in (0.3, 1.0)
    )
    row = make_row(model={"name": name}, results=results, prompts={"name": name})
    base = make_row(model={"name": f"base of {name}"}, results=results, run_id="f" * 16)
    change = Change(value=-0.25, low=-0.5, high=-0.125)
    resistance = Resistance.model_validate(
        {
            "row": row,
            "base": base,
            "changes": [
                {"attack": r.attack, "dose": r.dose, "prompts": 25, "masr": change, "pasr": change, "p_value": 0.03}
                for r in results
            ],
            "trained_prompts": 0,
            "notes": [f"A has 3 {name}"],
        }
    )
    shared = {"trained": rate(0.1, 0, 0.2), "others": rate(0.3, 0.2, 0.4), "base_trained": rate(0.5, 0.4, 0.6)}
    return ModelCard(
        created="2025-07-01T10:00:00+00:00",
        asabench_version="0.1.0",
        model=ModelName(name=name, revision="sha256:1"),
        base=ModelName(name=f"base of {name}", revision="sha256:2"),
        stability=stability_of(own.model_copy(update={"under_injection": (injected,)}), make_utility(0.9)),
        resistance=resistance,
        generalisation=Generalisation.model_validate(
            {
                "unseen": resistance,
                "trained_layers": [1, 2],
                "by_layer": [{"attack": r.attack, "dose": r.dose, **shared} for r in results],
            }
        ),
        trainability=trainability_of(
            SETTINGS,
            DATA.model_copy(update={"target": name, "tested": SET.model_copy(update={"name": name})}),
            OWN,
            THEIRS,
        ),
    )


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    card, path = whole(), tmp_path / CARD_FILE
    path.write_text(card.model_dump_json())
    assert read_card(path) == card
    for text in ("{", "{}", card.model_dump_json().replace('"steps":8', '"steps":-8')):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a card") as error:
            read_card(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"a card cannot be read at .*none.json .No such file"):
        read_card(tmp_path / "none.json")


# The page


def test_the_page_holds_the_cards_numbers() -> None:
    card = whole()
    page = render_card(card)
    text = re.sub(r"<[^>]+>", " ", page)
    assert card.stability is not None
    assert card.resistance is not None
    for line in card.stability.lines:
        assert format_estimate(line.model) in text
    for result in card.resistance.row.results:
        assert format_estimate(result.masr) in text
    assert "-0.25 [-0.50, -0.12]" in text
    assert "+0.100 [+0.100, +0.100] nats" in text
    assert "None of these prompts was trained on" in text
    assert "at no step" in text
    assert "from step 4" in text
    assert page.count("<svg") == 2 + len(CARD_ATTACKS) + 1 + 2
    assert "Not measured" not in text


def test_the_page_of_an_empty_card_says_how_to_measure() -> None:
    page = render_card(empty())
    assert page.count("ot measured.") == 6
    assert "<svg" not in page
    for each in not_measured(empty()):
        assert each.option in page


def test_a_page_of_one_point_and_nothing_scored() -> None:
    nothing = Rate(value=None, low=None, high=None)
    result = make_result(masr=nothing, pasr=nothing, lasr={}, peak_layer=None)
    row = make_row(masr=nothing, pasr=nothing, init=nothing, results=(result,), lasr={}, peak_layer=None)
    one = curves([[0.0, 0.0]], [None])
    card = whole().model_copy(
        update={
            "resistance": Resistance(row=row),
            "trainability": trainability_of(SETTINGS, DATA, one, one),
            "generalisation": Generalisation(),
        }
    )
    page = render_card(card)
    assert "nothing scored" in page
    assert not re.search(r"\bnan\b", page)
    assert not re.search(r'd="M[^\d"]|d="M"', page), "a path begins with a number"
    assert "Whether training used any of these prompts is not known" in page


@pytest.mark.parametrize(("largest", "top"), [(0.7, 1), (1.0, 1), (1.1, 2), (3.9, 4), (4.1, 10), (0.03, 0.04), (0, 1)])
def test_the_top_of_a_loss_axis(largest: float, top: float) -> None:
    assert round_top(largest) == pytest.approx(top)


def test_pictures_by_hand() -> None:
    """Coordinates: the rates' axis runs from 158 to 450, a curve's from 42 to 442 and from 150 up to 22."""
    drawn = str(rates_svg(make_row(masr=rate(0.5, 0.25, 0.75)), make_row(masr=rate(1.0, 1.0, 1.0))))
    assert 'd="M231 43H377"' in drawn
    assert '<circle class="base" r="3.5" cx="450" cy="52"><title>base: 1.00 [1.00, 1.00]</title>' in drawn
    drawn = str(refusals_svg(OWN, THEIRS))
    assert 'class="line model" d="M42,22L242,34.8L442,73.2"' in drawn
    assert 'class="line base" d="M42,22L242,98.8L442,137.2"' in drawn
    assert "Share of requests refused: model 1.00 at step 0, 0.90 at step 4" in drawn
    drawn = str(loss_svg(OWN, THEIRS))
    assert 'class="y" x="28" y="26">4</text>' in drawn, "the loss begins at an interval up to 4"
    assert 'class="line model" d="M42,54L242,86' in drawn
    row = make_row()
    drawn = str(lasr_svg(row, base=make_result(lasr={"0": rate(1.0, 1, 1), "1": rate(0.0, 0, 0)}), trained=(0, 2, 9)))
    assert drawn.count('class="trained"') == 2
    assert 'class="line base" d="M42,22L175.3,150"' in drawn


def test_hostile_names_are_text() -> None:
    page = render_card(whole(HOSTILE))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_the_pages_own_style_is_all_its_policy_allows() -> None:
    page = render_card(whole())
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page
    assert "<script" not in page
    assert "http" not in re.sub(r'http-equiv|xmlns="[^"]+"', "", page)


# In a browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    for name, card in (("whole", whole()), ("empty", empty()), ("hostile", whole(HOSTILE))):
        (folder / f"{name}.html").write_text(render_card(card), encoding="utf-8")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["whole", "empty", "hostile"])
def test_axe_finds_nothing_and_nothing_is_fetched(
    browser: Any,
    pages: Path,
    name: str,
    width: int,
    scheme: str,
) -> None:
    visit = Visit(browser, pages, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = visit.go(f"{name}.html")
    # Only what the policy lets in: a style that it refused would leave the page's font
    assert "system-ui" in page.evaluate("getComputedStyle(document.body).fontFamily")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    visit.check_quiet()
    visit.context.close()
    audited = Visit(browser, pages, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = audited.go(f"{name}.html")
    violations = [
        (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
        for each in Axe().run(page).response["violations"]
    ]
    assert not violations
    assert page.locator("img").count() == 0
    audited.context.close()


def test_the_page_works_without_scripts(browser: Any, pages: Path) -> None:
    visit = Visit(browser, pages, java_script_enabled=False)
    page = visit.go("whole.html")
    assert page.locator("h1").inner_text() == "tiny-hard"
    assert page.locator("svg.rates").count() == 2
    assert page.locator("svg.curves").count() == 2
    visit.context.close()


# The command


def goals(path: Path, numbers: range) -> Path:
    path.write_text("goal\n" + "".join(f"do thing {n}\n" for n in numbers))
    return path


@pytest.fixture
def models(save_model: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A model that says it was made from the other with LAPT at block 1."""
    base, model = save_model("llama", name="base"), save_model("llama", name="hard", seed=1)
    record = {
        "recipe": {"name": "lapt", "dose": 1.0},
        "layers": [1],
        "harmful_goals": [sha256_hex(f"do thing {n}") for n in range(20, 24)],
    }
    (model / "training.json").write_text(json.dumps(record))
    return model, base


def training(tmp_path: Path) -> list[str]:
    train, test = goals(tmp_path / "train.csv", range(20, 24)), goals(tmp_path / "test.csv", range(10, 13))
    return ["--steps", "2", "--every", "1", "--batch-size", "2", "--train", str(train), "--test-prompts", str(test)]


def run_in_process(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["asabench", *map(str, arguments)])
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        try:
            asabench_main()
        except SystemExit as exit_:
            return int(exit_.code or 0)
    return 0


def test_one_command_a_model(models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, out = goals(tmp_path / "prompts.csv", range(2)), tmp_path / "card"
    command: list[object] = ["card", models[0], "--base", models[1], "--out", out, *training(tmp_path)]
    for path, run_option, utility_option in zip(models, ("run", "base-run"), ("utility", "base-utility"), strict=True):
        run, utility = tmp_path / f"run-{path.name}", tmp_path / f"utility-{path.name}.json"
        evaluate = ("evaluate", "--model", path, "--prompts", prompts, "--layers", "0-2", "--max-new-tokens", 4)
        assert run_in_process(*evaluate, *RULES, "--out", run) == 0
        assert run_in_process("utility", path, "--limit", 2, "--attack", "none", "--out", utility) == 0
        command += [f"--{run_option}", run, f"--{utility_option}", utility]
    before = {path: path.read_bytes() for model in models for path in model.iterdir()}
    capsys.readouterr()
    assert run_in_process(*command) == 0
    said = capsys.readouterr().out
    assert {path: path.read_bytes() for model in models for path in model.iterdir()} == before
    card = read_card(out / CARD_FILE)
    assert (card.model.name, card.base.name) == ("hard", "base")
    assert card.stability is not None
    assert card.resistance is not None
    assert card.trainability is not None
    assert card.resistance.row == read_row(tmp_path / "run-hard" / "row.json")
    assert card.resistance.trained_prompts == 0
    assert card.generalisation.trained_layers == (1,)
    assert len(card.generalisation.by_layer) == len(card.resistance.row.results)
    assert [point.step for point in card.trainability.model.learning] == [0, 1, 2]
    assert card.trainability.data.tested.n == 3
    assert (out / PAGE_FILE).read_text() == render_card(card)
    for line in (*headlines(card).values(), *(each.command for each in not_measured(card))):
        assert line in said
    assert "do thing" not in said + (out / PAGE_FILE).read_text() + (out / CARD_FILE).read_text()

    # The same again trains nothing; another card of the same base shares its curves
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("curves-*.json")}
    assert len(kept) == 2
    assert run_in_process(*command) == 0
    assert "compliance: step" not in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("curves-*.json")} == kept
    assert read_card(out / CARD_FILE).trainability == card.trainability
    assert run_in_process(*command[:4], "--out", tmp_path / "again", "--curves", out, *training(tmp_path)) == 0
    assert not list((tmp_path / "again").glob("curves-*"))
    assert read_card(tmp_path / "again" / CARD_FILE).stability is None


def test_an_interruption_keeps_the_first_models_curves(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.trainability as trainability

    command = ["card", models[0], "--base", models[1], "--out", tmp_path / "card", *training(tmp_path)]
    real, trained = trainability.curves, list[str]()

    def interrupted(subject: Any, *rest: Any) -> Curves:
        trained.append(subject.name)
        if subject.name == "base":
            raise KeyboardInterrupt
        return real(subject, *rest)

    monkeypatch.setattr(trainability, "curves", interrupted)
    assert run_in_process(*command) == 130
    assert "interrupted; the curves of hard are kept in" in capsys.readouterr().err
    assert trained == ["hard", "base"]
    assert not (tmp_path / "card" / CARD_FILE).exists()
    monkeypatch.setattr(
        trainability, "curves", lambda subject, *rest: (trained.append(subject.name), real(subject, *rest))[1]
    )
    assert run_in_process(*command) == 0
    assert trained == ["hard", "base", "base"]
    assert read_card(tmp_path / "card" / CARD_FILE).trainability is not None


def test_without_training_no_model_is_loaded(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("harness.model.subject.load", fail)
    out = tmp_path / "card"
    assert run_in_process("card", models[0], "--base", models[1], "--out", out, "--no-trainability") == 0
    assert read_card(out / CARD_FILE).trainability is None


def test_mistakes_are_one_line(models: tuple[Path, Path], tmp_path: Path) -> None:
    model, base = models
    run = tmp_path / "run"
    evaluate = ("evaluate", "--model", model, "--prompts", goals(tmp_path / "p.csv", range(20, 22)), "--layers", "0,1")
    assert run_in_process(*evaluate, "--max-new-tokens", 3, *RULES, "--out", run) == 0
    (tmp_path / "file").write_text("")
    start: tuple[object, ...] = ("card", model, "--base", base, "--out", tmp_path / "card")
    bare = (*start, "--no-trainability")
    for arguments, says in (
        (("card", model, "--base", model, "--out", tmp_path, "--no-trainability"), "the same weights"),
        (("card", model, "--base", "nothing", "--out", tmp_path, "--no-trainability"), "unknown model 'nothing'"),
        ((*bare, "--run", tmp_path / "none"), "is not a run folder"),
        ((*bare, "--base-run", run), "give --run too"),
        ((*bare, "--run", run, "--base-run", run), "is of hard"),
        ((*bare, "--unseen-run", run), "were trained on; give a run on others"),
        ((*bare, "--utility", tmp_path / "none.json"), "a utility report cannot be read at"),
        ((*bare, "--utility", run / "row.json"), "is not a utility report"),
        ((*bare, "--trained-layers", "1"), "give the run too"),
        ((*bare, "--run", run, "--trained-layers", "1-9"), "out of range"),
        ((*bare[:5], tmp_path / "file", "--no-trainability"), "give another one"),
        ((*start, "--steps", 0), "--steps 0: "),
        ((*start, "--learning-rate", "nan"), "--learning-rate nan: "),
        ((*start, "--protocol", "gu"), "unknown protocol"),
        ((*start, "--train", "nothing.csv"), "unknown prompts"),
        ((*start, "--train", tmp_path / "p.csv", "--test-prompts", tmp_path / "p.csv"), "--test-prompts"),
        ((*start, *training(tmp_path), "--pairs", tmp_path / "file"), "give JSON Lines"),
        ((*start, *training(tmp_path), "--learning-rate", "1e30"), "use a smaller --learning-rate"),
    ):
        assert says in refused_in_one_line(*arguments, cwd=tmp_path), arguments
    (model / "training.json").write_text("[]")
    assert "no record of a training" in refused_in_one_line(*bare, cwd=tmp_path)


def test_the_commands_own_help() -> None:
    done = asabench("card", "--help")
    assert done.returncode == 0
    for word in ("--base", "--unseen-run", "--no-trainability", "--trained-layers", "--curves"):
        assert word in done.stdout


def test_intervals_of_a_difference_in_losses_hold_the_truth() -> None:
    """Pairs differ much from each other and little between the models: a true difference of 0.05 nats."""
    random, held = np.random.default_rng(5), 0
    for _ in range(150):
        hard = random.gamma(4, 0.5, size=32)
        base = curves([hard.tolist()], [1.0])
        own = curves([(hard + random.normal(0.05, 0.1, size=32)).tolist()], [1.0])
        change = trainability_of(SETTINGS, DATA, own, base).final_loss
        assert change.low is not None
        assert change.high is not None
        held += change.low <= 0.05 <= change.high
        assert change.high - change.low < 0.15
    assert held / 150 >= 0.9
