"""Load built instances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iepile_builder.errors import InputError
from iepile_builder.io import first_line, located, read_json, read_lines


if TYPE_CHECKING:
    from datasets import Dataset

_SPLITS = ("train", "validation", "test")
_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_instances(name: str, columns: tuple[str, ...]) -> dict[str, Dataset]:
    """
    Loads the splits of a dataset of instances.

    Args:
        name (`str`):
            A folder of `{train,validation,test}.jsonl`, one JSON, JSON lines or Parquet file (its rows are the split
            `train`), or anything else that [`~datasets.load_dataset`] opens by name: a folder of Parquet, a Hub id.
        columns (`tuple[str, ...]`):
            The text columns that every split must have.

    Returns:
        `dict[str, Dataset]`: The splits by name.

    Raises:
        `InputError`: If there is no such dataset, or a file of it cannot be read, or lacks a column.
    """
    from datasets import Value, load_dataset
    from datasets.exceptions import DatasetGenerationError

    path = Path(name)
    if path.is_file():
        files = {"train": path}
    else:
        files = {split: file for split in _SPLITS if (file := path / f"{split}.jsonl").is_file()}

    try:
        if files:
            # One by one: the splits need not have the same columns.
            splits = {
                split: load_dataset(_format(file), data_files=str(file), split="train")
                for split, file in files.items()
            }
        else:
            splits = dict(load_dataset(name))
    except DatasetGenerationError as error:
        raise _unreadable(name, list(files.values()), error) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: not a dataset of instances: {first_line(error)}") from None

    for split, dataset in splits.items():
        for column in columns:
            if dataset.features.get(column) not in (Value("string"), Value("large_string")):
                raise InputError(
                    f"{files.get(split, name)}: no text column `{column}` in the {split} split, only "
                    + ", ".join(f"`{name}`" for name in dataset.column_names)
                )
    return splits


def _format(file: Path) -> str:
    if file.suffix not in _FORMATS:
        raise InputError(f"{file}: not a file of instances: give {', '.join(_FORMATS)} or a folder")
    return _FORMATS[file.suffix]


def _unreadable(name: str, files: list[Path], error: Exception) -> InputError:
    for file in files:
        if file.suffix == ".jsonl":
            # `datasets` names neither the file nor the line.
            for number, _, line in read_lines(file):
                with located(file, number):
                    read_json(line)
    return InputError(f"{name}: cannot be read: {first_line(error.__cause__ or error)}")
