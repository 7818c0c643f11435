"""A text being extracted from, and the requests about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from iepile_builder.data.batching import SchemaBatching
from iepile_builder.engines.base import Completion, Request
from iepile_builder.extraction.passages import Passage
from iepile_builder.tasks.facts import Annotation


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
    check_time: Callable[[], None]
    open: int = 0
    retried: int = 0
    answers: list[tuple[Job, Completion]] = field(default_factory=list)
