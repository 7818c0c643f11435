"""Load built instances."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from iepile_builder.data.corpus import SPLIT_FILES
from iepile_builder.errors import InputError
from iepile_builder.io import first_line, hash_file, read_objects


if TYPE_CHECKING:
    from datasets import Dataset

_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_instances(name: str, columns: tuple[str, ...], used: Collection[str] | None = None) -> dict[str, Dataset]:
    """
    Load the splits of a dataset of instances.

    Args:
        name (`str`):
            A folder of `{train,validation,test}.jsonl` or of `{train,dev,test}.json`; a JSON, JSON lines or Parquet
            file, whose rows are the split `train`; or what [`~datasets.load_dataset`] opens by name, a folder of
            Parquet or a Hub id. Of a Hub repository with a `train.json`, such as `zjunlp/iepile`, the files
            `{train,dev,test}.json` are read.
        columns (`tuple[str, ...]`):
            The text columns that every split must have.
        used (`Collection[str]`, *optional*):
            The splits that must have them, if not every split: a test split may have no annotation.

    Returns:
        `dict[str, Dataset]`: The splits by name.

    Raises:
        `InputError`: If there is no such dataset, or one of its files cannot be read or lacks a column.
    """
    from datasets import Value, load_dataset
    from datasets.exceptions import DatasetGenerationError

    path = Path(name)
    if path.is_file():
        files = {"train": path}
    else:
        names = {split: (path / f"{split}.jsonl", path / file) for split, file in SPLIT_FILES.items()}
        files = {split: file for split, both in names.items() for file in both[::-1] if file.is_file()}

    try:
        with without_dataset_bars():
            if files:
                # One by one: the splits may differ in columns. The cache of `datasets` is keyed by a file's time.
                splits = {
                    split: load_dataset(_format(file), hash_file(file), data_files=str(file), split="train")
                    for split, file in files.items()
                }
            else:
                splits = dict(load_dataset(name, data_files=_published_files(name)))
    except (DatasetGenerationError, RecursionError) as error:
        raise _unreadable(name, list(files.values()), error) from None
    except StopIteration:  # of `datasets`, for a file without a line
        raise InputError(f"{name}: no instances in a file of it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: not a dataset of instances: {first_line(error)}") from None

    for split, dataset in splits.items():
        for column in columns if used is None or split in used else ():
            if dataset.features.get(column) not in (Value("string"), Value("large_string")):
                raise InputError(
                    f"{files.get(split, name)}: no text column `{column}` in the {split} split, only "
                    + ", ".join(f"`{name}`" for name in dataset.column_names)
                )
    return splits


@contextmanager
def without_dataset_bars() -> Iterator[None]:
    """Hide the bars of `datasets`."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _published_files(name: str) -> dict[str, str] | None:
    """
    Find the files of instances in a Hub repository that also holds corpora, as `zjunlp/iepile` does: its `train.json`
    and `dev.json` lie beside the annotated records of `IE-en/**` and `IE-zh/**`, which have other columns.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if Path(name).exists():
        return None
    try:
        names = set(HfApi().list_repo_files(name, repo_type="dataset"))
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError):
        return None  # `load_dataset` says what is wrong, or has it in its cache
    return {split: file for split, file in SPLIT_FILES.items() if file in names} or None


def _format(file: Path) -> str:
    if file.suffix not in _FORMATS:
        raise InputError(f"{file}: not a file of instances: give {', '.join(_FORMATS)} or a folder")
    return _FORMATS[file.suffix]


def _unreadable(name: str, files: list[Path], error: Exception) -> InputError:
    for file in files:
        if file.suffix == ".jsonl":
            # `datasets` names neither the file nor the line.
            for _ in read_objects(file):
                pass
    return InputError(f"{name}: cannot be read: {first_line(error.__cause__ or error)}")
