"""Publishing a benchmark folder as a version of a dataset on the Hub.

The folder is verified; then the repository is made and gated; then one commit brings the data, the card and its
picture; then the version's tag is set on that commit. So no text is readable before the gate is there, nobody sees half
a version, and a push that was interrupted anywhere is finished by running it again: nothing is uploaded twice.

The Parquet files are committed as they were verified. `DatasetDict.push_to_hub` would write them again, with other
bytes: the digests in the manifest would name files that are not there. What it adds, the YAML configs, the card brings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from asabench.core.errors import UserError
from asabench.dataset.card import ALL, ATTEMPTS_SUFFIX, CARD, PICTURE, draw_counts, instances_by_layer, make_card
from asabench.dataset.croissant import CROISSANT, croissant_json
from asabench.dataset.eval_results import EVAL, eval_yaml
from asabench.dataset.files import MANIFEST, Benchmark, Manifest, read_benchmark
from asabench.dataset.hub import DATASET, hub_api, hub_errors, hub_progress, is_commit, repo_url
from asabench.dataset.redact import redact as redacted_copy
from asabench.dataset.verify import verify

if TYPE_CHECKING:
    from huggingface_hub import CommitOperation, HfApi
    from huggingface_hub.hf_api import DatasetInfo

Gating = Literal["auto", "manual"]
PUSHING = "publishing"
# What a repository holds that somebody has only just made
_NEW_REPO = (".gitattributes", CARD)


@dataclass(frozen=True)
class Published:
    """What `push` did. `digest`: of the content, as the manifest's; `gated`: how readers get access, None if freely."""

    repo: str
    url: str
    version: str
    commit: str
    digest: str
    gated: Gating | None


def push(
    path: Path,
    repo: str,
    *,
    version: str,
    gated: Gating | None = "auto",
    private: bool = False,
    redact: bool = False,
    adopt: bool = False,
    licence: str = "mit",
    message: str | None = None,
    token: str | None = None,
    progress: bool = True,
    say: Callable[[str], object] = lambda line: None,
) -> Published:
    """Publishes the benchmark folder at `path` as `version`, a new tag, of the dataset `repo` (OWNER/NAME).

    gated: readers get access by asking (`auto`) or when an owner approves (`manual`); None only for a redacted set. A
    repository that is gated already is never opened further. private: if the repository is made, only its owner sees
    it. redact: publish digests in place of texts. adopt: publish into a repository that holds something else; its other
    files stay. licence: the card's, as the Hub names it. Raises `UserError` for a set that does not verify, a version
    that exists, and whatever the Hub refuses.
    """
    _require_names(repo, version)
    say(f"verifying {path}")
    with _to_publish(path, redact) as benchmark:
        if gated is None and not benchmark.manifest.redacted:
            raise UserError(
                "a set with texts is published gated only; give --gated auto or manual, or --redact to publish digests"
            )
        with hub_progress(progress), hub_errors(repo, doing=PUSHING):
            api = hub_api(token)
            api.whoami()  # no token, or one that is not valid, ends it here
            info = _require_repo(api, repo, private, say)
            there = {file.rfilename for file in info.siblings or ()}
            before = _version_before(api, info, there, adopt)
            _require_new_version(api, repo, version, benchmark.manifest)
            gate = _close_gate(api, info, gated, say)
            card = make_card(
                benchmark,
                repo=repo,
                version=version,
                licence=licence,
                gated=gate is not None,
                existing=_text_at(api, repo, CARD, info.sha) if CARD in there else None,
                replaced=_configs_of(before),
            )
            stale = (set(before.get("files") or ()) & there) - benchmark.manifest.files.keys()
            described = croissant_json(benchmark, repo=repo, version=version, licence=licence, url=repo_url(repo))
            operations = _operations(benchmark, card, {CROISSANT: described, EVAL: eval_yaml()}, stale)
            size = sum(file.bytes for file in benchmark.manifest.files.values())
            say(f"uploading {len(benchmark.manifest.files)} files, {size / 1e6:,.1f} MB")
            # The last commit, if nothing has changed since: then this push goes on from an interrupted one
            commit = api.create_commit(
                repo,
                operations,
                commit_message=message or f"ASABench {version}",
                repo_type=DATASET,
                parent_commit=info.sha,
            ).oid
            _tag(api, repo, version, commit)
            say(f"{version} is commit {commit}")
            return Published(repo, repo_url(repo), version, commit, benchmark.manifest.digest, gate)


def _require_names(repo: str, version: str) -> None:
    if repo.count("/") != 1:
        raise UserError(f"{repo!r} is not the name of a dataset; give OWNER/NAME")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", version) or is_commit(version) or version == "main":
        raise UserError(
            f"{version!r} cannot be a version; give letters, digits, '.', '_' and '-', such as v1.0 (not main)"
        )


@contextmanager
def _to_publish(path: Path, redact: bool) -> Iterator[Benchmark]:
    """The benchmark, verified; a redacted copy of it, in a temporary folder, if that is wanted."""
    benchmark = read_benchmark(path)
    if clash := [name for name in benchmark.configs if name.endswith(ATTEMPTS_SUFFIX)]:
        raise UserError(f"the config {clash[0]!r} would be taken for attempts; give that model another name")
    if ALL in benchmark.configs:
        raise UserError(f"the config {ALL!r} is that of all models together; give that model another name")
    if not benchmark.configs:
        raise UserError(f"{path} holds no model; build one first")
    found = verify(path)
    if not found.ok:
        raise UserError(
            f"{path} does not verify ({len(found.findings)} things differ, the first: {found.findings[0].check} of "
            f"{found.findings[0].where}); see `asabench verify {path}`, and download or build it again"
        )
    if not redact or benchmark.manifest.redacted:
        yield benchmark
        return
    with TemporaryDirectory(prefix="asabench-redacted-") as folder:
        copy = Path(folder) / "redacted"
        redacted_copy(path, copy)
        yield read_benchmark(copy)


def _require_repo(api: HfApi, repo: str, private: bool, say: Callable[[str], object]) -> DatasetInfo:
    """The repository as it is now, made if there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return api.dataset_info(repo)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type=DATASET, private=private)
    say(f"made {repo_url(repo)}")
    return api.dataset_info(repo)


def _version_before(api: HfApi, info: DatasetInfo, there: set[str], adopt: bool) -> dict[str, Any]:
    """The manifest that the repository holds now, empty if it has none; refuses one that holds something else."""
    before = _manifest_at(api, info.id, info.sha) if MANIFEST in there else {}
    if not adopt and not before and not there <= set(_NEW_REPO):
        raise UserError(
            f"{repo_url(info.id)} exists and is no ASABench dataset; give another --repo, or --adopt to publish "
            "beside its files in it"
        )
    return before


def _close_gate(api: HfApi, info: DatasetInfo, gated: Gating | None, say: Callable[[str], object]) -> Gating | None:
    """Gates the repository unless it is gated as much already; how it is gated then."""
    if gated is None or info.gated in (gated, "manual"):
        return info.gated or None
    api.update_repo_settings(info.id, repo_type=DATASET, gated=gated)
    say(f"gated: readers ask for access ({gated})")
    return gated


def _manifest_at(api: HfApi, repo: str, revision: str | None) -> dict[str, Any]:
    """The manifest of a version that is there, of whatever schema version; empty if it is somebody else's file."""
    try:
        content = json.loads(_text_at(api, repo, MANIFEST, revision))
    except ValueError:
        return {}
    return content if isinstance(content, dict) and {"schema_version", "models", "files"} <= content.keys() else {}


def _text_at(api: HfApi, repo: str, name: str, revision: str | None) -> str:
    return Path(api.hf_hub_download(repo, name, repo_type=DATASET, revision=revision)).read_text(encoding="utf-8")


def _configs_of(manifest: dict[str, Any]) -> list[str]:
    """The configs that a version's card names."""
    models = [
        model["config"] for model in manifest.get("models") or () if isinstance(model, dict) and "config" in model
    ]
    return [*models, *(name + ATTEMPTS_SUFFIX for name in models)]


def _require_new_version(api: HfApi, repo: str, version: str, manifest: Manifest) -> None:
    refs = api.list_repo_refs(repo, repo_type=DATASET)
    taken = {ref.name: ref.target_commit for ref in [*refs.branches, *refs.tags]}
    if version not in taken:
        return
    commit = taken[version]
    there = api.file_exists(repo, MANIFEST, repo_type=DATASET, revision=commit)
    same = there and _manifest_at(api, repo, commit).get("files") == manifest.model_dump(mode="json")["files"]
    raise UserError(
        f"{repo} has {version} already (commit {commit}), "
        + ("and it holds this very data: there is nothing to do" if same else "and it is never overwritten")
        + "; give another --version to publish another one"
    )


def _operations(
    benchmark: Benchmark, card: str, described: Mapping[str, str], stale: Iterable[str]
) -> list[CommitOperation]:
    """The whole version, for one commit. described: files that say to machines what it is, by name."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = [*benchmark.manifest.files, MANIFEST]
    return [
        *(CommitOperationDelete(name) for name in sorted(stale)),
        *(CommitOperationAdd(name, benchmark.path / name) for name in names),
        CommitOperationAdd(PICTURE, draw_counts(instances_by_layer(benchmark))),
        CommitOperationAdd(CARD, card.encode()),
        *(CommitOperationAdd(name, text.encode()) for name, text in described.items()),
    ]


def _tag(api: HfApi, repo: str, version: str, commit: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_tag(repo, tag=version, revision=commit, repo_type=DATASET)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        raise UserError(
            f"{repo} has got the version {version} from somebody else just now; give another --version"
        ) from None
