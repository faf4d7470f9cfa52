"""A copy of a benchmark for places that must not carry harmful text: digests in place of prompts and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from asabench.dataset.files import Benchmark, Manifest, ModelTables, read_benchmark, write_benchmark
from asabench.dataset.schema import INSTANCE_COLUMNS, TEXT_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa


def redact(path: str | Path, out: str | Path) -> Manifest:
    """Writes the benchmark folder `path` to `out` without texts. Ids, digests, splits and attempts stay as they are, so
    the copy joins with the original and `verify` checks it."""
    benchmark = read_benchmark(Path(path))
    manifest = benchmark.manifest
    return write_benchmark(
        Path(out),
        _redacted(benchmark),
        origin=manifest.origin,
        protocol=manifest.protocol,
        judge=manifest.judge,
        prompts=manifest.prompts,
        redacted=True,
        build=manifest.build,
    )


def _redacted(benchmark: Benchmark) -> Iterator[ModelTables]:
    for config in benchmark.configs:
        tables = benchmark.tables(config)
        yield replace(tables, instances=without_texts(tables.instances))


def without_texts(instances: pa.Table) -> pa.Table:
    """The same instances with no values in the columns of texts."""
    import pyarrow as pa

    for name in TEXT_COLUMNS:
        place = list(INSTANCE_COLUMNS).index(name)
        instances = instances.set_column(place, name, pa.nulls(instances.num_rows, pa.string()))
    return instances
