"""A small Hub on this machine, for the real `huggingface_hub` and `datasets` clients: dataset repositories with
commits, branches, tags, LFS files, gating and rights, and model repositories to read from, in memory, in a thread.

It answers with the statuses and the `X-Error-Code` headers that the clients act on. Clients read HF_ENDPOINT when they
are imported, so they run in processes of their own, with `HubServer.environment(...)`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# What a new dataset repository on the Hub keeps as large files
LFS_SUFFIXES = (".parquet", ".png", ".arrow", ".gz", ".zip", ".gguf")
# Readable by all in a gated repository: it is where access is asked for
OPEN_WHEN_GATED = ("README.md", ".gitattributes")
GIT_ATTRIBUTES = b"".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n".encode() for suffix in LFS_SUFFIXES)


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and whether the token may write."""

    name: str
    write: bool = True


@dataclass(frozen=True)
class Stored:
    """A file in a commit."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """Git's id of the file, which for a large file is that of its pointer."""
        content = self.content
        if self.lfs:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def remote_oid(self) -> str:
        """What `preupload` answers, by which a client sees that a file has not changed."""
        return self.sha256 if self.lfs else self.blob_id

    def info(self, path: str) -> dict[str, Any]:
        large = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        described = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_id}
        return {**described, "lfs": large} if self.lfs else described


Tree = dict[str, Stored]


@dataclass
class Repo:
    """A dataset repository, or one of a model. `gated`: False, "auto" or "manual"; `accepted`: who may read it while
    it is gated."""

    id: str
    model: bool = False
    private: bool = False
    gated: Any = False
    accepted: set[str] = field(default_factory=set)
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def commit(self, tree: Tree, branch: str = "main") -> str:
        """Adds a commit to a branch; returns its id."""
        seed = json.dumps([self.id, len(self.commits), {path: file.blob_id for path, file in tree.items()}])
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha] = dict(tree)
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit id means."""
        named = self.branches.get(revision) or self.tags.get(revision)
        return named or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> Tree:
        return self.commits[self.find(revision) or ""]


@dataclass
class Request:
    """What was asked, for tests to look at."""

    method: str
    path: str
    range: str | None
    user: str | None


@dataclass
class Fault:
    """The next `times` requests whose method and path match are answered with `status`, or, where `cut` is a number,
    broken off after so many bytes of content (0: after the work is done but before the answer)."""

    method: str
    pattern: str
    status: int = 500
    cut: int | None = None
    times: int = 1
    message: str = "a fault of the test"


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class HubServer:
    """See the module. `users`: by token. As a context manager, or with `start` and `stop`."""

    def __init__(self, users: Mapping[str, User] | None = None) -> None:
        self.users = dict(users or {})
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.uploads: list[str] = []  # SHA-256 of each PUT
        self.lock = threading.RLock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                hub._answer(self)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that has gone is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """The environment of a client with a cache of its own in `home`."""
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
        hub = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return {**outer, **hub, **({"HF_TOKEN": token} if token else {}), **more}

    def publish(self, repo_id: str, revision: str, files: Mapping[str, bytes], **settings: Any) -> Repo:
        """A repository with these files in the commit `revision`."""
        repo = self.create(repo_id, files, **settings)
        repo.commits[revision] = repo.files()
        return repo

    def create(self, repo_id: str, files: Mapping[str, bytes] | None = None, **settings: Any) -> Repo:
        """A repository as `repos/create` leaves it, and `files` in a second commit."""
        repo = self.repos[repo_id] = Repo(repo_id, **settings)
        tree = {".gitattributes": Stored(GIT_ATTRIBUTES, lfs=False)}
        repo.commit(tree)
        if files:
            repo.commit(tree | {path: Stored(content, is_large(path)) for path, content in files.items()})
        return repo

    @contextmanager
    def fault(self, method: str, pattern: str, **settings: Any) -> Iterator[Fault]:
        """See `Fault`; it ends with the block."""
        fault = Fault(method, pattern, **settings)
        with self.lock:
            self.faults.append(fault)
        try:
            yield fault
        finally:
            with self.lock:
                self.faults.remove(fault)

    def asked(self, method: str, pattern: str) -> list[Request]:
        """The requests so far whose path matches."""
        with self.lock:
            return [each for each in self.requests if each.method == method and re.search(pattern, each.path)]

    # -- answering ---------------------------------------------------------------------------------------------------

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or _chunked(handler)
        parts = urlsplit(handler.path)
        path, query = parts.path, parse_qs(parts.query)
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        user = self.users.get(token)
        with self.lock:
            self.requests.append(
                Request(handler.command, unquote(path), handler.headers.get("Range"), user.name if user else None)
            )
            fault = next(
                (f for f in self.faults if f.times and f.method == handler.command and re.search(f.pattern, path)), None
            )
            if fault:
                fault.times -= 1
        try:
            if fault and fault.cut is None:
                raise Refusal(fault.status, fault.message)
            if token and user is None:
                raise Refusal(401, "Invalid credentials in Authorization header")
            with self.lock:
                status, content, headers = self._route(handler, path, query, body, user)
        except Refusal as refusal:
            status, content = refusal.status, json.dumps({"error": str(refusal)}).encode()
            headers = {"X-Error-Message": str(refusal), **({"X-Error-Code": refusal.code} if refusal.code else {})}
        cut = fault.cut if fault else None
        if cut == 0:
            handler.close_connection = True
            return
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content[:cut])
        if cut is not None:
            handler.wfile.flush()
            handler.close_connection = True

    def _route(
        self,
        handler: BaseHTTPRequestHandler,
        path: str,
        query: dict[str, list[str]],
        body: bytes,
        user: User | None,
    ) -> tuple[int, bytes, dict[str, str]]:
        method = handler.command
        if path == "/api/whoami-v2":
            return self._whoami(user)
        if path == "/api/validate-yaml":
            return _validate_yaml(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body), user)
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            return self._put_large(match[1], body)
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._writable(match[1], user)
            return self._lfs_batch(match[1], json.loads(body))
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/lfs-verify", path):
            return self._lfs_verify(json.loads(body))
        if match := re.fullmatch(r"/((?:api/)?datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo = self._readable(match[2], user, model=match[1] is None)
            return self._resolve(repo, unquote(match[3]), unquote(match[4]), handler.headers.get("Range"), user)
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(.*))?", path):
            rest = [unquote(part) for part in (match[2] or "").split("/") if part]
            return self._dataset(method, match[1], rest, query, body, user)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path):
            return self._ask_to_hold(match[1], match[2], unquote(match[3]), query, body, user)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            repo, revision = self._readable(match[1], user, model=True), unquote(match[3])
            return self._info(repo, revision) if match[2] == "revision" else self._list(repo, revision, "", True)
        raise Refusal(404, f"nothing is at {path}")

    def _whoami(self, user: User | None) -> tuple[int, bytes, dict[str, str]]:
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        role = "write" if user.write else "read"
        token = {"displayName": "test", "role": role}
        return _json({"type": "user", "name": user.name, "orgs": [], "auth": {"type": "token", "accessToken": token}})

    def _create(self, wanted: dict[str, Any], user: User | None) -> tuple[int, bytes, dict[str, str]]:
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        repo_id = f"{wanted.get('organization') or user.name}/{wanted['name']}"
        url = {"url": f"{self.url}/datasets/{repo_id}"}
        if not user.write or repo_id.split("/")[0] != user.name:
            raise Refusal(403, f"You don't have the rights to create a dataset under the namespace {repo_id!r}")
        if repo_id in self.repos:
            return 409, json.dumps({"error": "You already created this dataset repo", **url}).encode(), {}
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.create(repo_id, private=private)
        return _json(url)

    def _readable(self, repo_id: str, user: User | None, *, model: bool = False) -> Repo:
        repo = self.repos.get(repo_id)
        if repo is None or repo.model != model or (repo.private and (user is None or user.name != repo.owner)):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def _writable(self, repo_id: str, user: User | None) -> Repo:
        repo = self._readable(repo_id, user)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not user.write or user.name != repo.owner:
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def _dataset(
        self, method: str, repo_id: str, rest: list[str], query: dict[str, list[str]], body: bytes, user: User | None
    ) -> tuple[int, bytes, dict[str, str]]:
        action, arguments = (rest[0] if rest else "", rest[1:])
        if method == "GET":
            repo = self._readable(repo_id, user)
            if action in ("", "revision"):
                return self._info(repo, arguments[0] if arguments else "main")
            if action == "tree":
                recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                return self._list(repo, arguments[0], "/".join(arguments[1:]), recursive)
            if action == "refs":
                return _json(
                    {
                        "branches": _refs("heads", repo.branches),
                        "converts": [],
                        "tags": _refs("tags", repo.tags),
                    }
                )
        if method == "POST" and action == "paths-info":
            tree = _tree(self._readable(repo_id, user), arguments[0])
            wanted = parse_qs(body.decode()).get("paths", [])
            return _json([_info_of(tree, path) for path in wanted if _info_of(tree, path)])
        if method == "PUT" and action == "settings":
            repo = self._writable(repo_id, user)
            settings = json.loads(body)
            repo.gated = settings.get("gated", repo.gated)
            repo.private = settings.get("visibility", "private" if repo.private else "public") == "private"
            return _json({"gated": repo.gated})
        if method == "POST" and action == "preupload":
            tree = _tree(self._writable(repo_id, user), arguments[0])
            return _json({"files": [_upload_mode(tree, each["path"]) for each in json.loads(body)["files"]]})
        if method == "POST" and action == "commit":
            return self._commit(self._writable(repo_id, user), arguments[0], body)
        if method == "POST" and action in ("tag", "branch"):
            repo = self._writable(repo_id, user)
            wanted_ref = json.loads(body)
            if action == "tag":
                return _new_ref(repo, repo.tags, wanted_ref["tag"], arguments[0])
            return _new_ref(repo, repo.branches, arguments[0], wanted_ref.get("startingPoint", "main"))
        raise Refusal(404, f"{method} {action} is not known")

    def _ask_to_hold(
        self, repo_id: str, action: str, branch: str, query: dict[str, list[str]], body: bytes, user: User | None
    ) -> tuple[int, bytes, dict[str, str]]:
        """A pull request on a model's repository: whoever may write anywhere may ask; nobody else's branch moves."""
        repo = self._readable(repo_id, user, model=True)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if query.get("create_pr") != ["1"] or not user.write:
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        if action == "preupload":
            return _json(
                {"files": [_upload_mode(_tree(repo, branch), each["path"]) for each in json.loads(body)["files"]]}
            )
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        asked = f"refs/pr/{number}"
        repo.branches[asked] = repo.branches[branch]
        status, content, headers = self._commit(repo, asked, body)
        url = f"{self.url}/{repo.id}"
        given = json.loads(content)
        given |= {"commitUrl": f"{url}/commit/{given['commitOid']}", "pullRequestUrl": f"{url}/discussions/{number}"}
        return status, json.dumps(given).encode(), headers

    def _info(self, repo: Repo, revision: str) -> tuple[int, bytes, dict[str, str]]:
        tree = _tree(repo, revision)
        card = _front_matter(tree["README.md"].content) if "README.md" in tree else {}
        return _json(
            {
                "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
                "id": repo.id,
                "author": repo.owner,
                "sha": repo.find(revision),
                "private": repo.private,
                "gated": repo.gated,
                "disabled": False,
                "tags": card.get("tags", []),
                "cardData": card,
                "siblings": [{"rfilename": path} for path in sorted(tree)],
            }
        )

    def _list(self, repo: Repo, revision: str, folder: str, recursive: bool) -> tuple[int, bytes, dict[str, str]]:
        tree = _tree(repo, revision)
        inside = [path for path in sorted(tree) if not folder or path.startswith(f"{folder}/")]
        if folder and not inside:
            raise Refusal(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        start = len(PurePosixPath(folder).parts) if folder else 0
        found: dict[str, dict[str, Any]] = {}
        for path in inside:
            parts = PurePosixPath(path).parts
            for depth in range(start + 1, len(parts)) if recursive else [start + 1] * (len(parts) > start + 1):
                name = "/".join(parts[:depth])
                found[name] = _folder(name)
            if recursive or len(parts) == start + 1:
                found[path] = tree[path].info(path)
        return _json(list(found.values()))

    def _resolve(
        self, repo: Repo, revision: str, path: str, byte_range: str | None, user: User | None
    ) -> tuple[int, bytes, dict[str, str]]:
        tree = _tree(repo, revision)
        sha = repo.find(revision) or ""
        allowed = user is not None and (user.name == repo.owner or user.name in repo.accepted)
        if repo.gated and not allowed and path not in OPEN_WHEN_GATED:
            if user is None:
                raise Refusal(401, f"Access to dataset {repo.id} is restricted. You must log in.", "GatedRepo")
            raise Refusal(403, f"Access to dataset {repo.id} is restricted; ask for access.", "GatedRepo")
        if path not in tree:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        content = tree[path].content
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "X-Repo-Commit": sha,
            "ETag": f'"{tree[path].remote_oid}"',
        }
        if byte_range is None:
            return 200, content, headers
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", byte_range)
        start, end = (int(match[1]), int(match[2] or len(content) - 1)) if match else (len(content), 0)
        if start >= len(content):
            raise Refusal(416, "Range not satisfiable")
        part = content[start : end + 1]
        return 206, part, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}"}

    def _lfs_batch(self, repo_id: str, wanted: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        def answer(oid: str, size: int) -> dict[str, Any]:
            if oid in self.large:
                return {"oid": oid, "size": size}
            actions = {
                "upload": {"href": f"{self.url}/lfs/{oid}"},
                "verify": {"href": f"{self.url}/datasets/{repo_id}/lfs-verify"},
            }
            return {"oid": oid, "size": size, "actions": actions}

        return _json({"transfer": "basic", "objects": [answer(o["oid"], o["size"]) for o in wanted["objects"]]})

    def _put_large(self, oid: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not what its id says")
        self.large[oid] = body
        self.uploads.append(oid)
        return 200, b"", {}

    def _lfs_verify(self, wanted: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        if len(self.large.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "no such large file")
        return _json({})

    def _commit(self, repo: Repo, branch: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if branch not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        tree = dict(repo.files(branch))
        for line in body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header" and value.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                if is_large(value["path"]):
                    raise Refusal(400, f"{value['path']} must be a large file")
                tree[value["path"]] = Stored(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.large:
                    raise Refusal(400, f"the content of {value['path']} was not uploaded")
                tree[value["path"]] = Stored(self.large[value["oid"]], lfs=True)
            elif key == "deletedFile":
                del tree[value["path"]]
            elif key == "deletedFolder":
                tree = {path: file for path, file in tree.items() if not path.startswith(value["path"])}
        sha = repo.commit(tree, branch)
        return _json({"success": True, "commitOid": sha, "commitUrl": f"{self.url}/datasets/{repo.id}/commit/{sha}"})


def is_large(path: str) -> bool:
    """Whether a file of this name is kept with LFS."""
    return path.endswith(LFS_SUFFIXES)


def _json(content: object) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(content).encode(), {}


def _chunked(handler: BaseHTTPRequestHandler) -> bytes:
    """The body of a request that is sent in chunks."""
    if "chunked" not in (handler.headers.get("Transfer-Encoding") or ""):
        return b""
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def _front_matter(card: bytes) -> dict[str, Any]:
    match = re.match(r"---\s*\n(.*?)\n---", card.decode(), re.DOTALL)
    return yaml.safe_load(match[1]) or {} if match else {}


def _validate_yaml(card: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        metadata = _front_matter(card.encode())
    except yaml.YAMLError as error:
        return 400, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode(), {}
    empty = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return _json({"errors": [], "warnings": empty})


def _refs(kind: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]


def _tree(repo: Repo, revision: str) -> Tree:
    sha = repo.find(revision)
    if sha is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return repo.commits[sha]


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _info_of(tree: Tree, path: str) -> dict[str, Any]:
    path = path.strip("/")
    if path in tree:
        return tree[path].info(path)
    return _folder(path) if any(each.startswith(f"{path}/") for each in tree) else {}


def _upload_mode(tree: Tree, path: str) -> dict[str, Any]:
    known = {"oid": tree[path].remote_oid} if path in tree else {}
    return {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False, **known}


def _new_ref(repo: Repo, refs: dict[str, str], name: str, revision: str) -> tuple[int, bytes, dict[str, str]]:
    if name in refs:
        raise Refusal(409, "Reference already exists")
    _tree(repo, revision)
    refs[name] = repo.find(revision) or ""
    return _json({})
