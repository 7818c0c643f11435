"""
Read the files of annotation tools as records of the unified format, with the offsets of mentions.

There is a function for each format, which reads one file. What is wrong is reported with file and line, or with the
number of the record where a file is one JSON list.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from iepile_builder.data.columns import Record, tagged_record
from iepile_builder.errors import InputError
from iepile_builder.io import describe_encoding, fold, load_json, located, read_lines


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Say where a record is that has not the form of its format."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except KeyError as error:
        raise InputError(f"{where}: {error} is missing") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {describe_encoding(error)}") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{where}: not of this format ({type(error).__name__}: {error})") from None


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Read the values of a JSON file, each with its place: JSON lines, one list, or one object on several lines."""
    lines = list(islice(read_lines(path), 2))
    if not lines:
        return
    try:
        first = orjson.loads(lines[0][2])
        by_line = len(lines) > 1 or isinstance(first, dict)
    except ValueError:
        by_line = False
    if by_line:
        for number, _, line in read_lines(path):
            with located(path, number):
                value = load_json(line)
            yield f"{path}, line {number}", value
        return
    with placed(str(path)):
        value = load_json(path.read_bytes().removeprefix(BOM_UTF8))
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        yield f"{path}, record {number}", row


def read_records(path: Path, records_of: Callable[[Any], Iterable[Record]]) -> Iterator[Record]:
    """Read the records of each value in a JSON file."""
    for where, row in read_rows(path):
        with placed(where):
            records = list(records_of(row))
        yield from records


def make_entity(text: str, start: Any, end: Any, label: Any) -> Record:
    """Make the entity at two offsets of a text; white space at its ends is left out."""
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise InputError(f"offsets {start!r} and {end!r} are not in the text, which has {len(text)} characters")
    if not isinstance(label, str):
        raise InputError(f"label {label!r} is not a string")
    inner = text[start:end]
    start += len(inner) - len(inner.lstrip())
    mention = inner.strip()
    return {"entity": mention, "entity_type": label, "start": start, "end": start + len(mention)}


def make_relation(head: Record, relation: str, tail: Record) -> Record:
    """Make the relation between two entities."""
    places = {
        f"{end}_{key}": entity[key]
        for end, entity in (("head", head), ("tail", tail))
        for key in ("start", "end")
        if key in entity
    }
    types = {"head_type": head["entity_type"], "tail_type": tail["entity_type"]}
    return {"head": head["entity"], "relation": relation, "tail": tail["entity"], **types, **places}


# Label Studio


def read_label_studio(path: Path, language: str) -> Iterator[Record]:
    """
    Read exports of Label Studio, JSON or JSON-MIN: regions of a `<Text>` tag, and relations (which JSON-MIN has not).
    Of several annotations of a text, which JSON-MIN has one by one, the ground truth is read, else the first that was
    not skipped; `unused` counts the others that were not skipped. The text is the field `text`, else the longest that
    has the regions of all tasks.
    """
    tasks: list[list[Any]] = []
    first: dict[Any, int] = {}  # of each task of JSON-MIN, its place in these
    for where, row in read_rows(path):
        with placed(where):
            task: list[Any] = [where, *_label_studio_task(row)]
            if not isinstance(row.get("data"), dict) and row.get("id") is not None:
                place = first.setdefault(row["id"], len(tasks))
                if place < len(tasks):
                    tasks[place][-1] += 1
                    continue
            tasks.append(task)
    name = _text_field([(data, regions) for _, data, regions, _, _ in tasks])
    for where, data, regions, results, unused in tasks:
        with placed(where if name == "text" else f"{where}, field {name!r}"):
            record = _label_studio_record(data[name], regions, results)
        yield record | ({"unused": unused} if unused else {})


def _label_studio_task(row: Any) -> tuple[Record, list[Record], list[Record] | None, int]:
    """Read a task: its data, the regions and all results of the annotation to take, the number of the others."""
    data, results, done = row, None, []
    if isinstance(row.get("data"), dict):
        data = row["data"]
        given = row.get("annotations") or row.get("completions") or ()
        done = [each for each in given if not (each.get("was_cancelled") or each.get("skipped"))]
        best = next((each for each in done if each.get("ground_truth")), done[0] if done else None)
        results = None if best is None else best["result"]
    elif row.get("annotation_id", "") is not None:  # null where nobody has annotated
        lists = [value for value in row.values() if isinstance(value, list)]
        results = [{"value": each} for values in lists for each in values if isinstance(each, dict)]
    regions = [each for each in results or () if each.get("type") != "relation" and _region_labels(each)]
    for region in regions:
        value = region["value"] = {**region["value"], **(region["value"].get("globalOffsets") or {})}
        if type(value["start"]) is not int or type(value["end"]) is not int:
            raise InputError(f"a region starts at {value['start']!r}: regions of <Text> tags alone are read")
    return data, regions, results, max(len(done) - 1, 0)


def _text_field(tasks: list[tuple[Record, list[Record]]]) -> str:
    """Choose the field of the texts: `text`, else the one that has the regions of most tasks, else the longest."""
    tasks = [task for task in tasks if task[1]] or tasks
    own: Record = tasks[0][0] if tasks else {}
    names = [name for name in own if all(isinstance(data.get(name), str) for data, _ in tasks)]
    if "text" in names or not names:
        return "text"

    def fit(name: str) -> tuple[int, int]:
        fitting = sum(all(_places(data[name], each["value"]) for each in regions) for data, regions in tasks)
        return fitting, sum(len(data[name]) for data, _ in tasks)

    return max(names, key=fit)


def _label_studio_record(text: Any, regions: list[Record], results: list[Record] | None) -> Record:
    if not isinstance(text, str):
        raise InputError(f"{text!r} is not a text")
    if results is None:
        return {"text": text}
    entities: list[Record] = []
    by_id: dict[Any, Record] = {}
    for region in regions:
        place = _region_place(text, region["value"])
        found = [make_entity(text, *place, label) for label in _region_labels(region)]
        entities += found
        by_id[region.get("id")] = found[0]
    relations = []
    for each in results:
        if each.get("type") == "relation":
            names = [each["from_id"], each["to_id"]]
            if missing := [name for name in names if name not in by_id]:
                raise InputError(f"a relation joins region {missing[0]!r}, which has no label or is not there")
            ends = [by_id[name] for name in names]
            pairs = {"left": [ends[::-1]], "bi": [ends, ends[::-1]]}.get(str(each.get("direction")), [ends])
            labels = each.get("labels") or ["relation"]
            relations += [make_relation(head, label, tail) for label in labels for head, tail in pairs]
    return {"text": text, "entity": entities, "relation": relations}


def _region_labels(region: Record) -> list[str]:
    """List the labels of a region; none for a choice, a rating and the like, and for a region without a label."""
    value = region.get("value")
    names = ("labels", "hypertextlabels", "paragraphlabels")
    return next((value[name] for name in names if value.get(name)), []) if isinstance(value, dict) else []


def _places(text: str, value: Record) -> list[tuple[int, int]]:
    """
    List where a region may be in the text: its offsets count characters, or UTF-16 units as a browser does. Versions
    of Label Studio differ (https://github.com/HumanSignal/label-studio/issues/1347 and pull request 1559).
    """
    start, end, string = value["start"], value["end"], value.get("text")
    units = text.encode("utf-16-le")
    first, last = (len(units[: 2 * place].decode("utf-16-le", "ignore")) for place in (start, end))
    places = [(start, end), (first, last)]
    if string:
        return [place for place in places if place[1] <= len(text) and fold(text[slice(*place)]) == fold(string)]
    sizes = (len(text), len(units) // 2)
    fitting = [place for place, size in zip(places, sizes, strict=True) if 0 <= start < end <= size]
    return list(dict.fromkeys(fitting))


def _region_place(text: str, value: Record) -> tuple[int, int]:
    """Find a region in the text."""
    start, end, string = value["start"], value["end"], value.get("text")
    places = _places(text, value)
    if string and not places:
        raise InputError(
            f"region {string!r} is not at its offsets {start} and {end}: the text has {len(text)} characters, "
            f"{text[start:end]!r} there"
        )
    if not string and len(places) > 1:
        first, second = (text[slice(*place)] for place in places)
        raise InputError(
            f"offsets {start} and {end} of a region without its text are {first!r} in characters, {second!r} in "
            'UTF-16 units; set saveTextResult="yes" in the <Text> tag and update the annotation, or add "text" to the '
            "region's value"
        )
    return places[0] if places else (start, end)


# doccano


def read_doccano(path: Path, language: str) -> Iterator[Record]:
    """Read JSON lines of doccano: sequence labelling (`label`), or relation extraction (`entities`, `relations`)."""
    return read_records(path, _doccano)


def _doccano(row: Any) -> Iterator[Record]:
    text = row["text"] if "text" in row else row["data"]
    spans = next((row[name] for name in ("entities", "label", "labels", "annotations") if name in row), None)
    if spans is None:
        yield {"text": text}
        return
    entities: list[Record] = []
    by_id: dict[Any, Record] = {}
    for span in spans:
        if isinstance(span, str):
            raise InputError(f"label {span!r} is one of the whole text, not of a span")
        place = (span["start_offset"], span["end_offset"], span["label"]) if isinstance(span, dict) else span
        entities.append(make_entity(text, *place))
        if isinstance(span, dict):
            by_id[span.get("id")] = entities[-1]
    record = {"text": text, "entity": entities}
    if "relations" in row:
        record["relation"] = [
            make_relation(by_id[each["from_id"]], each["type"], by_id[each["to_id"]]) for each in row["relations"]
        ]
    yield record


# brat


def read_brat(path: Path, language: str) -> Iterator[Record]:
    """
    Read brat standoff, an `.ann` file with its `.txt`: entities (T), relations (R) and events (E), whose triggers are
    no entities. A discontinuous mention is its parts with spaces between them, without offsets. Attributes, notes,
    normalizations and equivalences are left out; `unread` counts them.
    """
    source = path.with_suffix(".txt")
    if not source.exists():
        raise InputError(f"{path}: {source.name} is not beside it")
    with placed(str(source)):
        text = source.read_bytes().decode("utf-8")
    mentions: dict[str, Record] = {}
    lines: list[tuple[str, str, list[str]]] = []
    events: dict[str, str] = {}
    unread = 0
    for number, _, line in read_lines(path):
        where = f"{path}, line {number}"
        with placed(where):
            name, _, rest = line.decode("utf-8").rstrip("\r\n").partition("\t")
            body, _, string = rest.partition("\t")
            unread += bool(name) and name[0] not in "TRE"
            if name.startswith("T"):
                mentions[name] = _brat_mention(text, body, string)
            elif name.startswith(("R", "E")):
                words = body.split()
                lines.append((where, name, words))
                if name.startswith("E"):
                    events[name] = words[0].partition(":")[2]
    triggers = set(events.values())
    record: Record = {"text": text, "relation": [], "event": []}
    record["entity"] = [each for name, each in mentions.items() if name not in triggers]
    for where, name, words in lines:
        with placed(where):
            arguments = [
                (role, mentions[events.get(of, of)]) for role, _, of in (word.partition(":") for word in words[1:])
            ]
            if name.startswith("R"):
                (_, head), (_, tail) = arguments
                record["relation"].append(make_relation(head, words[0], tail))
                continue
            event_type, _, trigger = words[0].partition(":")
            event: Record = {"event_trigger": mentions[trigger]["entity"], "event_type": event_type}
            event["arguments"] = [
                {"argument": of["entity"], "role": role.rstrip("0123456789"), **_offsets(of)} for role, of in arguments
            ]
            record["event"].append(event | _offsets(mentions[trigger]))
    yield record | ({"unread": unread} if unread else {})


def _brat_mention(text: str, body: str, string: str) -> Record:
    """Read the type, the offsets and the string of a line that begins with T."""
    label, _, spans = body.partition(" ")
    places: list[tuple[int, int]] = []
    for span in spans.split(";"):
        start, end = map(int, span.split())
        if places and not text[places[-1][1] : start].strip():  # a mention on two lines has a part on each
            start = places.pop()[0]
        places.append((start, end))
    parts = [make_entity(text, *place, label) for place in places]
    found = " ".join(part["entity"] for part in parts)
    if string.strip() and fold(found) != fold(string):
        raise InputError(f"the mention is {string!r}, but the text has {found!r} at {spans}")
    return parts[0] if len(parts) == 1 else {"entity": found, "entity_type": label}


def _offsets(mention: Record) -> Record:
    return {key: mention[key] for key in ("start", "end") if key in mention}


# spaCy


def read_spacy(path: Path, language: str) -> Iterator[Record]:
    """
    Read training data of spaCy: a `DocBin` (`.spacy`; needs spaCy), whose entities are read, or its span groups where
    it has none (`unused` counts the documents with both); JSON of spaCy 2 (`paragraphs`); or JSON of pairs
    `["text", {"entities": [[0, 5, "PER"]]}]`.
    """
    if path.suffix != ".spacy":
        yield from read_records(path, lambda row: _spacy(row, language))
        return
    try:
        import spacy
        from spacy.tokens import DocBin
    except ImportError:
        raise InputError(f"{path}: needs spaCy: pip install 'iepile-builder[spacy]'") from None
    try:
        docs = list(DocBin().from_disk(path).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # of zlib, msgpack or spaCy
        raise InputError(f"{path}: not a DocBin of spaCy ({type(error).__name__}: {error})") from None
    for doc in docs:
        spans = list(doc.ents) or [span for group in doc.spans.values() for span in group]
        entities = [make_entity(doc.text, span.start_char, span.end_char, span.label_) for span in spans]
        both = bool(doc.ents and any(doc.spans.values()))
        yield {"text": doc.text, "entity": entities} | ({"unused": 1} if both else {})


def _spacy(row: Any, language: str) -> Iterator[Record]:
    if isinstance(row, dict) and "paragraphs" in row:
        for paragraph in row["paragraphs"]:
            tokens = [token for sentence in paragraph.get("sentences", ()) for token in sentence["tokens"]]
            if paragraph.get("entities"):
                yield from _spacy([paragraph["raw"], paragraph], language)
                continue
            tags = [token.get("ner", "O") for token in tokens]
            tags = ["O" if tag in ("-", "") else tag for tag in tags]
            yield tagged_record([token["orth"] for token in tokens], tags, language, paragraph.get("raw"))
        return
    if isinstance(row, dict) and "annotations" in row:
        for pair in filter(None, row["annotations"]):
            yield from _spacy(pair, language)
        return
    text, annotation = row if isinstance(row, list) else (row["text"], row)
    yield {"text": text, "entity": [make_entity(text, *span[:3]) for span in annotation["entities"]]}
