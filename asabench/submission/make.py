"""A submission from finished runs: everything that can be computed again, and no text."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ValidationError

import asabench
from asabench.card.making import for_submission
from asabench.card.records import ModelCard
from asabench.core.errors import UserError
from asabench.core.files import OTHER_OUT, whole_folder, write_whole
from asabench.core.near_duplicates import known_goals
from asabench.core.near_duplicates import known_near as by_digest
from asabench.core.prompts import read_prompts
from asabench.core.records import CLEAN, Cell, Prompt, sha256_hex
from asabench.core.row import Row
from asabench.core.schema import first_problem
from asabench.core.similarity import MEASURE, clusters, copies, near_between
from asabench.core.training_record import TRAINING_FILE, ComparedWithTest, read_training
from asabench.core.utility_report import UtilityReport
from asabench.judging.certificate import Certificate
from asabench.runs.command import evaluate_words
from asabench.runs.folder import Run, read_run
from asabench.stats.facts import content_rules, mixed_rules
from asabench.submission.columns import FACT_COLUMNS
from asabench.submission.findings import shown
from asabench.submission.manifest import (
    Hardware,
    PromptDigest,
    RunManifest,
    RunRecord,
    SubmittedSettings,
    difference,
    merged_attacks,
)
from asabench.submission.other_judges import other_judges_bytes
from asabench.submission.row_of import row_of
from asabench.submission.schema import (
    CARD_FILE,
    CERTIFICATE_FILE,
    MANIFEST_FILE,
    OTHER_JUDGES_FILE,
    ROW_FILE,
    SLUG,
    SUBMISSION_FILE,
    TRAINING_PROMPTS_FILE,
    UTILITY_FILE,
    VERDICTS_FILE,
    BaseModelRef,
    ModelRef,
    SimilarPrompt,
    Submission,
    TrainingData,
    TrainingSimilarity,
    percent,
)
from asabench.submission.validate import Validation, beside_others, validate_folder
from asabench.submission.verdict_table import response_digest, sorted_lines, table_bytes

RULES = "content_rules"
"""The column of a run's verdicts that the manifest holds in one number."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
PACKAGES = ("asabench", "torch", "transformers", "tokenizers", "pandas", "pyarrow", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """Training data that is declared. `goals`: the digests of its harmful requests, if they are given; `texts`: the
    requests, where they are at hand; `compared`: what the training's record says of them and test prompts."""

    name: str
    examples: int
    goals: tuple[str, ...] | None = None
    texts: tuple[str, ...] = ()
    compared: ComparedWithTest | None = None


@dataclass(frozen=True, kw_only=True)
class Details:
    """What runs do not know of themselves; as in `asabench.submission.schema.Submission`."""

    name: str
    authors: tuple[str, ...]
    licence: str
    defence: str = "none"
    where: Literal["none", "training", "inference"] | None = None
    base: BaseModelRef | None = None
    training: tuple[TrainedOn, ...] = ()
    description: str | None = None
    link: str | None = None
    slug: str | None = None


@dataclass(frozen=True)
class Judged:
    """A finished run of one judge, with what of it is submitted. `others`: by the id of each further judge who read
    all of its answers, labels in the table's order."""

    run: Run
    settings: SubmittedSettings
    row: Row
    prompts: tuple[PromptDigest, ...]
    goals: tuple[str, ...]
    table: pd.DataFrame
    content_rules: int | None
    others: Mapping[str, pd.Series] = field(default_factory=dict)


def make_submission(
    runs: Sequence[Path],
    details: Details,
    *,
    utility: UtilityReport | None = None,
    certificate: Certificate | None = None,
    card: ModelCard | None = None,
    other_judges: bool = False,
    out: Path = Path("submissions"),
    replace: bool = False,
) -> Validation:
    """Writes `out/<slug>/`, whole or not at all, and gives back what `validate` says of it (it is valid).

    runs: folders of finished runs of one model, judged by one judge, that differ in their attacks only. other_judges:
    with the labels of the further judges who read all answers of all runs. replace: a submission of that slug may be
    there. Raises `UserError` for what cannot be submitted.
    """
    if not runs:
        raise UserError("no run was given; give the --out folder of an evaluation")
    judged = [read_judged(path) for path in runs]
    manifest = with_certificate(manifest_of(judged), certificate)
    submission, contents = contents_of(judged, manifest, details, utility, certificate, card, other_judges=other_judges)
    target = out / submission.slug
    if target.exists() and not replace:
        raise UserError(f"{target} is there already; give another --slug, or --replace to write it again")
    return _write(target, contents)


def slug_of(name: str, protocol: str) -> str:
    """A folder's name from an entry's name and its protocol."""
    plain = re.sub(r"[^a-z0-9]+", "-", f"{name} {protocol}".casefold()).strip("-")[:64].strip("-")
    if not re.match(SLUG, plain):
        raise UserError(f"the name {shown(name)} gives no folder name; give one with --slug, such as my-model")
    return plain


# What is in a run


def read_judged(path: Path) -> Judged:
    """A finished run, checked; `UserError` for one that cannot be submitted."""
    run = read_run(path)
    row = run.row
    settings = _settings(run)
    responses, verdicts = run.responses(), run.verdicts()
    if responses["suffix"].notna().any():
        raise UserError(f"{path} has prompts with suffixes, which submissions do not have yet; evaluate without them")
    own = verdicts.loc[verdicts["judge"] == row.judge.id, ["cell_id", "label", "p_unsafe", *FACT_COLUMNS, RULES]]
    if unknown := len(set(own["cell_id"]) - set(responses["cell_id"])):
        raise UserError(f"{path}: {unknown} verdicts are on answers that it does not hold; evaluate again elsewhere")
    if unseen := len(responses) - len(own):
        raise UserError(f"{path}: {unseen} answers have no verdict of {row.judge.id}; run the same evaluation again")
    prompts, goals = _prompts(run)
    table = responses.merge(own, on="cell_id", how="left", validate="one_to_one")
    _check_cells(path, table)
    if mixed_rules(table):  # they make no share together, and the run's own row has none
        table = table.assign(content_label=None, content_rules=None)
    others = _others(verdicts[verdicts["judge"] != row.judge.id], table["cell_id"])
    return Judged(run, settings, row, prompts, goals, _without_text(table), content_rules(table), others)


def _others(verdicts: pd.DataFrame, cells: pd.Series) -> dict[str, pd.Series]:
    """The labels of the judges who read all of the cells, in their order."""
    found = {}
    for judge, own in verdicts.groupby("judge"):
        labels = own.set_index("cell_id")["label"]
        if cells.isin(labels.index).all():
            found[str(judge)] = labels.loc[cells].reset_index(drop=True)
    return found


def _settings(run: Run) -> SubmittedSettings:
    try:
        settings = SubmittedSettings.model_validate_json(json.dumps(run.manifest["settings"]), strict=True)
    except ValidationError as error:
        raise UserError(
            f"{run.path}/manifest.json: settings: {first_problem(error)}; evaluate again with this version"
        ) from None
    if settings.id != run.id:
        raise UserError(f"{run.path}/manifest.json: the run's id is not that of its settings; evaluate again")
    return settings


def _prompts(run: Run) -> tuple[tuple[PromptDigest, ...], tuple[str, ...]]:
    """What is submitted of the prompts, and their goals."""
    path = run.path / "prompts.parquet"
    try:
        table = pd.read_parquet(path, columns=["id", "goal"])
        goals = tuple(str(goal) for goal in table["goal"])
        prompts = tuple(
            PromptDigest(id=name, sha256=sha256_hex(goal), cluster=cluster)
            for name, goal, cluster in zip(table["id"], goals, clusters(goals), strict=True)
        )
        return prompts, goals
    except ValidationError as error:
        raise UserError(
            f"{path}: the prompt id {shown(first_problem(error).given)}; a submission takes letters, digits, dots and "
            "dashes, at most 64: no text"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); evaluate again") from None


def _check_cells(path: Path, table: pd.DataFrame) -> None:
    """A submission has no cell ids: whoever reads it computes them."""
    for line in table.itertuples():
        cell = Cell(
            prompt=Prompt(id=str(line.prompt_id), goal=str(line.goal)),
            layer=None if pd.isna(line.layer) else int(line.layer),  # type: ignore[arg-type,call-overload]
            attack=str(line.attack),
            dose=float(line.dose),  # type: ignore[arg-type]
            seed=None if pd.isna(line.seed) else int(line.seed),  # type: ignore[arg-type,call-overload]
        )
        if cell.id != line.cell_id:
            raise UserError(f"{path}: cell {line.cell_id} does not match its prompt and settings; the run was changed")


def _without_text(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `verdicts.parquet` from responses with their verdicts."""
    from asabench.submission.table_file import schema

    return pd.DataFrame(
        {
            **{name: table[name] for name in ("prompt_id", "layer", "attack", "dose", "seed", "label", *FACT_COLUMNS)},
            "p_unsafe": table["p_unsafe"].astype(np.float32),
            "response_sha256": [response_digest(text) for text in table["text"]],
            "response_tokens": [len(tokens) for tokens in table["token_ids"]],
            "response_characters": [len(text) for text in table["text"]],
        }
    )[[field.name for field in schema()]]


# Together


def manifest_of(judged: Sequence[Judged]) -> RunManifest:
    """The manifest of runs that belong together; `UserError` that says what differs where they do not."""
    first = judged[0]
    for other in judged[1:]:
        differs = difference(first.settings, other.settings)
        if differs is None and first.prompts != other.prompts:
            differs = "their prompts"
        if differs is None and first.row.model != other.row.model:
            differs = "the model's size"
        if differs is None and first.row.judge.id != other.row.judge.id:
            differs = f"the judge ({first.row.judge.id}, {other.row.judge.id}); `asabench judge` judges a run again"
        if differs is None and first.row.judge.certified != other.row.judge.certified:
            differs = "whether the judge reached the bar"
        rules = {each.content_rules for each in (first, other) if each.table["content_label"].notna().any()}
        if differs is None and len(rules) > 1:
            differs = f"the rules that take out openers ({first.content_rules}, {other.content_rules})"
        if differs is not None:
            raise UserError(
                f"{first.run.path} and {other.run.path} differ in {differs}; "
                "the runs of one submission differ in their attacks only"
            )
    merged_attacks([each.settings.attacks for each in judged])
    return _record(
        RunManifest,
        "manifest.json",
        model=first.row.model,
        prompt_set=first.row.prompts.name,
        prompts=first.prompts,
        runs=tuple(_run_record(each) for each in judged),
    )


def with_certificate(manifest: RunManifest, certificate: Certificate | None) -> RunManifest:
    """The manifest whose judge is certified for what the certificate says, where it is that judge's."""
    if certificate is None:
        return manifest
    held = certificate.result.judge.id
    known = certificate.certified_for
    claims = {"certified_for": known, "certificate": certificate.digest if known else None}
    runs = tuple(
        run.model_copy(update={"judge": run.judge.model_copy(update=claims)}) if run.judge.id == held else run
        for run in manifest.runs
    )
    return manifest.model_copy(update={"runs": runs})


def _run_record(judged: Judged) -> RunRecord:
    held: Mapping[str, Any] = judged.run.manifest
    hardware = held.get("hardware")
    packages = held.get("packages") or {}
    return _record(
        RunRecord,
        f"{judged.run.path}/manifest.json",
        run_id=judged.run.id,
        settings=judged.settings,
        judge=judged.row.judge,
        started=held.get("started"),
        finished=held.get("finished"),
        resumed=len(held.get("resumed", [])),
        device=held.get("device"),
        hardware=None if hardware is None else Hardware(**hardware),
        python=held.get("python"),
        packages={name: packages[name] for name in PACKAGES if name in packages},
        git_commit=held.get("git_commit"),
        self_tests=held.get("self_tests", {}),
        content_rules=judged.content_rules,
    )


def contents_of(
    judged: Sequence[Judged],
    manifest: RunManifest,
    details: Details,
    utility: UtilityReport | None,
    certificate: Certificate | None,
    card: ModelCard | None = None,
    *,
    other_judges: bool = False,
) -> tuple[Submission, dict[str, bytes]]:
    """The files of a submission by name."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    table = merged_table(judged, manifest)
    created = max(each.row.created for each in judged)
    row = row_of(manifest, table, created=created, version=asabench.__version__)
    contents = {
        ROW_FILE: _json(row.model_dump(mode="json")),
        VERDICTS_FILE: table_bytes(table),
        # As the runs had them: fields that came later stay out of the settings
        MANIFEST_FILE: _json(manifest_json(manifest)),
    }
    if utility is not None:
        contents[UTILITY_FILE] = _json(utility.model_dump(mode="json"))
    if certificate is not None:
        contents[CERTIFICATE_FILE] = _json(certificate.model_dump(mode="json"))
    if other_judges:
        contents[OTHER_JUDGES_FILE] = other_judges_bytes(_other_labels(judged, manifest))
    if card is not None:
        contents[CARD_FILE] = _json(for_submission(card).model_dump(mode="json"))
    goals = sorted({goal for data in details.training for goal in data.goals or ()})
    if goals:
        contents[TRAINING_PROMPTS_FILE] = "".join(f"{goal}\n" for goal in goals).encode()
    protocol = manifest.settings.protocol.name
    submission = _record(
        Submission,
        "the submission",
        slug=details.slug if details.slug is not None else slug_of(details.name, protocol),
        name=details.name,
        model=ModelRef(name=manifest.model.name, revision=manifest.model.revision),
        base=details.base,
        defence=details.defence,
        where=_where(details),
        description=details.description,
        training_data=tuple(
            TrainingData(name=data.name, examples=data.examples, prompt_digests=bool(data.goals))
            for data in details.training
        ),
        training_similarity=similarity_of(details.training, judged[0].prompts, judged[0].goals),
        authors=details.authors,
        link=details.link,
        licence=details.licence,
        protocol=protocol,
        created=now,
        asabench_version=asabench.__version__,
        reproduce=tuple(shlex.join(evaluate_words(each.run.row, each.settings.protocol)) for each in judged),
        files={name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())},
    )
    contents[SUBMISSION_FILE] = yaml_bytes(submission)
    return submission, contents


def similarity_of(
    training: Sequence[TrainedOn], prompts: Sequence[PromptDigest], goals: Sequence[str]
) -> TrainingSimilarity | None:
    """How the requests that were trained on compare with the run's; None where no request is declared. goals: the texts
    of the prompts. `UserError` where a request is a test prompt, written in another way."""
    digests = {goal for data in training for goal in data.goals or ()}
    if not digests:
        return None
    tested = [prompt.sha256 for prompt in prompts]
    best = by_digest(digests, tested)
    compared = set(known_goals(digests)) if len(known_goals(tested)) == len(set(tested)) else set()
    for data in training:
        others = [text for text in data.texts if sha256_hex(text) not in set(tested)]  # what is equal, `validate` says
        if found := copies(others, goals):
            first = [prompts[place].id for _, place in found[:3]]
            raise UserError(
                f"{len(found)} of the requests in {data.name!r} are prompts that the model is tested on, written in "
                f"another way ({', '.join(first)}); train without them, or evaluate on other prompts"
            )
        for near in near_between(others, goals):
            best[tested[near.second]] = max(best.get(tested[near.second], 0.0), near.similarity)
        compared |= {sha256_hex(text) for text in data.texts}
        if data.compared is not None and data.compared.measure == MEASURE and set(tested) <= set(data.compared.goals):
            for known in data.compared.near:
                best[known.test] = max(best.get(known.test, 0.0), known.similarity)
            compared |= set(data.goals or ())
    return _record(
        TrainingSimilarity,
        "training.json",
        requests=len(digests),
        compared=len(compared & digests),
        near=tuple(
            SimilarPrompt(id=prompt.id, percent=percent(best[prompt.sha256]))
            for prompt in prompts
            if prompt.sha256 in best
        ),
    )


def merged_table(judged: Sequence[Judged], manifest: RunManifest, judge: str | None = None) -> pd.DataFrame:
    """The verdicts of all runs, each clean answer once. judge: whose, where not the manifest's. `UserError` where runs
    gave other clean answers, or where one and the same answer has several labels."""
    judge = judge or manifest.runs[0].judge.id
    keys = ["prompt_id", "layer", "attack", "dose", "seed"]
    whole = pd.concat([each.table for each in judged], ignore_index=True)
    clean = whole[whole["attack"] == CLEAN]
    others = clean.groupby("prompt_id")[["response_sha256"]].nunique()
    if len(differing := others[others["response_sha256"] > 1]):
        raise UserError(
            f"the runs gave other clean answers to {len(differing)} prompts (as {differing.index[0]}); they ran with "
            "other weights, versions or devices: evaluate all attacks in one run"
        )
    labels = clean.groupby("prompt_id")["label"].nunique(dropna=False)
    if len(several := labels[labels > 1]):
        raise UserError(
            f"the runs label equal clean answers to {len(several)} prompts differently (as {several.index[0]}); "
            f"judge each run again with the judge {judge} (`asabench judge RUN --judge JUDGE`)"
        )
    once = whole.drop_duplicates(keys, ignore_index=True)
    return sorted_lines(once, [prompt.id for prompt in manifest.prompts], manifest.settings.attacks)


def _other_labels(judged: Sequence[Judged], manifest: RunManifest) -> dict[str, pd.Series]:
    """The labels of each further judge of all runs, in the order of the submission's table. `UserError` where there is
    none."""
    names = set.intersection(*(set(each.others) for each in judged))
    if not names:
        raise UserError(
            f"no other judge than {manifest.runs[0].judge.id} has read all answers of "
            f"{', '.join(str(each.run.path) for each in judged)}; `asabench judge RUN --judge JUDGE` asks one"
        )
    return {
        name: merged_table(
            [replace(each, table=each.table.assign(label=each.others[name])) for each in judged], manifest, judge=name
        )["label"]
        for name in sorted(names)
    }


def yaml_bytes(submission: Submission) -> bytes:
    """submission.yaml, in the order of the schema; fields that say nothing are left out."""
    given = submission.model_dump(mode="json", exclude_none=True)
    given = {name: value for name, value in given.items() if value != []}
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=1000).encode()


def _where(details: Details) -> str:
    if details.where is not None:
        return details.where
    if details.defence == "none":
        return "none"
    return "training" if details.training or details.base is not None else "inference"


def manifest_json(manifest: RunManifest) -> dict[str, Any]:
    """manifest.json, the settings as the runs had them."""
    dumped = manifest.model_dump(mode="json")
    for run, record in zip(dumped["runs"], manifest.runs, strict=True):
        run["settings"] = record.settings.as_json()
    return dumped


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _record(kind: type[Any], what: str, **fields: Any) -> Any:
    """A record, or `UserError` that names the field."""
    try:
        return kind(**fields)
    except ValidationError as error:
        problem = first_problem(error)
        given = "" if isinstance(problem.given, dict | BaseModel) else f" {shown(problem.given)}"
        raise UserError(f"{what}: {problem.field}{given}: {problem.message}") from None


def _write(target: Path, contents: Mapping[str, bytes]) -> Validation:
    """The folder, whole or not at all: checked by itself and beside the others in the collection before it takes its
    place. Only a submission is replaced, never a folder of something else."""
    with whole_folder(target, replace=True, fix=OTHER_OUT) as made:
        for name, content in contents.items():
            write_whole(made / name, content)
        found = beside_others(validate_folder(made), target.parent)
        if not found.ok:
            raise UserError(f"this cannot be submitted: {found.problem}")
        if target.exists() and (target.is_symlink() or not (target / SUBMISSION_FILE).is_file()):
            raise UserError(f"{target} is no submission, so it is not replaced; give another --slug")
    return found


# What is told on the command line


def trained_on(spec: str) -> TrainedOn:
    """`NAME=COUNT`."""
    name, equals, count = spec.rpartition("=")
    if not equals or not name or not count.isdecimal():
        raise UserError(f"--training-data {spec!r} cannot be read; write NAME=COUNT, such as 'UltraChat subset=5000'")
    return TrainedOn(name=name, examples=int(count))


def trained_on_prompts(spec: str) -> TrainedOn:
    """`[NAME=]FILE`: a CSV file with a goal column, or the training.json (or its folder) of a model trained here."""
    name, _, file = spec.rpartition("=") if not Path(spec).exists() else ("", "", spec)
    path = Path(file)
    path = path / TRAINING_FILE if path.is_dir() else path
    if path.suffix == ".json":
        goals, compared = _training_json(path)
        return TrainedOn(name=name or "harmful requests", examples=len(goals), goals=goals, compared=compared)
    if not path.is_file():
        raise UserError(f"--training-prompts {spec!r}: there is no such file; give a CSV file or a training.json")
    prompts = read_prompts(path)
    return TrainedOn(
        name=name or path.stem,
        examples=len(prompts),
        goals=tuple(prompt.digest for prompt in prompts),
        texts=tuple(prompt.goal for prompt in prompts),
    )


def _training_json(path: Path) -> tuple[tuple[str, ...], ComparedWithTest | None]:
    record = read_training(path)
    goals = record.harmful_goals
    if goals is None or not all(_DIGEST.fullmatch(goal) for goal in goals):
        raise UserError(
            f"{path} holds no `harmful_goals`, a list of SHA-256 digests; give the folder of a trained model"
        )
    return goals, record.compared_with_test
