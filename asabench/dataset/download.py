"""Fetching a published benchmark: a revision is resolved to a commit, and what is read is that commit, or nothing.

Files stay in the Hub client's cache, so that the same revision can be read offline. `load_dataset` is not used: offline
it ignores the revision that it is given. A file is checked against its digest whenever it is fetched or read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from asabench.core.errors import UserError
from asabench.core.files import OTHER_OUT, disk_errors, whole_folder
from asabench.core.records import sha256_hex
from asabench.dataset.files import (
    MANIFEST,
    Benchmark,
    Manifest,
    ModelTables,
    file_entry,
    read_benchmark,
    require_free,
    write_benchmark,
)
from asabench.dataset.hub import (
    DATASET,
    PUBLISHED_REPO,
    hub_api,
    hub_errors,
    hub_progress,
    is_commit,
    repo_url,
    unreachable,
)
from asabench.dataset.original_layout import NEEDED, OriginalBenchmark, files_by_model, has_columns

Say = Callable[[str], object]
DOWNLOADING = "the download"


@dataclass(frozen=True)
class Snapshot:
    """A dataset, or some of its configs, at one commit, in the client's cache.

    `revision`: as it was asked for; `stale`: the Hub could not be asked what it means now, so `commit` is what it meant
    when it was last asked. `files`: SHA-256 by path, of the data files that were fetched.
    """

    repo: str
    revision: str
    commit: str
    stale: bool
    benchmark: Benchmark | OriginalBenchmark
    configs: tuple[str, ...]
    files: dict[str, str]

    @property
    def source(self) -> dict[str, object]:
        """What a copy records of where it comes from."""
        return {"repo": self.repo, "revision": self.revision, "commit": self.commit}


@dataclass(frozen=True)
class Download:
    """What `download` did. `path`: the folder it wrote, or None; `digest`: of the content, as the manifest's."""

    repo: str
    revision: str
    commit: str
    stale: bool
    configs: tuple[str, ...]
    instances: int
    digest: str
    path: Path | None

    @property
    def text(self) -> str:
        """One line to cite: what was downloaded, from where."""
        return f"{repo_url(self.repo)} at {self.commit}: {self.instances:,} instances, content digest {self.digest}"


def download(
    repo: str = PUBLISHED_REPO,
    revision: str | None = None,
    config: str | None = None,
    out: Path | None = None,
    progress: bool = True,
    *,
    token: str | None = None,
    say: Say = lambda line: None,
) -> Download:
    """Fetches a published dataset into the client's cache and, if `out` is given, writes it as a benchmark folder.

    revision: a tag, a branch or a commit; `main` if None. config: one model; all if None. progress: the client's bars,
    if standard error is a terminal. say: takes a line for the user, before the work that it tells of. A dataset in the
    original layout is brought into this project's. Raises `UserError` for whatever is missing, forbidden or damaged.
    """
    if out is not None:
        require_free(out, replace=False)
    snapshot = fetch(repo, revision, config, token=token, progress=progress, say=say)
    benchmark = snapshot.benchmark
    if isinstance(benchmark, Benchmark):
        manifest = _part_of(benchmark.manifest, snapshot)
        if out is not None:
            _copy(benchmark, manifest, out)
        instances, digest = manifest.instances, manifest.digest
    elif out is not None:
        tables = _converted(benchmark, snapshot.configs, say)
        manifest = write_benchmark(out, tables, origin="original-layout", build=_origin(snapshot))
        instances, digest = manifest.instances, manifest.digest
    else:
        instances = sum(tables.instances.num_rows for tables in _converted(benchmark, snapshot.configs, say))
        digest = _digest(snapshot.files)
    return Download(
        repo=repo,
        revision=snapshot.revision,
        commit=snapshot.commit,
        stale=snapshot.stale,
        configs=snapshot.configs,
        instances=instances,
        digest=digest,
        path=out,
    )


def fetch(
    repo: str,
    revision: str | None = None,
    config: str | None = None,
    *,
    token: str | None = None,
    progress: bool = True,
    say: Say = lambda line: None,
) -> Snapshot:
    """The dataset at a revision, in the cache and checked; of one config only the files that it needs.

    What is cached is not asked for again; offline, what is not cached is an error, never another revision.
    """
    wanted = revision or "main"
    commit, stale = resolve(repo, wanted, token)
    if stale:
        say(f"the Hub cannot be reached; {repo} {wanted} was commit {commit} when it was last asked")
    elif wanted != commit:
        say(f"{repo} {wanted} is commit {commit}")
    # Brings the listing of the commit too. The second file is in every repository: the client warns of finding nothing
    folder = _cached(repo, commit, [MANIFEST, ".gitattributes"], token, progress)
    listed = _listing(repo, commit)
    benchmark = _open(folder, listed)
    if benchmark is None:
        raise UserError(
            f"{repo} at {wanted} is no ASABench dataset: it holds neither {MANIFEST} nor files of models' instances; "
            f"give another --repo or --revision, such as {PUBLISHED_REPO}"
        )
    configs = tuple(benchmark.configs) if config is None else (benchmark.config(config),)
    names = _data_files(benchmark, configs)
    if absent := [name for name in names if name not in listed]:
        raise UserError(
            f"{repo} at {wanted} lacks {absent[0]}, which its {MANIFEST} names; tell its owner, or give another "
            "--revision"
        )
    say(f"{len(names)} files, {sum(listed[name] for name in names) / 1e6:,.1f} MB, of {len(configs)} models")
    _cached(repo, commit, names, token, progress)
    digests = {name: _checked(folder / name) for name in names}
    if isinstance(benchmark, OriginalBenchmark):
        # Only now its columns can be seen
        benchmark, configs = _with_columns(benchmark, configs, repo, wanted)
    else:
        for name in names:
            if digests[name] != benchmark.manifest.files[name].sha256:
                raise UserError(
                    f"{name} of {repo} at {wanted} is not the file that its {MANIFEST} names (another SHA-256); "
                    "tell its owner, or give another --revision"
                )
    return Snapshot(repo, wanted, commit, stale, benchmark, configs, digests)


def resolve(repo: str, revision: str, token: str | None = None) -> tuple[str, bool]:
    """The commit that a revision means, and whether that is only what it meant when the Hub was last asked."""
    if is_commit(revision):
        return revision, False
    api = hub_api(token)
    with hub_errors(repo, revision, doing=DOWNLOADING):
        reached = True
        try:
            api.dataset_info(repo, revision=revision)
        except Exception as error:
            if not unreachable(error):
                raise
            reached = False
        # Keeps the answer in the cache, which `dataset_info` does not
        found = api.resolve_revision(repo, repo_type=DATASET, revision=revision, local_files_only=not reached)
    return found.resolved, not reached


def _cached(repo: str, commit: str, names: Iterable[str], token: str | None, progress: bool) -> Path:
    """The folder of a commit in the client's cache, with these files in it."""
    from huggingface_hub import snapshot_download

    with hub_progress(progress), hub_errors(repo, commit, doing=DOWNLOADING):
        folder = snapshot_download(
            repo,
            repo_type=DATASET,
            revision=commit,
            allow_patterns=[escape(name) for name in names],
            token=token,
            library_name="asabench",
        )
    return Path(folder)


def _listing(repo: str, commit: str) -> dict[str, int]:
    """The size of every file of a commit, from the listing that the client keeps."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.size for file in get_cached_repo_tree(repo, repo_type=DATASET, revision=commit)}
    except CachedRepoTreeNotFoundError:
        raise UserError(
            f"{repo} at {commit} is not whole in the cache; connect, unset HF_HUB_OFFLINE, and run this again"
        ) from None


def _open(folder: Path, listed: Iterable[str]) -> Benchmark | OriginalBenchmark | None:
    """The dataset of these files, of which only a manifest need be there yet; None if it is in neither layout."""
    if MANIFEST in listed:
        return read_benchmark(folder)
    models = {model: [folder / name for name in names] for model, names in files_by_model(sorted(listed)).items()}
    return OriginalBenchmark(folder, models) if models else None


def _with_columns(
    benchmark: OriginalBenchmark, configs: Iterable[str], repo: str, revision: str
) -> tuple[OriginalBenchmark, tuple[str, ...]]:
    """Without the fetched files that hold something else than instances."""
    held = {config: [file for file in benchmark.files[config] if has_columns(file)] for config in configs}
    kept = {config: files for config, files in held.items() if files}
    if not kept:
        raise UserError(
            f"{repo} at {revision} is no ASABench dataset: none of its files has the columns {', '.join(NEEDED)}; "
            f"give another --repo or --revision, such as {PUBLISHED_REPO}"
        )
    return OriginalBenchmark(benchmark.path, kept), tuple(kept)


def _data_files(benchmark: Benchmark | OriginalBenchmark, configs: Iterable[str]) -> list[str]:
    """The files that hold some configs, by their paths in the repository."""
    if isinstance(benchmark, Benchmark):
        return [name for config in configs for name in benchmark.manifest.files if name.startswith(f"{config}/")]
    return [file.relative_to(benchmark.path).as_posix() for config in configs for file in benchmark.files[config]]


def _checked(path: Path) -> str:
    """The SHA-256 of a cached file, whose content must be what its blob is named after (a SHA-256, or git's id)."""
    try:
        blob = Path(os.path.realpath(path, strict=True))
        sha256 = file_entry(blob, rows=0).sha256
        if re.fullmatch("[0-9a-f]{64}", blob.name):
            intact = sha256 == blob.name
        elif re.fullmatch("[0-9a-f]{40}", blob.name):
            intact = _git_id(blob) == blob.name
        else:
            intact = True  # where links are not possible the client copies, and the file has its own name
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); delete it and run the same command again") from None
    if not intact:
        raise UserError(f"the cached copy of {path.name} is damaged; delete {blob} and run the same command again")
    return sha256


def _git_id(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(files: dict[str, str]) -> str:
    """As `Manifest.digest`, for files that no manifest names."""
    return sha256_hex("\n".join(f"{name}:{sha256}" for name, sha256 in sorted(files.items())))


def _converted(benchmark: OriginalBenchmark, configs: Iterable[str], say: Say) -> Iterator[ModelTables]:
    """The models in this project's schema, one at a time; what was odd in their files is said."""
    for config in configs:
        tables, quirks = benchmark.read(config)
        for line in quirks.lines():
            say(f"{config}: {line}")
        yield tables


def _origin(snapshot: Snapshot) -> dict[str, object]:
    """For the manifest of a converted dataset: where it is from, with the digests of the files that were converted."""
    return {"downloaded_from": {**snapshot.source, "files": snapshot.files}}


def _part_of(manifest: Manifest, snapshot: Snapshot) -> Manifest:
    """The manifest of the configs that were fetched, with a note of where they come from."""
    models = tuple(model for model in manifest.models if model.config in snapshot.configs)
    attempts = [model.attempts for model in models if model.attempts is not None]
    return manifest.model_copy(
        update={
            "models": models,
            "files": {name: manifest.files[name] for name in snapshot.files},
            "instances": sum(model.instances for model in models),
            "attempts": sum(attempts) if attempts else None,
            "build": {**manifest.build, "downloaded_from": snapshot.source},
        }
    )


def _copy(benchmark: Benchmark, manifest: Manifest, out: Path) -> None:
    """The files of a manifest, byte by byte, so that their digests stay."""
    with disk_errors(out, OTHER_OUT), whole_folder(out, replace=True, fix=OTHER_OUT) as unfinished:
        for name in manifest.files:
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(benchmark.path / name, unfinished / name)
        (unfinished / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
