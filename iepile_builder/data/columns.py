"""Read words and their tags: CoNLL columns, and datasets with the columns `tokens` and `ner_tags`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from iepile_builder.data.instructions import UNSPACED
from iepile_builder.errors import InputError
from iepile_builder.io import first_line, located


Record = dict[str, Any]

WORDS = ("tokens", "words", "token")
TAGS = ("ner_tags", "tags", "ner", "labels", "ner_labels")
# As MultiCoNER and Universal NER write it: `# id 7` before a sentence, and `# text = A trip by U-Bahn`
COMMENT = "#"


def is_tag(tag: str) -> bool:
    """Tell whether this is a tag of BIO, IOBES or BMES."""
    return tag == "O" or tag[1:2] in ("-", "_")


def column_sentences(
    path: Path, read_word: Callable[[list[str]], str] = itemgetter(0), tag_column: int = -1
) -> Iterator[tuple[list[str], list[str]]]:
    """
    Read the words and tags of each sentence: a word and its tag on a line, and an empty line after a sentence.
    `read_word` gives the word of a line's columns. Numbers before the words are left out if the first sentence has
    them, as in Universal NER, which has two notes after the tag, and in GermEval, whose second tags are those of
    mentions within mentions.
    """
    rows: list[list[str]] = []
    numbered: bool | None = None
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(chain(file, [""]), start=1):
            # Not all white space separates columns: a word may be a no-break space
            columns = [] if line.isspace() else [column for column in re.split("[ \t\n]+", line) if column]
            if columns and columns[0] == COMMENT and ("=" in columns[1:-1] or not is_tag(columns[-1])):
                continue
            if columns and columns[0] == "-DOCSTART-":  # which ends a sentence, too
                columns = []
            if columns:
                if len(columns) == 5 and columns[0].isdigit() and columns[3:] == ["-", "-"]:
                    columns = columns[1:3]
                with located(path, number):
                    if len(columns) < 2:
                        raise InputError(f"one column only: {line.strip()!r}; give a word and its tag")
                    if not is_tag(columns[tag_column]):
                        raise InputError(f"{columns[tag_column]!r} is no tag of BIO, IOBES or BMES")
                rows.append(columns)
            elif rows:
                if numbered is None and len(rows) > 1:
                    numbered = all(len(row) > 2 and row[0] == str(place) for place, row in enumerate(rows, start=1))
                if numbered:
                    rows = [[row[1], row[2] if is_tag(row[2]) else row[-1]] for row in rows]
                yield [read_word(row) for row in rows], [row[tag_column] for row in rows]
                rows = []


def tagged_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """
    Find start, end and type of the entities in BIO, IOBES or BMES tags. An inside tag without a begin tag starts an
    entity.
    """
    spans: list[tuple[int, int, str]] = []
    open_type = None
    for index, tag in enumerate(tags):
        prefix, name = tag[:1], tag[2:]
        if tag == "O":
            open_type = None
        elif prefix in "BSU" or name != open_type:
            spans.append((index, index + 1, name))
            open_type = name
        else:
            start, _, _ = spans.pop()
            spans.append((start, index + 1, name))
        if prefix in "SEUL":
            open_type = None
    return spans


def tagged_record(words: Sequence[str], tags: Sequence[str], language: str, text: str | None = None) -> Record:
    """
    Make the record of a sentence. Where the text is not given, words are joined with spaces, or without in languages
    that are written so.
    """
    space = "" if language in UNSPACED else " "
    whole = space.join(words) if text is None else text
    places: list[tuple[int, int]] = []
    end = 0
    for word in words:
        start = whole.find(word, end)
        if start < 0:
            raise InputError(f"word {word!r} is not in the text after character {end}")
        end = start + len(word)
        places.append((start, end))
    entities = []
    for first, last, name in tagged_spans(tags):
        start, end = places[first][0], places[last - 1][1]
        entities.append({"entity": whole[start:end], "entity_type": name, "start": start, "end": end})
    return {"text": whole, "entity": entities}


def read_conll(path: Path, language: str) -> Iterator[Record]:
    """Read CoNLL columns: a word (first column) and its BIO, IOBES or BMES tag (last column) on a line."""
    for words, tags in column_sentences(path):
        yield tagged_record(words, tags, language)


def token_records(rows: Iterator[Mapping[str, Any]], features: Any, where: str, language: str) -> Iterator[Record]:
    """
    Read the rows of a dataset with the columns `tokens` and `ner_tags`; numbers are named by the `ClassLabel` of its
    features. Tags without `B-` and `I-` join equal neighbours.
    """
    tags_of: Callable[[list[Any]], list[str]] | None = None
    for number, row in enumerate(rows, start=1):
        words, tag_column = (next((name for name in names if name in row), None) for names in (WORDS, TAGS))
        if words is None or tag_column is None:
            raise InputError(f"{where}: its columns are {', '.join(row)}; give {WORDS[0]} and {TAGS[0]}")
        if tags_of is None:
            tags_of = _tag_reader(features, tag_column)
        try:
            for name in (words, tag_column):
                if not isinstance(row[name], list):
                    raise InputError(f"field {name!r} is not a list")
            tags = tags_of(row[tag_column])
            if len(tags) != len(row[words]):
                raise InputError(f"{len(row[words])} words, but {len(tags)} tags")
            if not all(isinstance(word, str) for word in row[words]):
                raise InputError(f"field {words!r} is not all strings")
            yield tagged_record(row[words], tags, language)
        except InputError as error:
            raise InputError(f"{where}, record {number}: {error}") from None


def _tag_reader(features: Any, column: str) -> Callable[[list[Any]], list[str]]:
    feature = getattr((features or {}).get(column), "feature", None)
    classes = feature if isinstance(feature, datasets.ClassLabel) else None
    plain = classes is not None and not any(name != "O" and is_tag(name) for name in classes.names)

    def read(tags: list[Any]) -> list[str]:
        if classes is not None:
            try:
                tags = classes.int2str(tags)
            except (ValueError, TypeError) as error:  # such as -1 or null, for no label
                raise InputError(f"{column!r} has a tag without a name ({error})") from None
        elif any(isinstance(tag, int) for tag in tags):
            raise InputError(f"{column!r} are numbers without names (no ClassLabel); write the tags as strings")
        tags = [f"I-{tag}" if plain and tag != "O" else tag for tag in tags]
        wrong = next((tag for tag in tags if not isinstance(tag, str) or not is_tag(tag)), None)
        if wrong is not None:
            raise InputError(f"{wrong!r} is no tag of BIO, IOBES or BMES")
        return tags

    return read


def read_datasets(path: Path, language: str) -> Iterator[Record]:
    """Read a Parquet or Arrow file that `datasets` wrote, with the columns `tokens` and `ner_tags`."""
    try:
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            schema, batches = file.schema_arrow, file.iter_batches()
        else:
            stream = pa.ipc.open_stream(pa.memory_map(str(path)))
            schema, batches = stream.schema, iter(stream)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from token_records(rows, datasets.Features.from_arrow_schema(schema), str(path), language)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet or Arrow file ({first_line(error)})") from None


def load_from_hub(name: str) -> Mapping[str, Any]:
    """Load the splits of a dataset of the Hub: `user/name`, or `user/name:config`."""
    repository, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, config or None)
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such dataset or config
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: no file or folder, and not loaded from the Hub ({reason})") from None
    return loaded
