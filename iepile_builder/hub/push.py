"""
Push a model, a dataset or a Space to the Hub: show its files, and commit them in one commit.

`huggingface_hub` skips what has not changed, makes no empty commit, retries and verifies uploads.
"""

import mmap
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from iepile_builder.errors import InputError
from iepile_builder.hub.cards import TAG, Form, ModelFacts
from iepile_builder.hub.client import base_license, full_name, one_line, user_name
from iepile_builder.hub.files import TRAINING, Files, dataset_files, model_files
from iepile_builder.training.record import is_path


# Files of an earlier push to delete: an extra shard would be loaded as data.
STALE = {
    "model": (*TRAINING, "score_report.json", "predictions.jsonl"),
    "dataset": ("data/*", "statistics/*"),
    "space": ("iepile_builder/*", "demo.py"),
}


def check_push(repo_id: str, base_model: str) -> str:
    """
    Check before a training that its result can be pushed.

    Args:
        repo_id (`str`):
            The repository.
        base_model (`str`):
            The base model.

    Returns:
        `str`: The repository's full name.

    Raises:
        `InputError`: If the token is refused, the Hub cannot be reached, or the model or its licence is not there.
    """
    if is_path(base_model):
        raise InputError(
            f"{base_model} is a folder, and the card must name the base model on the Hub: train without "
            "--push_to_hub, then use iepile push with --base_model"
        )
    user = user_name()
    base_license(base_model)
    return repo_id if "/" in repo_id else f"{user}/{repo_id}"


def take_push(training_args: Any, base_model: str) -> str | None:
    """
    Turn off the trainer's own push, which would send every checkpoint; [`push_model`] sends the result.

    Args:
        training_args ([`~transformers.TrainingArguments`]):
            With `push_to_hub`, which is set to `False`, and `hub_model_id`, by default the name of the output folder.
        base_model (`str`):
            What is trained.

    Returns:
        `str`, *optional*: The repository's full name, if there will be a push.

    Raises:
        `InputError`: As [`check_push`].
    """
    if not training_args.push_to_hub:
        return None
    training_args.push_to_hub = False
    return check_push(training_args.hub_model_id or Path(training_args.output_dir).resolve().name, base_model)


def push_model(
    form: Form, folder: Path, repo_id: str, public: bool = False, facts: ModelFacts | None = None
) -> str | None:
    """Push a trained model: [`model_files`], then [`push`]."""
    name = full_name(repo_id)
    return push(model_files(form, folder, name, facts), name, "model", f"Upload {form}", public)


def push_dataset(folder: Path, repo_id: str, public: bool = False) -> str | None:
    """Push a built dataset: [`dataset_files`], then [`push`]."""
    name = full_name(repo_id)
    return push(dataset_files(folder, name), name, "dataset", "Upload dataset", public)


def push(
    files: Files, repo_id: str, repo_type: str, message: str, public: bool = False, dry_run: bool = False
) -> str | None:
    """
    Print the files and their destination, then make the repository hold exactly these files, in one commit.

    Args:
        files (`Mapping[str, Path | bytes]`):
            Path in the repository to local file or content.
        repo_id (`str`):
            The repository, `namespace/name`; it is made if there is none.
        repo_type (`str`):
            `"model"`, `"dataset"` or `"space"`.
        message (`str`):
            Of the commit.
        public (`bool`, *optional*, defaults to `False`):
            Whether a new repository is public; an existing one is not changed.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print only, card included.

    Returns:
        `str`, *optional*: The repository's new commit. Call again to resume an interrupted push: files that have
        arrived are not sent again.

    Raises:
        `InputError`: If a file holds a token, the repository holds something else, or the Hub refuses or cannot be
            reached.
    """
    _check_private(files)
    api, info = HfApi(), None
    state = "new, public" if public else "new, private"
    try:
        info = _find(repo_id, repo_type, api)
    except InputError:
        if not dry_run:
            raise
        state += ", unless it exists: the Hub was not reached"
    there = [each.rfilename for each in info.siblings or ()] if info else []
    if info:
        state = "private" if info.private else "public"
        if {*there} - {".gitattributes", "README.md"} and TAG not in (info.tags or ()):
            raise InputError(f"{repo_id}: holds a {repo_type} that was not pushed from here: give another name")

    sizes = {path: len(each) if isinstance(each, bytes) else each.stat().st_size for path, each in files.items()}
    print(f"{repo_type} {repo_id} ({state})")
    for path, size in sorted(sizes.items()):
        print(f"{size:>13,}  {path}")
    print(f"{sum(sizes.values()):>13,}  bytes in {len(files)} files")
    if dry_run:
        card = files["README.md"]
        print(f"\n{card.decode() if isinstance(card, bytes) else card.read_text(encoding='utf-8')}")
        print("A dry run: nothing was pushed.")
        return None

    operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
    stale = [path for path in there if path not in files and any(fnmatchcase(path, each) for each in STALE[repo_type])]
    operations += [CommitOperationDelete(path) for path in stale]
    with one_line(repo_id):
        if info is None:
            sdk = "gradio" if repo_type == "space" else None
            api.create_repo(repo_id, repo_type=repo_type, private=not public, space_sdk=sdk)
        commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)
    print(f"{'nothing has changed' if info and info.sha == commit.oid else 'pushed'}: {commit.commit_url}")
    return commit.oid


def _find(repo_id: str, repo_type: str, api: HfApi) -> Any:
    """Look up a repository on the Hub; return `None` if there is none."""
    with one_line(repo_id):
        try:
            return api.repo_info(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return None


def _check_private(files: Files) -> None:
    """
    Refuse files with a Hub token, or (except data) with a path in the user's home.

    Args:
        files (`Mapping[str, Path | bytes]`):
            Path in the repository to local file or content.

    Raises:
        `InputError`: With the file's name; the token is not shown.
    """
    own, home = (get_token() or "").encode(), os.path.expanduser("~").encode()
    in_home = re.compile(rb"(?:(?<![\w.-])|(?<=\\[nrt]))" + re.escape(home) + rb"[/\\]\w")
    for path, content in files.items():
        for part in _contents(path, content):
            if own and part.find(own) >= 0:
                what = "your token"
            elif re.search(rb"hf_(oauth_|jwt_)?[A-Za-z0-9]{30,}", part):
                what = "a token of the Hub"
            elif len(home) > 1 and not path.endswith((".parquet", ".jsonl")) and in_home.search(part):
                what = "a path in your home folder"
            else:
                continue
            raise InputError(f"nothing was pushed: {path} holds {what}; take it out first")


def _contents(path: str, content: Path | bytes) -> Iterator[Any]:
    """Read a file in parts that can be searched."""
    if isinstance(content, bytes):
        yield content
    elif path.endswith(".parquet"):
        for batch in pq.ParquetFile(content).iter_batches():
            found = BytesIO()
            with pa.ipc.new_stream(found, batch.schema) as stream:  # keeps the strings of any column type whole
                stream.write_batch(batch)
            yield found.getvalue()
    elif content.stat().st_size:
        with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped
