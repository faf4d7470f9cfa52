"""Is a benchmark what it says it is? Everything that can be recomputed is recomputed; what differs is listed.

Reads one model at a time. Findings name columns, counts and ids, never a prompt or an answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from asabench.core.errors import UserError
from asabench.core.text import text_table
from asabench.dataset.checks import (
    Finding,
    Log,
    check_attempts,
    check_fragile,
    check_instances,
    check_verdicts,
    count,
)
from asabench.dataset.files import MANIFEST, PARTS, Manifest, ModelEntry, Part, file_entry, read_manifest, read_table
from asabench.dataset.original_layout import (
    PUBLISHED_MODELS,
    PUBLISHED_TOTAL,
    OriginalBenchmark,
    known_model,
    read_original,
)
from asabench.dataset.schema import SPLITS, attempt_schema, instance_schema


@dataclass(frozen=True, kw_only=True)
class ModelCounts:
    """What is there of one model. `attempts`: None where only instances are known."""

    model: str
    config: str
    train: int
    test: int
    prompts: int
    layers: int
    attempts: int | None

    @property
    def instances(self) -> int:
        return self.train + self.test


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found. `ok`: nothing differs. `notes` say what could not be checked, and oddities that are allowed
    in the original layout."""

    path: str
    layout: str
    models: tuple[ModelCounts, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    @property
    def text(self) -> str:
        """For a terminal: counts, what differs, notes, and a last line that says whether anything does."""
        return _report(self)


def verify(path: str | Path, *, published: bool | None = None) -> Verification:
    """Checks a benchmark folder in either layout; see docs/dataset.md for the checks.

    published: whether the totals of the published set are expected; if None, where all of its models are there in the
    original layout. Raises `UserError` only where there is nothing to check.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is not there; give the folder of a build or a download")
    log = Log()
    if (path / MANIFEST).is_file():
        layout, models = "parquet", _verify_folder(path, log, published)
    else:
        layout, models = "original", _verify_original(read_original(path), log, published)
    return Verification(
        path=str(path), layout=layout, models=tuple(models), findings=tuple(log.findings), notes=tuple(log.notes)
    )


# The folder


def _verify_folder(path: Path, log: Log, published: bool | None) -> list[ModelCounts]:
    try:
        manifest = read_manifest(path)
    except UserError as error:
        log.findings.append(Finding(where=MANIFEST, check="manifest", expected="readable", found=str(error)))
        return []
    present = _check_files(path, manifest, log)
    found = [_verify_model(path, manifest, entry, present, log) for entry in manifest.models]
    counts = [model for model in found if model is not None]
    _check_totals(manifest, log)
    if published or (published is None and manifest.origin == "original-layout"):
        originals = [entry.original_name for entry in manifest.models if entry.original_name is not None]
        _check_published(originals, sum(model.instances for model in counts), published, log)
    return counts


def _verify_model(path: Path, manifest: Manifest, entry: ModelEntry, present: set[str], log: Log) -> ModelCounts | None:
    """One config; None if its instances cannot be read. present: the files that are there."""
    train, test, attempts = (_read_part(path, manifest, entry, part, present, log) for part in PARTS)
    if train is None or test is None:
        return None
    _check_sides(train, test, entry.config, log)
    instances = pa.concat_tables([train, test])
    found = _counts(entry.name, entry.config, instances, attempts)
    for name in ("train", "test", "prompts"):
        log.expect(entry.config, f"{name} in the manifest", getattr(entry, name), getattr(found, name))
    _check_entry(entry, manifest, instances, attempts, log)
    check_instances(entry.config, instances, entry.n_layers, manifest.redacted, log)
    if attempts is not None:
        log.expect(entry.config, "attempts in the manifest", entry.attempts, attempts.num_rows)
        check_attempts(entry.config, attempts, entry.n_layers, log)
        check_verdicts(entry.config, instances, attempts, log)
    check_fragile(entry.config, instances, attempts, entry.fragile_layers, log)
    return found


def _check_files(path: Path, manifest: Manifest, log: Log) -> set[str]:
    """Existence and digests; gives the names of the files that are there."""
    there = {file.relative_to(path).as_posix() for file in path.rglob("*.parquet")}
    unnamed = sorted(there - manifest.files.keys())
    log.none(MANIFEST, "files", "files that it does not name", len(unnamed), unnamed)
    present = set()
    for name, expected in sorted(manifest.files.items()):
        if name not in there:
            log.expect(name, "file", "there", "missing")
            continue
        found = file_entry(path / name, expected.rows)
        log.expect(name, "size in bytes", expected.bytes, found.bytes)
        if expected.sha256 != found.sha256:
            log.expect(name, "SHA-256", f"{expected.sha256[:12]}...", f"{found.sha256[:12]}...")
        present.add(name)
    return present


def _read_part(
    path: Path, manifest: Manifest, entry: ModelEntry, part: Part, present: set[str], log: Log
) -> pa.Table | None:
    """One part of a config; None, and a finding, if a file of it is missing or cannot be read."""

    schema = attempt_schema() if part == "attempts" else instance_schema()
    names = sorted(name for name in manifest.files if name.startswith(f"{entry.config}/{part}-"))
    if not names:
        if part != "attempts" or entry.attempts is not None:
            log.expect(entry.config, f"files of {part}", "one or more", "none")
        return None
    tables = []
    for name in names:
        if name not in present:
            return None
        try:
            table = read_table(path / name, schema)
        except UserError as error:
            log.expect(name, "Parquet", "readable", str(error).removeprefix(f"{path / name} "))
            return None
        log.expect(name, "rows in the manifest", manifest.files[name].rows, table.num_rows)
        tables.append(table)
    return pa.concat_tables(tables)


def _check_sides(train: pa.Table, test: pa.Table, where: str, log: Log) -> None:
    for side, table in zip(SPLITS, (train, test), strict=True):
        other = table.num_rows - count(pc.equal(table["split_leakfree_by_prompt"], side))
        log.none(where, "files by split", f"rows of another side in the files of {side}", other)
    prompts = [set(table["prompt_sha256"].unique().to_pylist()) for table in (train, test)]
    log.none(where, "leak-free split", "prompts on both sides", len(prompts[0] & prompts[1]))


def _check_entry(
    entry: ModelEntry, manifest: Manifest, instances: pa.Table, attempts: pa.Table | None, log: Log
) -> None:
    """The columns that have one value a model, against the manifest; and its depth against what is known of it."""
    expected = {"model": entry.name, "model_revision": entry.revision, "n_layers": entry.n_layers}
    if manifest.judge is not None:
        expected["judge"] = manifest.judge.id
    for table in (instances, attempts):
        if table is not None and table.num_rows:
            for name, value in expected.items():
                log.expect(entry.config, f"{name} in the manifest", [value], table[name].unique().to_pylist())
    if (known := known_model(entry.name)) is not None:
        log.expect(entry.config, "depth of the model", known.n_layers, entry.n_layers)


def _check_totals(manifest: Manifest, log: Log) -> None:
    log.expect(MANIFEST, "instances in total", sum(entry.instances for entry in manifest.models), manifest.instances)
    attempts = [entry.attempts for entry in manifest.models if entry.attempts is not None]
    log.expect(MANIFEST, "attempts in total", sum(attempts) if attempts else None, manifest.attempts)
    for what in ("config", "name"):
        values = [getattr(entry, what) for entry in manifest.models]
        log.none(MANIFEST, "models", f"{what}s twice", len(values) - len(set(values)))


# The original layout


def _verify_original(benchmark: OriginalBenchmark, log: Log, published: bool | None) -> list[ModelCounts]:
    counts = []
    for config in benchmark.configs:
        try:
            tables, quirks = benchmark.read(config)
        except UserError as error:
            log.findings.append(Finding(where=config, check="JSON", expected="readable", found=str(error)))
            continue
        log.notes += [f"{config}: {line}" for line in quirks.lines()]
        check_instances(config, tables.instances, tables.n_layers, False, log)
        counts.append(_counts(tables.name, config, tables.instances, None))
    _check_published(benchmark.configs, sum(model.instances for model in counts), published, log)
    return counts


def _check_published(originals: list[str], total: int, published: bool | None, log: Log) -> None:
    """The published set has 4,862 instances of eight models; a part of it is let be, and noted."""
    whole = len(originals) == PUBLISHED_MODELS
    if published is None and not whole:
        log.notes.append(
            f"{len(originals)} of the {PUBLISHED_MODELS} published models are there: the total of {PUBLISHED_TOTAL:,} "
            "was not checked"
        )
        return
    if published is False:
        return
    log.expect("all models", "published models", PUBLISHED_MODELS, len(originals))
    if total != PUBLISHED_TOTAL:
        # Its owners may publish more: what was found is said, and is no fault of the copy
        log.notes.append(f"{total:,} instances are there; the paper's set had {PUBLISHED_TOTAL:,}")


def _counts(model: str, config: str, instances: pa.Table, attempts: pa.Table | None) -> ModelCounts:
    train = count(pc.equal(instances["split_leakfree_by_prompt"], "train"))
    return ModelCounts(
        model=model,
        config=config,
        train=train,
        test=instances.num_rows - train,
        prompts=pc.count_distinct(instances["prompt_sha256"]).as_py(),
        layers=pc.count_distinct(instances["layer"]).as_py(),
        attempts=None if attempts is None else attempts.num_rows,
    )


# The report


def _report(found: Verification) -> str:
    rows = [["model", "train", "test", "instances", "prompts", "layers", "attempts"]]
    for model in found.models:
        attempts = "not known" if model.attempts is None else f"{model.attempts:,}"
        numbers = (model.train, model.test, model.instances, model.prompts, model.layers)
        rows.append([model.config, *(f"{number:,}" for number in numbers), attempts])
    totals = [sum(getattr(model, name) for model in found.models) for name in ("train", "test", "instances")]
    rows.append(["total", *(f"{number:,}" for number in totals), "", "", ""])
    parts = [f"{found.path}, {found.layout} layout", text_table(rows)]
    if found.findings:
        lines = [[f.where, f.check, f.expected, f.found] for f in found.findings]
        parts.append(text_table([["where", "what", "expected", "found"], *lines]))
    if found.notes:
        parts.append("\n".join(f"note: {note}" for note in found.notes))
    number = len(found.findings)
    parts.append("nothing differs" if found.ok else f"{number} {'thing differs' if number == 1 else 'things differ'}")
    return "\n\n".join(parts)
