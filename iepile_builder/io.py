"""Read JSON lines with file and line in every error; write files whole."""

import os
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import orjson

from iepile_builder.errors import InputError


RESOURCES = Path(str(files("iepile_builder"))) / "resources"
SAMPLE_CORPUS = RESOURCES / "sample_corpus"
PACKED = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ", ".zst": b"\x28\xb5\x2f\xfd", ".zip": b"PK\x03\x04"}

SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair is no character

# json.dumps makes a new encoder at each call, which takes longer than most of what is encoded here
_encode = c_make_encoder(None, None, encode_basestring, None, ": ", ", ", False, False, True)


def fold(text: str) -> str:
    """Give a text in lower case, with one space for any white space: the rule for two texts that are the same."""
    return " ".join(text.lower().split())


def find_resource(folder: str, name: str) -> Path:
    """
    Find a file of `recipes/`, `evaluate_metrics/` or `sample_corpus/` (the `folder`) in a checkout or in the installed
    package. `name` is a file that exists, or a name in the folder, with or without it:
    `"qwen3-4b/sft/config_lora.yaml"`.

    Raises:
        `InputError`: If there is none of this name; the message lists the names there are.
    """
    if Path(name).is_file():
        return Path(name)
    installed = RESOURCES / folder
    root = (installed if installed.is_dir() else RESOURCES.parent.parent / folder).resolve()
    path = (root / name.removeprefix(f"{folder}/")).resolve()
    if path.is_file():
        return path
    nearest = next((parent for parent in path.parents if parent.is_dir() and parent.is_relative_to(root)), root)
    known = sorted(str(entry.relative_to(root)) for entry in nearest.iterdir())
    raise InputError(f"{name}: no such file, and no name in {folder}, which has {', '.join(known)}")


def find_adapter(name: str) -> str:
    """Find the folder of a recipe's adapter by its name, `"smollm2-135m-instruct/zero_shot/adapter"`."""
    try:
        return str(find_resource("recipes", f"{name}/adapter_config.json").parent)
    except InputError:  # a folder elsewhere, or a Hub id
        return name


def find_table(name: str | Path) -> Path:
    """
    Find a table by label: a file, or one of the package by its name in the sample corpus or the recipes,
    `"sample_corpus/label_synonyms.json"`.
    """
    folder = "sample_corpus" if str(name).startswith("sample_corpus/") else "recipes"
    try:
        return find_resource(folder, str(name))
    except InputError:  # whoever reads it says what it should be
        return Path(name)


def metric_path() -> str:
    """Find the path of the metric, for `evaluate.load(iepile_builder.metric_path())`."""
    return str(find_resource("evaluate_metrics", "ie_f1/ie_f1.py"))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, for a message that has only one."""
    return str(error).strip().partition("\n")[0]


def pluralize(number: int, noun: str) -> str:
    """Put a number before a noun, which gets an "s" unless there is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_lines(path: Path, start: int = 0, end: int = sys.maxsize) -> Iterator[tuple[int, int, bytes]]:
    """
    Yield number (from 1), offset in bytes and content of each line that is not blank; none if there is no file.
    `start` is the offset of a line, which gets the number 1; the last line starts before `end`.
    """
    if not path.exists():
        return
    check_file(path)
    with path.open("rb") as file:
        offset = start
        if start == 0 and file.read(len(BOM_UTF8)) == BOM_UTF8:
            offset = len(BOM_UTF8)
        file.seek(offset)
        for number, line in enumerate(file, start=1):
            if offset >= end:
                break
            if not line.isspace():
                yield number, offset, line
            offset += len(line)


@contextmanager
def located(path: Path, number: int) -> Iterator[None]:
    """Say in which file and line an `InputError` was raised."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error}") from None


def read_json(line: bytes) -> dict[str, Any]:
    """The JSON object in a line."""
    record = load_json(line, "not one JSON object a line")
    if not isinstance(record, dict):
        raise InputError(f"not one JSON object a line ({type(record).__name__})")
    return record


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    Yield number and JSON object of each line that is not blank.

    Raises:
        `InputError`: If there is no file, or with file and line, if a line is no JSON object.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    for number, _, line in read_lines(path):
        with located(path, number):
            row = read_json(line)
        yield number, row


def load_json(data: bytes, what: str = "not JSON") -> Any:
    """Load JSON in UTF-8, or raise an `InputError` with `what` it is not, and why."""
    try:
        return orjson.loads(data)
    except ValueError as error:
        reason = str(error)
        if "surrogate in string" in reason:
            reason = f"half of a surrogate pair, which is no character, at {reason.partition(': ')[2]}: delete it"
    try:
        data.decode()
    except UnicodeDecodeError as error:  # of which `orjson` only says that there is one
        reason = describe_encoding(error)
    raise InputError(f"{what} ({reason})")


def describe_encoding(error: UnicodeDecodeError) -> str:
    """Say why bytes are no text, and what to do."""
    if error.object.startswith(tuple(PACKED.values())):
        return "a compressed file: unpack it first"
    return f"not UTF-8, {error.reason} at byte {error.start + 1}: save the file as UTF-8"


def find_encoding_error(path: Path) -> InputError:
    """Find the line of a file that is not UTF-8: Python's decoder counts from somewhere in the file."""
    for number, _, line in read_lines(path):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return InputError(f"{path}, line {number}: {describe_encoding(error)}")
    return InputError(f"{path}: not UTF-8: save the file as UTF-8")


def check_unpacked(path: Path) -> None:
    """Raise an `InputError` if a file is compressed and not unpacked beside it."""
    if path.suffix in PACKED and not path.with_suffix("").exists():
        raise InputError(f"{path}: a compressed file: unpack it first")


def check_file(path: Path) -> None:
    """Raise an `InputError` if something that is no file, such as a folder or a pipe, is in its place."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file")


def check_apart(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise an `InputError` if a file to write is one of the inputs or lies under one of their folders."""
    target = Path(os.path.realpath(path))
    for place in inputs:
        if place is None or not os.path.exists(place):
            continue
        if os.path.exists(target) and target.samefile(place):
            raise InputError(f"{path}: the output file is the input {place}; give another file")
        if any(os.path.exists(parent) and parent.samefile(place) for parent in target.parents):
            raise InputError(f"{path}: the output file lies under the input folder {place}; give another file")


def check_output(path: Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """
    Raise an `InputError` if a file cannot be written, or must not be because of the inputs, before the work whose
    result it will hold.
    """
    try:
        check_apart(path, inputs)
        check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=os.path.realpath(path.parent)).close()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """
    Write a file under a temporary name and rename it, so that no half of it is ever taken for the whole.

    Raises:
        `InputError`: If it cannot be written.
    """
    try:
        check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.realpath(path))  # a symbolic link stays one
        temporary = target.with_name(f".{target.name}.incomplete")
        try:
            temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    check_file(path)
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Hold the lock of an output, a hidden file beside it, so that no second run writes it; a killed run has let go of
    it.

    Raises:
        `InputError`: If another run holds it, or the output cannot be a file.
    """
    from filelock import FileLock, Timeout

    check_file(path)
    target = Path(os.path.realpath(path))
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{path}: another run is writing it: wait for that, or give another output") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def to_json(value: Any) -> str:
    """`value` as JSON, as `json.dumps` writes it with `ensure_ascii=False`."""
    return "".join(_encode(value, 0))
