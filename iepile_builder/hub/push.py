"""
Push a model, a dataset or a Space to the Hub: show its files, and commit them in one commit.

`huggingface_hub` skips unchanged files, makes no empty commit, retries and verifies uploads.
"""

from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from iepile_builder.errors import InputError
from iepile_builder.hub.cards import TAG, Form, ModelFacts
from iepile_builder.hub.client import base_license, check_private, full_name, one_line
from iepile_builder.hub.files import TRAINING, Files, dataset_files, metric_files, model_files
from iepile_builder.training.record import is_path


LIBRARY = "iepile_builder/"  # the folder of this package in a Space
# Files of an earlier push to delete: an extra shard would be loaded as data.
STALE = {
    "model": (*TRAINING, "score_report.json", "predictions.jsonl"),
    "dataset": ("data/*", "statistics/*"),
    "space": (f"{LIBRARY}*",),
}


def check_push(repo_id: str, base_model: str) -> str:
    """
    Check before a training that its result can be pushed, and return the repository's full name.

    Raises:
        `InputError`: If the token is refused, the Hub cannot be reached, or the base model has no Hub id or licence.
    """
    if is_path(base_model):
        raise InputError(
            f"{base_model} is a folder, but the card must name the base model on the Hub: train without "
            "--push_to_hub, then use iepile push with --base_model"
        )
    with one_line("the Hub"):
        HfApi().whoami()
    base_license(base_model)
    return full_name(repo_id)


def take_push(training_args: Any, base_model: str) -> str | None:
    """Turn off the trainer's own push, which would send every checkpoint, and [`check_push`] its target."""
    if not training_args.push_to_hub:
        return None
    training_args.push_to_hub = False
    return check_push(training_args.hub_model_id or Path(training_args.output_dir).resolve().name, base_model)


def push_folder(
    what: Form | Literal["dataset", "metric"],
    folder: Path,
    repo_id: str,
    public: bool = False,
    dry_run: bool = False,
    facts: ModelFacts | None = None,
) -> None:
    """Collect the files of a model, a dataset or a metric, and [`push`] them."""
    name = full_name(repo_id)
    if what == "dataset":
        push(dataset_files(folder, name), name, "dataset", f"Upload {what}", public, dry_run)
    elif what == "metric":
        push(metric_files(folder, name), name, "space", f"Upload {what}", public, dry_run)
    else:
        push(model_files(what, folder, name, facts), name, "model", f"Upload {what}", public, dry_run)


def push(
    files: Files, repo_id: str, repo_type: str, message: str, public: bool = False, dry_run: bool = False
) -> str | None:
    """
    Print the files and their destination, then commit them, and delete what only an earlier push had; return the
    repository's newest commit. A repository that does not exist is created, private unless `public`.

    Raises:
        `InputError`: If a file holds a secret, the repository holds something else, or the Hub refuses or cannot
            be reached. Another call resumes an interrupted push.
    """
    check_private(files)
    api = HfApi()
    info: Any = None
    state = f"new, {'public' if public else 'private'}"
    try:
        with one_line(repo_id), suppress(RepositoryNotFoundError):
            info = api.repo_info(repo_id, repo_type=repo_type)
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
    library = [path for path in files if path.startswith(LIBRARY)]
    for path, size in sorted(sizes.items()):
        if path not in library:
            print(f"{size:>13,}  {path}")
    if library:
        print(f"{sum(sizes[path] for path in library):>13,}  {LIBRARY} ({len(library)} files)")
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
