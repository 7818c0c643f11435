"""
Read published test sets from the files of their sources, as records of the unified format.

A reader is for one format and takes the files of one split, or one row of them; `resources/benchmark.yaml` says which
set has which.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from iepile_builder.data.columns import Record, column_sentences, tagged_spans
from iepile_builder.data.formats import placed, read_records, read_rows
from iepile_builder.errors import InputError
from iepile_builder.io import load_json, read_lines, read_objects


_BOSON = re.compile(r"\{\{(\w+)[:：](.*?)\}\}")
_QUESTION = re.compile(r"What describes (.+) in the text\?")


def read_unified(files: list[Path]) -> Iterator[Record]:
    """Read records that are in the unified format already."""
    for file in files:
        for _, row in read_objects(file):
            yield row


def read_columns(files: list[Path], space: str = " ", **columns: Any) -> Iterator[Record]:
    """Read words and their tags; `columns` are those of [`column_sentences`]."""
    for file in files:
        for words, tags in column_sentences(file, **columns):
            entities = [
                {"entity": space.join(words[start:end]), "entity_type": name}
                for start, end, name in tagged_spans(tags)
            ]
            yield {"text": space.join(words), "entity": entities}


def read_uniner(files: list[Path]) -> Iterator[Record]:
    """Read the conversations that UniversalNER is evaluated on; each asks for one type of a text."""
    for file in files:
        record: Record = {}
        asked: set[str] = set()
        for where, item in read_rows(file):
            with placed(where):
                text, _, question, answer = (turn["value"] for turn in item["conversations"])
                text, label = text.removeprefix("Text: "), _QUESTION.sub(r"\1", question)
                mentions = load_json(answer.encode(), "the answer is not JSON")
                if not isinstance(mentions, list) or not all(isinstance(mention, str) for mention in mentions):
                    raise InputError(f"the answer {answer[:80]!r} is not a list of strings")
            if text != record.get("text") or label in asked:  # the same text again is another record
                if record:
                    yield record
                record, asked = {"text": text, "entity": []}, set()
            asked.add(label)
            record["entity"] += [{"entity": mention, "entity_type": label} for mention in mentions]
        if record:
            yield record


def read_boson(files: list[Path]) -> Iterator[Record]:
    """Read paragraphs with entities marked as `{{type:entity}}`: BosonNLP."""
    for file in files:
        for _, _, line in read_lines(file):
            text = line.decode()
            entities = [
                {"entity": mention.strip(), "entity_type": label}
                for label, mention in _BOSON.findall(text)
                if mention.strip()
            ]
            yield {"text": _BOSON.sub(r"\2", text).strip(), "entity": entities}


def read_zero_rte(row: Record) -> Iterator[Record]:
    """Read a token list with triplets of token numbers: FewRel and Wiki-ZSL as RelationPrompt splits them."""
    tokens = _check_tokens(row["triplets"][0]["tokens"])
    relations = [
        {
            "head": _mention(tokens, triplet["head"]),
            "relation": triplet["label"],
            "tail": _mention(tokens, triplet["tail"]),
        }
        for triplet in row["triplets"]
    ]
    yield {"text": " ".join(tokens), "relation": relations}


def read_duie(row: Record) -> Iterator[Record]:
    """Read a text with an `spo_list`: the relation corpora of Baidu, SKE2020 among them."""
    relations = [
        {
            "head": triple["subject"],
            "relation": triple["predicate"],
            "tail": triple["object"]["@value"] if isinstance(triple["object"], dict) else triple["object"],
        }
        for triple in row["spo_list"]
    ]
    yield {"text": row["text"], "relation": relations}


def read_ipre(files: list[Path]) -> Iterator[Record]:
    """
    Read tab-separated sentences, their relations, and the names of these, in three files: IPRE.

    A sentence is a record of all its pairs with a relation; sentences without any are left out.
    """
    sentences, relations, names = (
        [line.decode().rstrip("\r\n").split("\t") for _, _, line in read_lines(file)] for file in files
    )
    name_of = {number: name.rpartition("/")[2] for name, number in names}
    relation_of = {sentence: numbers.split() for sentence, numbers in relations}
    triples: dict[str, list[Record]] = {}
    for sentence, head, tail, words in sentences:
        for number in relation_of[sentence]:
            if name_of[number] != "NA":
                triple = {"head": head, "relation": name_of[number], "tail": tail}
                triples.setdefault("".join(words.split()), []).append(triple)
    for text, of_text in triples.items():
        yield {"text": text, "relation": of_text}


def read_wikievents(row: Record) -> Iterator[Record]:
    """Read a document as sentences, each with the arguments of its events that are in it: WikiEvents."""
    place_of = {entity["id"]: entity["sent_idx"] for entity in row["entity_mentions"]}
    for place in [*place_of.values(), *(event["trigger"]["sent_idx"] for event in row["event_mentions"])]:
        if not 0 <= place < len(row["sentences"]):
            raise InputError(f"a mention is in sentence {place}, which is none of the {len(row['sentences'])}")
    for number, (_, text) in enumerate(row["sentences"]):
        events = [
            _event(
                event["event_type"],
                event["trigger"]["text"],
                [(each["role"], each["text"]) for each in event["arguments"] if place_of[each["entity_id"]] == number],
            )
            for event in row["event_mentions"]
            if event["trigger"]["sent_idx"] == number
        ]
        yield {"text": text, "event": events}


def read_rams(row: Record) -> Iterator[Record]:
    """Read a window of five sentences around an event: RAMS."""
    tokens = [token for sentence in row["sentences"] for token in _check_tokens(sentence)]
    triggers = [[start, end] for start, end, _ in row["evt_triggers"]]
    for trigger, *_ in row["gold_evt_links"]:
        if trigger not in triggers:
            raise InputError(f"an argument is that of an event at {trigger}, where none is")
    events = [
        _event(
            labels[0][0],
            _mention(tokens, range(start, end + 1)),
            [
                (re.sub(r"^evt\d+arg\d+", "", role), _mention(tokens, range(first, last + 1)))
                for trigger, (first, last), role in row["gold_evt_links"]
                if trigger == [start, end]
            ],
        )
        for start, end, labels in row["evt_triggers"]
    ]
    yield {"text": " ".join(tokens), "event": events}


def read_ace(row: Record) -> Iterator[Record]:
    """Read a sentence with `golden-event-mentions`, as ACE 2005 is often prepared: CrudeOilNews."""
    events = [
        _event(
            event["event_type"],
            event["trigger"]["text"],
            [(each["role"], each["text"]) for each in event["arguments"]],
        )
        for event in row["golden-event-mentions"]
    ]
    yield {"text": row["sentence"], "event": events}


def read_fewfc(row: Record) -> Iterator[Record]:
    """Read a text whose events are lists of mentions, the trigger among them: FewFC."""
    events = []
    for event in row["events"]:
        mentions = [(mention["role"], mention["word"]) for mention in event["mentions"]]
        trigger = next((word for role, word in mentions if role == "trigger"), "")
        events.append(_event(event["type"], trigger, [each for each in mentions if each[0] != "trigger"]))
    yield {"text": row["content"], "event": events}


def _check_tokens(tokens: Any) -> list[str]:
    """Return the tokens of a text, or raise an `InputError` if they are no list."""
    if not isinstance(tokens, list):
        raise InputError(f"tokens {str(tokens)[:80]!r} are not a list")
    return tokens


def _mention(tokens: list[str], places: Sequence[int]) -> str:
    """Join the tokens at some places, or raise an `InputError` if there are none, or no such places."""
    if not places or not all(0 <= place < len(tokens) for place in places):
        raise InputError(f"a mention is at tokens {[*places[:9]]}, which are not among the {len(tokens)}")
    mention = " ".join(tokens[place] for place in places)
    if not mention.strip():
        raise InputError(f"a mention is at tokens {[*places[:9]]}, which are blank")
    return mention


def _event(event_type: str, trigger: str, arguments: list[tuple[str, str]]) -> Record:
    return {
        "event_trigger": trigger,
        "event_type": event_type,
        "arguments": [{"argument": argument, "role": role} for role, argument in arguments],
    }


def _read_each(read_row: Callable[[Any], Iterator[Record]], files: list[Path]) -> Iterator[Record]:
    for file in files:
        yield from read_records(file, read_row)


READERS: dict[str, Callable[[list[Path]], Iterator[Record]]] = {
    "unified": read_unified,
    "conll": read_columns,  # CrossNER
    "mit": partial(read_columns, read_word=itemgetter(1), tag_column=0),  # tags before words
    "weibo": partial(read_columns, space="", read_word=lambda columns: columns[0][:1]),  # `科0`: the place in a word
    "uniner": read_uniner,
    "boson": read_boson,
    "zero_rte": partial(_read_each, read_zero_rte),
    "duie": partial(_read_each, read_duie),
    "ipre": read_ipre,
    "wikievents": partial(_read_each, read_wikievents),
    "rams": partial(_read_each, read_rams),
    "ace": partial(_read_each, read_ace),
    "fewfc": partial(_read_each, read_fewfc),
}


def read_source(reader: str, files: list[Path]) -> list[Record]:
    """Read the files of a split, in the order that the reader expects, or raise an `InputError` that names them."""
    records: list[Record] = []
    for part in [files] if reader == "ipre" else [[file] for file in files]:  # whose files are read together
        try:
            records += READERS[reader](part)
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            names = ", ".join(map(str, part))
            raise InputError(f"{names}: not of the format {reader} ({type(error).__name__}: {error})") from None
    return records
