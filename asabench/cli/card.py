"""The command that puts what was measured of a model on one card; `asabench.cli.app` adds it to the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from asabench.cli import options
from asabench.cli.needs import MODEL, needs
from asabench.cli.options import option
from asabench.cli.printing import interrupted, say
from asabench.core.defaults import DEVICE, PROTOCOL, TARGET
from asabench.core.errors import UserError

if TYPE_CHECKING:
    from asabench.core.utility_report import UtilityReport
    from asabench.runs.folder import Run


def card(
    model: options.ModelArgument,
    base: Annotated[str, option("What it was made from, named likewise.")],
    out: Annotated[Path, option("The folder for card.html and card.json.")],
    run: Annotated[Optional[Path], option("The model's run folder of `asabench evaluate`.")] = None,
    base_run: Annotated[Optional[Path], option("The base's, under the same protocol.")] = None,
    utility: Annotated[Optional[Path], option("The model's report of `asabench utility`.")] = None,
    base_utility: Annotated[Optional[Path], option("The base's, with the same options.")] = None,
    unseen_run: Annotated[
        Optional[Path], option("A run of the model on another set of prompts, none of them trained on.")
    ] = None,
    unseen_base_run: Annotated[Optional[Path], option("The base's on the same prompts.")] = None,
    trained_layers: Annotated[
        Optional[str],
        option("Blocks that training perturbed, such as 10,13-15.", default="from the model's training.json"),
    ] = None,
    trainability: Annotated[bool, option("Fine-tune copies of both models in memory.")] = True,
    steps: Annotated[int, option("Length of both fine-tunings.")] = 24,
    every: Annotated[int, option("Steps between two points of a curve.")] = 4,
    learning_rate: Annotated[float, option("Learning rate of AdamW, constant.")] = 2e-5,
    batch_size: Annotated[int, option("Examples a step.")] = 8,
    seed: Annotated[int, option("Decides the order of examples.")] = 0,
    pairs: Annotated[
        Optional[Path],
        option("Benign pairs to learn: JSON Lines with prompt, answer.", default="words to sort"),
    ] = None,
    train: Annotated[str, option("Harmful requests whose first words of compliance are trained.")] = "advbench:100-199",
    test_prompts: Annotated[
        str, option("Harmful requests whose refusals are counted, others than --train.")
    ] = "advbench:0-39",
    target: Annotated[str, option("The first words of compliance, which the harmful fine-tuning trains.")] = TARGET,
    curves: Annotated[
        Optional[Path], option("Where curves are kept; cards of one base may share it.", default="--out")
    ] = None,
    protocol: options.Formatting = PROTOCOL,
    device: options.Device = DEVICE,
    chat_template: options.ChatTemplate = None,
    allow_remote_code: options.AllowRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Put a model's stability, resistance, generalisation and trainability against its base on one card.

    What is not given is stated as not measured. The models' own files never change.
    """
    needs(*MODEL)
    from pydantic import ValidationError

    from asabench.card.curves import trainability_of
    from asabench.card.making import make_card
    from asabench.card.records import CARD_FILE, PAGE_FILE, ModelName, TrainingSettings
    from asabench.card.words import headlines, not_measured
    from asabench.core.files import write_record, write_whole
    from asabench.core.protocol import preset
    from asabench.core.schema import first_problem
    from harness.defences.training_records import trained_blocks, trained_goals
    from harness.model.files import locate
    from harness.model.subject import load
    from harness.trainability import kept_curves, make_data
    from leaderboard.card_page import render_card

    try:
        settings = TrainingSettings(
            learning_rate=learning_rate, batch_size=batch_size, steps=steps, every=every, seed=seed
        )
    except ValidationError as error:
        problem = first_problem(error)
        raise UserError(f"--{problem.field.replace('_', '-')} {problem.given}: {problem.message}") from None
    if trained_layers is not None and run is None:
        raise UserError("--trained-layers says how to read a run by its layers; give the run too, as --run")
    data = make_data(pairs, train, test_prompts, target, preset(protocol), chat_template) if trainability else None
    trust: dict[str, Any] = {"allow_pickle": allow_pickle, "allow_remote_code": allow_remote_code}
    files, base_files = locate(model, **trust), locate(base, **trust)
    opened = _read_run(run)
    names = [ModelName(name=each.name, revision=each.revision) for each in (files, base_files)]
    # Everything is checked before models take their time to train
    made = make_card(
        *names,
        run=opened,
        base_run=_read_run(base_run),
        utility=_read_utility(utility),
        base_utility=_read_utility(base_utility),
        unseen_run=_read_run(unseen_run),
        unseen_base_run=_read_run(unseen_base_run),
        trained_layers=() if opened is None else trained_blocks(trained_layers, files, opened.row.model.n_layers),
        trained_goals=trained_goals(files, base_files),
    )
    _make_folders(out, curves or out)
    if data is not None:
        found = []
        for name, spec in zip(names, (model, base), strict=True):

            def load_model(spec: str = spec) -> Any:
                return load(spec, device=device, chat_template=chat_template, **trust)

            try:
                found.append(kept_curves(name, data, settings, curves or out, load_model, say))
            except KeyboardInterrupt:
                kept = f"the curves of {names[0].name} are" if found else "no curves are"
                interrupted(f"{kept} kept in {curves or out}. Run it again.")
        made = made.model_copy(update={"trainability": trainability_of(settings, data.described, *found)})
    write_record(out / CARD_FILE, made, indent=1)
    write_whole(out / PAGE_FILE, render_card(made).encode())
    for property_, line in headlines(made).items():
        print(f"{property_ + ':':16}{line}")
    for lacking in not_measured(made):
        print(f"not measured:   {lacking.part} ({lacking.option}): {lacking.command}")
    print(f"{'card:':16}{out / PAGE_FILE}")
    print(f"{'data:':16}{out / CARD_FILE}")


def _read_run(path: Path | None) -> Run | None:
    from asabench.runs.folder import read_run

    return None if path is None else read_run(path)


def _read_utility(path: Path | None) -> UtilityReport | None:
    from asabench.core.utility_report import read_utility

    return None if path is None else read_utility(path)


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be made ({error.strerror}); give another one") from None
