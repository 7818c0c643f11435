"""
A Hub for tests: as much of the protocol of huggingface.co as its client libraries use, in memory, on 127.0.0.1.

    def test_a_push(hub: LocalHub) -> None:              # the fixture of conftest.py
        hub.api().create_repo("user/model")              # huggingface_hub in this process
        hub.run("import ...; print(...)")                # any library, in a new process with hub.environment
        hub.fail("POST", "/commit/", status=503)         # the next such request fails
        hub.repository("user/model").files()             # what is there

Repositories of models, datasets and Spaces with commits, branches, tags and pull requests; LFS uploads; downloads by
revision, whole or a range; private repositories; the errors that the Hub gives, and faults on demand.
"""

import base64
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import HfApi


LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".gguf", ".png", ".whl", ".arrow")
LFS_SIZE = 10_000_000
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "gpl-3.0")
LICENSES += ("llama3", "gemma", "bsd-3-clause", "openrail", "odc-by", "other", "unknown")
RELATIONS = ("adapter", "merge", "quantized", "finetune")
PAGE = 100  # entries of a folder in one answer


class Blob(NamedTuple):
    """A file's content."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Its name in git, of an LFS file that of its pointer."""
        content = self.content
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = pointer.encode()
        return sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Commit:
    """A state of a repository."""

    parent: str | None
    title: str
    description: str
    tree: dict[str, Blob]
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z"))

    @property
    def oid(self) -> str:
        names = "".join(f"{path} {blob.oid}\n" for path, blob in sorted(self.tree.items()))
        return sha1(f"{self.parent}\n{self.title}\n{self.date}\n{names}".encode()).hexdigest()


@dataclass
class PullRequest:
    number: int
    title: str
    base: str


class Repository:
    """A model, a dataset or a Space."""

    def __init__(self, kind: str, name: str, private: bool, sdk: str | None = None) -> None:
        self.kind, self.name, self.private, self.sdk = kind, name, private, sdk
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pull_requests: list[PullRequest] = []
        self.lfs: dict[str, bytes] = {}  # what has been uploaded, whether a commit uses it or not
        first = Commit(None, "initial commit", "", {".gitattributes": Blob(GIT_ATTRIBUTES, False)})
        self.add(first, "main")

    def add(self, commit: Commit, branch: str) -> str:
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit.oid

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag, a pull request or a commit's (short) name stands for."""
        revision = revision.removeprefix("refs/heads/")
        for names in (self.branches, self.tags):
            if revision in names:
                return names[revision]
        matches = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        return matches[0] if len(matches) == 1 else None

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits of a revision, the last one first."""
        commits, oid = [], self.resolve(revision)
        while oid is not None:
            commits.append(self.commits[oid])
            oid = commits[-1].parent
        return commits

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content by path, without what the Hub itself adds."""
        oid = self.resolve(revision)
        assert oid is not None, revision
        tree = self.commits[oid].tree
        return {path: blob.content for path, blob in tree.items() if path != ".gitattributes"}


@dataclass
class Fault:
    """What goes wrong with the next requests of some kind."""

    method: str
    path: str  # a regular expression that is searched for
    status: int | None  # None: the connection is dropped
    message: str
    headers: dict[str, str]
    times: int
    skip: int  # so many requests go well before
    after: int  # bytes of the request's body that are read first
    done: bool  # the request is carried out, only its answer is lost


class Request(NamedTuple):
    """A line of the log."""

    method: str
    path: str
    body: int  # bytes


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


class LocalHub:
    """
    The server and all that it holds.

    Attributes:
        url (`str`): the endpoint.
        token (`str`): a token that may write to the namespace `user`.
        tokens (`dict[str, tuple[str, str]]`): user and role (`write` or `read`) of every token.
        quota (`int`, *optional*): bytes of LFS files that a repository may hold.
        requests (`list[Request]`): the log.
        environment (`dict[str, str]`): for programs that shall use this Hub and nothing else.
    """

    token = "hf_" + "TestTokenOfTheLocalHub" + "0" * 12  # of a token's form, so that a leak of it can be found

    def __init__(self, home: Path) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens = {self.token: ("user", "write"), "hf_ReadOnly": ("user", "read"), "hf_Other": ("other", "write")}
        self.quota: int | None = None
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = Lock()
        hub = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):
                    super().handle_error(request, client_address)

        class Bound(Handler):
            def __init__(self, *args: Any) -> None:
                self.hub = hub
                super().__init__(*args)

        self.server = Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        unset = (
            "HF_HUB_OFFLINE",
            "HF_DATASETS_OFFLINE",
            "HF_EVALUATE_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_HUB_CACHE",
        )
        self.environment = {name: value for name, value in os.environ.items() if name not in unset} | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> "LocalHub":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def api(self, token: str | None = None) -> HfApi:
        """A client for this process."""
        return HfApi(endpoint=self.url, token=token or self.token)

    def run(
        self, code: str, *arguments: object, cwd: Path | None = None, check: bool = True, **environment: str
    ) -> str:
        """What a new process prints that runs some code against this Hub."""
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=600, cwd=cwd, env={**self.environment, **environment}
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def fail(
        self,
        method: str,
        path: str,
        status: int | None = 503,
        message: str = "a fault on demand",
        headers: dict[str, str] | None = None,
        times: int = 1,
        skip: int = 0,
        after: int = 0,
        done: bool = False,
    ) -> None:
        """
        Let the next requests of some kind fail.

        Args:
            method (`str`): of the request.
            path (`str`): a regular expression, searched for in the path.
            status (`int`, *optional*, defaults to 503): what is answered; `None` drops the connection.
            message (`str`, *optional*): of the error.
            headers (`dict[str, str]`, *optional*): of the answer, such as `Retry-After`.
            times (`int`, *optional*, defaults to 1): how many requests.
            skip (`int`, *optional*, defaults to 0): how many go well before.
            after (`int`, *optional*, defaults to 0): how many bytes of its body are read before it drops.
            done (`bool`, *optional*, defaults to `False`): whether it is carried out, and its answer alone is lost.
        """
        self.faults.append(Fault(method, path, status, message, headers or {}, times, skip, after, done))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                    elif fault.times:
                        fault.times -= 1
                        return fault
        return None

    def count(self, method: str, path: str) -> int:
        """How many requests of some kind there were."""
        return sum(request.method == method and bool(re.search(path, request.path)) for request in self.requests)


@contextmanager
def local_hub(home: Path) -> Iterator[LocalHub]:
    """A running Hub; client libraries get `home` as their HF_HOME."""
    with LocalHub(home) as hub:
        yield hub


def check_card(content: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about a card's metadata, the ones of the Hub's own check that matter here."""
    match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML metadata is not valid: {str(error).splitlines()[0]}"], []
    if not isinstance(data, dict):
        return ["YAML metadata is no mapping"], []
    errors = []

    def known(name: str, value: Any, choices: tuple[str, ...]) -> None:
        errors.extend(f'"{name}" must be one of [{", ".join(choices)}]' for one in listed(value) if one not in choices)

    def listed(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [] if value is None else [value]

    known("license", data.get("license"), LICENSES)
    known("base_model_relation", data.get("base_model_relation"), RELATIONS)
    for name in ("tags", "language", "datasets", "base_model", "metrics", "library_name", "pipeline_tag"):
        errors += [f'"{name}" must be a string' for value in listed(data.get(name)) if not isinstance(value, str)]
    for name in ("datasets", "base_model"):
        for value in listed(data.get(name)):
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(value)):
                errors.append(f'"{name}" with value "{value}" is not valid. Use a model id from https://hf.co')
    errors += [f'"language" must only contain lowercase characters: {one}' for one in listed(data.get("language"))
               if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(one))]  # fmt: skip
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str):
            errors.append('"model-index[0].name" must be a string')
        for result in model.get("results", []):
            for part, names in (("task", ("type",)), ("dataset", ("type", "name"))):
                for name in names:
                    if not isinstance(result.get(part, {}).get(name), str):
                        errors.append(f'"model-index[0].results[0].{part}.{name}" is required')
            for metric in result.get("metrics", []):
                if not isinstance(metric.get("type"), str) or "value" not in metric:
                    errors.append('"model-index[0].results[0].metrics[0]" needs a type and a value')
    if kind == "space":
        known("sdk", data.get("sdk", "missing"), ("gradio", "streamlit", "docker", "static"))
        known(
            "colorFrom", data.get("colorFrom"), ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
        )
    if kind == "dataset":
        for config in data.get("configs", []):
            if not isinstance(config.get("config_name"), str):
                errors.append('"configs[0].config_name" must be a string')
    return errors, []


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is a few small writes
    hub: LocalHub

    def log_message(self, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        fault = self.hub.take_fault(self.command, self.path)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        length = int(self.headers.get("Content-Length", 0))
        if fault is not None and fault.status is None and not fault.done:
            read = len(self.rfile.read(fault.after if chunked else min(fault.after, length)))
            self.hub.requests.append(Request(self.command, self.path, read))
            return self.drop()
        self.body = self.read_chunked() if chunked else self.rfile.read(length)
        self.hub.requests.append(Request(self.command, self.path, len(self.body)))
        if fault is not None and not fault.done:
            assert fault.status is not None
            headers = {"X-Error-Message": fault.message, **fault.headers}
            return self.answer({"error": fault.message}, fault.status, headers)
        self.muted = fault is not None
        try:
            self.route()
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code is not None:
                headers["X-Error-Code"] = refusal.code
            self.answer({"error": refusal.message, **refusal.more}, refusal.status, headers)
        if fault is not None:
            if fault.status is None:
                return self.drop()
            self.muted = False
            self.answer({"error": fault.message}, fault.status, fault.headers)
        return None

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request
    muted = False

    def read_chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def drop(self) -> None:
        """End the connection at once, as a network does that breaks down."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.muted:
            return
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # Who asks

    def user(self) -> tuple[str, str] | None:
        """The user and the role of the token."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        found = self.hub.tokens.get(header.removeprefix("Bearer "))
        if found is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return found

    def may_write(self, namespace: str) -> str:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user[1] != "write":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if user[0] != namespace:
            raise Refusal(403, f'You don\'t have the rights to write to the namespace "{namespace}"')
        return user[0]

    def repository(self, kind: str, name: str) -> Repository:
        """A repository that the user may read."""
        user = self.user()
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and (user is None or user[0] != name.split("/")[0])):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return found

    def commit(self, repository: Repository, revision: str) -> Commit:
        oid = repository.resolve(unquote(revision))
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
        return repository.commits[oid]

    # What is asked

    def route(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if match is not None and method in (self.command, "GET" if self.command == "HEAD" else None):
                values = match.groupdict()
                if "kind" in values:
                    kind, name = (values.pop("kind") or "models").removesuffix("s"), values.pop("name")
                    values["repository"] = self.repository(kind, name)
                elif "store" in values:  # an address that was given to who may upload; it needs no token
                    key = values.pop("store").removesuffix("s"), values.pop("name")
                    values["repository"] = self.hub.repositories[key]
                with self.hub.lock if self.command != "GET" else nothing():
                    return action(self, **values)
        raise Refusal(404, f"{self.command} {parts.path}: the local Hub does not know this", "EntryNotFound")

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": user[1]}}
        self.answer({"type": "user", "name": user[0], "fullname": user[0], "orgs": [], "auth": token})

    def create(self) -> None:
        asked = json.loads(self.body)
        user = self.user()
        namespace = asked.get("organization") or (user[0] if user else "")
        self.may_write(namespace)
        kind, name = asked.get("type") or "model", f"{namespace}/{asked['name']}"
        address = {"url": f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name}
        if (kind, name) in self.hub.repositories:
            raise Refusal(409, f"You already created this {kind} repo: {name}", None, **address)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[kind, name] = Repository(kind, name, private, asked.get("sdk"))
        self.answer({**address, "id": name})

    def delete(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        self.may_write(name.split("/")[0])
        if self.hub.repositories.pop((asked.get("type") or "model", name), None) is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        self.answer({})

    def validate(self) -> None:
        asked = json.loads(self.body)
        errors, warnings = check_card(asked["content"], asked["repoType"])
        found = {
            "errors": [{"message": each} for each in errors],
            "warnings": [{"message": each} for each in warnings],
        }
        self.answer({**found, **({"error": "; ".join(errors)} if errors else {})}, 400 if errors else 200)

    def info(self, repository: Repository, revision: str = "main") -> None:
        commit = self.commit(repository, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.tree)]
        if "blobs" in self.query:
            siblings = [{"rfilename": path, **described(commit.tree[path])} for path in sorted(commit.tree)]
        card = commit.tree.get("README.md")
        match = re.match(rb"---\n(.*?)\n---\n", card.content, re.DOTALL) if card is not None else None
        data = yaml.safe_load(match[1]) if match else {}
        found = {
            "_id": "0" * 24,
            "id": repository.name,
            "modelId": repository.name,
            "author": repository.name.split("/")[0],
            "sha": commit.oid,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": data.get("tags", []),
            "cardData": data,
            "lastModified": commit.date,
            "createdAt": repository.history()[-1].date,
            "siblings": siblings,
        }
        if repository.kind == "space":
            found["sdk"] = repository.sdk
        self.answer(found)

    def tree(self, repository: Repository, revision: str, folder: str | None = None) -> None:
        commit = self.commit(repository, revision)
        prefix = unquote(folder).strip("/") + "/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(commit.tree.items()):
            if not path.startswith(prefix):
                continue
            steps = path[len(prefix) :].split("/")
            for depth in range(1, len(steps) if recursive else min(2, len(steps))):
                inner = prefix + "/".join(steps[:depth])
                entries[inner] = {"type": "directory", "path": inner, "oid": "0" * 40, "size": 0}
            if recursive or len(steps) == 1:
                entries[path] = {"type": "file", "path": path, **described(blob)}
        if prefix and not entries:
            raise Refusal(404, f"{prefix} does not exist on {unquote(revision)}", "EntryNotFound")
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            next_page = f"{self.hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={start + PAGE}"
            headers["Link"] = f'<{next_page}>; rel="next"'
        self.answer(list(entries.values())[start : start + PAGE], headers=headers)

    def paths_info(self, repository: Repository, revision: str) -> None:
        tree = self.commit(repository, revision).tree
        if self.headers["Content-Type"].startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        found: list[dict[str, Any]] = []
        for path in paths:
            if path in tree:
                found.append({"type": "file", "path": path, **described(tree[path])})
            elif any(name.startswith(path + "/") for name in tree):
                found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self.answer(found)

    def refs(self, repository: Repository) -> None:
        def listed(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": name if name.startswith("refs/") else prefix + name, "targetCommit": oid}
                for name, oid in names.items()
            ]

        branches = {name: oid for name, oid in repository.branches.items() if not name.startswith("refs/")}
        requests = {name: oid for name, oid in repository.branches.items() if name.startswith("refs/")}
        self.answer(
            {
                "branches": listed(branches, "refs/heads/"),
                "tags": listed(repository.tags, "refs/tags/"),
                "pullRequests": listed(requests, ""),
                "converts": [],
            }
        )

    def commits(self, repository: Repository, revision: str) -> None:
        self.commit(repository, revision)
        self.answer(
            [
                {"id": each.oid, "title": each.title, "message": each.description, "date": each.date, "authors": []}
                for each in repository.history(unquote(revision))
            ]
        )

    def make_tag(self, repository: Repository, revision: str) -> None:
        self.may_write(repository.name.split("/")[0])
        tag = json.loads(self.body)["tag"]
        if tag in repository.tags:
            raise Refusal(409, f"Tag reference exists already: {tag}")
        repository.tags[tag] = self.commit(repository, revision).oid
        self.answer({})

    def make_branch(self, repository: Repository, branch: str) -> None:
        self.may_write(repository.name.split("/")[0])
        branch = unquote(branch)
        if branch in repository.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repository.branches[branch] = self.commit(repository, start).oid
        self.answer({})

    def discuss(self, repository: Repository) -> None:
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        self.answer({"num": self.open_pull_request(repository, json.loads(self.body)["title"]).number})

    def open_pull_request(self, repository: Repository, title: str) -> PullRequest:
        request = PullRequest(len(repository.pull_requests) + 1, title, "main")
        repository.pull_requests.append(request)
        repository.branches[f"refs/pr/{request.number}"] = repository.branches["main"]
        return request

    def discussion(self, repository: Repository, number: str) -> None:
        request = repository.pull_requests[int(number) - 1]
        self.answer(
            {
                "num": request.number,
                "title": request.title,
                "author": {"name": "user"},
                "createdAt": repository.history()[0].date,
                "status": "draft",
                "repo": {"name": repository.name, "type": repository.kind},
                "isPullRequest": True,
                "events": [],
                "changes": {"base": f"refs/heads/{request.base}"},
                "filesWithConflicts": [],
                "diff": "",
            }
        )

    def preupload(self, repository: Repository, revision: str) -> None:
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        tree = self.commit(repository, revision).tree
        answers = []
        for file in json.loads(self.body)["files"]:
            sample = base64.b64decode(file["sample"])
            lfs = file["size"] > LFS_SIZE or file["path"].endswith(LFS_SUFFIXES) or b"\0" in sample
            answer = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if file["path"] in tree:
                answer["oid"] = tree[file["path"]].etag
            answers.append(answer)
        self.answer({"files": answers})

    def lfs_batch(self, repository: Repository) -> None:
        # Who may only read can still upload for a pull request.
        if self.user() is None:
            raise Refusal(401, "Invalid username or password.")
        objects: list[dict[str, Any]] = []
        kept = sum(map(len, repository.lfs.values()))
        for each in json.loads(self.body)["objects"]:
            answer = {"oid": each["oid"], "size": each["size"], "authenticated": True}
            if each["oid"] not in repository.lfs:
                kept += each["size"]
                base = f"{self.hub.url}/lfs/{repository.kind}s/{repository.name}"
                answer["actions"] = {
                    "upload": {"href": f"{base}/{each['oid']}"},
                    "verify": {"href": f"{base}/verify"},
                }
            objects.append(answer)
        if self.hub.quota is not None and kept > self.hub.quota:
            visibility = "Private" if repository.private else "Public"
            raise Refusal(403, f"{visibility} repository storage limit reached, please upgrade your plan")
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, repository: Repository, oid: str) -> None:
        if sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content is not what its name says")
        repository.lfs[oid] = self.body
        self.answer({})

    def lfs_verify(self, repository: Repository) -> None:
        asked = json.loads(self.body)
        if len(repository.lfs.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "the object is not there", "EntryNotFound")
        self.answer({})

    def make_commit(self, repository: Repository, revision: str) -> None:
        branch = unquote(revision).removeprefix("refs/heads/")
        with_request = "1" in self.query.get("create_pr", [])
        if not with_request and not branch.startswith("refs/pr/"):
            self.may_write(repository.name.split("/")[0])
        if branch not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = repository.branches[branch]
        tree = dict(repository.commits[head].tree)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                tree[path] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in repository.lfs:
                    raise Refusal(400, f"{path}: its LFS object was not uploaded")
                tree[path] = Blob(repository.lfs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                if tree.pop(path, None) is None:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            elif line["key"] == "deletedFolder":
                tree = {name: blob for name, blob in tree.items() if not name.startswith(path.rstrip("/") + "/")}
        if "README.md" in tree:
            errors, _ = check_card(tree["README.md"].content.decode(), repository.kind)
            if errors:
                raise Refusal(400, "; ".join(errors))
        answer = {"success": True}
        if with_request:
            request = self.open_pull_request(repository, header["summary"])
            branch = f"refs/pr/{request.number}"
            answer["pullRequestUrl"] = f"{self.page(repository)}/discussions/{request.number}"
        oid = repository.add(Commit(head, header["summary"], header.get("description", ""), tree), branch)
        self.answer({**answer, "commitOid": oid, "commitUrl": f"{self.page(repository)}/commit/{oid}"})

    def page(self, repository: Repository) -> str:
        return f"{self.hub.url}/{'' if repository.kind == 'model' else repository.kind + 's/'}{repository.name}"

    def download(self, repository: Repository, revision: str, path: str) -> None:
        commit = self.commit(repository, revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        blob = commit.tree.get(unquote(path))
        if blob is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.answer({"error": "Entry not found"}, 404, headers)
        headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "application/octet-stream"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(blob.content, 200, headers)
        size = len(blob.content)
        first, last = wanted.groups()
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size:
            return self.send(b"", 416, {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self.send(blob.content[start:stop], 206, headers)


def described(blob: Blob) -> dict[str, Any]:
    """What the Hub says of a file."""
    found: dict[str, Any] = {"oid": blob.oid, "blobId": blob.oid, "size": len(blob.content)}
    if blob.lfs:
        found["lfs"] = {"oid": blob.sha256, "sha256": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return found


@contextmanager
def nothing() -> Iterator[None]:
    yield


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{NAME}"
STORE = rf"/lfs/(?P<store>models|datasets|spaces)/{NAME}"
PAGES = rf"/(?:(?P<kind>datasets|spaces)/)?{NAME}"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("DELETE", r"/api/repos/delete", Handler.delete),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", API, Handler.info),
    ("GET", API + r"/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Handler.tree),
    ("POST", API + r"/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    ("GET", API + r"/refs", Handler.refs),
    ("GET", API + r"/commits/(?P<revision>[^/]+)", Handler.commits),
    ("POST", API + r"/tag/(?P<revision>[^/]+)", Handler.make_tag),
    ("POST", API + r"/branch/(?P<branch>[^/]+)", Handler.make_branch),
    ("POST", API + r"/discussions", Handler.discuss),
    ("GET", API + r"/discussions/(?P<number>\d+)", Handler.discussion),
    ("POST", API + r"/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", API + r"/commit/(?P<revision>[^/]+)", Handler.make_commit),
    ("POST", PAGES + r"\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", STORE + r"/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    ("POST", STORE + r"/verify", Handler.lfs_verify),
    ("GET", PAGES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.download),
]
