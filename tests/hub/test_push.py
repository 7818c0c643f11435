"""Pushing: what is refused, what happens on a bad network, what is there afterwards."""

import errno
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hub_server import Commit, LocalHub, Repository

from iepile_builder import InputError
from iepile_builder.hub.push import Target, listing, push, scan


CARD = b"---\ntags:\n- iepile-builder\n---\n\n# Mine\n"
SMALL = {"README.md": CARD, "config.json": b"{}"}
MODEL = Target("user/model", "model")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    """A card, a text, and two large files."""
    found: dict[str, Path | bytes] = dict(SMALL)
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode() * 5000)
        found[name] = tmp_path / name
    return found


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; how long it would have been."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def contents(files: dict[str, Path | bytes]) -> dict[str, bytes]:
    return {path: each if isinstance(each, bytes) else each.read_bytes() for path, each in files.items()}


# What a push does


def test_one_commit_and_none_where_nothing_has_changed(hub: LocalHub, files: dict[str, Path | bytes]) -> None:
    first = push(files, MODEL, "mine")
    repository = hub.repository("user/model")
    assert repository.private
    assert repository.files() == contents(files)
    assert [commit.title for commit in repository.history()] == ["mine", "initial commit"]
    assert (first.changed, first.url) == (4, f"{hub.url}/user/model")
    assert first.commit == repository.branches["main"]

    again = push(files, MODEL, "again")
    assert (again.changed, again.commit) == (0, first.commit)
    assert hub.count("POST", "/commit/") == 1

    third = push({**files, "config.json": b"[]"}, MODEL, "other", managed=["*.bin"])
    assert third.changed == 1
    assert hub.count("PUT", "/lfs/") == 2  # none of the large files was sent again
    assert len(repository.history()) == 3


def test_what_is_not_pushed_any_more_is_deleted_where_it_is_ours(hub: LocalHub, files: dict) -> None:
    push(files, MODEL, "first")
    hub.api().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="user/model")
    push(SMALL, MODEL, "second", managed=["*.bin"])
    assert hub.repository("user/model").files() == {**SMALL, "notes.txt": b"mine"}


def test_public_and_in_the_users_own_namespace(hub: LocalHub) -> None:
    push(SMALL, Target("open", "dataset", public=True), "mine")
    assert not hub.repository("user/open", "dataset").private
    push(SMALL, Target("open", "dataset"), "mine")  # a repository that exists stays as it is
    assert not hub.repository("user/open", "dataset").private


def test_branches_tags_and_pull_requests(hub: LocalHub, files: dict) -> None:
    first = push(SMALL, MODEL._replace(tag="v1"), "first")
    repository = hub.repository("user/model")
    assert repository.tags == {"v1": first.commit}
    assert push(SMALL, MODEL._replace(tag="v1"), "again").changed == 0
    with pytest.raises(InputError, match="the tag v1 is there"):
        push(files, MODEL._replace(tag="v1"), "other")
    assert repository.files() == SMALL

    push(files, MODEL._replace(revision="next"), "next")
    assert repository.files() == SMALL
    assert repository.files("next") == contents(files)

    request = push(files, MODEL._replace(create_pr=True), "please")
    assert request.url == f"{hub.url}/user/model/discussions/1"
    assert repository.files() == SMALL
    assert repository.files("refs/pr/1") == contents(files)
    assert [commit.title for commit in repository.history("refs/pr/1")] == ["please", "first", "initial commit"]
    assert push(SMALL, MODEL._replace(create_pr=True), "nothing new").changed == 0
    assert len(repository.pull_requests) == 1
    push({**SMALL, "more.txt": b""}, MODEL._replace(revision="refs/pr/1"), "more")
    assert len(repository.history("refs/pr/1")) == 4
    with pytest.raises(InputError, match="no such model"):
        push(SMALL, Target("user/none", "model", create_pr=True), "please")


def test_what_is_read_back_must_be_what_was_pushed(
    hub: LocalHub, files: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Repository.add

    def spoil(repository: Repository, commit: Commit, branch: str) -> str:  # a server that keeps something else
        for path in {"config.json", "b.bin"} & commit.tree.keys():
            blob = commit.tree[path]
            commit.tree[path] = blob._replace(content=blob.content[:-1] + b" ")
        return add(repository, commit, branch)

    monkeypatch.setattr(Repository, "add", spoil)
    with pytest.raises(InputError, match="these files are not what was pushed: config.json, b.bin"):
        push(files, MODEL, "mine")


# What is shown and refused before anything leaves


def test_the_listing(hub: LocalHub, files: dict) -> None:
    text = listing(files, MODEL._replace(tag="v1"), hub.api())
    assert text.splitlines()[0] == "model user/model (new, private), branch main, tag v1"
    assert "       25,000  a.bin" in text
    assert text.splitlines()[-1] == f"{50_000 + len(CARD) + 2:>13,}  bytes in 4 files"
    push(SMALL, MODEL._replace(public=True), "mine")
    assert "user/model (public), as a pull request" in listing(SMALL, MODEL._replace(create_pr=True), hub.api())


SECRETS = {
    "hf_" + "aB3" * 12: "a Hugging Face token",
    "ghp_" + "a1" * 18: "a GitHub token",
    "sk-proj-" + "a1_" * 10: "an API key",
    "AKIA" + "A1B2" * 4: "an AWS key",
    "-----BEGIN OPENSSH " + "PRIVATE KEY-----": "a private key",
    str(Path.home() / "data" / "x.json"): "a path of your home folder",
}


@pytest.mark.parametrize(("secret", "what"), SECRETS.items())
def test_a_secret_stops_the_push(hub: LocalHub, tmp_path: Path, secret: str, what: str) -> None:
    (tmp_path / "long.txt").write_text(f"one\ntwo {secret} three\n")
    pq.write_table(pa.table({"n": [1, 2], "text": ["one", f'{{"text": "{secret}"}}']}), tmp_path / "rows.parquet")
    header = json.dumps({"__metadata__": {"from": secret}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(10))
    for files, place in (
        ({"config.json": f'{{\n"a": "{secret}"}}'.encode()}, "config.json, line 2"),
        ({"long.txt": tmp_path / "long.txt"}, "long.txt, line 2"),
        ({"data/rows.parquet": tmp_path / "rows.parquet"}, "data/rows.parquet, row 2"),
        ({"w.safetensors": tmp_path / "w.safetensors"}, "w.safetensors, line 1"),
    ):
        with pytest.raises(InputError, match=f"nothing was pushed: {place}: {what}") as error:
            push({**SMALL, **files}, MODEL, "mine")
        assert secret not in str(error.value)
    assert hub.requests == []


def test_no_secret(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path.home())
    scan({"a": f"hf_short /other{home}x {home}er/is sk-learn task-oriented AKIA PRIVATE KEY".encode()})
    with pytest.raises(InputError, match="the token in use"):
        monkeypatch.setenv("HF_TOKEN", "of another form")
        scan({"a": b"of another form"})


# Bad networks


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, None])
def test_errors_that_pass(hub: LocalHub, files: dict, waits: list[float], status: int | None) -> None:
    requests = [("GET", "/whoami"), ("POST", "/create"), ("GET", "/api/models/user/model$"), ("POST", "/preupload/")]
    requests += [("POST", "/batch"), ("PUT", "/lfs/"), ("POST", "/verify"), ("POST", "/commit/"), ("POST", "-yaml$")]
    requests += [("GET", "/tree/"), ("GET", "/resolve/"), ("HEAD", "/resolve/"), ("POST", "/tag/"), ("GET", "/refs")]
    for method, path in requests:
        hub.fail(method, path, status)
    push(files, MODEL._replace(tag="v1"), "mine")
    repository = hub.repository("user/model")
    assert repository.files() == contents(files)
    assert len(repository.history()) == 2
    assert repository.tags == {"v1": repository.branches["main"]}
    assert [(fault.method, fault.path) for fault in hub.faults if fault.times] == []


def test_the_server_says_how_long_to_wait(hub: LocalHub, waits: list[float], capsys: pytest.CaptureFixture) -> None:
    hub.fail("POST", "/commit/", 429, headers={"Retry-After": "17"})
    hub.fail("POST", "/commit/", 503, times=2)
    push(SMALL, MODEL, "mine")
    assert waits == [17, 2, 4]
    assert "the Hub answers 429; the next try is in 17 s" in capsys.readouterr().out


@pytest.mark.parametrize("status", [None, 502])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    hub: LocalHub, waits: list[float], status: int | None
) -> None:
    hub.fail("POST", "/commit/", status, done=True)
    pushed = push(SMALL, MODEL, "mine")
    assert len(hub.repository("user/model").history()) == 2
    assert pushed.commit == hub.repository("user/model").branches["main"]
    hub.fail("POST", "/commit/", status, done=True)
    push({**SMALL, "more.txt": b""}, MODEL._replace(create_pr=True), "more")
    assert len(hub.repository("user/model").pull_requests) == 1
    assert len(hub.repository("user/model").history("refs/pr/1")) == 3


def test_somebody_else_commits_in_between(hub: LocalHub, waits: list[float]) -> None:
    push(SMALL, MODEL, "mine")
    repository = hub.repository("user/model")
    hub.fail("POST", "/commit/", 412)
    push({**SMALL, "more.txt": b""}, MODEL, "more")
    assert "more.txt" in repository.files()


def test_an_upload_goes_on_where_it_was_interrupted(hub: LocalHub, files: dict, waits: list[float]) -> None:
    hub.fail("PUT", f"/lfs/.*{'[0-9a-f]' * 8}", status=None, after=1000, skip=1, times=100)
    with pytest.raises(InputError) as error:
        push(files, MODEL, "mine")
    assert str(error.value).startswith(f"user/model: {hub.url} cannot be reached (")
    assert "goes on from there" in str(error.value)
    repository = hub.repository("user/model")
    assert repository.files() == {}  # nothing that looks whole
    assert len(repository.lfs) == 1
    hub.faults.clear()
    hub.requests.clear()
    push(files, MODEL, "mine")
    assert repository.files() == contents(files)
    assert [request.body for request in hub.requests if request.method == "PUT"] == [25_000]


def test_errors_that_do_not_pass(
    hub: LocalHub, files: dict, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail("POST", "/commit/", 503, "on holiday", times=100)
    with pytest.raises(InputError, match=r"^user/model: the Hub keeps answering 503 \(on holiday\); later the same"):
        push(files, MODEL, "mine")
    hub.faults.clear()
    assert hub.repository("user/model").files() == {}

    for token, message in (
        ("hf_Unknown", "the Hub refuses the token: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_ReadOnly", r"user/model: the token may not write there \(Forbidden: you must use a write token"),
    ):
        with pytest.raises(InputError, match=message):
            push(files, MODEL, "mine", api=hub.api(token))
    with pytest.raises(InputError, match=r"other/model: the token may not write there \(You don't have the rights"):
        push(SMALL, Target("other/model", "model"), "mine")
    with pytest.raises(InputError, match="no such revision"):
        push(SMALL, MODEL._replace(revision="refs/pr/7"), "mine")
    with pytest.raises(InputError, match="no name of a repository"):
        push(SMALL, Target("user/mo del", "model"), "mine")
    hub.quota = 30_000
    with pytest.raises(InputError, match=r"user/model: no space for it on the Hub \(Private repository storage limit"):
        push(files, MODEL, "mine")
    assert hub.repository("user/model").files() == {}
    with pytest.raises(InputError, match=r"base_model_relation.*must be one of"):
        push({"README.md": CARD.replace(b"tags", b"base_model_relation: cousin\ntags")}, MODEL, "mine")
    assert hub.repository("user/model").files() == {}


def test_no_token_no_network(hub: LocalHub, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "nowhere")
    with pytest.raises(InputError, match="no token of the Hub: log in with `hf auth login`, or set HF_TOKEN"):
        push(SMALL, MODEL, "mine")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(InputError, match=f"the Hub cannot be reached .*: {hub.url}"):
        push(SMALL, MODEL, "mine")
    assert waits == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        push(SMALL, MODEL, "mine")


def test_no_space_on_this_machine(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x")

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", full)
    with pytest.raises(InputError, match="no space left on this machine's disk"):
        push(SMALL, MODEL, "mine")


def test_a_name_that_is_taken(hub: LocalHub) -> None:
    api = hub.api()
    api.create_repo("user/model")
    api.upload_file(path_or_fileobj=b"# Something else", path_in_repo="README.md", repo_id="user/model")
    with pytest.raises(InputError, match="user/model: the name is taken by a model that was not pushed from here"):
        push(SMALL, MODEL, "mine")
    push(SMALL, MODEL._replace(overwrite=True), "mine")
    push({**SMALL, "more.txt": b""}, MODEL, "mine")
    assert hub.repository("user/model").files() == {**SMALL, "more.txt": b""}
