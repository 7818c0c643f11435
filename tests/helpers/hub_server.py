"""
A Hub for tests: the part of the protocol of huggingface.co that its client libraries use, in memory, on 127.0.0.1.

    def test_a_push(hub: LocalHub) -> None:              # the fixture of conftest.py
        hub.api().create_repo("user/model")              # huggingface_hub in this process
        hub.run("import ...; print(...)")                # any library, in a new process with hub.environment
        hub.fail("POST", "/commit/", status=503)         # the next such request fails
        hub.repository("user/model").files()             # what is there

Repositories of models, datasets and Spaces with one branch of commits; LFS uploads; downloads, whole or a range;
private repositories; faults on demand.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import HfApi


LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".gguf", ".png")
OFFLINE = (
    "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE",
)  # fmt: skip


class Blob(NamedTuple):
    content: bytes
    lfs: bool

    @property
    def etag(self) -> str:
        """Return its sha256 in LFS, else its name in git."""
        if self.lfs:
            return sha256(self.content).hexdigest()
        return sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def describe(self) -> dict[str, Any]:
        size = {"size": len(self.content)}
        lfs = {"lfs": {"oid": self.etag, "sha256": self.etag, "pointerSize": 134, **size}} if self.lfs else {}
        return {"oid": self.etag[:40], "blobId": self.etag[:40], **size, **lfs}


class Commit(NamedTuple):
    oid: str
    title: str
    tree: dict[str, Blob]


@dataclass
class Repository:
    kind: str
    name: str
    private: bool
    sdk: str | None
    commits: list[Commit] = field(default_factory=list)
    lfs: dict[str, bytes] = field(default_factory=dict)  # uploads, whether a commit uses them or not

    def __post_init__(self) -> None:
        self.add("initial commit", {".gitattributes": Blob(b"", False)})

    def add(self, title: str, tree: dict[str, Blob]) -> Commit:
        names = "".join(f"{path} {blob.etag}\n" for path, blob in sorted(tree.items()))
        self.commits.append(Commit(sha1(f"{len(self.commits)}\n{title}\n{names}".encode()).hexdigest(), title, tree))
        return self.commits[-1]

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def files(self) -> dict[str, bytes]:
        """Return content by path, without what the Hub itself adds."""
        return {path: blob.content for path, blob in self.head.tree.items() if path != ".gitattributes"}


@dataclass
class Fault:
    """An error for the next requests of some kind: a status, or `None` to break the connection."""

    method: str
    path: str  # a regular expression
    status: int | None = 503
    message: str = "a fault on demand"
    times: int = 1
    skip: int = 0  # requests that succeed first


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass
class LocalHub:
    """The server with its repositories; `environment` makes programs use this Hub and nothing else."""

    home: Path
    token: str = "hf_" + "TestTokenOfTheLocalHub" + "0" * 12  # looks like a token, so that a leak is found
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.tokens = {self.token: "user"}  # to the user who may read and write what is theirs
        self.server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {name: value for name, value in os.environ.items() if name not in OFFLINE} | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> "LocalHub":
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def api(self, token: str | None = None) -> HfApi:
        """Make a client for this process."""
        return HfApi(endpoint=self.url, token=token or self.token)

    def run(self, code: str, *arguments: object, cwd: Path | None = None) -> str:
        """Run code against this Hub in a new process, and return what it prints."""
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=cwd, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def fail(self, method: str, path: str, status: int | None = 503, **more: Any) -> None:
        """Let the next requests of some kind fail; see [`Fault`]."""
        self.faults.append(Fault(method, path, status, **more))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.times and re.search(fault.path, path):
                    if not fault.skip:
                        fault.times -= 1
                        return fault
                    fault.skip -= 1
        return None

    def count(self, method: str, path: str) -> int:
        """Count the requests of some kind."""
        return sum(method == each and bool(re.search(path, of_request)) for each, of_request in self.requests)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is a few small writes
    hub: LocalHub

    def log_message(self, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        self.hub.requests.append((self.command, self.path))
        fault = self.hub.take_fault(self.command, self.path)
        if fault and fault.status is None:
            self.close_connection = True
            self.connection.close()
            return
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self.read_chunked() if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if fault and fault.status:
                raise Refusal(fault.status, fault.message)
            self.route()
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self.answer({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send JSON, or bytes as they are."""
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def user(self) -> str | None:
        """Return the name of the token's owner."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def known_user(self) -> str:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return user

    def check_writer(self, namespace: str) -> None:
        if self.known_user() != namespace:
            raise Refusal(403, f'You don\'t have the rights to write to the namespace "{namespace}"')

    def repository(self, kind: str, name: str) -> Repository:
        """Find a repository that the user may read."""
        user = self.user()
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and user != name.split("/")[0]):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return found

    def commit(self, repository: Repository, revision: str) -> Commit:
        for commit in reversed(repository.commits):
            if revision in ("main", commit.oid):
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def page(self, repository: Repository) -> str:
        return f"{self.hub.url}/{'' if repository.kind == 'model' else repository.kind + 's/'}{repository.name}"

    def route(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if match is not None and method in (self.command, "GET" if self.command == "HEAD" else None):
                values = {name: unquote(text) for name, text in match.groupdict(default="").items()}
                if "name" in values:
                    kind = (values.pop("kind", "") or "models").removesuffix("s")
                    values["repository"] = self.repository(kind, values.pop("name"))
                return action(self, **values)
        raise Refusal(404, f"{self.command} {parts.path}: the local Hub does not know this", "EntryNotFound")

    def whoami(self) -> None:
        self.answer({"type": "user", "name": self.known_user(), "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        asked = json.loads(self.body)
        namespace = asked.get("organization") or self.known_user()
        self.check_writer(namespace)
        kind, name = asked.get("type") or "model", f"{namespace}/{asked['name']}"
        if (kind, name) in self.hub.repositories:
            raise Refusal(409, f"You already created this {kind} repo: {name}")
        private = asked.get("visibility") == "private" or asked.get("private") is True
        repository = Repository(kind, name, private, asked.get("sdk"))
        self.hub.repositories[kind, name] = repository
        self.answer({"url": self.page(repository), "name": name, "id": name})

    def validate(self) -> None:
        """Check that metadata is YAML; the Hub also checks its fields."""
        errors = []
        try:
            card_data(json.loads(self.body)["content"].encode())
        except yaml.YAMLError as error:
            errors.append({"message": f"YAML metadata is not valid: {str(error).splitlines()[0]}"})
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, repository: Repository, revision: str = "main") -> None:
        commit = self.commit(repository, revision)
        data = card_data(commit.tree["README.md"].content) if "README.md" in commit.tree else {}
        siblings = [{"rfilename": path, **blob.describe()} for path, blob in sorted(commit.tree.items())]
        about = {"id": repository.name, "sha": commit.oid, "private": repository.private, "sdk": repository.sdk}
        self.answer({**about, "tags": data.get("tags", []), "cardData": data, "siblings": siblings})

    def tree(self, repository: Repository, revision: str, folder: str) -> None:
        """List everything below a folder, recursively even if it was not asked for."""
        prefix = folder.strip("/") + "/" if folder.strip("/") else ""
        files = {
            path: blob for path, blob in self.commit(repository, revision).tree.items() if path.startswith(prefix)
        }
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents[:-1]} - {folder.strip("/")}
        if not files:
            raise Refusal(404, f"{prefix} does not exist", "EntryNotFound")
        found = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        self.answer(found + [{"type": "file", "path": path, **blob.describe()} for path, blob in files.items()])

    def preupload(self, repository: Repository, revision: str) -> None:
        tree, answers = self.commit(repository, revision).tree, []
        for file in json.loads(self.body)["files"]:
            lfs = file["path"].endswith(LFS_SUFFIXES) or b"\0" in base64.b64decode(file["sample"])
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": tree[file["path"]].etag} if file["path"] in tree else {}))
        self.answer({"files": answers})

    def lfs_batch(self, repository: Repository) -> None:
        self.check_writer(repository.name.split("/")[0])
        objects: list[dict[str, Any]] = json.loads(self.body)["objects"]
        for each in objects:
            if each["oid"] not in repository.lfs:
                address = f"{self.hub.url}/lfs/{repository.kind}s/{repository.name}/{each['oid']}"
                each["actions"] = {"upload": {"href": address}}
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, kind_and_name: str, oid: str) -> None:
        kind, _, name = kind_and_name.partition("s/")  # only a writer gets this address; it needs no token
        if sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content does not match its hash")
        self.hub.repositories[kind, name].lfs[oid] = self.body
        self.answer({})

    def make_commit(self, repository: Repository, revision: str) -> None:
        self.check_writer(repository.name.split("/")[0])
        tree = dict(self.commit(repository, revision).tree)
        lines = [json.loads(line) for line in self.body.splitlines()]
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                tree[path] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                tree[path] = Blob(repository.lfs[value["oid"]], True)
            elif line["key"] == "deletedFile" and tree.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        commit = repository.add(lines[0]["value"]["summary"], tree)
        self.answer({"commitOid": commit.oid, "commitUrl": f"{self.page(repository)}/commit/{commit.oid}"})

    def download(self, repository: Repository, revision: str, path: str) -> None:
        commit = self.commit(repository, revision)
        if path not in commit.tree:
            return self.answer({}, 404, {"X-Repo-Commit": commit.oid, "X-Error-Code": "EntryNotFound"})
        blob = commit.tree[path]
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "ETag": f'"{blob.etag}"'}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.answer(blob.content, 200, headers)
        size = len(blob.content)
        start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        stop = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self.answer(blob.content[start:stop], 206, headers)


def card_data(content: bytes) -> dict[str, Any]:
    """Read the metadata of a card."""
    match = re.match(rb"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    return (yaml.safe_load(match[1]) if match else None) or {}


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{NAME}"
PAGES = rf"/(?:(?P<kind>datasets|spaces)/)?{NAME}"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", API, Handler.info),
    ("GET", API + r"/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(?P<folder>/.+)?", Handler.tree),
    ("POST", API + r"/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", API + r"/commit/(?P<revision>[^/]+)", Handler.make_commit),
    ("POST", PAGES + r"\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<kind_and_name>\w+/[\w.-]+/[\w.-]+)/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    ("GET", PAGES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.download),
]
