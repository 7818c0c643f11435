"""Match predicted facts with gold facts: the match modes, and the counts of one record."""

import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from iepile_builder.errors import InputError
from iepile_builder.io import fold
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import Fact


Mode = Literal["strict", "set", "normalized", "squad", "boundary", "type", "partial", "grounded"]
Label = tuple[str, ...]
Mentions = tuple[str, ...]

PUNCTUATION = string.punctuation + "，。、；：？！“”‘’（）《》〈〉【】「」『』—…·"
ARTICLES = re.compile(r"^(?:a|an|the)\s+", re.IGNORECASE)
SQUAD_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Matching:
    """
    When a predicted fact matches a gold fact.

    A fact has a label (its names from the schema) and mentions (its strings from the text). Each gold fact matches at
    most one prediction.

    Args:
        mode (`str`, *optional*, defaults to `"strict"`):
            - `"strict"`: label and mentions are equal;
            - `"set"`: strict, but a fact that is repeated in a record counts once, in gold and in predictions;
            - `"normalized"`: label and normalized mentions are equal. Normalizing ignores case, Unicode compatibility
              forms (NFKC), white space, surrounding punctuation and an English article at the start;
            - `"squad"`: as `"set"`, with mentions normalized as in SQuAD and in UniversalNER's scorer: lower case,
              without ASCII punctuation and English articles anywhere, one space for white space;
            - `"boundary"`: mentions are equal, labels are ignored;
            - `"type"`: labels are equal and all mentions overlap;
            - `"partial"`: labels are ignored, equal mentions count 1 and overlapping mentions 0.5;
            - `"grounded"`: strict, without the facts (gold or predicted) whose mentions are not in the text.

            All modes but `"set"` and `"squad"` compare multisets. An argument's event type must always be right.
            `"type"` and `"partial"` match as many facts as possible; mentions that occur more than once overlap where
            they overlap most.
        min_overlap (`float`, *optional*, defaults to 0.0):
            For `"type"` and `"partial"`: the share of a gold mention's characters that the prediction must cover.
        entity_types (`bool`, *optional*, defaults to `True`):
            Also compare the types of head and tail in SPO.
        linked (`bool`, *optional*, defaults to `False`):
            Also compare the trigger of an argument's event.
    """

    mode: Mode = "strict"
    min_overlap: float = 0.0
    entity_types: bool = True
    linked: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InputError(f"unknown mode {self.mode!r}; known: {', '.join(get_args(Mode))}")
        if not 0 <= self.min_overlap <= 1:
            raise InputError(f"min_overlap is {self.min_overlap}; give a share from 0 to 1")

    @property
    def labelled(self) -> bool:
        """Whether facts match within a label only, so that each label has scores of its own."""
        return self.mode not in ("boundary", "partial")

    def compare(
        self, gold: Iterable[Fact], predicted: Iterable[Fact], text: str, task: str
    ) -> dict[tuple[str, Label], tuple[float, int, int]]:
        """
        Match the facts of one record: those of its annotation, and those of the answers to all its instructions.

        Returns:
            `dict`: By block (`"trigger"` or `"argument"` in EE and EEA, else `""`) and label the matches, the
            predicted facts and the gold facts. If the mode is not `labelled`, only the compared part of a label.
        """
        groups: dict[tuple[str, Label], tuple[list[Mentions], list[Mentions]]] = defaultdict(lambda: ([], []))
        block_of = TASKS[task].block_of
        for side, facts in enumerate((gold, predicted)):
            for fact in facts:
                if self.mode == "grounded" and not in_text(fact, text):
                    continue
                label, mentions = self.parts(fact)
                groups[block_of(fact), label][side].append(mentions)
        counts = {}
        for key, (annotated, answered) in groups.items():
            if self.mode in ("set", "squad"):
                annotated, answered = list(set(annotated)), list(set(answered))
            counts[key] = (self._count_matches(annotated, answered, text), len(answered), len(annotated))
        return counts

    def parts(self, fact: Fact) -> tuple[Label, Mentions]:
        """Select the parts of a fact's label and the mentions that are compared."""
        label = fact.fixed_label
        if self.labelled:
            label = fact.label if self.entity_types else fact.untyped_label
        mentions = fact.strings if self.linked else fact.mentions
        if self.mode == "normalized":
            mentions = tuple(map(_normalize, mentions))
        elif self.mode == "squad":
            mentions = tuple(map(_normalize_as_squad, mentions))
        return label, mentions

    def _count_matches(self, gold: list[Mentions], predicted: list[Mentions], text: str) -> float:
        """Count the matches among the facts of one label."""
        if not gold or not predicted:
            return 0
        if self.mode == "type":
            return self._count_overlapping(gold, predicted, text)
        left: dict[Mentions, int] = {}
        for mentions in gold:
            left[mentions] = left.get(mentions, 0) + 1
        rest = []
        for mentions in predicted:
            if left.get(mentions):
                left[mentions] -= 1
            else:
                rest.append(mentions)
        equal = len(predicted) - len(rest)
        if self.mode != "partial":
            return equal
        # Matching equal mentions first is never worse: it prevents two overlap matches at most, which count as much.
        unmatched = [mentions for mentions, count in left.items() for _ in range(count)]
        return equal + self._count_overlapping(unmatched, rest, text) / 2

    def _count_overlapping(self, gold: list[Mentions], predicted: list[Mentions], text: str) -> int:
        """Count the facts that match one to one by overlapping mentions, at most."""
        overlaps = Overlaps(text, self.min_overlap)
        return max_matching(
            [
                [index for index, found in enumerate(predicted) if all(map(overlaps, mentions, found))]
                for mentions in gold
            ]
        )


def mark_hits(gold: Iterable[Fact], predicted: Iterable[Fact]) -> list[bool]:
    """Tell of each predicted fact of a record whether it is right, strictly: a gold fact makes one of them right."""
    parts = Matching().parts
    missing = Counter((fact.block, *parts(fact)) for fact in gold)
    hits = []
    for fact in predicted:
        part = (fact.block, *parts(fact))
        hits.append(missing[part] > 0)
        missing[part] -= 1
    return hits


class Overlaps:
    """
    Tell whether a predicted mention overlaps a gold mention enough: by a share `min_overlap` of the gold characters.
    """

    def __init__(self, text: str, min_overlap: float) -> None:
        self.text = text
        self.min_overlap = min_overlap
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, gold: str, predicted: str) -> bool:
        if gold == predicted:
            return True
        pair = (gold, predicted)
        if pair not in self._known:
            shared = self.shared(gold, predicted)
            self._known[pair] = shared > 0 and shared >= self.min_overlap * len(gold)
        return self._known[pair]

    def shared(self, gold: str, predicted: str) -> int:
        """
        Count the characters that an occurrence of each mention share, at most.

        The two strings alone tell how they can overlap, so the work does not grow with the number of occurrences.
        """
        shorter, longer = sorted((gold, predicted), key=len)
        if shorter in longer:
            return len(shorter) if longer in self.text else 0
        for size in range(len(shorter) - 1, 0, -1):
            for first, second in ((shorter, longer), (longer, shorter)):
                if first.endswith(second[:size]) and first + second[size:] in self.text:
                    return size
        return 0


def _normalize(mention: str) -> str:
    """Normalize a mention for `"normalized"`; it never becomes empty."""
    text = fold(unicodedata.normalize("NFKC", mention))
    text = text.strip(PUNCTUATION + string.whitespace) or text
    return ARTICLES.sub("", text) or text


def _normalize_as_squad(mention: str) -> str:
    """Normalize a mention for `"squad"`; of an article or punctuation alone, nothing is left."""
    text = mention.lower().translate(dict.fromkeys(map(ord, string.punctuation)))
    return " ".join(SQUAD_ARTICLES.sub(" ", text).split())


def max_matching(edges: list[list[int]]) -> int:
    """
    Compute the size of a maximum bipartite matching by shortest augmenting paths. For each node of one side, `edges`
    lists its neighbours on the other.
    """
    mate: dict[int, int] = {}  # of this side
    owner: dict[int, int] = {}  # of the other side
    for root in range(len(edges)):
        reached: dict[int, int] = {}
        queue = [root]
        free = None
        for node in queue:
            for neighbour in edges[node]:
                if neighbour not in reached:
                    reached[neighbour] = node
                    if neighbour not in owner:
                        free = neighbour
                        break
                    queue.append(owner[neighbour])
            if free is not None:
                break
        while free is not None:  # flip the path
            node = reached[free]
            owner[free] = node
            mate[node], free = free, mate.get(node)
    return len(owner)


def in_text(fact: Fact, text: str) -> bool:
    """Tell whether all mentions of a fact are in the text."""
    for mention in fact.mentions:  # noqa: SIM110, a generator takes twice the time
        if mention not in text:
            return False
    return True
