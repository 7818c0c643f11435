"""
Extract from the documents of a corpus, a parcel of them at a time, in this process or in many.

Long documents are cut into parts before they are dealt out, and the results of their parts are joined afterwards.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from iepile_builder.answers.grounding import as_mention
from iepile_builder.engines.base import Completion, Engine, Request
from iepile_builder.errors import InputError
from iepile_builder.extraction.corpus_files import Document, DocumentOptions, Piece, read_documents
from iepile_builder.extraction.extractor import MIN_ROOM, Extractor
from iepile_builder.extraction.merge import add_units, drop_repeats, move, place_key
from iepile_builder.extraction.passages import passages
from iepile_builder.extraction.result import COUNTS, Extraction, compose
from iepile_builder.io import SURROGATE, first_line
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Fact


PART = 10_000  # characters of a document that one process is given
TOGETHER, ALONE = 2, 2  # times that a part is tried in its parcel, then by itself, before it is given up

_MENTION = pa.struct(
    {
        "text": pa.string(),
        "start": pa.int32(),
        "end": pa.int32(),
        "match": pa.string(),
        "score": pa.float32(),
        "answer": pa.string(),
    }
)
_FACT = pa.struct(
    {"label": pa.list_(pa.string()), "strings": pa.list_(_MENTION), "event": pa.int32(), "score": pa.float32()}
)
ROW = pa.schema(
    {
        "id": pa.string(),
        "language": pa.string(),
        "facts": pa.list_(_FACT),
        "passages": pa.int32(),
        "answers": pa.int32(),
        **dict.fromkeys(COUNTS, pa.int32()),
        "error": pa.string(),
        "text": pa.string(),
    }
)


NUMBERED = pa.schema([pa.field("number", pa.int64()), *ROW])


class Part(NamedTuple):
    """A document, or a part of a long one."""

    number: int  # of the document in its piece
    place: int  # of the part, among as many as there are
    parts: int
    start: int  # in the text of the document
    document: Document  # with the text of the part
    whole: str | None = None  # text of the document, with its first part, where that is kept


class Parcel(NamedTuple):
    """Parts of documents of one shard that are answered together; the last of a piece has their number alone."""

    piece: int
    shard: int
    parts: list[Part]
    documents: int | None = None


class Result(NamedTuple):
    """What became of a parcel."""

    parcel: Parcel  # without its parts
    rows: pa.RecordBatch  # of whole documents, `NUMBERED`
    parts: list[tuple[Part, Extraction | str]]  # of long documents: the result or its error
    answered: int  # documents and parts
    errors: list[str]  # of those that were not answered
    usage: Counter[str]


def make_parcels(
    options: DocumentOptions, shard_size: int, at_once: int, keep_text: bool, numbered: tuple[int, Piece, set[int]]
) -> Iterator[Parcel]:
    """
    Read a piece of a corpus, `numbered` and with its shards that are done, and make parcels of the others, of at most
    `at_once` parts.
    """
    number, piece, done = numbered
    count, shard, parts, size = 0, 0, list[Part](), 0
    for document in read_documents(piece, options):
        for part in _cut(count, document, keep_text) if count // shard_size not in done else ():
            if parts and (shard != count // shard_size or len(parts) == at_once or size > at_once * PART // 4):
                yield Parcel(number, shard, parts)
                parts, size = [], 0
            shard = count // shard_size
            parts.append(part)
            size += len(part.document.text)
        count += 1
    if parts:
        yield Parcel(number, shard, parts)
    yield Parcel(number, shard, [], count)


def _cut(number: int, document: Document, keep_text: bool) -> Iterator[Part]:
    """Cut a document into overlapping parts of whole sentences."""
    text = document.text
    if len(text) <= PART:
        yield Part(number, 0, 1, 0, document, text if keep_text else None)
        return
    found = passages(text, document.language or "en", PART)
    for index, (start, end) in enumerate(found):
        whole = text if keep_text and index == 0 else None
        yield Part(number, index, len(found), start, document._replace(text=text[start:end]), whole)


class Ledger:
    """
    Remember how often something was begun and not ended, so that what kills its process is not tried for ever.

    Args:
        save (`Callable[[str], None]`, *optional*):
            Called with what is to be remembered, as JSON, where this process may be the one that is killed.
        begun (`dict[str, int]`, *optional*):
            What was remembered.
    """

    def __init__(self, save: Callable[[str], None] | None = None, begun: dict[str, int] | None = None) -> None:
        self.begun = begun or {}
        self.save = save

    def begin(self, key: str) -> int:
        """Begin something; returns how often it was begun before."""
        times = self.begun.get(key, 0)
        self.begun[key] = times + 1
        self._save()
        return times

    def end(self, keys: Sequence[str]) -> None:
        """End what was begun."""
        for key in keys:
            self.begun.pop(key, None)
        self._save()

    def _save(self) -> None:
        if self.save is not None:
            self.save(json.dumps(self.begun))


@dataclass
class Counting:
    """An engine that counts its requests and, where it has a tokenizer, the tokens."""

    engine: Engine
    usage: Counter[str] = field(default_factory=Counter)

    @property
    def scores(self) -> bool:
        return bool(getattr(self.engine, "scores", True))

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        return self.engine.context_left(request, max_new_tokens)

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        completions = self.engine.generate(requests, max_new_tokens)
        self.usage["requests"] += len(requests)
        prompt_ids, tokenizer = getattr(self.engine, "prompt_ids", None), getattr(self.engine, "tokenizer", None)
        if prompt_ids is not None and tokenizer is not None:
            self.usage["prompt_tokens"] += sum(len(prompt_ids(request)) for request in requests)
            texts = [completion.text for completion in completions]
            self.usage["answer_tokens"] += sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
        return completions


class _Silent(Counting):
    """An engine that finds nothing; to learn whether what is to be asked has room in the model's context."""

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        return [Completion("{}") for _ in requests]


class Answerer:
    """
    Extract from the parts of a parcel.

    Args:
        extractor ([`Extractor`]):
            What answers.
        task (`str`):
            Name of the task.
        asked (`dict[str, Any]`):
            `schema`, `None` where each document has its own, `examples` and `split_num` of [`Extractor.__call__`].
        begin, end (`Callable`):
            Those of a [`Ledger`], perhaps in another process.

    Raises:
        `InputError`: If the schema cannot be asked for in the model's context.
    """

    def __init__(
        self,
        extractor: Extractor,
        task: str,
        asked: dict[str, Any],
        begin: Callable[[str], int],
        end: Callable[[Sequence[str]], object],
    ) -> None:
        self.usage: Counter[str] = Counter()
        extractor.engine = Counting(extractor.engine, self.usage)
        self.extractor, self.task, self.asked = extractor, task, asked
        self.begin, self.end = begin, end
        if asked["schema"] is not None:
            replace(extractor, engine=_Silent(extractor.engine))("word " * MIN_ROOM, task, **asked)

    def __call__(self, parcel: Parcel) -> Result:
        """Answer a parcel. What fails is a row with its error."""
        self.usage.clear()
        found = self._try(parcel) if parcel.parts else []
        pairs = list(zip(parcel.parts, found, strict=True))
        return Result(
            parcel._replace(parts=[]),
            to_rows((part, each) for part, each in pairs if part.parts == 1),
            [(part, each) for part, each in pairs if part.parts > 1],
            sum(not isinstance(each, str) for each in found),
            [each for part, each in pairs if isinstance(each, str) and part.document.error is None],
            Counter(self.usage),
        )

    def _try(self, parcel: Parcel) -> list[Extraction | str]:
        """Answer the parts of a parcel together; if their process was killed, each by itself, or not at all."""
        parts = parcel.parts
        name = f"{parcel.piece}/{parcel.shard}/{parts[0].number}.{parts[0].place}"
        tried, begun = self.begin(name), [name]
        found: list[Extraction | str] = []
        try:
            if tried < TOGETHER:
                return self._answer(parts)
            for part in parts:
                key = f"{name}/{part.number}.{part.place}"
                begun.append(key)
                if self.begin(key) < ALONE:
                    found += self._answer([part])
                    self.end([key])
                else:
                    found.append("the process that answers it was killed each time")
            return found
        finally:  # after Ctrl-C, too: what is left begun was killed
            self.end(begun)

    def _answer(self, parts: Sequence[Part]) -> list[Extraction | str]:
        """Answer parts, those with the same schema and language together; if that fails, each by itself."""
        found: dict[int, Extraction | str] = {
            place: part.document.error for place, part in enumerate(parts) if part.document.error is not None
        }

        def asked(place: int) -> tuple[str, str]:
            return parts[place].document.language or "", parts[place].document.schema or ""

        places = sorted((place for place in range(len(parts)) if place not in found), key=asked)
        for (language, schema), same in groupby(places, asked):
            group = list(same)
            texts = [parts[place].document.text for place in group]
            try:
                found.update(zip(group, self._extract(texts, language, schema), strict=True))
            except Exception:  # whatever it is, it is a document's own as long as others have answers
                for place, text in zip(group, texts, strict=True):
                    try:
                        [found[place]] = self._extract([text], language, schema)
                    except Exception as error:
                        found[place] = SURROGATE.sub("\ufffd", first_line(error)) or type(error).__name__
        return [found[place] for place in range(len(parts))]

    def _extract(self, texts: list[str], language: str, schema: str) -> list[Extraction]:
        asked = self.asked
        if asked["schema"] is None:
            try:
                asked = {**asked, "schema": json.loads(schema)}
            except ValueError:
                raise InputError(f"its schema is not JSON: {schema[:80]!r}") from None
            if isinstance(asked["schema"], str):  # which would be the path of a file
                raise InputError(f"its schema is a string, {schema[:80]}; give a list or a dictionary of labels")
        return list(self.extractor(texts, self.task, language=language, **asked))


def join_parts(parts: Iterable[tuple[int, Extraction]]) -> Extraction:
    """Join the results of the parts of a document, each with its place in the text; the text is not joined."""
    units: dict[Any, list[Fact]] = {}
    best: dict[Any, float] = {}
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    asked_passages, answers, end = [], list[str](), 0
    for start, part in parts:
        task = TASKS[part.task]
        add_units(units, {}, part.units, [None] * len(part.units), start, task.has_events)
        for fact, score in zip(part.facts, part.scores, strict=True):
            if score is not None:
                key = place_key(move(fact, start))
                best[key] = max(score, best.get(key, 0.0))
        counts.update({name: getattr(part, name) for name in COUNTS})
        asked_passages += [type(each)(each.start + start, each.end + start) for each in part.passages]
        answers += part.answers
        end = start + len(part.text)
    return compose(
        " " * end,
        task,
        part.language,
        part.schema,
        list(units.values()) if task.has_events else drop_repeats(list(units.values())),
        best,
        passages=asked_passages,
        answers=answers,
        min_score=part.min_score,
        **counts,
    )


def to_rows(found: Iterable[tuple[Part, Extraction | str]]) -> pa.RecordBatch:
    """Make the rows of documents."""
    rows = [{"number": part.number, **_to_row(part.document, each, part.whole)} for part, each in found]
    return pa.RecordBatch.from_pylist(rows, schema=NUMBERED)


def _to_row(document: Document, found: Extraction | str, text: str | None) -> dict[str, Any]:
    """Make the row of a document."""
    row: dict[str, Any] = {"id": document.id, "language": document.language, "facts": [], "error": None, "text": text}
    if isinstance(found, str):
        return {**row, "passages": 0, "answers": 0, **dict.fromkeys(COUNTS, 0), "error": found}
    task = TASKS[found.task]
    scores = {place_key(fact): score for fact, score in zip(found.facts, found.scores, strict=True)}
    for event, unit in enumerate(found.units):
        for fact in task.own_facts(unit):
            mentions = [as_mention(string).to_dict() for string in fact.strings if string]
            place = event if task.has_events else None
            row["facts"].append(
                {"label": list(fact.label), "strings": mentions, "event": place, "score": scores[place_key(fact)]}
            )
    counts = {name: getattr(found, name) for name in COUNTS}
    return {**row, "passages": len(found.passages), "answers": len(found.answers), **counts}
