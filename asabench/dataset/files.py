"""A benchmark folder on disk: a manifest, and for every model the Parquet files of its instances and attempts.

    BENCHMARK/manifest.json                          models, protocol, judge, counts, the digest of every file
    BENCHMARK/<config>/train-00000-of-00001.parquet  validated instances, by the leak-free split by prompt
    BENCHMARK/<config>/test-00000-of-00001.parquet
    BENCHMARK/<config>/attempts-00000-of-00001.parquet  every attempt, without text

One config a model. A folder is written beside its place and renamed when it is whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

import asabench
from asabench.core.errors import UserError, first_line, one_line
from asabench.core.files import OTHER_OUT, disk_errors, parse_json, whole_folder
from asabench.core.links import link
from asabench.core.records import sha256_hex
from asabench.core.row import JudgeInfo, PromptSetInfo, ProtocolInfo
from asabench.core.schema import Record, first_problem
from asabench.dataset.schema import (
    SCHEMA_VERSION,
    SPLITS,
    Place,
    Split,
    attempt_schema,
    instance_schema,
    listed,
    schema_differences,
)

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
Origin = Literal["build", "original-layout"]
Part = Literal["train", "test", "attempts"]
PARTS: tuple[Part, ...] = (*SPLITS, "attempts")
ROWS_A_FILE = 500_000


class FileEntry(Record):
    """One Parquet file. `sha256` is of its bytes, in hex."""

    rows: int
    bytes: int
    sha256: str


class FragileLayers(Record):
    """The blocks at which most prompts break: `peak`, and the highest before and after it; None where none breaks."""

    attack: str
    dose: float
    peak: int | None
    before: int | None
    after: int | None

    def places(self) -> dict[int, Place]:
        found: tuple[tuple[Place, int | None], ...] = (
            ("before", self.before),
            ("peak", self.peak),
            ("after", self.after),
        )
        return {layer: place for place, layer in found if layer is not None}


class ModelEntry(Record):
    """What the dataset holds of one model.

    `name`: a hub id, short name or folder name; `config`: its name in the dataset, safe in paths; `original_name`: its
    name in the original layout. `attempts`: None where only instances are known. `prompts`: how many have an instance.
    """

    name: str
    revision: str | None
    n_layers: int | None
    config: str
    original_name: str | None = None
    train: int
    test: int
    prompts: int
    attempts: int | None
    fragile_layers: tuple[FragileLayers, ...] = ()

    @property
    def instances(self) -> int:
        return self.train + self.test


class Manifest(Record):
    """`manifest.json`. `files` is keyed by path inside the folder; `build` says how it was made, in its builder's
    words."""

    schema_version: int = SCHEMA_VERSION
    asabench_version: str
    created: str
    origin: Origin
    redacted: bool = False
    protocol: ProtocolInfo | None = None
    judge: JudgeInfo | None = None
    prompts: PromptSetInfo | None = None
    instances: int
    attempts: int | None
    models: tuple[ModelEntry, ...]
    files: dict[str, FileEntry]
    build: dict[str, Any] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over the names and digests of all data files: what names this content."""
        return sha256_hex("\n".join(f"{path}:{entry.sha256}" for path, entry in sorted(self.files.items())))


@dataclass(frozen=True, kw_only=True)
class ModelTables:
    """One model's part of a benchmark, in memory. The tables have the schemas of `asabench.dataset.schema`;
    `attempts` is None where only instances are known."""

    name: str
    revision: str | None
    n_layers: int | None
    instances: pa.Table
    attempts: pa.Table | None
    original_name: str | None = None
    fragile_layers: tuple[FragileLayers, ...] = ()


class Benchmark:
    """An open benchmark folder. Make one with `read_benchmark`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def configs(self) -> list[str]:
        return [model.config for model in self.manifest.models]

    def model(self, config: str) -> ModelEntry:
        """The entry of a config, or of a model's own or original name; `UserError` if there is none."""
        for entry in self.manifest.models:
            if config in (entry.config, entry.name, entry.original_name):
                return entry
        raise UserError(f"{self.path} has no config {config!r}; allowed: {', '.join(self.configs)}")

    def config(self, name: str) -> str:
        """The config of a model by its name, original name or config; `UserError` if there is none."""
        return self.model(name).config

    def files(self, config: str, part: Part) -> list[Path]:
        """The files of one part of a config that the manifest names, in order."""
        prefix = f"{config}/{part}-"
        return [self.path / name for name in sorted(self.manifest.files) if name.startswith(prefix)]

    def instances(self, config: str, split: Split | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The instances of a model, those of one side of the leak-free split if given. columns: all if None."""
        parts = SPLITS if split is None else (split,)
        return read_tables([path for part in parts for path in self.files(config, part)], instance_schema(), columns)

    def attempts(self, config: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """Every attempt of a model; None where only instances are known. columns: all if None."""
        paths = self.files(config, "attempts")
        return read_tables(paths, attempt_schema(), columns) if paths else None

    def tables(self, config: str) -> ModelTables:
        """All of a model, in memory."""
        entry = self.model(config)
        return ModelTables(
            name=entry.name,
            revision=entry.revision,
            n_layers=entry.n_layers,
            instances=self.instances(entry.config),
            attempts=self.attempts(entry.config),
            original_name=entry.original_name,
            fragile_layers=entry.fragile_layers,
        )


def config_name(model: str) -> str:
    """A model's name as a folder and config name: letters, digits, `_`, `.` and `-` only; `/` becomes `--`."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", model.replace("/", "--")).lstrip(".-")
    return plain[:100] if plain else f"model-{sha256_hex(model)[:8]}"


def read_manifest(path: Path) -> Manifest:
    """The manifest of a benchmark folder; `UserError` when it is missing, broken or of another schema version."""
    file = path / MANIFEST
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is not a benchmark folder: it holds no {MANIFEST}; give the folder of a build or a download"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}); download or build the benchmark again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{file} has schema version {version!r}; this ASABench ({asabench.__version__}) reads {SCHEMA_VERSION}; "
            "use the version of ASABench that wrote it, or download a revision of this schema"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file} is not the manifest of a benchmark: {first_problem(error)}") from None


def read_benchmark(path: Path) -> Benchmark:
    """A benchmark folder for reading; tables are read when they are asked for."""
    return Benchmark(path, read_manifest(path))


def read_tables(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The files as one table; `UserError` for one that is missing, truncated or has another schema. columns: all if
    None."""
    import pyarrow as pa

    empty = schema.empty_table()
    if columns is not None:
        empty = empty.select(list(columns))
    return pa.concat_tables([empty, *(read_table(path, schema, columns) for path in paths)])


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """One file of `read_tables`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if differences := schema_differences(file.schema_arrow, schema):
                raise UserError(f"{path} has another schema ({listed(differences)}); see {link('docs/dataset.md')}")
            return file.read(columns=None if columns is None else list(columns)).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); download or build the benchmark again") from None


def write_benchmark(
    path: Path,
    models: Iterable[ModelTables],
    *,
    origin: Origin,
    protocol: ProtocolInfo | None = None,
    judge: JudgeInfo | None = None,
    prompts: PromptSetInfo | None = None,
    redacted: bool = False,
    build: dict[str, Any] | None = None,
    replace: bool = False,
) -> Manifest:
    """Writes a benchmark folder, one model at a time, so `models` may be lazy; it is there whole or not at all.

    replace: a benchmark that is there already makes way for this one. Raises `UserError` for a place that is taken or
    cannot be written and for two models that would share a config.
    """
    require_free(path, replace)
    entries: list[ModelEntry] = []
    files: dict[str, FileEntry] = {}
    with disk_errors(path, OTHER_OUT), whole_folder(path, replace=True, fix=OTHER_OUT) as unfinished:
        for model in models:
            entry = _entry(model)
            if any(other.config.lower() == entry.config.lower() for other in entries):
                raise UserError(f"two models would have the config {entry.config!r}; give each model one name")
            entries.append(entry)
            files.update(_write_model(unfinished, entry.config, model))
        attempts = [entry.attempts for entry in entries if entry.attempts is not None]
        manifest = Manifest(
            asabench_version=asabench.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            origin=origin,
            redacted=redacted,
            protocol=protocol,
            judge=judge,
            prompts=prompts,
            instances=sum(entry.instances for entry in entries),
            attempts=sum(attempts) if attempts else None,
            models=tuple(entries),
            files=files,
            build=build or {},
        )
        (unfinished / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _entry(model: ModelTables) -> ModelEntry:
    import pyarrow.compute as pc

    sides = model.instances.column("split_leakfree_by_prompt")
    train = pc.sum(pc.equal(sides, "train"), min_count=0).as_py()
    return ModelEntry(
        name=model.name,
        revision=model.revision,
        n_layers=model.n_layers,
        config=config_name(model.original_name or model.name),
        original_name=model.original_name,
        train=train,
        test=model.instances.num_rows - train,
        prompts=pc.count_distinct(model.instances.column("prompt_sha256")).as_py(),
        attempts=None if model.attempts is None else model.attempts.num_rows,
        fragile_layers=model.fragile_layers,
    )


def _write_model(folder: Path, config: str, model: ModelTables) -> Iterator[tuple[str, FileEntry]]:
    import pyarrow.compute as pc

    (folder / config).mkdir()
    side = model.instances.column("split_leakfree_by_prompt")
    parts: list[tuple[Part, pa.Table]] = [(name, model.instances.filter(pc.equal(side, name))) for name in SPLITS]
    if model.attempts is not None:
        parts.append(("attempts", model.attempts))
    for part, table in parts:
        yield from _write_part(folder, config, part, table)


def _write_part(folder: Path, config: str, part: Part, table: pa.Table) -> Iterator[tuple[str, FileEntry]]:
    import pyarrow.parquet as pq

    number = max(1, -(-table.num_rows // ROWS_A_FILE))
    for index in range(number):
        name = f"{config}/{part}-{index:05d}-of-{number:05d}.parquet"
        rows = table.slice(index * ROWS_A_FILE, ROWS_A_FILE)
        pq.write_table(rows, folder / name, compression="zstd")
        yield name, file_entry(folder / name, rows.num_rows)


def file_entry(path: Path, rows: int) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(rows=rows, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def require_free(path: Path, replace: bool) -> None:
    """`UserError` for a place that is taken; replace: a benchmark folder, and nothing else, may be there."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() and not (replace and _is_benchmark(path)):
        raise UserError(f"{path} is there already; give another --out folder, or remove this one first")


def _is_benchmark(path: Path) -> bool:
    try:
        read_manifest(path)
    except UserError:
        return False
    return True
