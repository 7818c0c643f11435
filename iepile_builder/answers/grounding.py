"""
Align the strings of an answer with its text: exactly, then ignoring case and spacing, then fuzzily with a score.

All of it takes time in proportion to the text and to the number of mentions, whatever they hold.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from rapidfuzz import fuzz

from iepile_builder.tasks.facts import Fact


Match = Literal["exact", "normalized", "fuzzy"]
MAX_OCCURRENCES = 10_000  # of one mention that are looked at
MIN_FUZZY, MAX_FUZZY = 4, 256  # characters of a mention that is looked for fuzzily
MAX_CLUSTER = 16  # characters that are normalized together: ordering combining marks takes quadratic time
CLUSTER = re.compile(
    rf".[\u0300-\u036f\u0483-\u0489\u3099\u309a\u1dc0-\u1dff\u20d0-\u20ff]{{0,{MAX_CLUSTER}}}", re.DOTALL
)
DIGITS = re.compile(r"\d")
SENTENCE = 100  # characters of a sentence, roughly
STOP = re.compile("[.!?](?=\\s)|[。！？\n]")
SPELLINGS = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-", "—": "-"})
SPELLINGS |= dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), "")  # nothing is seen of these

# scripts that are written without spaces: any place in them may be the end of a word
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class Span(NamedTuple):
    """A place in a text, and how well it agrees with a mention."""

    start: int
    end: int
    match: Match = "exact"
    score: float = 1.0


class Mention(str):
    """
    A string of an answer with its place in the text.

    It is the string that the model wrote; `text[start:end]` is that of the text, the same one if `match` is `"exact"`.

    Attributes:
        start (`int` or `None`):
            Where it starts in the text; `None` if it is not in it.
        end (`int` or `None`):
            Where it ends.
        match (`str` or `None`):
            `"exact"`; `"normalized"`, ignoring case, white space, invisible characters such as soft hyphens, Unicode
            compatibility forms and typographic quotes or dashes; `"fuzzy"`, similar; `None` if it is not in the text.
        score (`float`):
            1 for an exact or normalized match, the similarity for a fuzzy one, 0 if it is not in the text.
        answer (`str`):
            How the model wrote it. The mention itself is the text's own string, where it is in the text.
        page (`int` or `None`):
            The page that it starts on, from 1, in the text of a document with pages.
    """

    start: int | None
    end: int | None
    match: Match | None
    score: float
    answer: str
    page: int | None

    def __new__(cls, text: str, span: Span | None = None, answer: str | None = None) -> Mention:
        mention = super().__new__(cls, text)
        mention.answer = text if answer is None else answer
        mention.page = None
        mention.start, mention.end, mention.match, mention.score = (
            span if span is not None else (None, None, None, 0.0)
        )
        return mention

    def __repr__(self) -> str:
        return f"<{super().__repr__()} {self.describe()}>"

    @property
    def grounded(self) -> bool:
        """Tell whether it is in the text."""
        return self.start is not None

    def moved(self, offset: int) -> Mention:
        """Give the same mention in a longer text that has `offset` characters before this text."""
        if self.start is None or self.end is None or self.match is None:
            return self
        return Mention(self, Span(self.start + offset, self.end + offset, self.match, self.score), self.answer)

    def paged(self, starts: Sequence[int]) -> Mention:
        """Give the same mention with its page, in a text whose pages start at these places."""
        mention = self.moved(0)
        mention.page = None if mention.start is None else bisect_right(starts, mention.start)
        return mention

    def describe(self) -> str:
        """Say where it is in the text, and how the model wrote it where that differs."""
        if self.start is None:
            return "not in the text"
        similarity = f", similarity {self.score:.2f}" if self.match == "fuzzy" else ""
        answer = f", answered: {self.answer}" if self.answer.strip() != self else ""
        page = f"page {self.page}, " if self.page is not None else ""
        return f"{page}{self.start}:{self.end}{similarity}{answer}"

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values; `answer` is there where the model wrote it in another way, `page` in a document."""
        return {
            "text": str(self),
            **({"answer": self.answer} if self.answer.strip() != self else {}),
            "start": self.start,
            "end": self.end,
            **({"page": self.page} if self.page is not None else {}),
            "match": self.match,
            "score": round(self.score, 4),
        }


class Locator:
    """
    Find mentions in one text, and remember what was found.

    Args:
        text (`str`):
            The text.
        min_score (`float`, *optional*, defaults to 0.85):
            The minimum Indel similarity `2 * LCS / (len(a) + len(b))` of a fuzzy match, of folded strings; digits must
            be the same.
        check_time (`Callable[[], None]`, *optional*):
            Called before each search; may raise, to end the work.
    """

    def __init__(self, text: str, min_score: float = 0.85, check_time: Callable[[], None] = lambda: None) -> None:
        self.text = text
        self.min_score = min_score
        self.check_time = check_time
        self.known: dict[str, list[Span]] = {}
        self.form: Form | None = None

    def place(self, mention: str, span: Span | None) -> Mention:
        """Give the text's own string at a span, or the model's where there is none."""
        if span is None:
            return Mention(mention)
        return Mention(self.text[span.start : span.end], span, mention)

    def __call__(self, mention: str) -> list[Span]:
        """
        Find the places of a mention in the order of the text, none of which overlap: those that agree best.

        Places that are whole words come before those within a word, exact ones before normalized ones; where there is
        none, the best fuzzy one is given.
        """
        self.check_time()
        if mention not in self.known:
            self.known[mention] = self.find(mention)
        return self.known[mention]

    def find(self, mention: str) -> list[Span]:
        mention = mention.strip()  # a model may copy the space before a word
        if not mention:
            return []
        exact = [Span(start, start + len(mention)) for start in places(mention, self.text)]
        whole = [span for span in exact if self.is_whole(span)]
        if whole:
            return whole
        if self.form is None:
            self.form = Form(self.text)
        normalized = list(self.form.find(mention))
        return [span for span in normalized if self.is_whole(span)] or exact or normalized or self.fuzzy(mention)

    def is_whole(self, span: Span) -> bool:
        """Tell whether a place begins and ends where words do."""
        return not self.within_word(span.start) and not self.within_word(span.end)

    def within_word(self, place: int) -> bool:
        """Tell whether the characters on both sides of a place belong to one word."""
        sides = self.text[max(place - 1, 0) : place + 1]
        if place == 0 or len(sides) < 2 or UNSPACED.search(sides):
            return False
        return all(side.isalnum() or unicodedata.combining(side) for side in sides)

    def nearest(self, span: Span, spans: list[Span]) -> tuple[int, Span]:
        """Find the place nearest to `span` among several in order, and its distance."""
        index = bisect_left(spans, span)
        return min((self.distance(span, other), other) for other in spans[max(index - 1, 0) : index + 2])

    def distance(self, span: Span, other: Span) -> int:
        """Count the characters between two places; the end of a sentence counts as many."""
        first, last = min(span.end, other.end), max(span.start, other.start)
        if first >= last:
            return 0
        ended = last - first < SENTENCE and STOP.search(self.text, first, last)
        return last - first + (SENTENCE if ended else 0)

    def fuzzy(self, mention: str) -> list[Span]:
        """Find the best fuzzy match of a mention."""
        assert self.form is not None
        wanted = Form(mention[: MAX_FUZZY + 1]).text
        if not MIN_FUZZY <= len(wanted) <= MAX_FUZZY or not self.form.text:
            return []
        # the place that is looked at has as many characters as the mention: words may be missing at its ends
        near = fuzz.partial_ratio_alignment(wanted, self.form.text, score_cutoff=80 * self.min_score)
        if near is None or near.dest_end == near.dest_start:
            return []
        start, end = self.form.starts[near.dest_start], self.form.ends[near.dest_end - 1]
        best: Span | None = None
        for first in dict.fromkeys((self.word_edge(start, -1), self.word_edge(start, 1))):
            for last in dict.fromkeys((self.word_edge(end, 1), self.word_edge(end, -1))):
                while first < last and self.text[first].isspace():
                    first += 1
                while first < last and self.text[last - 1].isspace():
                    last -= 1
                form = Form(self.text[first:last]).text
                score = fuzz.ratio(wanted, form) / 100
                same_number = DIGITS.findall(wanted) == DIGITS.findall(form)  # 1956 is not nearly 1957
                if same_number and score >= self.min_score and (best is None or score > best.score):
                    best = Span(first, last, "fuzzy", score)
        return [] if best is None else [best]

    def word_edge(self, place: int, step: int) -> int:
        """Find the next place, in one direction, that is not within a word."""
        limit = MAX_FUZZY
        while self.within_word(place) and limit:
            place += step
            limit -= 1
        return place


class Form:
    """
    A text without differences of spelling: case-folded, in Unicode's compatibility form, without white space and
    invisible characters, and with plain quotes and dashes; and the offset of each of its characters in the text.
    """

    # Not `io.fold`: a model may write spaces that a Chinese text has not, and each character must lead to its place.

    def __init__(self, text: str) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        if text.isascii():
            self.starts = [place for place, character in enumerate(text) if not character.isspace()]
            self.ends = [place + 1 for place in self.starts]
            self.text = "".join(text.lower().split())
            return
        pieces: list[str] = []
        for cluster in CLUSTER.finditer(text):
            piece = plain(cluster.group())
            pieces.append(piece)
            self.starts += [cluster.start()] * len(piece)
            self.ends += [cluster.end()] * len(piece)
        self.text = "".join(pieces)

    def find(self, mention: str) -> Iterator[Span]:
        """Yield the places of a mention in the text, in order."""
        form = Form(mention).text
        last = 0
        for place in places(form, self.text):
            start, end = self.starts[place], self.ends[place + len(form) - 1]
            cut_start = place > 0 and self.starts[place - 1] == start
            cut_end = place + len(form) < len(self.text) and self.starts[place + len(form)] < end
            if not cut_start and not cut_end and start >= last:
                last = end
                yield Span(start, end, "normalized")


@lru_cache(maxsize=65536)
def plain(cluster: str) -> str:
    """Fold a character, with its combining marks."""
    if not cluster.isascii():
        cluster = unicodedata.normalize("NFKC", cluster.translate(SPELLINGS)).translate(SPELLINGS)
    return "".join(cluster.casefold().split())


def places(mention: str, text: str) -> Iterator[int]:
    """Yield the starts of a mention in a text, none of which overlap."""
    place = text.find(mention) if mention else -1
    for _ in range(MAX_OCCURRENCES):
        if place < 0:
            break
        yield place
        place = text.find(mention, place + len(mention))


def ground(groups: Sequence[Sequence[Fact]], locate: Locator) -> list[list[Fact]]:
    """
    Replace the strings of facts by [`Mention`]s. A group is an event, its trigger first, or one other fact.

    A fact that is repeated gets a place of its own, in the order of the text, as far as there are any; so does an
    event that has the type and trigger of another. Of the occurrences of the strings of one group, those are
    taken that are nearest to each other.
    """
    anchors: list[Span | None] = [None] * len(groups)
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        anchor, *others = group_strings(group)
        near = [spans for mention in others if (spans := locate(mention))]
        same = alike[tuple(group[:1] if group[0].leads else group)]
        used = {anchors[earlier] for earlier in same}
        spans = [span for span in locate(anchor) if span not in used] or locate(anchor)
        same.append(index)
        anchors[index] = min(
            spans, key=lambda span: sum(locate.nearest(span, found)[0] for found in near), default=None
        )
    for same in alike.values():
        chosen = [span for index in same if (span := anchors[index]) is not None]
        if len(chosen) > 1 and len({tuple(groups[index]) for index in same}) == 1:
            for index, span in zip(same, sorted(chosen), strict=True):
                anchors[index] = span

    grounded: list[list[Fact]] = []
    for group, anchor_span in zip(groups, anchors, strict=True):
        anchor, *others = group_strings(group)
        placed = {"": Mention(""), anchor: locate.place(anchor, anchor_span)}
        for mention in others:
            spans = locate(mention)
            if spans and anchor_span is not None:
                spans = [locate.nearest(anchor_span, spans)[1]]
            placed[mention] = locate.place(mention, spans[0] if spans else None)
        grounded.append([fact.map_strings(placed.__getitem__) for fact in group])
    return grounded


def group_strings(group: Sequence[Fact]) -> list[str]:
    """List the distinct strings of the text in facts that belong together, the one that names them first."""
    return list(dict.fromkeys(string for fact in group for string in fact.strings if string)) or [""]


def as_mention(text: str) -> Mention:
    """Take a string of a grounded fact as the [`Mention`] that it is."""
    assert isinstance(text, Mention)
    return text
