"""A card in words: each property in a line, and what was not measured with the command that measures it."""

from __future__ import annotations

from typing import NamedTuple

from asabench.card.records import CARD_ATTACKS, Curves, ModelCard, Resistance
from asabench.core.attack_names import spec_of
from asabench.core.defaults import TARGET
from asabench.core.estimate import Rate
from asabench.core.protocol import PROMPT_SET
from asabench.core.text import in_words

"""The usual first words of compliance."""


def headlines(card: ModelCard) -> dict[str, str]:
    """Each property in one line, for the head of the page and for the terminal."""
    found = dict.fromkeys(("stability", "resistance", "generalisation", "trainability"), "not measured")
    if card.stability is not None:
        found["stability"] = "; ".join(_against(line.what, line.model, line.base) for line in card.stability.lines[:2])
    if card.resistance is not None:
        found["resistance"] = _worst(card.resistance)
    if card.generalisation.unseen is not None:
        found["generalisation"] = "unseen prompts: " + _worst(card.generalisation.unseen)
    elif card.resistance is not None and card.resistance.trained_prompts == 0:
        found["generalisation"] = "the resistance was measured on prompts that training did not use"
    if card.trainability is not None:
        made = card.trainability
        found["trainability"] = (
            f"held-out loss after {made.settings.steps} steps {made.model.learning[-1].value:.3f}, "
            f"base {made.base.learning[-1].value:.3f} "
            f"(difference {in_words(made.final_loss, digits=3)}); "
            f"fewer than half refused {_when(made.model)}, base {_when(made.base)}"
        )
    return found


def _worst(resistance: Resistance) -> str:
    row, base = resistance.row, resistance.base
    known = [result for result in row.results if result.masr.value is not None]
    if not known:
        return "nothing scored"
    worst = max(known, key=lambda result: result.masr.value or 0.0)
    theirs = {} if base is None else {(each.attack, each.dose): each.masr for each in base.results}
    return _against(
        f"largest MASR ({worst.attack} at dose {worst.dose:g})", worst.masr, theirs.get((worst.attack, worst.dose))
    )


def _against(what: str, model: Rate, base: Rate | None) -> str:
    return f"{what}: {in_words(model)}" + ("" if base is None else f", base {in_words(base)}")


def _when(curves: Curves) -> str:
    if curves.steps_to_half is None:
        return f"at no step up to {curves.erosion[-1].step}"
    return f"from step {curves.steps_to_half}" if curves.steps_to_half else "before any training"


class NotMeasured(NamedTuple):
    """A part that a card lacks, the command that measures it, and the option of `asabench card` that then takes it."""

    part: str
    command: str
    option: str


def not_measured(card: ModelCard) -> list[NotMeasured]:
    """What the card lacks and how to get it. MODEL, BASE and FILE.csv stand for what the card cannot name."""
    stability, resistance, unseen = card.stability, card.resistance, card.generalisation.unseen
    no_base_utility = stability is not None and all(line.base is None for line in stability.lines)
    lacks = []
    for whose, model, option, no_utility, no_run, no_unseen in (
        ("", "MODEL", "", stability is None, resistance is None, unseen is None),
        (
            " of the base",
            "BASE",
            "base-",
            no_base_utility,
            resistance is not None and resistance.base is None,
            unseen is not None and unseen.base is None,
        ),
    ):
        run, file = f"runs/{model.lower()}", f"utility-{model.lower()}.json"
        if no_utility:
            command = f"asabench utility {model} --out {file}"
            lacks.append(NotMeasured(f"stability{whose}", command, f"--{option}utility {file}"))
        if no_run:
            command = _evaluation(model, PROMPT_SET, run)
            lacks.append(NotMeasured(f"resistance{whose}", command, f"--{option}run {run}"))
        if no_unseen:
            command = _evaluation(model, "FILE.csv", f"{run}-unseen")
            part = f"generalisation{whose} to another set of prompts"
            lacks.append(NotMeasured(part, command, f"--unseen-{option}run {run}-unseen"))
    if resistance is not None and (missing := resistance.missing_attacks):
        command = _evaluation("MODEL", PROMPT_SET, "runs/model")
        lacks.append(NotMeasured(f"resistance under {', '.join(missing)}", command, "--run runs/model"))
    if not card.generalisation.by_layer:
        command = _evaluation("MODEL", PROMPT_SET, "runs/model")
        part = "generalisation to blocks that training did not perturb"
        lacks.append(NotMeasured(part, command, "--run runs/model --trained-layers LAYERS"))
    if card.trainability is None:
        command = "asabench card MODEL --base BASE --out DIR"
        lacks.append(NotMeasured("trainability", command, "--trainability"))
    return lacks


def _evaluation(model: str, prompts: str, out: str) -> str:
    attacks = ",".join(spec_of(attack) for attack in CARD_ATTACKS)
    return (
        f"asabench evaluate --model {model} --prompts {prompts} --size standard --attack {attacks} "
        f'--target "{TARGET}" --out {out}'
    )
