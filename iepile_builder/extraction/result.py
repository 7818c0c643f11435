"""The results of an extraction: facts with their places in the text, as a graph, JSON or a page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iepile_builder.answers.grounding import as_mention
from iepile_builder.errors import InputError
from iepile_builder.extraction.graph import Edge, Node, make_graph
from iepile_builder.extraction.merge import first_place, place_key
from iepile_builder.extraction.passages import Passage
from iepile_builder.io import write_whole
from iepile_builder.schema import Schema
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.base import Task
from iepile_builder.tasks.facts import Annotation, Event, Fact


if TYPE_CHECKING:
    import networkx


COUNTS = ("cut", "retried", "unparsed", "repaired", "left_out", "less_likely", "low_score")  # of an `Extraction`


class Result:
    """What the results of one task and of several have in common."""

    facts: list[Fact]

    @property
    def results(self) -> list[Extraction]:
        """List the results of each task."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON values, without the model's raw answers; offsets count characters (code points)."""
        raise NotImplementedError

    def to_json(self, indent: int | None = 2) -> str:
        """Write the same as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def graph(self) -> tuple[dict[str, Node], list[Edge]]:
        """Make a graph of the facts, see [`make_graph`]."""
        return make_graph(self.results)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """Make it with `networkx`: nodes have a `label` and a `type`, edges a `label` and, where known, a `score`."""
        try:
            import networkx
        except ImportError:
            raise InputError("networkx is not installed: pip install 'iepile-builder[graph]'") from None
        first = self.results[0]
        graph = networkx.MultiDiGraph(text=first.text, task=", ".join(each.task for each in self.results))
        nodes, edges = self.graph()
        for name, node in nodes.items():
            graph.add_node(name, label=node.label, type=node.kind)
        for edge in edges:
            score = {} if edge.score is None else {"score": edge.score}
            graph.add_edge(edge.source, edge.target, key=edge.label, label=edge.label, **score)
        return graph

    def to_html(self) -> str:
        """Render a page with the marked text, the graph and the tables; it needs no network."""
        from iepile_builder.extraction.page import render_page

        return render_page(self)

    def _repr_html_(self) -> str:
        """Show marked text, graph and tables where the result is the last value of a notebook's cell."""
        from iepile_builder.extraction.page import render_notebook

        return render_notebook(self)

    def save_html(self, path: str | Path) -> None:
        """Write that page to a file."""
        write_whole(Path(path), self.to_html())

    def save(self, path: str | Path) -> None:
        """Write it as the file's name says, see [`~iepile_builder.extraction.export.save`]."""
        from iepile_builder.extraction.export import save

        save([self], path)


@dataclass(frozen=True)
class Extraction(Result):
    """
    The facts that were found in a text.

    Args:
        text (`str`):
            The text.
        task (`str`):
            Name of the task.
        language (`str`):
            Language of the instructions.
        schema ([`Schema`]):
            What was asked for.
        facts (`list[Fact]`):
            The facts in the order of the text; those not in the text come last. Their strings of the text are
            [`Mention`]s, strings with `start`, `end`, `match` and `score`.
        scores (`list[float | None]`):
            For each fact its score, from 0 to 1, see [`~iepile_builder.answers.scores`]; `None` where the engine was
            not loaded with `scores=True` or cannot tell.
        events (`list[Event]`):
            The events of EE and EEA: type, trigger (a [`Mention`]) and arguments, facts that `facts` has too.
        event_scores (`list[float | None]`):
            For each event its score.
        units (`list[list[Fact]]`):
            The facts, those that belong together (of one event) in one list.
        passages (`list[tuple[int, int]]`):
            Start and end of each part of the text that was read by itself.
        answers (`list[str]`):
            What the model wrote, an answer for each passage and schema batch.
        cut (`int`):
            Number of answers that ended at the token limit though they were asked for a single label; what is complete
            in them is read.
        retried (`int`):
            Number of answers that ended at the limit and were asked for again, half of the labels at a time.
        unparsed (`int`):
            Number of answers that are not a JSON object, even after repair.
        repaired (`int`):
            Number of answers that are a JSON object only after repair.
        left_out (`int`):
            Number of facts left out because their label was not asked for or their value is not of the task's form.
        less_likely (`int`):
            Number of facts left out because their mention is likelier to have another label.
        low_score (`int`):
            Number of facts left out because they score less than `min_score` or have no score.
        min_score (`float`):
            The score that facts had to have.
    """

    text: str
    task: str
    language: str
    schema: Schema
    facts: list[Fact]
    scores: list[float | None] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    event_scores: list[float | None] = field(default_factory=list)
    units: list[list[Fact]] = field(default_factory=list, repr=False)
    passages: list[Passage] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    cut: int = 0
    retried: int = 0
    unparsed: int = 0
    repaired: int = 0
    left_out: int = 0
    less_likely: int = 0
    low_score: int = 0
    min_score: float = 0.0

    def __post_init__(self) -> None:
        for name, of in (("scores", self.facts), ("event_scores", self.events)):
            if not getattr(self, name):  # of facts that were not scored
                object.__setattr__(self, name, [None] * len(of))

    @property
    def results(self) -> list[Extraction]:
        return [self]

    @property
    def ungrounded(self) -> list[Fact]:
        """List the facts with a string that is not in the text."""
        return [fact for fact in self.facts if not all(as_mention(each).grounded for each in fact.mentions)]

    def annotations(self) -> list[Annotation]:
        """Write the facts as the annotation of a record, in the form that corpora have, with offsets."""
        return [each.to_annotation() for each in self.events or self.facts]

    def to_answer(self) -> dict[str, Any]:
        """Merge the answers to all passages and schema batches into one, in the form of the task."""
        task = TASKS[self.task]
        by_label: dict[str, list[Annotation]] = defaultdict(list)
        for each in self.events or self.facts:
            by_label[each.asked_label].append(each.to_annotation())
        answer: dict[str, Any] = {}
        for label in task.labels(self.schema):
            key = task.answer_key(label)
            found = task.distinct(by_label[label])
            value = task.answer_value(found, task.roles(label, self.schema), self.text) if found else task.nothing
            answer[key] = answer[key] + value if key in answer else value  # only labels of SPO share a key
        return answer

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "text": self.text,
            "task": self.task,
            "language": self.language,
            "facts": [
                {**fact.map_strings(mention_to_dict)._asdict(), "score": _rounded(score)}
                for fact, score in zip(self.facts, self.scores, strict=True)
            ],
        }
        if TASKS[self.task].has_events:
            result["events"] = [
                {
                    "event_type": event.event_type,
                    "trigger": mention_to_dict(event.trigger),
                    "arguments": [
                        {"role": fact.role, **as_mention(fact.argument).to_dict()} for fact in event.arguments
                    ],
                    "score": _rounded(score),
                }
                for event, score in zip(self.events, self.event_scores, strict=True)
            ]
        result["passages"] = [list(passage) for passage in self.passages]
        result["answers"] = {"all": len(self.answers), **{name: getattr(self, name) for name in COUNTS}}
        return result


class Extractions(dict[str, Extraction], Result):
    """
    The facts that several tasks found in a text: a dictionary from the key of each task, such as `"entities"`, to its
    [`Extraction`]. Its graph, JSON and page are those of all of them.
    """

    @property
    def results(self) -> list[Extraction]:
        return list(self.values())

    @property
    def text(self) -> str:
        """The text."""
        return self.results[0].text

    @property
    def facts(self) -> list[Fact]:  # type: ignore[override]  # nobody sets it
        """List the facts of all tasks."""
        return [fact for result in self.results for fact in result.facts]

    def to_dict(self) -> dict[str, Any]:
        of_tasks = {key: result.to_dict() for key, result in self.items()}
        for result in of_tasks.values():
            del result["text"]
        return {"text": self.text, "tasks": of_tasks}


def compose(
    text: str,
    task: Task,
    language: str,
    schema: Schema,
    units: Iterable[list[Fact]],
    best: Mapping[Any, float],
    **counts: Any,
) -> Extraction:
    """Make the result of the facts of a text, those that belong together in one list; `best` has their scores."""
    ordered = sorted(units, key=lambda unit: first_place(unit, len(text)))
    facts = {place_key(fact): fact for unit in ordered for fact in task.own_facts(unit)}
    return Extraction(
        text=text,
        task=task.name,
        language=language,
        schema=schema,
        facts=list(facts.values()),
        scores=[best.get(key) for key in facts],
        events=[task.to_event(unit) for unit in ordered] if task.has_events else [],
        event_scores=[best.get(place_key(unit[0])) for unit in ordered] if task.has_events else [],
        units=ordered,
        **counts,
    )


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def mention_to_dict(mention: str) -> dict[str, Any] | None:
    """Give a mention as JSON has it."""
    return as_mention(mention).to_dict() if mention else None
