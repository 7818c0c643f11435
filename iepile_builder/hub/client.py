"""Ask the Hub, turn its errors into one line, and keep secrets from it."""

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from iepile_builder.errors import InputError


# The first base of HfHubHTTPError is that of all errors of the HTTP library, which changes with the version.
ERRORS: tuple[Any, ...] = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)

SECRETS = {
    "a Hub token": rb"hf_(?:oauth_|jwt_)?[A-Za-z0-9]{30}",
    "an API key (sk-...)": rb"sk-(?:(?:proj|svcacct|admin|ant-\w+|or-v1)-[\w-]{32}|[A-Za-z0-9]{32})",
    "an AWS key": rb"A(?:KIA|SIA)[A-Z2-7]{16}",
    "a GitHub token": rb"g(?:h[opsur]_[A-Za-z0-9]{36}|ithub_pat_\w{60})",
    "a Google API key": rb"AIza[\w-]{35}",
    "a Slack token": rb"xox[abeoprs]-[\w-]{20}",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY",
}


def full_name(repo_id: str) -> str:
    """Check a repository's name, and add the token owner's namespace if it has none."""
    with one_line("the Hub"):
        validate_repo_id(repo_id)
    if "/" in repo_id:
        return repo_id
    with one_line("the Hub"):
        return f"{HfApi().whoami()['name']}/{repo_id}"


def base_license(base_model: str) -> dict[str, Any]:
    """Read the licence in a model's card, on the Hub or in its cache."""
    try:
        with one_line(base_model):
            data = ModelCard.load(base_model, ignore_metadata_errors=True).data
    except InputError as error:
        raise InputError(f"the licence of the base model is not known: give --license ({error})") from None
    found = {key: data[key] for key in ("license", "license_name", "license_link") if data.get(key)}
    if "license" not in found:
        raise InputError(f"{base_model}: its card states no licence: give --license")
    return found


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn the errors of `huggingface_hub` into one line that says what to do."""
    try:
        yield
    except InputError:
        raise
    except ERRORS as error:
        raise InputError(_explain(error, what)) from None


def _explain(error: BaseException, what: str) -> str:
    if isinstance(error, RuntimeError) and error.__cause__:  # of an upload
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to reach the Hub"
    if isinstance(error, RepositoryNotFoundError):
        return f"{what}: no such repository, or the token cannot see it"
    response, message = getattr(error, "response", None), getattr(error, "server_message", None)
    reason = " ".join((message or str(error)).split())
    if isinstance(error, LocalTokenNotFoundError) or (response is not None and response.status_code == 401):
        return "the Hub got no valid token: log in with `hf auth login`, or set HF_TOKEN to a token with write access"
    if response is not None:
        again = "; try again later: files that have arrived are not sent again" if response.status_code >= 429 else ""
        return f"{what}: the Hub answers {response.status_code} ({reason}){again}"
    if isinstance(error, (OSError, ValueError, RuntimeError)):
        return f"{what}: {reason}"
    return f"{what}: the Hub cannot be reached ({reason}); the same command resumes the push"


def check_private(files: Mapping[str, Path | bytes]) -> None:
    """
    Refuse files with a secret or, except in data, with a path in the user's home folder; the error does not show it.
    """
    own, home = (re.escape(each or "").encode() for each in (get_token(), os.path.expanduser("~")))
    patterns = SECRETS | ({"your token": own} if own else {})
    # it begins with the path, because a search for fixed bytes is the fastest
    at_start = rb"(?:(?<![\w.-]%b)|(?<=\\[nrt]%b))" % (home, home)
    in_home = {"a path in your home folder": home + at_start + rb"[/\\]\w"}
    for path, content in files.items():
        is_data = path.endswith((".parquet", ".jsonl"))
        for part in _read_parts(path, content):
            for what, pattern in (patterns if is_data or len(home) < 2 else patterns | in_home).items():
                if re.search(pattern, part):
                    raise InputError(f"nothing was pushed: {path} holds {what}; take it out first")


def _read_parts(path: str, content: Path | bytes) -> Iterator[Any]:
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
