"""Ask the Hub for the user's name and a model's licence, and turn its errors into one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from iepile_builder.errors import InputError


# The first base of HfHubHTTPError is that of all errors of the HTTP library, which changes with the version.
ERRORS: tuple[Any, ...] = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)


def user_name() -> str:
    """Return the name of the token's owner."""
    with one_line("the Hub"):
        return str(HfApi().whoami()["name"])


def full_name(repo_id: str) -> str:
    """Add the user's namespace to the name of a repository that has none."""
    return repo_id if "/" in repo_id else f"{user_name()}/{repo_id}"


def base_license(base_model: str) -> dict[str, Any]:
    """Read the licence in a model's card."""
    try:
        with one_line(base_model):
            data = HfApi().model_info(base_model).card_data
    except InputError as error:
        raise InputError(f"the licence of the base model is not known: give --license ({error})") from None
    names = ("license", "license_name", "license_link")
    found = {name: data[name] for name in names if data is not None and data.get(name)}
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
        reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of an upload
        raise InputError(_explain(reason, what)) from None


def _explain(error: BaseException, what: str) -> str:
    """Say what is wrong and what to do."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it"
    if isinstance(error, RepositoryNotFoundError):
        return f"{what}: no such repository, or the token does not see it"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return (
            "the Hub has no valid token from you: log in with `hf auth login`, or set HF_TOKEN to one that may write"
        )
    said = error.server_message if isinstance(error, HfHubHTTPError) and error.server_message else str(error)
    said = " ".join(said.split())
    if status is not None:
        again = "; try again later: what has arrived is not sent again" if status >= 429 else ""
        return f"{what}: the Hub answers {status} ({said}){again}"
    if isinstance(error, (OSError, ValueError, RuntimeError)):
        return f"{what}: {said}"
    return f"{what}: the Hub cannot be reached ({said}); with a connection the same command goes on from there"
