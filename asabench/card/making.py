"""A card from what was measured: runs and utility reports are read, nothing is run here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import asabench
from asabench.card.layers import layer_shares
from asabench.card.records import (
    Generalisation,
    LayerShare,
    ModelCard,
    ModelName,
    Resistance,
    ResistanceChange,
    Stability,
    StabilityLine,
)
from asabench.core.errors import UserError
from asabench.core.model_names import is_folder, split_defence
from asabench.core.records import sha256_hex
from asabench.core.utility_report import UtilityReport
from asabench.runs.compare import compare
from asabench.runs.folder import Run
from asabench.stats.strongest_target import with_strongest


def make_card(
    model: ModelName,
    base: ModelName,
    *,
    run: Run | None = None,
    base_run: Run | None = None,
    utility: UtilityReport | None = None,
    base_utility: UtilityReport | None = None,
    unseen_run: Run | None = None,
    unseen_base_run: Run | None = None,
    trained_layers: Sequence[int] = (),
    trained_goals: Collection[str] | None = None,
) -> ModelCard:
    """Joins what was measured, all but trainability.

    trained_goals: SHA-256 digests of the harmful requests that the model or its base was trained on, or None when they
    are not known. Raises `UserError` when a part is of another model, when a base's part stands alone, or when what was
    measured of the two does not compare.
    """
    if model.revision == base.revision:
        raise UserError(
            f"{model.name} and {base.name} are the same weights ({base.revision}); name what it was made from"
        )
    for of_base, part, option in (
        (base_run, run, "run"),
        (base_utility, utility, "utility"),
        (unseen_base_run, unseen_run, "unseen-run"),
    ):
        if of_base is not None and part is None:
            raise UserError(f"the base's part was given and the model's was not; give --{option} too, or neither")
    for name, runs, report in (
        (model, (run, unseen_run), utility),
        (base, (base_run, unseen_base_run), base_utility),
    ):
        for each in runs:
            if each is not None:
                _require_same(name, each.row.model.name, each.row.model.revision, f"the run {each.path}")
        if report is not None:
            _require_same(name, report.model, report.revision, "the utility report")
    unseen = None if unseen_run is None else _resistance(unseen_run, unseen_base_run, trained_goals)
    if unseen_run is not None and unseen is not None and unseen.trained_prompts:
        raise UserError(
            f"{unseen.trained_prompts} of the {unseen.row.prompts.n} prompts of {unseen_run.path} were trained on; "
            "give a run on others as --unseen-run"
        )
    return ModelCard(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        asabench_version=asabench.__version__,
        model=model,
        base=base,
        stability=None if utility is None else stability_of(utility, base_utility),
        resistance=None if run is None else _resistance(run, base_run, trained_goals),
        generalisation=Generalisation(
            unseen=unseen,
            trained_layers=tuple(trained_layers),
            by_layer=() if run is None else _layer_shares(run, base_run, trained_layers),
        ),
    )


def _require_same(wanted: ModelName, name: str, revision: str, what: str) -> None:
    # The digest of a folder names its weights, whatever the folder is called, but no defence at inference time
    renamed = is_folder(revision) and not split_defence(name)[1]
    if revision != wanted.revision or (name != wanted.name and not renamed):
        raise UserError(
            f"{what} is of {name} ({revision}), and the card has {wanted.name} ({wanted.revision}) there; give that of "
            "the same weights"
        )


def stability_of(model: UtilityReport, base: UtilityReport | None) -> Stability:
    """Every figure of the model's report beside the base's; `UserError` when the reports asked different things."""
    if base is not None and (different := _different_settings(model, base)):
        raise UserError(
            f"the utility reports differ in {', '.join(different)}; measure both models with the same options"
        )
    of_base = {} if base is None else {(each.attack, each.dose): each for each in (base.clean, *base.under_injection)}
    lines = []
    for rates in (model.clean, *model.under_injection):
        other = of_base.get((rates.attack, rates.dose))
        for what, better, own, theirs in (
            ("harmless requests answered", "more", rates.benign_answer_rate, other and other.benign_answer_rate),
            ("safe requests refused that look unsafe", "less", rates.over_refusal, other and other.over_refusal),
        ):
            lines.append(
                StabilityLine(what=what, attack=rates.attack, dose=rates.dose, better=better, model=own, base=theirs)
            )
    for task, score in model.tasks.items():
        score_of_base = None if base is None else base.tasks.get(task)
        lines.append(
            StabilityLine(
                what=task,
                better="more",
                model=score.accuracy,
                base=score_of_base and score_of_base.accuracy,
                chance=score.chance,
            )
        )
    sets = [f"{each.name} ({each.n}, digest {each.digest})" for each in (model.benign_set, model.over_refusal_set)]
    sets += [f"{task}: {score.source} ({score.n}, digest {score.digest})" for task, score in model.tasks.items()]
    return Stability(lines=tuple(lines), sets=tuple(sets))


def _different_settings(a: UtilityReport, b: UtilityReport) -> list[str]:
    """What decides the figures and is not the same; a task counts where both have it."""
    names = ("protocol", "max_new_tokens", "layers", "seeds", "dtype", "benign_set", "over_refusal_set")
    different = [name for name in (*names, "refusal_detector") if getattr(a, name) != getattr(b, name)]
    shared = a.tasks.keys() & b.tasks.keys()
    return different + sorted(
        f"the questions of {task}" for task in shared if a.tasks[task].digest != b.tasks[task].digest
    )


def _resistance(run: Run, base_run: Run | None, trained_goals: Collection[str] | None) -> Resistance:
    """A finished run's row and its paired differences to the base's. Raises `UserError`."""
    row, base = run.row, None if base_run is None else base_run.row
    if base is not None and base.judge.id != row.judge.id:
        raise UserError(
            f"the rows were judged by {row.judge.id} and the base's by {base.judge.id}; judge one of the runs again "
            "with the other's judge"
        )
    comparison = None if base_run is None else compare(base_run, run)
    trained = None
    if trained_goals is not None:
        trained = sum(sha256_hex(goal) in trained_goals for goal in set(run.responses()["goal"]))
    return Resistance(
        row=row,
        base=base,
        changes=()
        if comparison is None
        else tuple(
            ResistanceChange(
                attack=each.attack,
                dose=each.dose,
                prompts=each.prompts,
                masr=each.masr,
                pasr=each.pasr,
                p_value=each.p_value,
            )
            for each in comparison.differences
        ),
        trained_prompts=trained,
        notes=() if comparison is None else comparison.notes,
    )


def _layer_shares(run: Run, base_run: Run | None, trained_layers: Sequence[int]) -> tuple[LayerShare, ...]:
    row = run.row
    if row.suite is not None:
        return ()  # a search says of most blocks that another did better
    tables = [None if each is None else with_strongest(each.judged(row.judge.id)) for each in (run, base_run)]
    assert tables[0] is not None
    pairs = [(result.attack, result.dose) for result in row.results]
    return layer_shares(tables[0], tables[1], pairs, trained_layers, shared=run.settings.protocol.shares_noise)


def for_submission(card: ModelCard) -> ModelCard:
    """What a submission's other files do not hold: the blocks that training perturbed, and trainability."""
    general = Generalisation(trained_layers=card.generalisation.trained_layers)
    return card.model_copy(update={"stability": None, "resistance": None, "generalisation": general})
