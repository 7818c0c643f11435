"""Detect the format of a file by its name and its first record, and its split by a word in its name."""

import re
from pathlib import Path
from typing import Any

from iepile_builder.data.columns import TAGS, WORDS, column_sentences
from iepile_builder.data.corpus import SPLIT_FILES
from iepile_builder.data.formats import read_rows
from iepile_builder.data.tables import TEXT
from iepile_builder.errors import InputError
from iepile_builder.io import PACKED, check_unpacked
from iepile_builder.tasks import TASKS


FIELDS = tuple(dict.fromkeys(task.field for task in TASKS.values()))

# Words in the names of files and folders
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "valid", "val", "validation", "testa"), "validation"),
    **dict.fromkeys(("test", "testb"), "test"),
}
JSON = (".json", ".jsonl", ".ndjson")
COLUMNS = (".conll", ".bio", ".iob", ".iob2", ".bmes", ".bioes", ".iobes")
SUFFIXES = {
    "conll": (*COLUMNS, ".txt", ".tsv", *map(".{}".format, SPLITS)),  # `eng.testa`
    "label_studio": JSON,
    "doccano": JSON,
    "brat": (".ann",),
    "spacy": (".spacy", *JSON),
    "datasets": (".parquet", ".arrow", *JSON),
    "csv": (".csv", ".tsv"),
    "instructie": JSON,
    "unified": JSON,
    "instances": JSON,
}
CERTAIN = {  # of one format alone
    ".ann": "brat", ".spacy": "spacy", ".csv": "csv", ".parquet": "datasets", ".arrow": "datasets",
    **dict.fromkeys(COLUMNS, "conll"),
}  # fmt: skip
DATA = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
BESIDE = {  # of a corpus, and of a dataset that `datasets` saved
    "schema.json", "hard_negatives.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json",
}  # fmt: skip


def detect_format(path: Path) -> str | None:
    """Detect the format of a file by its name and its first record; `None` for one that is of none."""
    suffix = path.suffix.lower()
    if suffix in CERTAIN:
        return CERTAIN[suffix]
    try:
        if suffix in JSON:
            return _format_of(next(read_rows(path))[1])
        if suffix == ".tsv":
            with path.open(encoding="utf-8-sig") as file:
                if {*TEXT} & {*file.readline().lower().strip().split("\t")}:
                    return "csv"
        if suffix in SUFFIXES["conll"] and not path.with_suffix(".ann").exists():
            next(column_sentences(path))
            return "conll"
    except (InputError, StopIteration, UnicodeDecodeError):
        pass
    return None


def _format_of(row: Any) -> str | None:
    """Detect the format of a JSON value by its keys."""
    if isinstance(row, list):
        return "spacy" if len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], dict) else None
    if not isinstance(row, dict):
        return None
    keys = row.keys()
    for name, wanted in (
        ("spacy", [{"paragraphs"}, {"classes", "annotations"}]),
        ("label_studio", [{"data", "annotations"}, {"data", "completions"}, {"annotation_id"}, {"annotator", "id"}]),
        ("instances", [{"task", "source", "instruction"}]),
        ("instructie", [{"cate", "relation"}]),
        ("datasets", [{words, tags} for words in WORDS for tags in TAGS]),
        ("unified", [{"text", field} for field in FIELDS]),
        ("doccano", [{"text", "label"}, {"text", "labels"}, {"data", "label"}, {"text", "entities"}]),
    ):
        if any(each <= keys for each in wanted):
            return name
    return None


def list_files(root: Path, input_format: str | None) -> list[Path]:
    """List the files that may hold records, of a format if it is given."""
    if root.is_file():
        if root.suffix in PACKED:
            raise InputError(f"{root}: a compressed file: unpack it, and give what is in it")
        return [root]
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in BESIDE)
    paths = (path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts))
    paths = (path for path in paths if not (path.suffix == ".arrow" and path.name.startswith("cache-")))
    listed = list(paths)
    for path in listed:
        if path.with_suffix("").suffix.lower() in DATA:
            check_unpacked(path)
    if input_format is None:
        return listed
    named = (path for path in listed if path.suffix.lower() in SUFFIXES[input_format])
    return [path for path in named if path.suffix != ".txt" or find_split_word(path)]


def find_split_word(path: Path) -> str:
    """Find the word in a file's name that says its split."""
    return next((word for word in re.findall("[a-z]+", path.name.lower()) if word in SPLITS), "")


def in_place(place: str, input_format: str | None = None) -> bool:
    """
    Tell whether corpora are read where they are: a folder with a `train.json`, `dev.json` or `test.json` in JSON lines
    that is of no other format, and no such file of another name (`valid.json`). What is not there is not converted.
    """
    if not Path(place).exists():
        return "/" not in place or Path(place).is_absolute()  # not an id of the Hub
    if Path(place).is_file() or input_format is not None:
        return Path(place).is_dir() and input_format == "unified"
    paths = list_files(Path(place), "unified")
    own = [path for path in paths if path.name in SPLIT_FILES.values()]
    if not any(detect_format(path) in (None, "unified") and not _begins_with_list(path) for path in own):
        return False
    others = (path for path in paths if path not in own and find_split_word(path))
    return not any(detect_format(path) == "unified" for path in others)


def _begins_with_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
