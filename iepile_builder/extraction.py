"""A text and a schema to facts that know where they stand in the text, through any engine."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from iepile_builder.answers import load_answer, read_asked, strip_fence
from iepile_builder.batching import SchemaBatching
from iepile_builder.chat import to_prompt
from iepile_builder.constraints import answer_schema
from iepile_builder.corpus import write_whole
from iepile_builder.engines import Completion, Engine, Request, TransformersEngine
from iepile_builder.errors import InputError
from iepile_builder.grounding import Locator, Mention, ground, mention_fields
from iepile_builder.instructions import LANGUAGES, read_instruction
from iepile_builder.passages import HAN, SURROGATE, Passage, detect_language, passages
from iepile_builder.repair import repair_json
from iepile_builder.schema import Schema
from iepile_builder.tasks import (
    MALFORMED,
    MENTIONS,
    NOTHING,
    TASKS,
    Annotation,
    Argument,
    Attribute,
    Entity,
    Fact,
    Relation,
    Trigger,
    TypedRelation,
)
from iepile_builder.user_schema import read_schema


if TYPE_CHECKING:
    import networkx

REQUESTS_AT_ONCE = 64  # that an engine is given, so that it can put those of similar length together
MIN_ROOM = 32  # tokens for a passage
SAMPLE = 20_000  # characters by which it is told how many tokens a text has
EVENT_TASKS = ("EE", "EEA")  # whose answers are events

Triggers = Mapping[str, Iterable[str]]


class Event(NamedTuple):
    """
    An event with its arguments.

    Args:
        event_type (`str`):
            Its type.
        trigger ([`Mention`]):
            The word that says it; `""` where the answer has none.
        arguments (`tuple[Argument, ...]`):
            Its arguments, facts that `facts` has too.
    """

    event_type: str
    trigger: Mention
    arguments: tuple[Argument, ...]


class Node(NamedTuple):
    """A node of an extraction's graph: what it is called, and its type, `""` where it has none."""

    label: str
    kind: str


class Edge(NamedTuple):
    """An edge of an extraction's graph: the names of its nodes, and what it is called."""

    source: str
    label: str
    target: str


@dataclass(frozen=True)
class Extraction:
    """
    What was found in a text.

    Args:
        text (`str`):
            The text.
        task (`str`):
            One of the seven tasks.
        language (`str`):
            Of the instructions.
        schema ([`Schema`]):
            What was asked for.
        facts (`list[Fact]`):
            The facts in the order of the text, those last that are not in it. Their strings of the text are
            [`Mention`]s, strings with `start`, `end`, `match` and `score`.
        events (`list[Event]`):
            The events of EE and EEA, with the facts in `facts` as their arguments.
        passages (`list[tuple[int, int]]`):
            Start and end of the parts of the text that were asked about by themselves.
        answers (`list[str]`):
            What the model wrote, an answer for each passage and schema batch.
        cut (`int`):
            How many answers ended at the token limit though they were asked for a single label; what is complete in
            them is read.
        retried (`int`):
            How many ended at the limit and were asked again, for half of the labels at a time.
        unparsed (`int`):
            How many answers are no JSON object, even after repair.
        repaired (`int`):
            How many are one only after repair.
        left_out (`int`):
            How many facts were left out, because their label was not asked for or their value has not the task's form.
    """

    text: str
    task: str
    language: str
    schema: Schema
    facts: list[Fact]
    events: list[Event] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    cut: int = 0
    retried: int = 0
    unparsed: int = 0
    repaired: int = 0
    left_out: int = 0

    @property
    def ungrounded(self) -> list[Fact]:
        """The facts with a string that is not in the text."""
        return [fact for fact in self.facts if not is_grounded(fact)]

    def annotations(self) -> list[Annotation]:
        """The facts as the annotation of a corpus's record has them."""
        if self.task in EVENT_TASKS:
            return [
                {
                    "event_trigger": str(event.trigger),
                    "event_type": event.event_type,
                    "arguments": [{"argument": str(fact.argument), "role": fact.role} for fact in event.arguments],
                }
                for event in self.events
            ]
        return [annotation(fact) for fact in self.facts]

    def to_record(self) -> dict[str, Any]:
        """The text and its annotation in the form of a corpus's record, of which instances can be built."""
        task = TASKS[self.task]
        return {"text": self.text, task.field: task.distinct(self.annotations())}

    def to_answer(self) -> dict[str, Any]:
        """The answers to all passages and schema batches as one, in the form of the task."""
        task = TASKS[self.task]
        by_label: dict[str, list[Annotation]] = defaultdict(list)
        if self.task == "KG":  # two entity types may have an attribute of the same name
            for fact in self.facts:
                by_label[fact[0]].append(annotation(fact))
        else:
            for each in self.annotations():
                by_label[task.label(each, self.schema)].append(each)
        answer: dict[str, Any] = {}
        for label in task.labels(self.schema):
            key = task.answer_key(label)
            found = task.distinct(by_label[label])
            value = task.answer_value(found, task.roles(label, self.schema), self.text) if found else task.nothing
            answer[key] = answer[key] + value if key in answer else value  # only labels of SPO share a key
        return answer

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it, but for the model's own words; offsets count characters (code points)."""
        result: dict[str, Any] = {
            "text": self.text,
            "task": self.task,
            "language": self.language,
            "facts": [fact_to_dict(fact) for fact in self.facts],
        }
        if self.task in EVENT_TASKS:
            result["events"] = [
                {
                    "event_type": event.event_type,
                    "trigger": event.trigger.to_dict() if event.trigger else None,
                    "arguments": [
                        {"role": fact.role, **as_mention(fact.argument).to_dict()} for fact in event.arguments
                    ],
                }
                for event in self.events
            ]
        counts = ("cut", "retried", "unparsed", "repaired", "left_out")
        result["passages"] = [list(passage) for passage in self.passages]
        result["answers"] = {"all": len(self.answers), **{name: getattr(self, name) for name in counts}}
        return result

    def to_json(self, indent: int | None = 2) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def graph(self) -> tuple[dict[str, Node], list[Edge]]:
        """
        The facts as nodes, by a name of each, and the edges between them.

        Equal strings are one node; an event is a node of its own, with an edge to each of its arguments.
        """
        nodes: dict[str, Node] = {}
        edges: dict[Edge, None] = {}

        def node(mention: str, kind: str = "") -> str:
            name = str(mention)
            if name not in nodes or not nodes[name].kind:
                nodes[name] = Node(name, kind)
            return name

        for number, event in enumerate(self.events, start=1):
            label = f"{event.event_type}: {event.trigger}" if event.trigger else event.event_type
            nodes[f"event {number}"] = Node(label, event.event_type)
            for argument in event.arguments:
                edges[Edge(f"event {number}", argument.role, node(argument.argument))] = None
        for fact in self.facts:
            if isinstance(fact, Relation):
                edges[Edge(node(fact.head), fact.relation, node(fact.tail))] = None
            elif isinstance(fact, TypedRelation):
                head, tail = node(fact.head, fact.head_type), node(fact.tail, fact.tail_type)
                edges[Edge(head, fact.relation, tail)] = None
            elif isinstance(fact, Attribute):
                edges[Edge(node(fact.entity, fact.entity_type), fact.attribute, node(fact.value))] = None
            elif isinstance(fact, Entity):
                node(fact.entity, fact.entity_type)
            elif isinstance(fact, Trigger) and not self.events:
                node(fact.trigger, fact.event_type)
        return nodes, list(edges)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The same as a graph of `networkx`: nodes have a `label` and a `type`, edges have a `label`."""
        try:
            import networkx
        except ImportError:
            raise InputError("networkx is not installed: pip install 'iepile-builder[graph]'") from None
        graph = networkx.MultiDiGraph(text=self.text, task=self.task)
        nodes, edges = self.graph()
        for name, node in nodes.items():
            graph.add_node(name, label=node.label, type=node.kind)
        for edge in edges:
            graph.add_edge(edge.source, edge.target, key=edge.label, label=edge.label)
        return graph

    def to_html(self) -> str:
        """A page with the marked text, the graph and the tables, that needs no network."""
        from iepile_builder.page import page  # it looks at extractions

        return page(self)

    def save_html(self, path: str | Path) -> None:
        """Write that page to a file."""
        write_whole(Path(path), self.to_html().encode("utf-8", "xmlcharrefreplace").decode("utf-8"))


@dataclass
class Extractor:
    """
    Extracts facts from texts with a schema of the user's own.

        extractor = Extractor.from_pretrained("path/or/hub-id", adapter="path/or/hub-id")
        result = extractor("Ada Lovelace met Charles Babbage.", task="NER", schema=["person", "city"])
        print(result.facts, result.facts[0].entity.start)

    Args:
        engine ([`~iepile_builder.engines.Engine`]):
            What answers: a model in this process, or a server.
        max_new_tokens (`int`, *optional*, defaults to 512):
            The longest answer. One that is cut is asked again for half of the labels at a time.
        constrained (`bool`, *optional*, defaults to `True`):
            Whether the engine is told which form the answers must have, so that all of them are valid; an engine that
            cannot hold a model to it leaves them free.
        copied (`bool`, *optional*, defaults to `False`):
            Whether the answers' strings must be parts of the text, too.
        repair (`bool`, *optional*, defaults to `True`):
            Whether to read what is only nearly JSON, too.
        passage_tokens (`int`, *optional*, defaults to 384):
            The most tokens of text that are asked about at once: a longer text is cut where sentences end.
        overlap (`int`, *optional*, defaults to 1):
            How many sentences a passage shares with the one before it.
        min_score (`float`, *optional*, defaults to 0.85):
            The similarity from which on a string counts as one that stands in the text; see [`Locator`].
        drop_ungrounded (`bool`, *optional*, defaults to `False`):
            Whether to leave out facts with a string that is not in the text.
    """

    engine: Engine
    max_new_tokens: int = 512
    constrained: bool = True
    copied: bool = False
    repair: bool = True
    passage_tokens: int = 384
    overlap: int = 1
    min_score: float = 0.85
    drop_ungrounded: bool = False

    @classmethod
    def from_pretrained(cls, model: str, adapter: str | None = None, **kwargs: Any) -> Extractor:
        """
        An extractor with a model of `transformers` in this process.

        Args:
            model (`str`):
                A folder or a Hub id.
            adapter (`str`, *optional*):
                Folder or Hub id of a PEFT adapter.
            **kwargs:
                Those of [`Extractor`], and those of
                [`TransformersEngine.from_pretrained`][iepile_builder.engines.TransformersEngine.from_pretrained].
        """
        options = take_options(kwargs)
        return cls(TransformersEngine.from_pretrained(model, adapter, **kwargs), **options)

    @classmethod
    def from_endpoint(cls, base_url: str, **kwargs: Any) -> Extractor:
        """
        An extractor with a model behind an OpenAI-compatible server.

        Args:
            base_url (`str`):
                Of the server, such as `"http://127.0.0.1:8000/v1"`.
            **kwargs:
                Those of [`Extractor`], and those of [`~iepile_builder.endpoint.EndpointEngine`], such as `model`.
        """
        from iepile_builder.endpoint import EndpointEngine

        options = take_options(kwargs)
        return cls(EndpointEngine(base_url, **kwargs), **options)

    @classmethod
    def from_vllm(cls, model: str, adapter: str | None = None, **kwargs: Any) -> Extractor:
        """
        An extractor with a model that vLLM runs in this process.

        Args:
            model (`str`):
                A folder or a Hub id.
            adapter (`str`, *optional*):
                Folder or Hub id of a LoRA adapter.
            **kwargs:
                Those of [`Extractor`], and those of [`~iepile_builder.vllm_engine.VLLMEngine`].
        """
        from iepile_builder.vllm_engine import VLLMEngine

        options = take_options(kwargs)
        return cls(VLLMEngine(model, adapter, **kwargs), **options)

    def __call__(
        self,
        text: str | Iterable[str],
        task: str,
        schema: Any,
        examples: Sequence[Mapping[str, Any]] = (),
        language: str | None = None,
        triggers: Triggers | Extraction | Iterable[Triggers | Extraction] | None = None,
        split_num: int | None = None,
    ) -> Any:
        """
        Extract what a schema asks for.

        Args:
            text (`str` or an iterable of `str`):
                The text; of several, the results come in their order, one by one.
            task (`str`):
                `"NER"`, `"RE"`, `"SPO"`, `"EE"`, `"EET"`, `"EEA"` or `"KG"`.
            schema (`list`, `dict`, `str`, `Path`, [`Schema`] or a class of `pydantic.BaseModel`):
                What to ask for, see [`~iepile_builder.user_schema.read_schema`]. It is asked for in batches of
                `split_num`, as in training.
            examples (`Sequence[Mapping[str, Any]]`, *optional*, defaults to `()`):
                Annotated records, in the form that corpora have, that each instruction shows with their answers.
            language (`str`, *optional*):
                `"en"` or `"zh"`, the language of the instruction; by default that of each text.
            triggers (`dict[str, list[str]]` or [`Extraction`], or an iterable of them, *optional*):
                For EEA, which asks for the arguments of known events: event type to triggers, or the result of EET or
                EE for the same text. For several texts, one for each.
            split_num (`int`, *optional*):
                Labels in one instruction; -1 for all in one. By default the task's.

        Returns:
            [`Extraction`] or `Iterator[Extraction]`: the result, or those of several texts.

        Raises:
            `InputError`: if there is nothing to be read or to be asked for, or the model's context is too small.
        """
        if task == "EEA" and triggers is None:
            raise InputError(
                'EEA asks for the arguments of known events; give triggers={"event type": ["trigger"]} or the result '
                "of EET for the same text, or use EE"
            )
        if task != "EEA" and triggers is not None:
            raise InputError(f"{task} takes no triggers, only EEA does")
        if language is not None and language not in LANGUAGES:
            raise InputError(
                f"unknown language {language!r}; give one of {', '.join(LANGUAGES)}, or none to detect it"
            )
        if split_num is not None and split_num < 1 and split_num != -1:
            raise InputError(f"split_num is {split_num}; give a number from 1 on, or -1 for all labels at once")
        asked, descriptions = read_schema(schema, task)
        batching = SchemaBatching(
            task,
            language or "",
            "",
            asked,
            negatives="all",
            split_num=split_num,
            schema_order="schema",
            labels=TASKS[task].labels(asked),  # so that examples may have others, too
            descriptions=descriptions,
            examples=read_examples(examples, task),
            num_examples=len(examples),
        )
        if isinstance(text, str):
            return next(self.stream([text], [triggers], batching))
        if isinstance(triggers, (Mapping, Extraction)):
            raise InputError("EEA with several texts needs the triggers of each: give a list of them")
        return self.stream(text, repeat(None) if triggers is None else triggers, batching)

    def stream(self, texts: Iterable[str], triggers: Iterable[Any], batching: SchemaBatching) -> Iterator[Extraction]:
        """The results of texts, in their order."""
        works: deque[Work] = deque()

        def jobs() -> Iterator[Job]:
            for number, (text, given) in enumerate(zip(texts, triggers, strict=False), start=1):
                if not isinstance(text, str) or not text.strip():
                    raise InputError(f"text {number} is empty; give some text")
                clean = SURROGATE.sub("\ufffd", text)
                work = Work(clean, replace(batching, language=batching.language or detect_language(clean)))
                planned = self.plan(work, given)
                work.open = len(planned)
                works.append(work)
                yield from planned

        waiting = jobs()
        while batch := list(islice(waiting, REQUESTS_AT_ONCE)):
            while batch:
                completions = self.engine.generate([job.request for job in batch], self.max_new_tokens)
                batch = [
                    again
                    for job, completion in zip(batch, completions, strict=True)
                    for again in self.receive(job, completion)
                ]
            while works and not works[0].open:
                yield self.finish(works.popleft())
        while works:
            yield self.finish(works.popleft())

    def plan(self, work: Work, triggers: Triggers | Extraction | None) -> list[Job]:
        """The requests about a text: for each passage, those for all labels."""
        text, batching = work.text, work.batching
        whole = Passage(0, len(text))
        known = given_triggers(triggers, text, batching)
        empty = self.asked_together(batching, "", known(whole))
        if not empty:  # EEA, without any trigger
            return []
        longest = max(empty, key=lambda asked: len(asked.instruction))
        room = self.engine.context_left(longest.request, self.max_new_tokens)
        sample = text[:SAMPLE]
        if room is None:
            chinese = len(HAN.findall(sample))
            tokens = chinese + (len(sample) - chinese) / 4
        else:
            filled = self.asked_together(replace(batching, labels=longest.labels, split_num=-1), sample, known(whole))
            tokens = room - (self.engine.context_left(filled[0].request, self.max_new_tokens) or 0)
            if room < min(tokens, MIN_ROOM):
                raise self.too_small(longest, room)
        budget = self.passage_tokens if room is None else min(self.passage_tokens, room)
        size = int(budget * len(sample) / max(tokens, 1))
        while True:
            jobs, fits = [], True
            for passage in passages(text, batching.language, max(size, 1), self.overlap):
                together = self.asked_together(batching, text[passage.start : passage.end], known(passage))
                jobs += [Job(work, passage, *asked) for asked in together]
                if room is not None and together:
                    asked = max(together, key=lambda asked: len(asked.instruction))
                    fits = fits and (self.engine.context_left(asked.request, self.max_new_tokens) or 0) >= 0
            if fits:
                return jobs
            size //= 2  # some part of the text has more tokens than its sample says
            if size == 0:
                raise self.too_small(longest, room or 0)

    def asked_together(self, batching: SchemaBatching, text: str, annotations: list[Annotation] | None) -> list[Asked]:
        """The requests about a text, in the form of training."""
        task = TASKS[batching.task]
        together = []
        for instance in batching.instances("", text, annotations):
            instruction = instance["instruction"]
            labels = task.labels(read_asked(instruction, task.name)[0].schema)
            form = None
            if self.constrained:
                items = read_instruction(instruction)["schema"]
                form = answer_schema(task.name, items, text if self.copied else None)
            together.append(Asked(labels, instruction, Request(to_prompt(instance), form), annotations))
        return together

    def too_small(self, asked: Asked, room: int) -> InputError:
        """The error for a context in which no text has room."""
        kept = f"{room} tokens" if room > 0 else "no room"
        return InputError(
            f"the model's context leaves {kept} for the text beside {len(asked.labels)} labels asked at once, their "
            f"examples and an answer of {self.max_new_tokens} tokens: lower split_num or max_new_tokens, give fewer "
            "examples, or use a model with a longer context"
        )

    def receive(self, job: Job, completion: Completion) -> list[Job]:
        """Keep an answer, or ask again for half of the labels at a time if it was cut."""
        work = job.work
        if completion.cut and len(job.labels) > 1:
            middle = len(job.labels) // 2
            again = []
            for labels in (job.labels[:middle], job.labels[middle:]):
                batching = replace(work.batching, labels=labels, split_num=-1)
                text = work.text[job.passage.start : job.passage.end]
                again += [
                    Job(work, job.passage, *asked) for asked in self.asked_together(batching, text, job.annotations)
                ]
            work.retried += 1
            work.open += len(again) - 1
            return again
        work.open -= 1
        work.answers.append((job, completion))
        return []

    def finish(self, work: Work) -> Extraction:
        """Merge the answers to all requests about a text."""
        task = work.batching.task
        order = {label: number for number, label in enumerate(work.batching.asked_labels())}
        answers = sorted(work.answers, key=lambda answer: (answer[0].passage, order[answer[0].labels[0]]))
        counts = dict.fromkeys(("cut", "unparsed", "repaired", "left_out"), 0)
        units: dict[Any, list[Fact]] = {}
        for passage, of_passage in groupby(answers, key=lambda answer: answer[0].passage):
            groups: list[list[Fact]] = []
            for job, completion in of_passage:
                text = completion.text
                if completion.cut:
                    counts["cut"] += 1
                    text = text[: text.rfind('"') + 1].removesuffix('"')  # not the string that was being written
                value = load_answer(text)
                if value is None and (self.repair or completion.cut):
                    value = repair_json(strip_fence(text))
                    counts["repaired"] += value is not None and not completion.cut
                try:
                    found, left_out = read_groups(value or {}, task, read_asked(job.instruction, task)[0].schema)
                except RecursionError:  # nested nearly as deep as JSON can be read
                    value, found, left_out = None, [], 0
                counts["unparsed"] += value is None
                groups += found
                counts["left_out"] += left_out
            grounded = ground(groups, Locator(work.text[passage.start : passage.end], self.min_score))
            add_units(units, grounded, passage.start, task in EVENT_TASKS)

        kept = [unit for unit in (self.kept(unit) for unit in units.values()) if unit]
        kept.sort(key=lambda unit: first_place(unit, len(work.text)))
        facts = {
            place_key(fact): fact for unit in kept for fact in unit if task != "EEA" or isinstance(fact, Argument)
        }
        return Extraction(
            text=work.text,
            task=task,
            language=work.batching.language,
            schema=work.batching.schema,
            facts=list(facts.values()),
            events=[event_of(unit) for unit in kept] if task in EVENT_TASKS else [],
            passages=list(dict.fromkeys(job.passage for job, _ in answers)),
            answers=[completion.text for _, completion in answers],
            retried=work.retried,
            **counts,
        )

    def kept(self, unit: list[Fact]) -> list[Fact]:
        """What is left of facts that belong together if those that are not in the text are to be left out."""
        if not self.drop_ungrounded:
            return unit
        if isinstance(unit[0], Trigger) and not is_grounded(unit[0]):
            return []
        return [fact for fact in unit if is_grounded(fact)]


class Asked(NamedTuple):
    """Labels that are asked for together, by one request."""

    labels: tuple[str, ...]
    instruction: str
    request: Request
    annotations: list[Annotation] | None


class Job(NamedTuple):
    """One request about a passage of a text."""

    work: Work
    passage: Passage
    labels: tuple[str, ...]
    instruction: str
    request: Request
    annotations: list[Annotation] | None  # the event types and triggers that are given (EEA)


@dataclass
class Work:
    """A text whose requests are being answered."""

    text: str
    batching: SchemaBatching
    open: int = 0
    retried: int = 0
    answers: list[tuple[Job, Completion]] = field(default_factory=list)


def given_triggers(
    triggers: Triggers | Extraction | None, text: str, batching: SchemaBatching
) -> Callable[[Passage], list[Annotation] | None]:
    """What tells the event types and triggers that are given in a passage (EEA)."""
    if triggers is None:
        return lambda passage: None
    known = set(batching.asked_labels())
    places: list[tuple[str, Mention | str]]
    if isinstance(triggers, Extraction):
        places = [(fact.event_type, fact.trigger) for fact in triggers.facts if isinstance(fact, Trigger)]
        places = [(label, trigger) for label, trigger in places if label in known]
    else:
        places = [(label, trigger) for label, found in triggers.items() for trigger in found]
    for label, trigger in places:
        if label not in known:
            raise InputError(f"triggers are given for {label!r}, which the schema has not; add it, with its roles")
        if trigger not in text and not isinstance(trigger, Mention):
            raise InputError(f"trigger {trigger!r} of {label!r} is not in the text; give it as it is written there")

    def of_passage(passage: Passage) -> list[Annotation]:
        return [
            {"event_type": label, "event_trigger": str(trigger), "arguments": []}
            for label, trigger in places
            if (
                passage.start <= trigger.start and trigger.end <= passage.end
                if isinstance(trigger, Mention) and trigger.start is not None and trigger.end is not None
                else trigger in text[passage.start : passage.end]
            )
        ]

    return of_passage


def read_examples(examples: Sequence[Mapping[str, Any]], task: str) -> tuple[tuple[str, str], ...]:
    """Annotated records as instructions can show them."""
    shown = []
    for number, record in enumerate(examples, start=1):
        try:
            text, annotations = record["text"], list(record[TASKS[task].field])
            for annotation in annotations:
                TASKS[task].identity(annotation)
                TASKS[task].label(annotation, Schema())
            shown.append((str(text), json.dumps(annotations, ensure_ascii=False)))
        except (KeyError, TypeError):
            raise InputError(
                f'example {number} is no annotated record of {task}: give {{"text": ..., '
                f'"{TASKS[task].field}": [...]}} as a corpus of {task} has it'
            ) from None
    return tuple(shown)


def read_groups(value: dict[str, Any], task: str, schema: Schema) -> tuple[list[list[Fact]], int]:
    """The facts of an answer, those that belong together in one list, and how many had to be left out."""
    left_out = 0
    groups: list[list[Fact]] = []
    if task in EVENT_TASKS:
        for label, events in value.items():
            for event in events if isinstance(events, list) else [events]:
                groups.append(TASKS["EE"].parse({label: [event]}, schema))
    else:
        groups = [[fact] for fact in TASKS[task].parse(value, schema)]
    kept = []
    for group in groups:
        good = [fact for fact in group if is_usable(fact, schema)]
        left_out += len(group) - len(good)
        if good and isinstance(good[0], Argument):  # its event has no trigger, or none that can be used
            good = [fact._replace(trigger="") for fact in good if isinstance(fact, Argument)]
        kept += [good] if good else []
    return kept, left_out


def is_usable(fact: Fact, schema: Schema) -> bool:
    """Whether a fact is one that was asked for, and has the form of its task."""
    for mention in (fact[index] for index in MENTIONS[type(fact)]):
        if not mention.strip() or mention == NOTHING or mention.startswith(MALFORMED) or SURROGATE.search(mention):
            return False
    if isinstance(fact, Relation):
        return fact.relation in schema.roles
    if isinstance(fact, TypedRelation):
        return "_".join(fact[:3]) in schema.types
    if isinstance(fact, Argument):
        return fact.role in schema.type_roles.get(fact.event_type, ())
    if isinstance(fact, Attribute):
        return fact.attribute in schema.type_roles.get(fact.entity_type, ())
    return fact[0] in schema.types


def add_units(units: dict[Any, list[Fact]], groups: list[list[Fact]], offset: int, events: bool) -> None:
    """Add a passage's facts to those of the text, once where the passages before it have them already."""
    seen: Counter[Any] = Counter()
    for group in groups:
        moved = [move(fact, offset) for fact in group]
        if not events:
            units.setdefault(place_key(moved[0]), moved)
            continue
        name = place_key(moved[0])  # of the trigger; an event without one is told by its arguments
        key = (name, seen[name]) if isinstance(moved[0], Trigger) else tuple(map(place_key, moved))
        seen[name] += 1  # two events of one passage may have the same trigger
        unit = units.setdefault(key, [])
        known = set(map(place_key, unit))
        unit += [fact for fact in moved if place_key(fact) not in known]


def as_mention(text: str) -> Mention:
    """A string of a fact that has been grounded."""
    assert isinstance(text, Mention)
    return text


def move(fact: Fact, offset: int) -> Fact:
    """A passage's fact in the whole text."""
    fields = list(fact)
    for index in mention_fields(fact):
        fields[index] = as_mention(fields[index]).moved(offset)
    return type(fact)(*fields)


def place_key(fact: Fact) -> tuple[Any, ...]:
    """What makes two facts of a text the same: their labels, and where their strings stand."""
    fields: list[Any] = list(fact)
    for index in mention_fields(fact):
        mention = as_mention(fields[index])
        fields[index] = str(mention).casefold() if mention.start is None else (mention.start, mention.end)
    return type(fact), *fields


def is_grounded(fact: Fact) -> bool:
    """Whether all strings of a fact are in the text."""
    return all(as_mention(fact[index]).grounded for index in MENTIONS[type(fact)])


def first_place(unit: list[Fact], end: int) -> int:
    """Where facts that belong together start in the text, by the string that names them."""
    start = as_mention(unit[0][MENTIONS[type(unit[0])][0]]).start
    return end if start is None else start


def event_of(unit: list[Fact]) -> Event:
    """The event of which these are the facts."""
    first = unit[0]
    assert isinstance(first, (Trigger, Argument))
    arguments = tuple(fact for fact in unit if isinstance(fact, Argument))
    return Event(first.event_type, as_mention(first.trigger), arguments)


def annotation(fact: Fact) -> Annotation:
    """A fact as the annotation of a record has it."""
    if isinstance(fact, Entity):
        return {"entity": str(fact.entity), "entity_type": fact.entity_type}
    if isinstance(fact, (Relation, TypedRelation)):
        triple = {"head": str(fact.head), "relation": fact.relation, "tail": str(fact.tail)}
        return (
            triple
            if isinstance(fact, Relation)
            else {**triple, "head_type": fact.head_type, "tail_type": fact.tail_type}
        )
    if isinstance(fact, Attribute):
        return {"head": str(fact.entity), "relation": fact.attribute, "tail": str(fact.value)}
    assert isinstance(fact, Trigger)  # arguments are part of their events
    return {"event_trigger": str(fact.trigger), "event_type": fact.event_type, "arguments": []}


def fact_to_dict(fact: Fact) -> dict[str, Any]:
    """A fact as JSON has it."""
    mentions = mention_fields(fact)
    return {
        name: (as_mention(value).to_dict() if value else None) if index in mentions else value
        for index, (name, value) in enumerate(fact._asdict().items())
    }


def take_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of [`Extractor`] out of those that are meant for it and its engine."""
    return {each.name: kwargs.pop(each.name) for each in fields(Extractor) if each.name in kwargs}
