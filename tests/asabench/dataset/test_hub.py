"""Publishing and downloading, with the real clients against a small Hub on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from asabench.dataset.card import PICTURE, split_card
from asabench.dataset.files import MANIFEST, read_benchmark
from asabench.dataset.schema import ATTEMPT_COLUMNS, INSTANCE_COLUMNS, TEXT_COLUMNS
from asabench.dataset.verify import verify
from tests.asabench.dataset.dataset_fixtures import benchmark_folder, finished_run, original_folder, original_rows
from tests.forks import with_tables
from tests.hub_server import HubServer, Repo, User

REPO = "lab/ASABench"
OWNER, READER, STRANGER, READ_ONLY = "hf_owner", "hf_reader", "hf_stranger", "hf_read_only"
USERS = {
    OWNER: User("lab"),
    READER: User("reader"),
    STRANGER: User("stranger"),
    READ_ONLY: User("lab", write=False),
}
MODELS = ("lab/Small-1B", "lab/Other-2B")
FIRST, SECOND = "lab--Small-1B", "lab--Other-2B"
TEXTS = ("paint fence", "calm answer", "sand fence")
"""What the texts of the fixtures hold, and nothing else may."""
TRAIN = f"{FIRST}/train-00000-of-00001.parquet"

# What a client runs; its result is the last line that it prints
CLIENT = """
import json, sys
from pathlib import Path
from asabench.dataset.download import download
from asabench.dataset.load import load_benchmark
from asabench.dataset.push import push
from asabench.core.errors import UserError
result = None
try:
{code}
except UserError as error:
    print(json.dumps({{"refused": str(error)}}))
    sys.exit(2)
assert not {{"torch", "transformers"}} & set(sys.modules)
print(json.dumps({{"result": result}}, default=str))
"""


class Client:
    """Runs code in a process of its own, with a cache of its own, against a Hub. wrap: a command that starts it, where
    that decides what it may do; then it is no fork."""

    def __init__(self, hub: HubServer, home: Path, token: str | None) -> None:
        self.hub = hub
        self.home = home
        self.token = token

    def process(self, code: str, *wrap: str, **environment: str) -> subprocess.CompletedProcess[str]:
        script = CLIENT.format(code=textwrap.indent(textwrap.dedent(code), "    "))
        settings = self.hub.environment(self.home, self.token, **environment)
        if not wrap:
            return with_tables().run(["-c", script], env=settings, timeout=120)
        command = [*wrap, sys.executable, "-c", script]
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)

    def __call__(self, code: str, **environment: str) -> Any:
        done = self.process(code, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])["result"]

    def refused(self, code: str, *wrap: str, **environment: str) -> str:
        """The one line that the user gets; it holds no text of the data."""
        done = self.process(code, *wrap, **environment)
        assert done.returncode == 2, done.stdout + done.stderr
        message: str = json.loads(done.stdout.splitlines()[-1])["refused"]
        assert "\n" not in message
        assert ";" in message, "it says what to do"
        for output in (done.stdout, done.stderr):
            assert not any(text in output for text in TEXTS)
        return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "set", MODELS)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(USERS) as server:
        yield server


@pytest.fixture
def owner(hub: HubServer, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "owner", OWNER)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[HubServer]:
    """A Hub on which version v1 is published, and one reader was let in. Tests leave it as it is."""
    home = tmp_path_factory.mktemp("publisher")
    with HubServer(USERS) as server:
        Client(server, home, OWNER)(pushing(folder))
        server.repos[REPO].accepted.add("reader")
        yield server


@pytest.fixture
def reader(published: HubServer, tmp_path: Path) -> Client:
    return Client(published, tmp_path / "reader", READER)


def build(path: Path, models: Sequence[str], **options: Any) -> Path:
    """A benchmark folder of these models."""
    runs = [
        finished_run(path.with_name(f"{path.name}-run-{n}"), model=name, **options) for n, name in enumerate(models)
    ]
    benchmark_folder(path, *runs)
    return path


def pushing(path: Path, version: str = "v1", repo: str = REPO, **options: Any) -> str:
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"done = push(Path({str(path)!r}), {repo!r}, version={version!r}{given}); result = vars(done)"


def fetching(out: Path | None = None, repo: str = REPO, **options: Any) -> str:
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    where = f", out=Path({str(out)!r})" if out else ""
    return f"done = download({repo!r}{where}{given}); result = vars(done)"


def content(repo: Repo, revision: str = "main") -> dict[str, bytes]:
    return {path: file.content for path, file in repo.files(revision).items()}


# Publishing


def test_a_version_is_published_as_it_was_verified(owner: Client, hub: HubServer, folder: Path) -> None:
    done = owner(pushing(folder))
    repo = hub.repos[REPO]
    assert repo.tags == {"v1": done["commit"]}
    assert repo.gated == done["gated"] == "auto"
    there = content(repo)
    for name in [*read_benchmark(folder).manifest.files, MANIFEST]:
        assert there[name] == (folder / name).read_bytes()
    assert all(file.lfs for name, file in repo.files().items() if name.endswith(".parquet"))
    assert there[PICTURE].startswith(b"\x89PNG")
    assert done["digest"] == read_benchmark(folder).manifest.digest
    # The gate is there before any content is, and nobody sees half a version
    order = [request.path for request in hub.requests if request.method in ("PUT", "POST")]
    settings = next(n for n, path in enumerate(order) if path.endswith("/settings"))
    first_content = next(n for n, path in enumerate(order) if path.startswith("/lfs/"))
    assert settings < first_content
    assert sum("/commit/" in path for path in order) == 1


def test_the_configs_of_the_card(published: HubServer) -> None:
    head, _ = split_card(content(published.repos[REPO])["README.md"].decode())
    names = [each["config_name"] for each in head["configs"]]
    assert names == ["all", FIRST, f"{FIRST}.attempts", SECOND, f"{SECOND}.attempts"]
    assert [each.get("default") for each in head["configs"]] == [True, None, None, None, None]
    files = [each["path"] for config in head["configs"][1:] for each in config["data_files"]]
    assert [path.split("-*")[0] for path in files[:3]] == [f"{FIRST}/train", f"{FIRST}/test", f"{FIRST}/attempts"]


def test_croissant_names_every_file_and_column(published: HubServer, folder: Path) -> None:
    there = content(published.repos[REPO])
    found = json.loads(there["croissant.json"])
    assert found["@type"] == "sc:Dataset"
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert {"name", "description", "url", "license", "datePublished", "citeAs", "version"} <= found.keys()
    files = {each["@id"]: each for each in found["distribution"] if each["@type"] == "cr:FileObject"}
    manifest = read_benchmark(folder).manifest
    digests = {name: file.sha256 for name, file in manifest.files.items() if file.rows}
    assert {name: each["sha256"] for name, each in files.items() if name != "repository"} == digests
    assert all(hashlib.sha256(there[name]).hexdigest() == digest for name, digest in digests.items())
    sets = {each["@id"]: each for each in found["distribution"] if each["@type"] == "cr:FileSet"}
    for record_set in found["recordSet"]:
        assert {field["source"]["fileSet"]["@id"] for field in record_set["field"]} <= sets.keys()
        columns = ATTEMPT_COLUMNS if record_set["@id"].endswith("/attempts") else INSTANCE_COLUMNS
        assert [field["source"]["extract"]["column"] for field in record_set["field"]] == list(columns)
    # Every name of ours stands for an address, or is schema.org's
    assert all(each["containedIn"]["@id"] in files for each in sets.values())
    assert not any(text in there["croissant.json"].decode() for text in TEXTS)


def test_eval_yaml_names_the_tasks(published: HubServer) -> None:
    found = yaml.safe_load(content(published.repos[REPO])["eval.yaml"])
    assert [task["id"] for task in found["tasks"]] == ["masr_robustness", "pasr_robustness"]
    assert {"name", "description", "evaluation_framework"} <= found.keys()


RESULTS = """
from asabench.dataset.eval_results import publish_results
from tests.rows import make_row
result = vars(publish_results(make_row(), "lab/Small-1B", "lab/ASABench"))
"""


def test_results_are_a_pull_request_on_the_model(hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub import parse_eval_result_entries

    model = hub.create("lab/Small-1B", {"config.json": b"{}"}, model=True)
    before = dict(model.files())
    done = Client(hub, tmp_path / "home", STRANGER)(RESULTS)
    assert done["url"] == f"{hub.url}/lab/Small-1B/discussions/1"
    assert model.files() == before, "nothing is there before its owner takes it"
    text = model.files("refs/pr/1")[".eval_results/asabench.yaml"].content
    masr, pasr = parse_eval_result_entries(yaml.safe_load(text))
    # The row's worst case: MASR 0.64, PASR 0.44
    assert (masr.dataset_id, masr.task_id, masr.value) == ("lab/ASABench", "masr_robustness", 0.36)
    assert (pasr.task_id, pasr.value) == ("pasr_robustness", 0.56)
    assert "random" in (masr.notes or "")


def test_results_that_cannot_be_published_are_refused(hub: HubServer, tmp_path: Path) -> None:
    assert "no model 'lab/Small-1B'" in Client(hub, tmp_path / "home", STRANGER).refused(RESULTS)
    hub.create("lab/Small-1B", {"config.json": b"{}"}, model=True)
    assert "right to write" in Client(hub, tmp_path / "home", READ_ONLY).refused(RESULTS)


def test_a_tag_is_never_overwritten(owner: Client, hub: HubServer, folder: Path, tmp_path: Path) -> None:
    first = owner(pushing(folder))["commit"]
    build(tmp_path / "other", MODELS, revision="r2")
    refusal = owner.refused(pushing(tmp_path / "other"))
    assert "v1" in refusal
    assert "never overwritten" in refusal
    assert "nothing to do" in owner.refused(pushing(folder))
    assert hub.repos[REPO].tags == {"v1": first}
    assert hub.repos[REPO].branches == {"main": first}
    # Nor is a branch taken for a version
    hub.repos[REPO].branches["draft"] = first
    assert "draft" in owner.refused(pushing(tmp_path / "other", version="draft"))


def test_a_later_version_replaces_the_files_and_keeps_what_people_wrote(
    owner: Client, hub: HubServer, folder: Path, tmp_path: Path
) -> None:
    first = owner(pushing(folder))["commit"]
    repo = hub.repos[REPO]
    tree = dict(repo.files())
    card = tree["README.md"].content.decode()
    edited = "A word of ours.\n\n" + split_card(card)[1] + "\nThanks to all.\n"
    head = card[: card.index("\n---\n", 4)] + "\nannotations_creators:\n- machine-generated\n---\n\n"
    tree["README.md"] = type(tree["README.md"])((head + edited).encode(), lfs=False)
    repo.commit(tree)
    build(tmp_path / "one", MODELS[:1], revision="r2")
    second = owner(pushing(tmp_path / "one", version="v2", message="Only one"))["commit"]
    assert repo.tags == {"v1": first, "v2": second}
    assert not any(name.startswith(SECOND) for name in content(repo))
    assert any(name.startswith(SECOND) for name in content(repo, "v1"))
    head_now, text = split_card(content(repo)["README.md"].decode())
    assert head_now["annotations_creators"] == ["machine-generated"]
    assert [each["config_name"] for each in head_now["configs"]] == ["all", FIRST, f"{FIRST}.attempts"]
    assert text.strip().startswith("A word of ours.")
    assert text.strip().endswith("Thanks to all.")
    assert "Version **v2**" in text
    assert "Version **v1**" not in text


@pytest.mark.parametrize(
    ("method", "pattern", "settings"),
    [
        ("POST", "/repos/create", {"cut": 0}),
        ("PUT", "/settings", {"status": 403}),
        ("POST", "/commit/", {"status": 500}),
        ("POST", "/commit/", {"cut": 0}),
        ("POST", "/tag/", {"status": 502}),
    ],
    ids=["made, no answer", "not gated", "not committed", "committed, no answer", "not tagged"],
)
def test_an_interrupted_push_is_finished_by_another(
    owner: Client, hub: HubServer, folder: Path, method: str, pattern: str, settings: dict[str, int]
) -> None:
    with hub.fault(method, pattern, **settings):  # type: ignore[arg-type]
        owner.refused(pushing(folder))
    repo = hub.repos[REPO]
    assert repo.tags == {}
    if pattern == "/settings":
        assert list(repo.files()) == [".gitattributes"], "nothing is published where the gate failed"
    uploads, commits = list(hub.uploads), len(repo.commits)
    committed = "README.md" in repo.files()
    done = owner(pushing(folder))
    assert repo.tags == {"v1": done["commit"]}
    assert len(set(hub.uploads)) == len(hub.uploads), "nothing is uploaded twice"
    assert not committed or (len(repo.commits) == commits and hub.uploads == uploads)


def test_a_gate_is_never_opened_further(owner: Client, hub: HubServer, folder: Path) -> None:
    hub.create(REPO, gated="manual")
    assert owner(pushing(folder))["gated"] == "manual"
    assert hub.repos[REPO].gated == "manual"
    assert "gated only" in owner.refused(pushing(folder, version="v2", gated=None))


def test_a_redacted_version_has_no_texts(owner: Client, hub: HubServer, folder: Path, tmp_path: Path) -> None:
    done = owner(pushing(folder, redact=True, gated=None))
    repo = hub.repos[REPO]
    assert not repo.gated
    assert done["gated"] is None
    copy = tmp_path / "copy"
    for name, data in content(repo).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    assert verify(copy).ok
    table = read_benchmark(copy).instances(FIRST)
    assert all(table[name].null_count == table.num_rows for name in TEXT_COLUMNS)
    assert not any(text.encode() in data for text in TEXTS for data in content(repo).values())
    assert table["prompt_sha256"] == read_benchmark(folder).instances(FIRST)["prompt_sha256"]
    head, text = split_card(content(repo)["README.md"].decode())
    assert "extra_gated_prompt" not in head
    assert "redacted" in text


def test_a_repository_of_something_else_is_left_alone(owner: Client, hub: HubServer, folder: Path) -> None:
    files = {"data/train-00000-of-00001.parquet": b"PAR1 theirs", "README.md": b"---\nlicense: mit\n---\nTheir words."}
    repo = hub.create(REPO, files)
    before = dict(repo.commits)
    assert "is no ASABench dataset" in owner.refused(pushing(folder))
    assert repo.commits == before
    assert repo.gated is False
    owner(pushing(folder, adopt=True))
    assert content(repo)["data/train-00000-of-00001.parquet"] == b"PAR1 theirs"
    assert b"Their words." in content(repo)["README.md"]


def test_who_may_push(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    def client(token: str | None) -> Client:
        return Client(hub, tmp_path / "home", token)

    assert "there is none" in client(None).refused(pushing(folder))
    assert "hf auth login" in client("hf_unknown").refused(pushing(folder))
    assert "right to write" in client(READ_ONLY).refused(pushing(folder))
    assert "right to write" in client(STRANGER).refused(pushing(folder))
    hub.create(REPO)
    assert "right to write" in client(READ_ONLY).refused(pushing(folder))
    assert list(hub.repos[REPO].files()) == [".gitattributes"]
    assert "OWNER/NAME" in client(OWNER).refused(pushing(folder, repo="ASABench"))
    assert "'main' cannot be a version" in client(OWNER).refused(pushing(folder, version="main"))
    assert "cannot be a version" in client(OWNER).refused(pushing(folder, version="a b"))


def test_what_does_not_verify_is_not_pushed(owner: Client, hub: HubServer, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / TRAIN).write_bytes((folder / TRAIN).read_bytes()[:-10])
    assert "does not verify" in owner.refused(pushing(broken))
    manifest = json.loads((broken / MANIFEST).read_text())
    (broken / MANIFEST).write_text(json.dumps({**manifest, "schema_version": 99}))
    assert "schema version 99" in owner.refused(pushing(broken))
    assert "not a benchmark folder" in owner.refused(pushing(tmp_path))
    assert hub.requests == []


def test_somebody_else_pushes_at_the_same_time(owner: Client, hub: HubServer, folder: Path) -> None:
    with hub.fault("POST", "/commit/", status=412):
        assert "has changed" in owner.refused(pushing(folder))
    with hub.fault("POST", "/tag/", status=409):
        assert "somebody else" in owner.refused(pushing(folder))


# Downloading


def test_by_tag_by_commit_and_by_branch(reader: Client, published: HubServer, folder: Path, tmp_path: Path) -> None:
    commit = published.repos[REPO].tags["v1"]
    found = reader(
        f"""
        lines = []
        result = []
        for revision in ("v1", {commit!r}, None):
            done = download({REPO!r}, revision, out=Path({str(tmp_path)!r}) / str(revision), say=lines.append)
            result.append([done.commit, done.digest, done.instances, list(done.configs), done.text])
        result.append(lines)
        """
    )
    *downloads, lines = found
    manifest = read_benchmark(folder).manifest
    for each in downloads:
        assert each[:4] == [commit, manifest.digest, manifest.instances, [FIRST, SECOND]]
        assert commit in each[4]
    assert f"{REPO} v1 is commit {commit}" in lines
    assert f"{REPO} main is commit {commit}" in lines
    for revision in ("v1", commit, "None"):
        copy = read_benchmark(tmp_path / revision)
        assert verify(copy.path).ok
        assert copy.manifest.build["downloaded_from"]["commit"] == commit
        for name in manifest.files:
            assert (copy.path / name).read_bytes() == (folder / name).read_bytes()


def test_one_config_needs_only_its_files(reader: Client, published: HubServer, tmp_path: Path) -> None:
    asked = len(published.requests)
    # A model's own name is as good as its config
    done = reader(fetching(tmp_path / "one", revision="v1", config="lab/Other-2B"))
    fetched = {r.path.split("/resolve/")[1] for r in published.requests[asked:] if "/resolve/" in r.path}
    assert not any(f"/{FIRST}/" in path or "README" in path for path in fetched)
    assert done["configs"] == [SECOND]
    copy = read_benchmark(tmp_path / "one")
    assert copy.configs == [SECOND]
    assert copy.manifest.instances == done["instances"] == len(copy.instances(SECOND))
    assert verify(copy.path).ok
    assert "no config 'Small'" in reader.refused(fetching(revision="v1", config="Small"))


def test_offline_from_the_cache(published: HubServer, reader: Client, tmp_path: Path) -> None:
    """The offline trap of `load_dataset`: what is asked for is read, or nothing is."""
    commit = published.repos[REPO].tags["v1"]
    other = published.repos[REPO].commit(published.repos[REPO].files(), branch="other")
    reader(fetching(revision="v1", config=FIRST))
    offline = {"HF_HUB_OFFLINE": "1"}
    asked = len(published.requests)
    done = reader(fetching(tmp_path / "copy", revision="v1", config=FIRST), **offline)
    assert done["commit"] == commit
    assert reader(fetching(revision=commit, config=FIRST), **offline)["commit"] == commit
    frame = reader(f"result = len(load_benchmark({FIRST!r}, repo={REPO!r}, revision={commit!r}))", **offline)
    assert frame == read_benchmark(tmp_path / "copy").manifest.instances
    for revision in ("v2", "main", "other", other, "0" * 40):
        assert revision in reader.refused(fetching(revision=revision, config=FIRST), **offline)
    assert "not (whole) in the cache" in reader.refused(fetching(revision="v1"), **offline)  # the other config
    assert len(published.requests) == asked
    with published.fault("GET", "/revision/v1", status=503):
        done = reader(fetching(revision="v1", config=FIRST))
    assert (done["commit"], done["stale"]) == (commit, True)


def test_the_server_is_gone(folder: Path, tmp_path: Path) -> None:
    with HubServer(USERS) as hub:
        client = Client(hub, tmp_path / "home", OWNER)
        commit = client(pushing(folder))["commit"]
        client(fetching())
    done = client(f"said = []; done = download({REPO!r}, say=said.append); result = [done.commit, done.stale, said[0]]")
    assert done[:2] == [commit, True]
    assert "cannot be reached" in done[2]
    assert commit in done[2]
    warned = client.process(f"result = len(load_benchmark(repo={REPO!r}))")
    assert warned.returncode == 0
    assert "cannot be reached" in warned.stderr
    assert "cannot be reached" in client.refused(fetching(revision="v1"))
    assert "check the connection" in client.refused(pushing(folder, version="v2"))


# The client hands over downloaded bytes in pieces of 10 MB and resumes after the last whole piece
SMALL_PIECES = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 1000\n"


def test_a_download_that_breaks_goes_on_where_it_broke(
    reader: Client, published: HubServer, folder: Path, tmp_path: Path
) -> None:
    asked = len(published.requests)
    with published.fault("GET", "/resolve/.*" + re.escape(TRAIN), cut=4500):
        done = reader(SMALL_PIECES + fetching(tmp_path / "out", revision="v1"))
    ranges = [r.range for r in published.requests[asked:] if r.method == "GET" and r.path.endswith(TRAIN)]
    assert ranges == [None, "bytes=4000-"]
    assert done["digest"] == read_benchmark(folder).manifest.digest
    assert verify(tmp_path / "out").ok


def test_a_download_that_fails_is_run_again(reader: Client, published: HubServer, tmp_path: Path) -> None:
    with published.fault("GET", "/resolve/.*" + re.escape(TRAIN), status=500, times=9):
        refusal = reader.refused(fetching(tmp_path / "out", revision="v1"))
    assert "status 500" in refusal
    assert not (tmp_path / "out").exists()
    kept = {"/".join(path.parts[-2:]) for path in reader.home.rglob("snapshots/**/*.parquet")}
    asked = len(published.requests)
    reader(fetching(tmp_path / "out", revision="v1"))
    again = [r.path for r in published.requests[asked:] if r.method == "GET" and r.path.endswith(".parquet")]
    fetched = {path.split("/", 6)[6] for path in again}
    assert TRAIN in fetched
    assert not fetched & kept
    assert fetched | kept == set(read_benchmark(tmp_path / "out").manifest.files)


def test_who_may_read(published: HubServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    no_token = Client(published, home, None).refused(fetching())
    assert "gated" in no_token
    assert "hf auth login" in no_token
    stranger = Client(published, home, STRANGER)
    refusal = stranger.refused(fetching())
    assert "no access" in refusal
    assert f"/datasets/{REPO}" in refusal
    assert "right to write" not in Client(published, home, "hf_unknown").refused(fetching())
    published.repos["lab/hidden"] = Repo("lab/hidden", private=True)
    assert "lab/hidden" in stranger.refused(fetching(repo="lab/hidden"))
    assert "no dataset" in stranger.refused(fetching(repo="lab/nothing"))
    assert "OWNER/NAME" in stranger.refused(fetching(repo="not a name"))
    assert not list(home.rglob("*.parquet"))


def test_revisions_and_repositories_that_are_not_there(reader: Client, published: HubServer) -> None:
    assert "no revision 'v9'" in reader.refused(fetching(revision="v9"))
    assert "f" * 40 in reader.refused(fetching(revision="f" * 40))
    published.create("lab/else", {"data.csv": b"a,b\n"})
    assert "is no ASABench dataset" in reader.refused(fetching(repo="lab/else"))


def variant(published: HubServer, name: str, **changes: bytes | None) -> str:
    """A free repository with the files of v1, some changed or left out."""
    files: dict[str, bytes | None] = {**content(published.repos[REPO], "v1"), **changes}
    published.create(f"lab/{name}", {path: data for path, data in files.items() if data is not None})
    return f"lab/{name}"


def test_what_is_published_but_broken(reader: Client, published: HubServer) -> None:
    data = content(published.repos[REPO], "v1")
    manifest = json.loads(data[MANIFEST])
    later = json.dumps({**manifest, "schema_version": 2}).encode()
    assert "schema version 2" in reader.refused(fetching(repo=variant(published, "later", **{MANIFEST: later})))
    truncated = variant(published, "truncated", **{TRAIN: data[TRAIN][:-100]})
    assert "another SHA-256" in reader.refused(fetching(repo=truncated))
    assert f"lacks {TRAIN}" in reader.refused(fetching(repo=variant(published, "lacking", **{TRAIN: None})))
    no_manifest = variant(published, "words", **{MANIFEST: b"not json"})
    assert "cannot be read" in reader.refused(fetching(repo=no_manifest))
    outside = {**manifest["files"], f"{FIRST}/../../../outside.parquet": manifest["files"][TRAIN]}
    reaching = json.dumps({**manifest, "files": outside}).encode()
    assert "lacks" in reader.refused(fetching(repo=variant(published, "reaching", **{MANIFEST: reaching})))


def test_a_damaged_cache(reader: Client, tmp_path: Path) -> None:
    reader(fetching(revision="v1"))
    (cached,) = reader.home.rglob(f"snapshots/*/{TRAIN}")
    blob = cached.resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1])
    refusal = reader.refused(f"load_benchmark(repo={REPO!r}, revision='v1')")
    assert "damaged" in refusal
    assert str(blob) in refusal
    blob.unlink()
    reader(fetching(tmp_path / "out", revision="v1"))
    assert blob.read_bytes() == whole


def limited(blocks: int) -> list[str]:
    """A limit on the size of a file stands for a full disk: the system answers the write with an error."""
    return ["bash", "-c", f'ulimit -f {blocks}; trap "" XFSZ; exec "$@"', "-"]


def test_a_full_disk(reader: Client, folder: Path, tmp_path: Path) -> None:
    cache_full = reader.refused(fetching(tmp_path / "out", revision="v1"), *limited(8))
    assert "free some space" in cache_full
    reader(fetching(revision="v1"))
    # Now what is written to the output folder no longer fits
    out_full = reader.refused(fetching(tmp_path / "out", revision="v1"), *limited(8), HF_HUB_OFFLINE="1")
    assert "free some space" in out_full
    assert "--out" in out_full
    assert list(tmp_path.glob("*out*")) == []


def test_an_output_folder_that_is_taken(reader: Client, published: HubServer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_text("mine")
    asked = len(published.requests)
    assert "there already" in reader.refused(fetching(tmp_path / "out", revision="v1"))
    assert len(published.requests) == asked


def test_a_set_in_subsets(reader: Client, published: HubServer, tmp_path: Path) -> None:
    """The paper's columns in Parquet, a subset a model, beside a file that is something else."""
    import pyarrow as pa
    from pyarrow import parquet

    files = {"README.md": b"words", "scores.json": b'[{"model": "a", "score": 1}]'}
    for model, rows in (("Llama-3.1-8B", original_rows(3, 2)), ("Qwen2.5-7B", original_rows(2, 2))):
        path = tmp_path / "table.parquet"
        parquet.write_table(pa.Table.from_pylist(rows), path)
        files[f"{model}/train-00000-of-00001.parquet"] = path.read_bytes()
    published.create("lab/subsets", files)
    done = reader(fetching(tmp_path / "copy", repo="lab/subsets"))
    assert (done["configs"], done["instances"]) == (["Llama-31-8B", "Qwen-25-7B"], 10)
    assert verify(tmp_path / "copy").ok
    one = reader(fetching(repo="lab/subsets", config="Qwen/Qwen2.5-7B"))
    assert (one["configs"], one["instances"]) == (["Qwen-25-7B"], 4)


# What others see


def test_an_outsider_loads_it(reader: Client, folder: Path) -> None:
    """With `datasets` alone, and with pandas alone."""
    found = reader(
        f"""
        import datasets, pandas
        result = {{}}
        for config, split in (({FIRST!r}, "train"), ({FIRST!r}, "test"), ({SECOND + ".attempts"!r}, "attempts")):
            table = datasets.load_dataset({REPO!r}, config, split=split, revision="v1")
            types = {{name: feature.dtype for name, feature in table.features.items()}}
            result[f"{{config}} {{split}}"] = [len(table), types]
        whole = datasets.load_dataset({REPO!r}, revision="v1")
        result["all"] = {{split: [len(table), sorted(set(table["model"]))] for split, table in whole.items()}}
        frame = pandas.read_parquet("hf://datasets/{REPO}@v1/{TRAIN}")
        result["pandas"] = [len(frame), list(frame.columns), sorted(set(frame["split_leakfree_by_prompt"]))]
        result["configs"] = datasets.get_dataset_config_names({REPO!r}, revision="v1")
        """
    )
    model = read_benchmark(folder).model(FIRST)
    assert min(model.train, model.test) > 0
    assert found[f"{FIRST} train"] == [model.train, INSTANCE_COLUMNS]
    assert found[f"{FIRST} test"] == [model.test, INSTANCE_COLUMNS]
    assert found[f"{SECOND}.attempts attempts"] == [30, ATTEMPT_COLUMNS]
    assert found["pandas"] == [model.train, list(INSTANCE_COLUMNS), ["train"]]
    models = read_benchmark(folder).manifest.models
    for split in ("train", "test"):
        rows, names = found["all"][split]
        assert rows == sum(getattr(each, split) for each in models)
        assert names == sorted(each.name for each in models if getattr(each, split))
    assert sorted(found["configs"]) == sorted(["all", FIRST, f"{FIRST}.attempts", SECOND, f"{SECOND}.attempts"])


def test_load_benchmark(reader: Client, published: HubServer, folder: Path) -> None:
    found = reader(
        f"""
        whole = load_benchmark(repo={REPO!r}, revision="v1")
        one = load_benchmark("lab/Small-1B", "test", "v1", {REPO!r})
        attempts = load_benchmark({FIRST!r}, repo={REPO!r}, revision="v1", attempts=True)
        result = [len(whole), sorted(set(whole["model"])), len(one), sorted(set(one["split_leakfree_by_prompt"])),
                  len(attempts), str(attempts["layer"].dtype), one.attrs]
        """
    )
    commit = published.repos[REPO].tags["v1"]
    source = {"repo": REPO, "revision": "v1", "commit": commit}
    test_side = read_benchmark(folder).model(FIRST).test
    assert found == [18, sorted(MODELS), test_side, ["test"], 30, "Int32", source]


def test_load_benchmark_from_a_folder(folder: Path, tmp_path: Path) -> None:
    from asabench.core.errors import UserError
    from asabench.dataset.load import load_benchmark

    assert len(load_benchmark(path=folder)) == 18
    frame = load_benchmark(SECOND, "train", path=folder)
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == read_benchmark(folder).model(SECOND).train
    published = original_folder(tmp_path / "original", {"Llama-32-3B": original_rows(prompts=2, layers=3)})
    assert list(load_benchmark("Llama-32-3B", path=published)["layer"]) == [0, 0, 1, 1, 2, 2]
    for wrong, options in {
        "split 'dev'": {"split": "dev"},
        "not split": {"split": "train", "attempts": True},
        "either path": {"revision": "v1"},
    }.items():
        with pytest.raises(UserError, match=wrong):
            load_benchmark(path=folder, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no attempts"):
        load_benchmark(path=published, attempts=True)


def test_the_original_layout(reader: Client, published: HubServer, tmp_path: Path) -> None:
    rows = [{"type": "configuration"}, *original_rows(), None]
    local = original_folder(tmp_path / "original", {"Llama-32-3B": rows, "Somebody-Else-1B": original_rows(layers=2)})
    files = {path.name: path.read_bytes() for path in local.iterdir()}
    repo = published.create("somebody/original", {**files, "notes.json": b"[]"})
    out = tmp_path / "out"
    said = reader(f"said = []; download('somebody/original', out=Path({str(out)!r}), say=said.append); result = said")
    assert "Llama-32-3B: 1 null rows, left out" in said
    done = reader(fetching(repo="somebody/original"))
    copy = read_benchmark(out)
    assert copy.configs == ["Llama-32-3B", "Somebody-Else-1B"]
    assert copy.model("Llama-32-3B").name == "meta-llama/Llama-3.2-3B"
    assert done["instances"] == copy.manifest.instances == 20 + 10
    assert copy.manifest.origin == "original-layout"
    source = copy.manifest.build["downloaded_from"]
    assert source["commit"] == repo.branches["main"]
    assert source["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert verify(out).ok
    offline = {"HF_HUB_OFFLINE": "1"}
    load = "load_benchmark('meta-llama/Llama-3.2-3B', repo='somebody/original')"
    assert reader(f"result = len({load})", **offline) == 20
    assert reader(fetching(repo="somebody/original"), **offline)["instances"] == 30
    published.create("somebody/cut", {name: data[:-50] for name, data in files.items()})
    assert "not whole JSON" in reader.refused(fetching(tmp_path / "cut", repo="somebody/cut"))
    assert not (tmp_path / "cut").exists()


def test_progress_is_for_terminals(reader: Client, tmp_path: Path) -> None:
    quiet = reader.process(fetching(tmp_path / "quiet", revision="v1"))
    assert quiet.stderr == ""
    script = CLIENT.format(code="    " + fetching(tmp_path / "seen", revision="v1"))
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    settings = reader.hub.environment(tmp_path / "another", READER)
    with subprocess.Popen(
        [sys.executable, "-c", script], env=settings, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
    os.close(ours)
    assert process.returncode == 0
    assert b"100%" in seen
