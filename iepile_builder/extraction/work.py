"""A text being extracted from, the requests about it, and the result of their answers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import compress, groupby
from typing import Any, NamedTuple

from iepile_builder.answers.grounding import Locator, as_mention, ground
from iepile_builder.answers.parse import parse_answer
from iepile_builder.answers.scores import Calibration, Decision, keep_likeliest, score_decision
from iepile_builder.data.batching import SchemaBatching
from iepile_builder.data.instructions import read_asked
from iepile_builder.engines.base import Completion, Engine, Request
from iepile_builder.errors import InputError
from iepile_builder.extraction.merge import add_units, drop_repeats, place_key, place_of, read_answer
from iepile_builder.extraction.passages import Passage
from iepile_builder.extraction.result import Extraction, compose
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Annotation, Fact


def start_clock(max_seconds: float | None) -> Callable[[], None]:
    """Start the clock of a call; what is returned raises an `InputError` once the time is up."""
    end = None if max_seconds is None else time.monotonic() + max_seconds

    def check_time() -> None:
        if end is not None and time.monotonic() > end:
            raise InputError(f"this takes more than {max_seconds:g} seconds: give a shorter text or fewer labels")

    return check_time


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
    """A text whose requests are being answered; `pages` says where its pages start, if it has any."""

    text: str
    pages: tuple[int, ...]
    batching: SchemaBatching
    check_time: Callable[[], None]
    open: int = 0
    retried: int = 0
    answers: list[tuple[Job, Completion]] = field(default_factory=list)


def score_rivals(works: Iterable[Work], engine: Engine) -> None:
    """Have those answers scored that give a mention several labels, where the engine can and did not."""
    score_decisions = getattr(engine, "score_decisions", None)
    if score_decisions is None or getattr(engine, "scores", True):
        return
    rivals: list[tuple[Work, int]] = []
    for work in works:
        task = TASKS[work.batching.task]
        if not task.one_label:
            continue
        labels: dict[str, dict[str, int]] = defaultdict(dict)  # of a mention, each with its answer
        for number, (job, completion) in enumerate(work.answers):
            schema = read_asked(job.instruction, task.name)[0].schema
            for fact in parse_answer(completion.text, task.name, schema).facts:
                if fact.asked_label in job.labels:
                    labels[fact.mentions[0].casefold()][fact.asked_label] = number
        numbers = {number for of_mention in labels.values() if len(of_mention) > 1 for number in of_mention.values()}
        rivals += [(work, number) for number in sorted(numbers)]
    if not rivals:
        return
    asked = [work.answers[number] for work, number in rivals]
    decisions = score_decisions([job.request for job, _ in asked], [answer.text for _, answer in asked])
    for (work, number), (job, answer), decided in zip(rivals, asked, decisions, strict=True):
        work.answers[number] = job, answer._replace(decisions=decided)


def merge_answers(
    work: Work,
    repair: bool,
    min_similarity: float,
    min_score: float,
    multi_label: bool,
    calibration: Calibration | None,
    drop_ungrounded: bool,
    show_scores: bool,
) -> Extraction:
    """Merge the answers to all requests about a text; the options are those of the extractor."""
    task = TASKS[work.batching.task]
    order = {label: number for number, label in enumerate(work.batching.asked_labels())}
    answers = sorted(work.answers, key=lambda answer: (answer[0].passage, order[answer[0].labels[0]]))
    counts = Counter(cut=0, unparsed=0, repaired=0, left_out=0)
    units: dict[Any, list[Fact]] = {}
    best: dict[Any, Decision] = {}
    for passage, of_passage in groupby(answers, key=lambda answer: answer[0].passage):
        groups: list[list[Fact]] = []
        decisions: list[Decision | None] = []
        for job, completion in of_passage:
            work.check_time()
            found, decided, of_answer = read_answer(completion, job.instruction, task, repair)
            counts.update(of_answer)
            groups += found
            decisions += decided
        locate = Locator(work.text[passage.start : passage.end], min_similarity, work.check_time)
        grounded = ground(groups, locate)
        add_units(units, best, grounded, decisions, passage.start, task.has_events)

    kept = list(units.values()) if task.has_events else drop_repeats(list(units.values()))
    if task.one_label and not multi_label:
        facts = [unit[0] for unit in kept]
        labelled = [(place_of(fact.mentions[0]), fact.asked_label) for fact in facts]
        likeliest = keep_likeliest(labelled, [best.get(place_key(fact)) for fact in facts])
        counts["less_likely"] = likeliest.count(False)
        kept = list(compress(kept, likeliest))
    scores = {key: score_decision(decision, task.name, calibration) for key, decision in best.items()}
    if min_score > 0:
        before = sum(map(len, kept))
        kept = [[fact for fact in unit if scores.get(place_key(fact), -1.0) >= min_score] for unit in kept]
        counts["low_score"] = before - sum(map(len, kept))
        kept = list(filter(None, kept))
    if drop_ungrounded:
        kept = [
            [fact for fact in unit if all(as_mention(each).grounded for each in fact.strings if each)] for unit in kept
        ]
        kept = list(filter(None, kept))
    if work.pages:
        kept = [
            [fact.map_strings(lambda string: as_mention(string).paged(work.pages)) for fact in unit] for unit in kept
        ]
    return compose(
        work.text,
        task,
        work.batching.language,
        work.batching.schema,
        kept,
        scores if show_scores else {},
        passages=list(dict.fromkeys(job.passage for job, _ in answers)),
        answers=[completion.text for _, completion in answers],
        retried=work.retried,
        min_score=min_score,
        **counts,
    )
