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


def test_commits_tags_branches_and_pull_requests(hub: LocalHub, tmp_path: Path) -> None:
    api = hub.api()
    assert api.whoami()["name"] == "user"
    assert api.create_repo("user/model", private=True).repo_id == "user/model"
    weights = bytes(range(256)) * 100
    first = api.create_commit("user/model", add(a_txt=b"one", w_bin=weights), commit_message="first")
    assert hub.repository("user/model").files() == {"a.txt": b"one", "w.bin": weights}
    again = api.create_commit("user/model", add(a_txt=b"one", w_bin=weights), commit_message="again")
    assert again.oid == first.oid
    assert hub.count("PUT", "/lfs/") == 1

    api.create_tag("user/model", tag="v1")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("user/model", tag="v1")
    api.create_branch("user/model", branch="other")
    changed = [*add(b_txt=b"two"), CommitOperationDelete("a.txt")]
    api.create_commit("user/model", changed, commit_message="second", revision="other")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(
            "user/model", add(c_txt=b""), commit_message="late", revision="other", parent_commit=first.oid
        )
    request = api.create_pull_request("user/model", title="mine")
    api.create_commit("user/model", add(a_txt=b"three"), commit_message="third", revision=request.git_reference)
    refs = api.list_repo_refs("user/model", include_pull_requests=True)
    assert {each.ref for each in refs.branches + refs.tags + refs.pull_requests} == {
        "refs/heads/main", "refs/heads/other", "refs/tags/v1", "refs/pr/1",
    }  # fmt: skip
    assert [commit.title for commit in api.list_repo_commits("user/model")] == ["first", "initial commit"]
    for revision, content in (("v1", b"one"), ("refs/pr/1", b"three"), (first.oid, b"one")):
        path = hf_hub_download("user/model", "a.txt", revision=revision)
        assert Path(path).read_bytes() == content
    folder = Path(snapshot_download("user/model", revision="other", local_dir=tmp_path / "other"))
    assert {path.name for path in folder.glob("*.*")} >= {"b.txt", "w.bin"}
    assert not (folder / "a.txt").exists()
    assert (folder / "w.bin").read_bytes() == weights


def test_what_is_listed(hub: LocalHub) -> None:
    api = hub.api()
    api.create_repo("user/data", repo_type="dataset")
    files = [CommitOperationAdd(f"data/{number:03}.txt", str(number).encode()) for number in range(250)]
    api.create_commit("user/data", files, commit_message="many", repo_type="dataset")
    assert len(list(api.list_repo_tree("user/data", recursive=True, repo_type="dataset"))) == 252  # in three pages
    assert [each.path for each in api.list_repo_tree("user/data", repo_type="dataset")] == [".gitattributes", "data"]
    (info,) = api.get_paths_info("user/data", ["data/007.txt", "none"], repo_type="dataset")
    assert info.size == 1
    assert len(api.dataset_info("user/data").siblings or []) == 251


def test_errors(hub: LocalHub) -> None:
    api = hub.api()
    api.create_repo("user/model", private=True)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        hub.api("hf_Unknown").whoami()
    with pytest.raises(RepositoryNotFoundError):
        hub.api("hf_Other").model_info("user/model")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("user/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("user/model", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("user/model", "none")
    with pytest.raises(HfHubHTTPError, match="rights"):
        api.create_repo("other/model")
    with pytest.raises(HfHubHTTPError, match="write token"):
        hub.api("hf_ReadOnly").create_commit("user/model", add(a_txt=b""), commit_message="mine")
    with pytest.raises(ValueError, match="base_model_relation"):
        card = b"---\nbase_model_relation: cousin\n---\n"
        api.create_commit("user/model", add(README_md=card), commit_message="card")
    hub.quota = 1000
    with pytest.raises(HfHubHTTPError, match="storage limit"):
        api.create_commit("user/model", add(w_bin=bytes(1001)), commit_message="big")


def test_faults_on_demand(hub: LocalHub) -> None:
    api = hub.api()
    api.create_repo("user/model")
    hub.fail("PUT", "/lfs/", status=None, after=5000)
    hub.fail("POST", "/preupload/", status=429, headers={"Retry-After": "0"})
    api.create_commit("user/model", add(w_bin=bytes(9000)), commit_message="weights")
    assert [request.body for request in hub.requests if request.method == "PUT"] == [5000, 9000]
    assert hub.count("POST", "/preupload/") == 2
    hub.fail("POST", "/commit/", status=500, done=True)
    with pytest.raises(HfHubHTTPError, match="500"):
        api.create_commit("user/model", add(a_txt=b"one"), commit_message="lost")
    assert hub.repository("user/model").files()["a.txt"] == b"one"
