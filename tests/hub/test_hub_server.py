"""The local Hub, as the client library sees it."""

from pathlib import Path

import pytest
from helpers.hub_server import LocalHub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


def add(**files: bytes) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(name.replace("_", "."), content) for name, content in files.items()]


def test_commits_and_downloads(hub: LocalHub, tmp_path: Path) -> None:
    api = hub.api()
    assert api.whoami()["name"] == "user"
    assert api.create_repo("user/model", private=True).repo_id == "user/model"
    weights = bytes(range(256)) * 100
    first = api.create_commit("user/model", add(a_txt=b"one", w_bin=weights), commit_message="first")
    assert hub.repository("user/model").files() == {"a.txt": b"one", "w.bin": weights}
    again = api.create_commit("user/model", add(a_txt=b"one", w_bin=weights), commit_message="again")
    assert again.oid == first.oid
    assert hub.count("PUT", "/lfs/") == 1
    changed = [*add(b_txt=b"two"), CommitOperationDelete("a.txt")]
    api.create_commit("user/model", changed, commit_message="second")
    assert [commit.title for commit in hub.repository("user/model").commits] == ["initial commit", "first", "second"]
    assert Path(hf_hub_download("user/model", "a.txt", revision=first.oid)).read_bytes() == b"one"
    folder = Path(snapshot_download("user/model", local_dir=tmp_path / "whole"))
    assert {path.name for path in folder.glob("*.*")} >= {"b.txt", "w.bin"}
    assert not (folder / "a.txt").exists()
    assert (folder / "w.bin").read_bytes() == weights


def test_errors_and_faults(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    api = hub.api()
    api.create_repo("user/model", private=True)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        hub.api("hf_Unknown").whoami()
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("user/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("user/model", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("user/model", "none")
    with pytest.raises(HfHubHTTPError, match="rights"):
        api.create_repo("other/model")
    hub.fail("PUT", "/lfs/", status=None)
    hub.fail("POST", "/preupload/", status=429)
    api.create_commit("user/model", add(w_bin=bytes(9000)), commit_message="weights")
    assert hub.count("PUT", "/lfs/") == 2 and hub.count("POST", "/preupload/") == 2
    assert hub.repository("user/model").files() == {"w.bin": bytes(9000)}
