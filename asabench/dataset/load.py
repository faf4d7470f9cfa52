"""`asabench.load_benchmark`: the instances, or the attempts, as a pandas table."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from asabench.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from asabench.dataset.files import Benchmark
    from asabench.dataset.original_layout import OriginalBenchmark


def load_benchmark(
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    repo: str | None = None,
    path: str | Path | None = None,
    *,
    attempts: bool = False,
    token: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """A benchmark as a table with one row an instance; docs/dataset.md describes the columns.

    config: one model; all if None. split: `train` or `test` of the leak-free split by prompt; the other splits are
    columns. revision: a tag, branch or commit of `repo` (the published dataset if None), which is fetched when it is
    not cached, and read offline when it is. path: a benchmark folder to read instead, in either layout. attempts: every
    cell that was run, without text, in place of the instances. The table's `attrs` say where it is from, with the
    commit. Raises `UserError` for what cannot be had.
    """
    from asabench.dataset.hub import PUBLISHED_REPO
    from asabench.dataset.schema import SPLITS

    if split is not None and split not in SPLITS:
        raise UserError(f"split {split!r} is not known; allowed: {', '.join(SPLITS)}; the other splits are columns")
    if attempts and split is not None:
        raise UserError("attempts are not split; leave out split, or filter them by prompt_sha256")
    if path is not None and (revision is not None or repo is not None):
        raise UserError("a path is read as it is; give either path, or repo and revision")
    benchmark: Benchmark | OriginalBenchmark
    if path is not None:
        from asabench.dataset.original_layout import open_benchmark

        benchmark = open_benchmark(Path(path))
        configs = benchmark.configs if config is None else [config]
        source: dict[str, object] = {"path": str(path)}
    else:
        from asabench.dataset.download import fetch

        snapshot = fetch(repo or PUBLISHED_REPO, revision, config, token=token, progress=progress)
        benchmark, configs = snapshot.benchmark, list(snapshot.configs)
        source = snapshot.source
        if snapshot.stale:
            warnings.warn(
                f"the Hub cannot be reached; {snapshot.revision} is taken for commit {snapshot.commit}, as when it was "
                "last asked",
                stacklevel=2,
            )
    frame = _frame([_table(benchmark, name, split, attempts) for name in configs])
    frame.attrs.update(source)
    return frame


def _table(benchmark: Benchmark | OriginalBenchmark, config: str, split: str | None, attempts: bool) -> pa.Table:
    import pyarrow.compute as pc

    config = benchmark.config(config)
    table = benchmark.attempts(config) if attempts else benchmark.instances(config)
    if table is None:
        raise UserError(f"{config} has no attempts: only its instances were published; leave out attempts")
    return table if split is None else table.filter(pc.equal(table["split_leakfree_by_prompt"], split))


def _frame(tables: list[pa.Table]) -> pd.DataFrame:
    import pyarrow as pa

    from asabench.runs.tables import nullable_types

    # Nullable types, as a run's tables have them
    return pa.concat_tables(tables).to_pandas(types_mapper=nullable_types(pa).get)
