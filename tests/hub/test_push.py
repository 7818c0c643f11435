"""Pushing: what is refused, what happens on a bad network, what is there afterwards."""

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.corpora import ROOT
from helpers.hub_server import LocalHub

from iepile_builder import InputError
from iepile_builder.hub.client import check_private
from iepile_builder.hub.push import push


CARD = b"---\ntags:\n- iepile-builder\n---\n\n# Mine\n"
SMALL: dict[str, Path | bytes] = {"README.md": CARD, "config.json": b"{}"}
MODEL = ("user/model", "model", "mine")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    """A card, a text, and two large files."""
    found = dict(SMALL)
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode() * 5000)
        found[name] = tmp_path / name
    return found


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Skip the waits before a retry, and list them."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def contents(files: dict[str, Path | bytes]) -> dict[str, bytes]:
    return {path: each if isinstance(each, bytes) else each.read_bytes() for path, each in files.items()}


def test_one_commit_and_none_if_nothing_has_changed(
    hub: LocalHub, files: dict[str, Path | bytes], waits: list[float], capsys: pytest.CaptureFixture
) -> None:
    hub.fail("PUT", "/lfs/", status=None)  # huggingface_hub tries again
    hub.fail("POST", "/preupload/", status=429)
    first = push(files, *MODEL)
    repository = hub.repository("user/model")
    assert repository.private
    assert repository.files() == contents(files)
    assert [commit.title for commit in repository.commits] == ["initial commit", "mine"]
    assert first == repository.head.oid
    assert f"pushed: {hub.url}/user/model" in capsys.readouterr().out

    assert push(files, *MODEL) == first
    assert hub.count("POST", "/commit/") == 1
    assert "nothing has changed" in capsys.readouterr().out

    push({**files, "config.json": b"[]"}, *MODEL, public=True)
    assert hub.count("PUT", "/lfs/") == 2 + 1  # none of the large files was sent again
    assert len(repository.commits) == 3
    assert repository.private  # a repository that exists stays as it is


def test_files_that_only_an_earlier_push_had_are_deleted(hub: LocalHub) -> None:
    shards = {f"data/NER-en/test-0000{number}-of-00002.parquet": b"x" for number in range(2)}
    push({**SMALL, **shards}, "user/data", "dataset", "two", public=True)
    assert not hub.repository("user/data", "dataset").private
    hub.api().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="user/data", repo_type="dataset")
    one = {"data/NER-en/test-00000-of-00001.parquet": b"x"}
    push({**SMALL, **one}, "user/data", "dataset", "one")
    assert hub.repository("user/data", "dataset").files() == {**SMALL, **one, "notes.txt": b"mine"}


def test_a_name_that_is_taken(hub: LocalHub) -> None:
    api = hub.api()
    api.create_repo("user/model")
    api.upload_file(path_or_fileobj=b"# Mine", path_in_repo="README.md", repo_id="user/model")
    push(SMALL, *MODEL)  # it had only a card
    api.upload_file(path_or_fileobj=b"# Something else", path_in_repo="README.md", repo_id="user/model")
    with pytest.raises(InputError, match="user/model: holds a model that was not pushed from here"):
        push(SMALL, *MODEL)


# Secrets

TOKEN = "hf_" + "aB3" * 11 + "x"
KEYS = [  # in two parts, so that this file may be pushed
    "sk-" + "aB3" * 16,
    "sk-proj-" + "aB3_-" * 20,
    "sk-ant-api03-" + "aB3_-" * 18,
    "AKIA" + "ABCD2345" * 2,
    "ghp_" + "aB3" * 12,
    "github_pat_" + "aB3_" * 20,
    "AIza" + "aB3_-" * 7,
    "xoxb-" + "1234567890-" * 2 + "aB3aB3",
    "-----BEGIN " + "OPENSSH PRIVATE KEY-----\nb3Bl",
    "-----BEGIN " + "PRIVATE KEY-----",
]


@pytest.mark.parametrize(
    "text",
    [
        f"two {TOKEN} three",
        json.dumps({"text": f"export HF_TOKEN=\n{TOKEN}"}),
        f"https://{TOKEN}@huggingface.co/x",
        TOKEN.replace("hf_", "hf_oauth_"),
        json.dumps({"cwd": str(Path.home() / "data" / "x.json")}),
        json.dumps({"log": f"in\n{Path.home()}/data"}),
        f"file://{Path.home()}/data",
    ],
)
def test_a_secret_stops_the_push(hub: LocalHub, tmp_path: Path, text: str) -> None:
    refuse_with(hub, tmp_path, text, "(a Hub token|a path)")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_another_vendor_stops_the_push(hub: LocalHub, tmp_path: Path, key: str) -> None:
    refuse_with(hub, tmp_path, json.dumps({"text": f"a text\n{key}"}), "an?( private key| [A-Z].* (key|token))")
    pq.write_table(pa.table({"text": ["one", key]}), tmp_path / "rows.parquet")  # in Arrow, "one" is right before it
    with pytest.raises(InputError, match="data/rows.parquet holds"):
        push({**SMALL, "data/rows.parquet": tmp_path / "rows.parquet"}, "user/data", "dataset", "mine")


def refuse_with(hub: LocalHub, tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "long.txt").write_text(f"one\n{text}\n")
    for name, content in {"config.json": text.encode(), "long.txt": tmp_path / "long.txt"}.items():
        with pytest.raises(InputError, match=f"nothing was pushed: {name} holds {what}") as error:
            push({**SMALL, name: content}, *MODEL)
        assert "aB3" not in str(error.value)
    assert hub.requests == []


@pytest.mark.parametrize("column", ["string", "list", "struct", "dictionary", "view", "binary", "name"])
def test_a_token_in_any_column_of_parquet_stops_the_push(hub: LocalHub, tmp_path: Path, column: str) -> None:
    arrays = {
        "string": pa.array(["one", TOKEN]),
        "list": pa.array([["one"], ["two", TOKEN]]),
        "struct": pa.array([{"text": TOKEN}, None]),
        "dictionary": pa.array(["one", TOKEN]).dictionary_encode(),
        "view": pa.array(["one", TOKEN], pa.string_view()),
        "binary": pa.array([b"one", TOKEN.encode()]),
        "name": pa.array([1, 2]),
    }
    table = pa.table({TOKEN if column == "name" else "text": arrays[column]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="data/rows.parquet holds a Hub token; take it out first"):
        push({**SMALL, "data/rows.parquet": tmp_path / "rows.parquet"}, "user/data", "dataset", "mine")
    assert hub.requests == []


def test_no_false_alarm(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path.home())
    (tmp_path / "empty.txt").write_bytes(b"")
    texts = f"hf_short /other{home}/x {home}er/is task-oriented-dialogue-2024-Systems-and-more-of-it AKIA ghp_x"
    texts += f" AIza xoxb- {'0123456789abcdef' * 4} {home} hf_a-b{'c' * 40}"
    pq.write_table(pa.table({"text": [f"a text about {home}/x"]}), tmp_path / "rows.parquet")
    more = {"a.txt": texts.encode(), "data/a.parquet": tmp_path / "rows.parquet", "b.txt": tmp_path / "empty.txt"}
    push({**SMALL, **more}, "user/data", "dataset", "mine")
    monkeypatch.setenv("HF_TOKEN", "of another form")
    with pytest.raises(InputError, match="a holds your token"):
        push({"a": b"of another form"}, *MODEL)


def test_no_false_alarm_on_this_repository() -> None:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    check_private({name: ROOT / name for name in names if (ROOT / name).is_file()})


# Bad networks


def test_an_interrupted_upload_is_resumed(hub: LocalHub, files: dict, waits: list[float]) -> None:
    hub.fail("PUT", "/lfs/", status=None, skip=1, times=100)
    with pytest.raises(InputError, match="^user/model: the Hub cannot be reached .* resumes the push$"):
        push(files, *MODEL)
    repository = hub.repository("user/model")
    assert repository.files() == {}  # no half of a model
    assert len(repository.lfs) == 1
    hub.faults.clear()
    hub.requests.clear()
    push(files, *MODEL)
    assert repository.files() == contents(files)
    assert hub.count("PUT", "/lfs/") == 1


@pytest.mark.parametrize(
    ("fault", "repo_id", "message"),
    [
        ((503, "on holiday"), "user/model", r"user/model: the Hub answers 503 \(on holiday\); try again later"),
        ((403, "storage limit reached"), "user/model", r"user/model: the Hub answers 403 \(storage limit reached\)$"),
        (None, "other/model", r"other/model: the Hub answers 403 \(You don't have the rights"),
        (None, "user/mo del", "user/mo del: Repo id must use"),
    ],
)
def test_what_the_hub_refuses(
    hub: LocalHub, waits: list[float], fault: tuple[int, str] | None, repo_id: str, message: str
) -> None:
    if fault:
        hub.fail("POST", "/commit/", fault[0], message=fault[1])
    with pytest.raises(InputError, match=f"^{message}"):
        push(SMALL, repo_id, "model", "mine")
    assert all(repository.files() == {} for repository in hub.repositories.values())


def test_a_card_that_is_not_yaml(hub: LocalHub) -> None:
    with pytest.raises(InputError, match="YAML metadata is not valid"):
        push({"README.md": b"---\na: [\n---\n"}, *MODEL)


@pytest.mark.parametrize("token", ["hf_Unknown", "", None])
def test_no_valid_token_or_offline(hub: LocalHub, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "the Hub got no valid token: log in with `hf auth login`"
    if token is None:
        message = "HF_HUB_OFFLINE is set"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "nowhere")
    with pytest.raises(InputError, match=f"^{message}"):
        push(SMALL, *MODEL)
