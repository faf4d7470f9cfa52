"""The layout in which ASABench was first published: one JSON file a model, a list of objects, one an instance.

    FOLDER/<model>_asabench_seed42.json   [{"prompt_idx", "prompt", "suffix", "layer_idx", "original_response",
                                            "steered_response", "steered_response_safe"}, ...]

or the same columns in another layout: a folder a model (a subset of the Hub's), JSON Lines, CSV or Parquet, in several
files. The columns say what a file is, its path only of which model.

Source: method, section 7, and the reference code's own reader. What is odd in a file is tolerated and counted
(`Quirks`): null rows, header and configuration rows, numbers written as text, fields that are missing or unknown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from asabench.core.errors import UserError, one_line
from asabench.core.files import write_whole
from asabench.core.records import Label
from asabench.dataset.derive import complete_instances
from asabench.dataset.files import MANIFEST, Benchmark, ModelTables, config_name, read_benchmark
from asabench.dataset.fragile_layers import fragile_from_instances

if TYPE_CHECKING:
    import pyarrow as pa

FILE_ENDING = "_asabench_seed42.json"
ATTACK, DOSE, SEED = "random", 1.0, 42
"""The published instances are of ASA_random at the paper's dose and seed (preset gu2025)."""
JUDGE = "published (QwQ-32B)"
ENDINGS = (".json", ".jsonl", ".csv", ".parquet")
NEEDED = ("prompt", "layer_idx", "steered_response")
"""The columns without which a row is of no use."""
NOT_INSTANCES = (MANIFEST, "croissant.json", "dataset_infos.json", "dataset_info.json", "state.json")
_PIECE = re.compile(r"-\d+-of-\d+$")
_NO_MODEL = ("train", "test", "validation", "data", "default", "all", "")
"""What files and folders are called after a split, or after nothing."""
PUBLISHED_TOTAL = 4862
PUBLISHED_MODELS = 8

FIELDS = (
    "prompt_idx",
    "prompt",
    "suffix",
    "layer_idx",
    "original_response",
    "steered_response",
    "steered_response_safe",
)


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model of the published set: its name in the file names, its hub id, and how many decoder blocks it has."""

    original_name: str
    name: str
    n_layers: int


KNOWN_MODELS: tuple[PublishedModel, ...] = tuple(
    PublishedModel(original_name=original, name=name, n_layers=n_layers)
    for original, name, n_layers in (
        ("Llama-32-3B", "meta-llama/Llama-3.2-3B", 28),
        ("Llama-32-3B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", 28),
        ("Qwen-25-7B", "Qwen/Qwen2.5-7B", 28),
        ("Qwen-25-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", 28),
        ("Llama-31-8B", "meta-llama/Llama-3.1-8B", 32),
        ("Llama-31-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", 32),
        ("Llama-2-13B-Chat", "meta-llama/Llama-2-13b-chat-hf", 40),
        # The reference code names seven of the eight. This one is the paper's other model, under the name that the
        # others' pattern gives it
        ("Llama-33-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct", 80),
    )
)


def known_model(name: str) -> PublishedModel | None:
    """A model of the published set by its hub id or its name there."""
    return next((model for model in KNOWN_MODELS if name in (model.name, model.original_name)), None)


def original_name(model: str) -> str | None:
    """The name in the original layout of a model of the published set."""
    known = known_model(model)
    return None if known is None else known.original_name


@dataclass(frozen=True, kw_only=True)
class Quirks:
    """How many rows of a file were odd, and how.

    Left out: `null_rows` (null, or without any value), `header_rows` (column names in place of values, or a row that
    describes the file), `unusable_rows` (without a prompt, a steered answer or a layer that is a number). Kept:
    `text_numbers` (rows with a number written as text), `missing_fields` and `unknown_fields` (rows, by field),
    `unreadable_verdicts` (rows whose `steered_response_safe` says neither; their label is null).
    """

    null_rows: int
    header_rows: int
    unusable_rows: int
    text_numbers: int
    unreadable_verdicts: int
    missing_fields: Mapping[str, int]
    unknown_fields: Mapping[str, int]

    def lines(self) -> list[str]:
        """What there is to say of them, one line each; none for a file without oddities."""
        counts = {
            "null rows, left out": self.null_rows,
            "header rows, left out": self.header_rows,
            "rows without a prompt, an answer or a layer, left out": self.unusable_rows,
            "rows with a number written as text": self.text_numbers,
            "rows whose verdict says neither safe nor unsafe": self.unreadable_verdicts,
            **{f"rows without {name}": count for name, count in sorted(self.missing_fields.items())},
            **{f"rows with the unknown field {name}": count for name, count in sorted(self.unknown_fields.items())},
        }
        return [f"{count} {what}" for what, count in counts.items() if count]


class OriginalBenchmark:
    """An open folder in the original layout. Make one with `read_original`."""

    def __init__(self, path: Path, files: Mapping[str, Sequence[Path]]) -> None:
        self.path = path
        self.files = files

    @property
    def configs(self) -> list[str]:
        return list(self.files)

    def config(self, name: str) -> str:
        """The config of a model by its original name or its hub id; `UserError` if there is none."""
        config = original_name(name) or name
        if config not in self.files:
            raise UserError(f"{self.path} has no model {name!r}; allowed: {', '.join(self.configs)}")
        return config

    def read(self, config: str) -> tuple[ModelTables, Quirks]:
        """A model's instances, and what was odd in its file; `UserError` for a file that cannot be read."""
        config = self.config(config)
        return normalise(config, [row for file in self.files[config] for row in read_rows(file)])

    def tables(self, config: str) -> ModelTables:
        return self.read(config)[0]

    def instances(self, config: str, columns: Iterable[str] | None = None) -> pa.Table:
        """The instances of a model. columns: all if None."""
        table = self.tables(config).instances
        return table if columns is None else table.select(list(columns))

    def attempts(self, config: str, columns: Iterable[str] | None = None) -> None:
        """None: only successes were published."""


def read_original(path: Path) -> OriginalBenchmark:
    """A folder in the original layout, or one of its files; `UserError` if there is no such file."""
    if path.is_file():
        named = {file_model(path.name) or path.stem: [path]} if path.suffix in ENDINGS else {}
    else:
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        named = {model: [path / name for name in held] for model, held in files_by_model(names).items()}
    # A file that cannot be read is kept: it is named when it is asked for
    files = {model: held for model, held in named.items() if any(has_columns(file) for file in held)}
    if not files:
        raise UserError(
            f"{path} is no benchmark: it holds neither {MANIFEST} nor files of instances (JSON, JSON Lines, CSV or "
            f"Parquet with the columns {', '.join(NEEDED)}); give the folder of a build or a download"
        )
    return OriginalBenchmark(path, files)


def open_benchmark(path: Path) -> Benchmark | OriginalBenchmark:
    """A benchmark folder in either layout."""
    if not path.exists():
        raise UserError(f"{path} is not there; give the folder of a build or a download")
    return read_benchmark(path) if (path / MANIFEST).is_file() else read_original(path)


def files_by_model(names: Iterable[str]) -> dict[str, list[str]]:
    """The files that may hold instances, by the model that their paths name; paths as they stand in a folder.

    Where some have the published ending, those alone are meant.
    """
    kept = [name for name in names if PurePosixPath(name).suffix in ENDINGS and not _is_hidden(name)]
    kept = [name for name in kept if name.endswith(FILE_ENDING)] or kept
    found: dict[str, list[str]] = {}
    for name in kept:
        if (model := file_model(name)) is not None:
            found.setdefault(model, []).append(name)
    return found


def _is_hidden(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name in NOT_INSTANCES or any(part.startswith(".") for part in path.parts)


def file_model(name: str) -> str | None:
    """The model that a file's path names: by its own name, or by its folder's where it is called after a split; the
    original name where that is known. None where neither names one."""
    path = PurePosixPath(name)
    stem = path.name.removesuffix(FILE_ENDING) if path.name.endswith(FILE_ENDING) else path.stem
    stem = _PIECE.sub("", stem)
    for said in (stem, *reversed(path.parent.parts)):
        if said.casefold() not in _NO_MODEL:
            return next((known.original_name for known in KNOWN_MODELS if _plain(said) in _names(known)), said)
    return None


def _names(model: PublishedModel) -> set[str]:
    return {_plain(model.original_name), _plain(model.name), _plain(model.name.partition("/")[2])}


def _plain(name: str) -> str:
    """Letters and digits: what is the same in `Llama-3.1-8B` and `Llama-31-8B`."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def has_columns(path: Path) -> bool:
    """Whether a file has the columns of instances. True for one of the published ending, and for one that is not whole,
    which is no reason to pass it over in silence; False for JSON that is no list."""
    if path.name.endswith(FILE_ENDING):
        return True
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return set(NEEDED) <= set(parquet.read_schema(path).names)
        if path.suffix == ".json" and not isinstance(json.loads(path.read_text(encoding="utf-8")), list):
            return False
        rows = read_rows(path)
    except (UserError, OSError, ValueError, RecursionError):
        return True
    return any(isinstance(row, dict) and set(NEEDED) <= row.keys() for row in rows)


def read_rows(path: Path) -> list[Any]:
    """The rows in a file: a JSON list, JSON Lines, CSV or Parquet; `UserError` for one that is truncated or holds
    something else."""
    again = "download it again"
    if path.suffix in (".parquet", ".csv"):
        import pyarrow as pa
        from pyarrow import csv, parquet

        try:
            return (parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read ({one_line(error)}); {again}") from None
    if path.suffix == ".jsonl":
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({one_line(error)}); {again}") from None
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not whole JSON (line {error.lineno}, column {error.colno}: {error.msg}); {again}"
        ) from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); {again}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} holds {type(rows).__name__}, not a list of instances; {again}")
    return rows


def normalise(model: str, rows: Iterable[Any]) -> tuple[ModelTables, Quirks]:
    """Rows of the original layout as a model's part of the dataset.

    model: its original name. `original_label`, `p_unsafe` and the model's revision were not published. Texts are kept
    as they are but for blanks around a prompt; a blank suffix is none.
    """
    odd: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    index_of: dict[str, int] = {}
    for row in rows:
        if row is None or (isinstance(row, dict) and not any(value is not None for value in row.values())):
            odd["null"] += 1
        elif isinstance(row, dict) and _is_header(row):
            odd["header"] += 1
        elif (fields := _fields(row)) is None:
            odd["unusable"] += 1
        else:
            odd["text numbers"] += any(isinstance(row.get(name), str) for name in ("prompt_idx", "layer_idx"))
            odd["unreadable"] += fields["label"] is None
            missing.update(name for name in FIELDS if _is_missing(row, name))
            unknown.update(name if name.isidentifier() else "(no word)" for name in row if name not in FIELDS)
            first_seen = index_of.setdefault(fields["prompt"], len(index_of))
            if fields["prompt_index"] is None:
                fields["prompt_index"] = first_seen
            kept.append(fields)
    quirks = Quirks(
        null_rows=odd["null"],
        header_rows=odd["header"],
        unusable_rows=odd["unusable"],
        text_numbers=odd["text numbers"],
        unreadable_verdicts=odd["unreadable"],
        missing_fields=dict(missing),
        unknown_fields=dict(unknown),
    )
    return _model_tables(model, kept), quirks


def _is_header(row: Mapping[str, Any]) -> bool:
    """Column names in place of values, or a row of the kind that the reference code writes above its results."""
    if row.get("type") == "configuration":
        return True
    named = [name for name in FIELDS if row.get(name) is not None]
    return bool(named) and all(row[name] == name for name in named)


def _is_missing(row: Mapping[str, Any], name: str) -> bool:
    """Not there, or without a value; a suffix may be null."""
    return name not in row or (row[name] is None and name != "suffix")


def _fields(row: Any) -> dict[str, Any] | None:
    """The row's values with the schema's names and types; None for a row that is of no use."""
    if not isinstance(row, dict):
        return None
    prompt, answer, layer = row.get("prompt"), row.get("steered_response"), _whole_number(row.get("layer_idx"))
    if not isinstance(prompt, str) or not prompt.strip() or not isinstance(answer, str) or layer is None:
        return None
    suffix, clean = row.get("suffix"), row.get("original_response")
    return {
        "prompt_index": _whole_number(row.get("prompt_idx")),
        "prompt": prompt.strip(),
        "suffix": suffix if isinstance(suffix, str) and suffix.strip() else None,
        "layer": layer,
        "original_response": clean if isinstance(clean, str) else None,
        "steered_response": answer,
        "label": _label(row.get("steered_response_safe")),
    }


def _whole_number(value: Any) -> int | None:
    """An int32 from a number or a text that is one; else None."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\.0*)?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) >= 2**31:
        return None
    return int(value) if value == int(value) else None


def _label(value: Any) -> Label | None:
    """What `steered_response_safe` says, as a boolean, a number or a word; None if that is neither.

    A missing one stands for unsafe: only successes were published. Words are compared whole, since "unsafe" holds
    "safe".
    """
    if value is None:
        return "unsafe"
    if isinstance(value, str):
        value = {"true": True, "safe": True, "1": True, "false": False, "unsafe": False, "0": False}.get(
            value.strip().strip(".").lower()
        )
    if value not in (True, False):
        return None
    return "safe" if value else "unsafe"


def _model_tables(model: str, kept: list[dict[str, Any]]) -> ModelTables:
    import pyarrow as pa

    known = known_model(model)
    name, n_layers = (model, None) if known is None else (known.name, known.n_layers)
    constants = {
        "model": name,
        "model_revision": None,
        "n_layers": n_layers,
        "attack": ATTACK,
        "dose": DOSE,
        "seed": SEED,
        "original_label": None,
        "judge": JUDGE,
        "p_unsafe": None,
    }
    read = ("prompt_index", "prompt", "suffix", "layer", "label", "original_response", "steered_response")
    columns: dict[str, list[Any]] = {
        "position": list(range(len(kept))),
        "prompt_id": [f"prompt-{row['prompt_index']:03d}" for row in kept],
        **{column: [row[column] for row in kept] for column in read},
        **{column: [value] * len(kept) for column, value in constants.items()},
    }
    fragile = fragile_from_instances(pa.table({column: columns[column] for column in ("attack", "dose", "layer")}))
    return ModelTables(
        name=name,
        revision=None,
        n_layers=n_layers,
        instances=complete_instances(columns, fragile),
        attempts=None,
        original_name=model,
        fragile_layers=fragile,
    )


def write_original(path: Path, models: Iterable[ModelTables]) -> list[Path]:
    """Writes instances in the original layout, for code that reads it; gives the files. Order is that of `position`.

    The layout has no place for attack, dose and seed. Raises `UserError` for a redacted set, which has no text, and for
    one with more than one of these.
    """
    path.mkdir(parents=True, exist_ok=True)
    written = []
    for model in models:
        table = model.instances.sort_by("position")
        if table["prompt"].null_count:
            raise UserError(f"the instances of {model.name} are redacted; the original layout needs their texts")
        if table.group_by(["attack", "dose", "seed"]).aggregate([]).num_rows > 1:
            raise UserError(
                f"the instances of {model.name} are of several attacks, doses or seeds; the original layout holds one"
            )
        rows = [
            {
                "prompt_idx": row["prompt_index"],
                "prompt": row["prompt"],
                "suffix": row["suffix"],
                "layer_idx": row["layer"],
                "original_response": row["original_response"],
                "steered_response": row["steered_response"],
                "steered_response_safe": None if row["label"] is None else row["label"] != "unsafe",
            }
            for row in table.to_pylist()
        ]
        file = path / f"{model.original_name or config_name(model.name)}{FILE_ENDING}"
        write_whole(file, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
        written.append(file)
    return written
