"""What `verify` checks of a model's tables; everything that can be recomputed is.

Findings name columns, counts and ids, never a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from asabench.core.records import CLEAN, LABELS
from asabench.dataset.derive import (
    CELL_CONTENT,
    INSTANCE_CONTENT,
    content_ids,
    fragile_places,
    split_columns,
    text_digests,
)
from asabench.dataset.files import FragileLayers
from asabench.dataset.fragile_layers import fragile_from_attempts, fragile_from_instances
from asabench.dataset.schema import (
    ATTEMPT_COLUMNS,
    INSTANCE_COLUMNS,
    MAY_BE_NULL,
    PLACES,
    SPLIT_COLUMNS,
    SPLITS,
    TEXT_COLUMNS,
    listed,
)

if TYPE_CHECKING:
    import pyarrow as pa

SHARED = {
    **{name: name for name in INSTANCE_COLUMNS if name in ATTEMPT_COLUMNS},
    "steered_response_sha256": "response_sha256",
}
"""What an instance and its attempt have in common, by its name there and here."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that differs. `where`: the file or model; `check`: what was looked at."""

    where: str
    check: str
    expected: str
    found: str


class Log:
    """Findings and notes as they come up."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def expect(self, where: str, check: str, expected: object, found: object) -> None:
        """A finding if the two differ."""
        if expected != found:
            self.findings.append(Finding(where=where, check=check, expected=str(expected), found=str(found)))

    def none(self, where: str, check: str, what: str, number: int, examples: Iterable[object] = ()) -> None:
        """A finding if there are any of what there should be none."""
        if number:
            shown = [str(example) for example in examples]
            found = f"{number} {what}" + (f" ({listed(shown, 3)})" if shown else "")
            self.findings.append(Finding(where=where, check=check, expected="none", found=found))


def check_instances(where: str, table: pa.Table, n_layers: int | None, redacted: bool, log: Log) -> None:
    """One model's instances by themselves. n_layers: the model's depth, None if it is not known."""
    if not _check_nulls(where, "instances", table, redacted, log):
        return
    _check_values(where, table, n_layers, log)
    others = table.num_rows - count(pc.equal(table["label"], "unsafe"))
    log.none(where, "verdicts", "instances that are not labelled unsafe", others)
    log.none(where, "layers", "instances of clean answers", count(pc.equal(table["attack"], CLEAN)))
    for name in ("instance_id", "cell_id", "position"):
        _check_distinct(where, table, name, log)
    for name in SPLIT_COLUMNS:
        _check_one_of(where, table, name, SPLITS, log)
    _check_one_of(where, table, "fragile_layer", PLACES, log)
    _check_prompts(where, table, log)
    _check_digests_and_ids(where, table, log)
    for name, column in split_columns(table).items():
        _check_same(where, f"{name}, recomputed", table, name, column, log)
    if n_layers is None:
        log.notes.append(f"{where}: how many layers the model has is not known: ranges of layers were not checked")


def check_attempts(where: str, table: pa.Table, n_layers: int | None, log: Log) -> None:
    """One model's attempts by themselves. n_layers: the model's depth, None if it is not known."""
    where = f"{where}, attempts"
    if not _check_nulls(where, "attempts", table, False, log):
        return
    _check_values(where, table, n_layers, log)
    _check_distinct(where, table, "cell_id", log)
    _check_prompts(where, table, log)
    clean = pc.equal(table["attack"], CLEAN)
    mixed = count(pc.not_equal(clean, pc.is_null(table["layer"])))
    log.none(where, "layers", "clean answers with a layer, or steered ones without", mixed)
    # The hash is over the suffix, which attempts do not hold: those of a prompt with one are checked as instances
    names = ["suffix_sha256" if name == "suffix" else name for name in CELL_CONTENT]
    bare = table.select(["cell_id", *names]).filter(pc.is_null(table["suffix_sha256"]))
    content = [bare[name] for name in names]
    _check_same(where, "cell_id, recomputed", bare, "cell_id", content_ids(content), log)


def _check_nulls(where: str, kind: str, table: pa.Table, redacted: bool, log: Log) -> bool:
    """Whether every column that must have values has them; in a redacted copy, whether texts have none."""
    sound = True
    for name in table.column_names:
        if redacted and name in TEXT_COLUMNS:
            left = table.num_rows - table[name].null_count
            log.none(where, "redaction", f"values of {name} in a redacted copy", left)
        elif name not in MAY_BE_NULL[kind] and table[name].null_count:
            log.none(where, "missing values", f"rows without {name}", table[name].null_count)
            sound = False
    return sound


def _check_values(where: str, table: pa.Table, n_layers: int | None, log: Log) -> None:
    for name in ("label", "original_label"):
        _check_one_of(where, table, name, LABELS, log)
    dose, p_unsafe = table["dose"], table["p_unsafe"]
    doses = pc.and_(pc.is_finite(dose), pc.greater_equal(dose, 0.0))
    log.none(where, "doses", "rows with a dose that is not a number of 0 or more", count(pc.invert(doses)))
    probabilities = pc.and_(pc.greater_equal(p_unsafe, 0.0), pc.less_equal(p_unsafe, 1.0))
    log.none(where, "p_unsafe", "rows with a probability outside 0 to 1", count(pc.invert(probabilities)))
    log.none(where, "seeds", "rows with a seed below 0", count(pc.less(table["seed"], 0)))
    layers = table["layer"]
    outside = pc.less(layers, 0) if n_layers is None else pc.or_(pc.less(layers, 0), pc.greater_equal(layers, n_layers))
    allowed = "0 or more" if n_layers is None else f"0 to {n_layers - 1}"
    if number := count(outside):
        examples = sorted(layers.filter(outside).unique().to_pylist())
        log.expect(where, "range of layers", allowed, f"{number} rows at layers {listed(examples)}")


def _check_one_of(where: str, table: pa.Table, name: str, allowed: Iterable[str], log: Log) -> None:
    unknown = [value for value in table[name].unique().to_pylist() if value is not None and value not in allowed]
    # The values are not shown: where a column is mixed up, they may be texts
    log.none(where, name, f"values other than {', '.join(allowed)}", len(unknown))


def _check_distinct(where: str, table: pa.Table, name: str, log: Log) -> None:
    counted = table.group_by(name).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    extra = pc.sum(twice["count_all"], min_count=0).as_py() - twice.num_rows
    log.none(where, "duplicates", f"rows more with the same {name}", extra, twice[name].slice(0, 3).to_pylist())


def _check_prompts(where: str, table: pa.Table, log: Log) -> None:
    """A prompt's id, place, digest and suffix belong together."""
    names = ["prompt_id", "prompt_index", "prompt_sha256", "suffix_sha256"]
    distinct = table.select(names).group_by(names).aggregate([])
    ids = len(distinct["prompt_id"].unique())
    log.none(where, "prompts", "prompt ids with several places, digests or suffixes", distinct.num_rows - ids)


def _check_digests_and_ids(where: str, table: pa.Table, log: Log) -> None:
    for name in TEXT_COLUMNS:
        with_text, digest = table.filter(pc.is_valid(table[name])), f"{name}_sha256"
        _check_same(where, f"{digest}, recomputed", with_text, digest, text_digests(with_text[name]), log)
    # Where the suffix is redacted the cell's hash cannot be made again
    whole = table.filter(pc.or_(pc.is_valid(table["suffix"]), pc.is_null(table["suffix_sha256"])))
    cells = content_ids([whole[name] for name in CELL_CONTENT])
    _check_same(where, "cell_id, recomputed", whole, "cell_id", cells, log)
    ids = content_ids([table[name] for name in INSTANCE_CONTENT])
    _check_same(where, "instance_id, recomputed", table, "instance_id", ids, log)


def _check_same(where: str, check: str, table: pa.Table, name: str, recomputed: pa.Array, log: Log) -> None:
    """A finding for the rows in which a column is not what it was recomputed to be."""
    different = _differ(table[name], recomputed)
    if number := count(different):
        key = "instance_id" if "position" in table.column_names else "cell_id"
        log.none(where, check, "rows that differ", number, table[key].filter(different).slice(0, 3).to_pylist())


def check_verdicts(where: str, instances: pa.Table, attempts: pa.Table, log: Log) -> None:
    """Instances are the unsafe ones of the steered attempts, one to one, and agree with them; clean labels agree."""
    unsafe = attempts.filter(pc.and_(pc.is_valid(attempts["layer"]), pc.equal(attempts["label"], "unsafe")))
    log.expect(where, "unsafe attempts, one an instance", unsafe.num_rows, instances.num_rows)
    others = attempts.num_rows - attempts["instance_id"].null_count
    log.expect(where, "attempts that name an instance", unsafe.num_rows, others)
    if instances["cell_id"].null_count or len(unsafe["cell_id"].unique()) < unsafe.num_rows:
        return
    place = pc.index_in(instances["cell_id"], value_set=unsafe["cell_id"].combine_chunks())
    missing = pc.is_null(place)
    examples = instances["instance_id"].filter(missing).slice(0, 3).to_pylist()
    log.none(where, "instances in the attempts", "instances without an unsafe attempt", count(missing), examples)
    kept = instances.filter(pc.invert(missing))
    matched = unsafe.take(place.drop_null())
    for name, source in SHARED.items():
        _check_same(where, f"{name} as in the attempts", kept, name, matched[source], log)
    _check_clean_answers(where, instances, attempts, log)


def _check_clean_answers(where: str, instances: pa.Table, attempts: pa.Table, log: Log) -> None:
    """`original_label` and the digest of the clean answer are those of the prompt's clean attempt."""
    clean = attempts.filter(pc.is_null(attempts["layer"]))
    if len(clean["prompt_id"].unique()) < clean.num_rows:
        log.none(where, "clean answers", "prompts with several", clean.num_rows - len(clean["prompt_id"].unique()))
        return
    names = clean["prompt_id"].combine_chunks()
    for table, columns in (
        (attempts, {"original_label": "label"}),
        (instances, {"original_label": "label", "original_response_sha256": "response_sha256"}),
    ):
        place = pc.index_in(table["prompt_id"], value_set=names)
        for name, source in columns.items():
            _check_same(where, f"{name} as of the clean answer", table, name, clean[source].take(place), log)


def check_fragile(
    where: str, instances: pa.Table, attempts: pa.Table | None, said: Iterable[FragileLayers], log: Log
) -> None:
    """The fragile layers, against those that the manifest names and against the instances' column."""
    found = fragile_from_instances(instances) if attempts is None else fragile_from_attempts(attempts)
    log.expect(where, "fragile layers, recomputed", _fragile_text(found), _fragile_text(said))
    _check_same(where, "fragile_layer, recomputed", instances, "fragile_layer", fragile_places(instances, found), log)


def _fragile_text(layers: Iterable[FragileLayers]) -> str:
    """Attack, dose, and the layers before, at and after the peak."""
    return "; ".join(f"{f.attack} at {f.dose:g}: {f.before}, {f.peak}, {f.after}" for f in layers) or "none"


def _differ(first: pa.Array, second: pa.Array) -> pa.Array:
    """Row by row; null equals null."""
    either = pc.not_equal(pc.is_null(first), pc.is_null(second))
    return pc.or_kleene(either, pc.fill_null(pc.not_equal(first, second), False))


def count(mask: pa.Array) -> int:
    """How many are true; null is not."""
    return int(pc.sum(mask, min_count=0).as_py())
