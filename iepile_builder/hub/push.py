"""
Pushing to the Hub: what goes there of a model, a dataset or a Space, what is shown before, what is refused,
what happens on a bad network, what is read back.

`huggingface_hub` uploads and retries the transfer of files. Here is what it leaves open: one commit for everything,
none where nothing has changed, retries of the requests that it sends once, one line for each thing that can go wrong.
"""

import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import requires
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx2
import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import sha
from packaging.requirements import Requirement
from tqdm import tqdm

from iepile_builder.errors import InputError
from iepile_builder.hub.cards import TAG, Form, check_card, check_report, demo_card, model_card, template
from iepile_builder.io import RESOURCES
from iepile_builder.training.record import RECIPE, RECORD, is_path


Files = Mapping[str, Path | bytes]  # path in the repository to a local file or to content
Result = TypeVar("Result")
WAITS = (1, 2, 4, 8, 16)  # seconds before the next try, where the server does not say
PASSING = (408, 412, 429, 500, 502, 503, 504)
NO_CONTACT = (httpx2.ConnectError, httpx2.ConnectTimeout)

# Each begins with a fixed text, for which a file is searched fast, and does not follow a letter, digit or underscore.
SECRETS = {
    rb"hf_[A-Za-z0-9]{30,}": "a Hugging Face token",
    rb"api_org_[A-Za-z0-9]{30,}": "a Hugging Face token",
    rb"ghp_[A-Za-z0-9]{36,}": "a GitHub token",
    rb"gho_[A-Za-z0-9]{36,}": "a GitHub token",
    rb"ghs_[A-Za-z0-9]{36,}": "a GitHub token",
    rb"github_pat_\w{22,}": "a GitHub token",
    rb"glpat-[\w-]{20,}": "a GitLab token",
    rb"sk-[\w-]{20,}": "an API key",
    rb"AIza[\w-]{35}": "an API key",
    rb"xox[abposr]-[\w-]{10,}": "a Slack token",
    rb"npm_[A-Za-z0-9]{36}": "an npm token",
    rb"pypi-[\w-]{50,}": "a PyPI token",
    rb"AKIA[A-Z0-9]{16}\b": "an AWS key",
    rb"ASIA[A-Z0-9]{16}\b": "an AWS key",
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----": "a private key",
}
SHOWN = 5  # findings in an error


class Pushed(NamedTuple):
    """
    What a push has done.

    Attributes:
        url (`str`): the repository's page, or the pull request's.
        commit (`str`): where the content now is.
        changed (`int`): files that were added, replaced or deleted; 0 made no commit.
    """

    url: str
    commit: str
    changed: int


class Target(NamedTuple):
    """
    Where to push.

    Args:
        repo_id (`str`):
            The repository, `namespace/name`, or `name` in the user's own namespace.
        repo_type (`str`):
            `"model"`, `"dataset"` or `"space"`.
        public (`bool`, *optional*, defaults to `False`):
            Whether a new repository is public; one that exists stays as it is.
        revision (`str`, *optional*):
            The branch, or pull request (`refs/pr/1`), default `main`; a branch is made if there is none.
        tag (`str`, *optional*):
            A name for what has been pushed.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether to open a pull request in place of a commit on `main`.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to push to a repository that holds something else.
    """

    repo_id: str
    repo_type: str
    public: bool = False
    revision: str | None = None
    tag: str | None = None
    create_pr: bool = False
    overwrite: bool = False


WEIGHTS = {
    "adapter": ("adapter_config.json", "adapter_model*.safetensors"),
    "merged": ("config.json", "model*.safetensors", "model.safetensors.index.json"),
    "gguf": ("*.gguf", "Modelfile"),
}
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.jinja")
BESIDES = ("generation_config.json", RECORD, RECIPE, "*.png", "score_report.json", "predictions.jsonl", "README.md")
MODEL_FILES = ("*.safetensors", "*.gguf", "Modelfile", "adapter_config.json", "config.json", *TOKENIZER, *BESIDES)
DATASET_FILES = ("data/*", "statistics/*", "README.md")
SPACE_FILES = ("*.py", "iepile_builder/**", "requirements.txt", "README.md")


def size_of(content: Path | bytes) -> int:
    """Bytes of a file or a content."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def user_name(api: HfApi) -> str:
    """Whose token it is; a missing network and a refused token are known at once."""
    try:
        return insist(lambda: api.whoami(cache=True), at_once=NO_CONTACT)["name"]
    except (HfHubHTTPError, httpx2.TransportError, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise InputError(
                "the Hub refuses the token: log in with `hf auth login`, or set HF_TOKEN to one that may write"
            ) from None
        if isinstance(error, NO_CONTACT):
            raise InputError(f"the Hub cannot be reached ({one_line(error)}): {api.endpoint}") from None
        raise InputError(explain(error, "the Hub", api.endpoint)) from None


def full_name(repo_id: str, api: HfApi | None = None) -> str:
    """The name of a repository with the user's namespace, where it has none."""
    return repo_id if "/" in repo_id else f"{user_name(api or HfApi())}/{repo_id}"


def check_push(repo_id: str, base_model: str) -> str:
    """
    Say before a training, not after it, what would keep its result from being pushed.

    Args:
        repo_id (`str`):
            The repository.
        base_model (`str`):
            What is trained.

    Returns:
        `str`: The repository's whole name.

    Raises:
        `InputError`: if there is no token that is taken, no network, no name of the model on the Hub, or no licence.
    """
    if is_path(base_model):
        raise InputError(
            f"{base_model} is a folder, and the card must name the base model on the Hub: train without "
            "--push_to_hub, then use scripts/push_to_hub.py with --base_model"
        )
    user = user_name(HfApi())
    base_license(base_model, HfApi())
    return repo_id if "/" in repo_id else f"{user}/{repo_id}"


def take_push(training_args: Any, base_model: str) -> str | None:
    """
    Take the push out of the trainer's hands, which would send every checkpoint; [`push_model`] sends the result.

    Args:
        training_args ([`~transformers.TrainingArguments`]):
            With `push_to_hub`, which is set to `False`, and `hub_model_id`, by default the name of the output folder.
        base_model (`str`):
            What is trained.

    Returns:
        `str`, *optional*: The repository's whole name, if there is to be a push.

    Raises:
        `InputError`: as [`check_push`].
    """
    if not training_args.push_to_hub:
        return None
    training_args.push_to_hub = False
    return check_push(training_args.hub_model_id or Path(training_args.output_dir).resolve().name, base_model)


def model_files(
    form: Form,
    folder: Path,
    name: str,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    languages: Sequence[str] = (),
    license: str | None = None,
    report_file: Path | None = None,
    predictions_file: Path | None = None,
    api: HfApi | None = None,
) -> dict[str, Path | bytes]:
    """
    What goes to the Hub of a trained model: weights, tokenizer, card, and the record of how it was made.

    Args:
        form (`str`):
            `"adapter"`, `"merged"` or `"gguf"`.
        folder (`Path`):
            Of the model.
        name (`str`):
            The repository.
        base_model (`str`, *optional*):
            Hub id of the base model; needed where it was loaded from a folder.
        datasets (`Sequence[str]`, *optional*):
            Hub ids of the training data.
        languages (`Sequence[str]`, *optional*):
            Codes of the languages.
        license (`str`, *optional*):
            Default: the one in the base model's card.
        report_file (`Path`, *optional*):
            Of `scripts/score.py --bootstrap`.
        predictions_file (`Path`, *optional*):
            The answers that were scored.
        api ([`~huggingface_hub.HfApi`], *optional*):
            To read the base model's card with.

    Raises:
        `InputError`: if the folder is no such model, or something that the card must say is not known.
    """
    files: dict[str, Path | bytes] = {}
    for pattern in (*WEIGHTS[form], *TOKENIZER, *BESIDES):
        files |= {path.name: path for path in sorted(folder.glob(pattern)) if path.is_file()}
    needed = {"adapter": "adapter_model.safetensors", "merged": "config.json", "gguf": "*.gguf"}[form]
    if not any(fnmatchcase(path, needed) for path in files):
        pickled = ", with weights in a pickle file: save them as safetensors" if any(folder.glob("*.bin")) else ""
        raise InputError(f"{folder}: no {needed} in it{pickled}")

    record = json.loads((folder / RECORD).read_text(encoding="utf-8")) if RECORD in files else {}
    base_model = base_model or record.get("base_model")
    if form == "adapter":
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base_model = base_model or config["base_model_name_or_path"]
        files["adapter_config.json"] = to_bytes({**config, "base_model_name_or_path": base_model})
    if base_model is None or is_path(base_model):
        raise InputError(f"{folder}: its base model has no Hub id: give --base_model")
    if form != "gguf" and "generation_config.json" not in files:
        files["generation_config.json"] = generation_config(folder)

    report = None
    if report_file is not None:
        report = read_json(report_file)
        check_report(report, report_file)
        files["score_report.json"] = report_file
    if predictions_file is not None:
        if not predictions_file.is_file():
            raise InputError(f"{predictions_file}: no such file of predictions")
        files["predictions.jsonl"] = predictions_file
    terms = {"license": license} if license else base_license(base_model, api or HfApi())
    card = model_card(form, folder, name, base_model, datasets, languages, terms, report, predictions_file is not None)
    files["README.md"] = str(card).encode()
    return files


def read_json(path: Path) -> Any:
    """What a file of JSON holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None


def to_bytes(value: Any) -> bytes:
    """Content of a JSON file."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def generation_config(folder: Path) -> bytes:
    """Greedy answers that end where the training's answers did."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token_id
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return to_bytes({"do_sample": False, "eos_token_id": end, "pad_token_id": pad})


def base_license(base_model: str, api: HfApi) -> dict[str, Any]:
    """The licence that a model's card states."""
    try:
        data = insist(lambda: api.model_info(base_model).card_data, at_once=NO_CONTACT)
    except (HfHubHTTPError, httpx2.TransportError, OSError, ValueError) as error:
        reason = explain(error, base_model, api.endpoint)
        raise InputError(f"the licence of the base model is not known: give --license ({reason})") from None
    names = ("license", "license_name", "license_link")
    found = {name: data[name] for name in names if data is not None and data.get(name)}
    if "license" not in found:
        raise InputError(f"{base_model}: its card states no licence: give --license")
    return found


def dataset_files(folder: Path, name: str) -> dict[str, Path | bytes]:
    """
    What goes to the Hub of a dataset that `scripts/build_dataset.py --format parquet` wrote.

    Args:
        folder (`Path`):
            Of the dataset.
        name (`str`):
            The repository, which the code in its card loads.

    Raises:
        `InputError`: if the folder is no such dataset.
    """
    files: dict[str, Path | bytes] = {
        str(path.relative_to(folder).as_posix()): path
        for pattern in ("data/*/*.parquet", "statistics/*.png")
        for path in sorted(folder.glob(pattern))
    }
    if not (folder / "README.md").is_file() or not files:
        raise InputError(f"{folder}: no dataset with a card: build it with build_dataset.py --format parquet")
    card = (folder / "README.md").read_text(encoding="utf-8")
    files["README.md"] = re.sub(r'load_dataset\("[^"]*"', f'load_dataset("{name}"', card).encode()
    return files


def metric_files(folder: Path, name: str) -> dict[str, Path | bytes]:
    """
    What goes to the Hub of a metric, as a Space: its folder, and this library, so that it needs nothing of ours from
    elsewhere.

    Args:
        folder (`Path`):
            With `README.md`, `app.py`, `requirements.txt` and a module of the folder's name.
        name (`str`):
            The repository; the module gets its name, because `evaluate` looks for that.

    Raises:
        `InputError`: if the folder is no metric.
    """
    module = f"{folder.name}.py"
    for needed in ("README.md", "app.py", "requirements.txt", module):
        if not (folder / needed).is_file():
            raise InputError(f"{folder}: no {needed} in it: not a metric")
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return library_files(lines) | {
        "README.md": folder / "README.md",
        "app.py": folder / "app.py",
        f"{name.rsplit('/', 1)[-1]}.py": folder / module,
    }


def demo_files(name: str, model: str, adapter: str | None = None) -> dict[str, Path | bytes]:
    """
    What goes to the Hub of the demo, as a Space: the library, and an app that loads a model.

    Args:
        name (`str`):
            The repository.
        model (`str`):
            Hub id of the model.
        adapter (`str`, *optional*):
            Hub id of a LoRA adapter.

    Raises:
        `InputError`: if the model or the adapter is a folder, which the Space could not load.
    """
    for place in filter(None, (model, adapter)):
        if is_path(place):
            raise InputError(f"{place}: a Space loads its model from the Hub: push it, and give its Hub id")
    app = jinja2.Template(template("demo_app.py.txt"), keep_trailing_newline=True)
    return library_files(["gradio>=6", f"{TAG}[extract]"]) | {
        "README.md": str(demo_card(name, model, adapter)).encode(),
        "app.py": app.render(model=json.dumps(model), adapter=json.dumps(adapter) if adapter else "None").encode(),
    }


def library_files(lines: Iterable[str]) -> dict[str, Path | bytes]:
    """This library as a folder, and a file of requirements without it."""
    library = RESOURCES.parent
    files: dict[str, Path | bytes] = {"requirements.txt": "".join(f"{line}\n" for line in third_party(lines)).encode()}
    for pattern in ("**/*.py", "py.typed", "resources/*.json", "resources/templates/*"):
        files |= {f"{library.name}/{path.relative_to(library)}": path for path in sorted(library.glob(pattern))}
    return files


def third_party(lines: Iterable[str]) -> list[str]:
    """Requirements with those of this package in place of its name."""
    found: dict[str, None] = {}
    for line in lines:
        asked = Requirement(line)
        if asked.name != TAG:
            found[line] = None
            continue
        for needed in map(Requirement, requires(TAG) or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in asked.extras):
                needed.marker = None
                found |= dict.fromkeys(third_party([str(needed)]))
    return sorted(found)


def listing(files: Files, target: Target, api: HfApi | None = None) -> str:
    """
    What would leave, and where to: files, sizes, repository and visibility.

    Args:
        files (`Mapping[str, Path | bytes]`):
            Path in the repository to local file or content.
        target ([`Target`]):
            Where to.
        api ([`~huggingface_hub.HfApi`], *optional*):
            To ask whether the repository is there already.
    """
    state = "new, public" if target.public else "new, private"
    if api is not None:
        try:
            found = api.repo_info(target.repo_id, repo_type=target.repo_type)
            state = "private" if found.private else "public"
        except RepositoryNotFoundError:
            pass
        except (HfHubHTTPError, httpx2.TransportError, OfflineModeIsEnabled):
            state += ", unless it exists: the Hub was not reached"
    goal = "as a pull request" if target.create_pr else f"branch {target.revision or 'main'}"
    lines = [f"{target.repo_type} {target.repo_id} ({state}), {goal}" + (f", tag {target.tag}" if target.tag else "")]
    lines += [f"{size_of(content):>13,}  {path}" for path, content in sorted(files.items())]
    lines.append(f"{sum(map(size_of, files.values())):>13,}  bytes in {len(files)} files")
    return "\n".join(lines)


def show_and_push(
    files: Files,
    target: Target,
    message: str,
    managed: Sequence[str] = (),
    dry_run: bool = False,
    api: HfApi | None = None,
) -> Pushed | None:
    """
    Print what leaves and where to, check the card, and push, unless it is a dry run, which prints the card.

    Args:
        files (`Mapping[str, Path | bytes]`):
            Path in the repository to local file or content.
        target ([`Target`]):
            Where to.
        message (`str`):
            Of the commit.
        managed (`Sequence[str]`, *optional*):
            Patterns of paths; what matches and is not in `files` is deleted.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print only.
        api ([`~huggingface_hub.HfApi`], *optional*):
            With an endpoint and a token other than the default ones.

    Raises:
        `InputError`: as [`push`].
    """
    tqdm.write(listing(files, target, api or HfApi()))
    card = files["README.md"]
    text = card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")
    check_card(text, target.repo_type)
    if dry_run:
        scan(files)
        tqdm.write(f"\n{text}\nA dry run: nothing was pushed.")
        return None
    pushed = push(files, target, message, managed, api)
    if pushed.changed:
        tqdm.write(f"{pushed.changed} files changed, read back and compared: {pushed.url} (commit {pushed.commit})")
    else:
        tqdm.write(f"nothing has changed: {pushed.url} (commit {pushed.commit})")
    return pushed


def push_dataset(folder: Path, repo_id: str, public: bool = False) -> Pushed | None:
    """
    Push a built dataset.

    Args:
        folder (`Path`):
            What `scripts/build_dataset.py --format parquet` wrote.
        repo_id (`str`):
            The repository; it is made if there is none.
        public (`bool`, *optional*, defaults to `False`):
            Whether a new repository is public.

    Raises:
        `InputError`: as [`push`].
    """
    name = full_name(repo_id)
    files = dataset_files(folder, name)
    return show_and_push(files, Target(name, "dataset", public), "Upload dataset", DATASET_FILES)


def push_model(form: Form, folder: Path, repo_id: str, public: bool = False, **options: Any) -> Pushed | None:
    """
    Push a trained model.

    Args:
        form (`str`):
            `"adapter"`, `"merged"` or `"gguf"`.
        folder (`Path`):
            Of the model.
        repo_id (`str`):
            The repository; it is made if there is none.
        public (`bool`, *optional*, defaults to `False`):
            Whether a new repository is public.
        **options:
            Of [`model_files`].

    Raises:
        `InputError`: as [`push`].
    """
    name = full_name(repo_id)
    files = model_files(form, folder, name, **options)
    return show_and_push(files, Target(name, "model", public), f"Upload {form}", MODEL_FILES)


def push(files: Files, target: Target, message: str, managed: Sequence[str] = (), api: HfApi | None = None) -> Pushed:
    """
    Make a repository hold these files, in one commit, and read back that it does.

    Args:
        files (`Mapping[str, Path | bytes]`):
            Path in the repository to local file or content.
        target ([`Target`]):
            Where to.
        message (`str`):
            Of the commit.
        managed (`Sequence[str]`, *optional*):
            Patterns of paths; what matches and is not in `files` is deleted.
        api ([`~huggingface_hub.HfApi`], *optional*):
            With an endpoint and a token other than the default ones.

    Returns:
        [`Pushed`]: what has been done. A push of what is there already makes no commit. One that was interrupted goes
        on when it is called again: files that have arrived are not sent again.

    Raises:
        `InputError`: if a file holds a secret, or the Hub refuses or cannot be reached.
    """
    scan(files)
    api = api or HfApi()
    try:
        return _push(files, target, message, managed, api)
    except (HfHubHTTPError, httpx2.TransportError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(explain(cause(error), target.repo_id, api.endpoint)) from None


def _push(files: Files, target: Target, message: str, managed: Sequence[str], api: HfApi) -> Pushed:
    user = user_name(api)
    repo_id = target.repo_id if "/" in target.repo_id else f"{user}/{target.repo_id}"
    kind = target.repo_type
    revision, tag = target.revision or "main", target.tag
    if target.create_pr and revision != "main":
        raise InputError("a pull request is opened against main: leave --revision out")

    # The repository
    try:
        insist(lambda: api.repo_info(repo_id, repo_type=kind))
        exists = True
    except RepositoryNotFoundError:
        exists = False
    if exists:
        if not target.overwrite and not is_ours(api, repo_id, kind):
            raise InputError(
                f"{repo_id}: the name is taken by a {kind} that was not pushed from here: "
                "give another name, or --overwrite"
            )
    elif target.create_pr:
        raise InputError(f"{repo_id}: no such {kind} to open a pull request for, or the token does not see it")
    else:
        sdk = "gradio" if kind == "space" else None
        insist(
            lambda: api.create_repo(repo_id, repo_type=kind, private=not target.public, space_sdk=sdk, exist_ok=True)
        )
    if revision != "main" and not revision.startswith("refs/pr/"):
        insist(lambda: api.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True))
    tags = {each.name: each.target_commit for each in insist(lambda: api.list_repo_refs(repo_id, repo_type=kind)).tags}

    # One commit. A try begins with what is there, so that it may be repeated after a commit whose answer was lost.
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    changed, request_url = 0, None

    def attempt() -> str:
        nonlocal changed, revision, request_url
        head = api.repo_info(repo_id, repo_type=kind, revision=revision).sha
        assert head is not None
        there = tree(api, repo_id, kind, head)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            addition for addition in additions if not is_same(addition, there.get(addition.path_in_repo))
        ]
        operations += [
            CommitOperationDelete(path)
            for path in there
            if path not in files and any(fnmatchcase(path, pattern) for pattern in managed)
        ]
        if tag in tags and (operations or tags[tag] != head):
            raise InputError(f"{repo_id}: the tag {tag} is there and stands for other content: give another one")
        if not operations:
            return head
        changed = len(operations)
        uploads = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
        api.preupload_lfs_files(
            repo_id, uploads, repo_type=kind, revision=revision, create_pr=target.create_pr, free_memory=False
        )
        if target.create_pr and request_url is None:  # late, so that there is none without content
            request = api.create_pull_request(repo_id, title=message, repo_type=kind)
            assert request.git_reference is not None
            request_url, revision = request.url, request.git_reference
        return api.create_commit(
            repo_id, operations, commit_message=message, repo_type=kind, revision=revision, parent_commit=head
        ).oid

    commit = insist(attempt)
    insist(lambda: read_back(api, repo_id, kind, commit, additions))
    if tag is not None and tag not in tags:
        insist(lambda: api.create_tag(repo_id, tag=tag, revision=commit, repo_type=kind, exist_ok=True))
    page = f"{api.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
    return Pushed(request_url or page, commit, changed)


def tree(api: HfApi, repo_id: str, kind: str, commit: str) -> dict[str, RepoFile]:
    """The files of a commit by path."""
    entries = api.list_repo_tree(repo_id, repo_type=kind, revision=commit, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def is_same(addition: CommitOperationAdd, there: RepoFile | None) -> bool:
    """Whether a file is on the Hub as it is here, by what the Hub says of it."""
    if there is None or there.size != addition.upload_info.size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return there.blob_id == sha.git_hash(file.read())


def is_ours(api: HfApi, repo_id: str, kind: str) -> bool:
    """Whether a repository is empty, or has a card that was made here."""
    names = {each.path for each in insist(lambda: list(api.list_repo_tree(repo_id, repo_type=kind)))}
    if names <= {".gitattributes"}:
        return True
    if "README.md" not in names:
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = insist(lambda: api.hf_hub_download(repo_id, "README.md", repo_type=kind, local_dir=folder))
        return TAG in (RepoCard.load(path, ignore_metadata_errors=True).data.get("tags") or [])


def read_back(api: HfApi, repo_id: str, kind: str, commit: str, additions: Sequence[CommitOperationAdd]) -> None:
    """Compare size and sha256 of every file at a commit with what was pushed."""
    there = tree(api, repo_id, kind, commit)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for addition in additions:
            path, wanted = addition.path_in_repo, addition.upload_info
            found = there.get(path)
            if found is None or found.size != wanted.size:
                wrong.append(path)
            elif found.lfs is not None:
                if found.lfs.sha256 != wanted.sha256.hex():
                    wrong.append(path)
            else:  # of a file in git the Hub says no sha256
                copy = api.hf_hub_download(repo_id, path, repo_type=kind, revision=commit, local_dir=folder)
                with open(copy, "rb") as file:
                    if sha.sha_fileobj(file) != wanted.sha256:
                        wrong.append(path)
    if wrong:
        raise InputError(
            f"{repo_id}: at commit {commit} these files are not what was pushed: {', '.join(wrong)}; push again"
        )


def insist(action: Callable[[], Result], at_once: tuple[type[Exception], ...] = ()) -> Result:
    """
    Do something on the Hub again after errors that pass: a lost connection, too many requests, a server's error.

    Args:
        action (`Callable`):
            What to do; it must not matter if it is done twice.
        at_once (`tuple[type[Exception], ...]`, *optional*):
            Errors that are raised at once.
    """
    for wait in WAITS:
        try:
            return action()
        except (HfHubHTTPError, httpx2.TransportError, RuntimeError) as error:
            reason = cause(error)
            if isinstance(reason, at_once):
                raise
            if isinstance(reason, HfHubHTTPError):
                if reason.response.status_code not in PASSING:
                    raise
                after = reason.response.headers.get("Retry-After", "")
                seconds = int(after) if after.isdigit() else wait
                tqdm.write(f"the Hub answers {reason.response.status_code}; the next try is in {seconds} s")
            elif isinstance(reason, httpx2.TransportError):
                seconds = wait
                tqdm.write(f"the connection to the Hub broke ({one_line(reason)}); the next try is in {seconds} s")
            else:
                raise
            time.sleep(seconds)
    return action()


def cause(error: Exception) -> Exception:
    """What is behind an error that an upload wraps."""
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def one_line(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def explain(error: Exception, repo_id: str, endpoint: str) -> str:
    """One line: what is wrong and what to do."""
    again = "the same command goes on from there"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token of the Hub: log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: nothing can be pushed; unset it"
    if isinstance(error, httpx2.TransportError):
        return f"{repo_id}: {endpoint} cannot be reached ({one_line(error)}); {again}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id}: no such revision"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo_id}: no such repository, or the token does not see it"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = error.server_message or one_line(error)
        said = said.splitlines()[0].rstrip(".")
        if status in (413, 507) or (status == 403 and re.search("storage|quota", said)):
            return f"{repo_id}: no space for it on the Hub ({said})"
        if status in (401, 403):
            return f"{repo_id}: the token may not write there ({said}); see https://huggingface.co/settings/tokens"
        if status == 412:
            return f"{repo_id}: others are committing to it at the same time; {again}"
        if status in PASSING:
            return f"{repo_id}: the Hub keeps answering {status} ({said}); later {again}"
        return f"{repo_id}: the Hub answers {status} ({said})"
    if isinstance(error, HFValidationError):
        return f"{repo_id}: no name of a repository ({one_line(error)})"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on this machine's disk ({error.filename or tempfile.gettempdir()})"
    return f"{repo_id}: {' '.join(str(error).split())}"


def scan(files: Files) -> None:
    """
    Refuse files that hold a token, a private key or a path of the user's home.

    Args:
        files (`Mapping[str, Path | bytes]`):
            Path in the repository to local file or content. Of Parquet the texts are searched, of safetensors the
            header, all else byte by byte.

    Raises:
        `InputError`: with file and line (Parquet: row) of what was found; the secret itself is not shown.
    """
    patterns = dict(SECRETS)
    if token := get_token():
        patterns[re.escape(token.encode())] = "the token in use"
    home = os.path.expanduser("~").rstrip("/\\")
    if home:
        patterns[re.escape(home.encode()) + rb"(?![\w.-])"] = "a path of your home folder"
    compiled = [(re.compile(pattern), what) for pattern, what in patterns.items()]
    found = []
    for path, content in files.items():
        for place, part in parts(path, content):
            for pattern, what in compiled:
                for match in pattern.finditer(part):
                    before = part[match.start() - 1 : match.start()] if match.start() else b""
                    if before.isalnum() or before in (b"_", b"/", b"."):
                        continue
                    unit, line = ("row", place) if path.endswith(".parquet") else ("line", place)
                    if unit == "line":
                        line += part.count(b"\n", 0, match.start())
                    found.append(f"{path}, {unit} {line}: {what}")
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(f"nothing was pushed: {'; '.join(found[:SHOWN])}{more}; take it out first")


def parts(path: str, content: Path | bytes) -> Iterator[tuple[int, bytes]]:
    """The searchable parts of a file, each with the number of its first line (Parquet: row)."""
    if isinstance(content, bytes):
        yield 1, content
    elif path.endswith(".parquet"):
        row = 1
        for batch in pq.ParquetFile(content).iter_batches():
            texts = [column for column in batch.columns if pa.types.is_string(column.type)]
            texts += [column for column in batch.columns if pa.types.is_large_string(column.type)]
            for values in zip(*(column.to_pylist() for column in texts), strict=True):
                yield row, "\n".join(value for value in values if value is not None).encode()
                row += 1
    elif path.endswith(".safetensors"):
        with content.open("rb") as file:
            yield 1, file.read(int.from_bytes(file.read(8), "little"))
    else:
        with content.open("rb") as file:
            line = 1
            while lines := file.readlines(1 << 24):
                part = b"".join(lines)
                yield line, part
                line += len(lines)
