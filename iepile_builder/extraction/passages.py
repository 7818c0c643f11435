"""Cut long texts into overlapping passages of whole sentences, as many as may be asked at once."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import sentencex

from iepile_builder.io import SURROGATE


BLOCK = 4_000  # characters that are split at once: the time sentencex takes for unbalanced quotes is quadratic
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
WORD = re.compile(r"[^\W\d_\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")

# where to cut a sentence that is too long by itself, the best first
CUTS = (re.compile(r"[;:]\s+|\s*\n\s*|[；：。！？]"), re.compile(r",\s+|[，、]"), re.compile(r"\s+"))


class Passage(NamedTuple):
    """A part of a text: where it starts and ends."""

    start: int
    end: int


def detect_language(text: str) -> str:
    """Detect `"zh"` in a text with at least as many Chinese characters as words of other scripts, else `"en"`."""
    chinese = len(HAN.findall(text))
    return "zh" if chinese and chinese >= len(WORD.findall(text)) else "en"


def sentences(text: str, language: str) -> list[Passage]:
    """
    Split a text into sentences, each with the white space after it; joined, they are the text. The code of its
    language, such as `"de"`, decides about abbreviations; one that `sentencex` does not know is split as English.
    """
    text = SURROGATE.sub("\ufffd", text)  # half a pair is no text outside of Python
    ends = [0]
    while ends[-1] < len(text):
        start = ends[-1]
        block = sentencex.segment(language, text[start : start + BLOCK])
        if len(block) > 1 and start + BLOCK < len(text):
            block.pop()  # it may continue in the next block
        for sentence in block:
            ends.append(ends[-1] + len(sentence))
            if not sentence.strip() and len(ends) > 2:
                del ends[-2]  # white space belongs to the sentence before it
    return [Passage(start, end) for start, end in pairwise(ends)]


def pieces(text: str, sentence: Passage, size: int) -> Iterator[Passage]:
    """Cut a sentence into parts of at most `size` characters, between its clauses or words where possible."""
    start, end = sentence
    while end - start > size:
        cuts = ([found.end() for found in cut.finditer(text, start + size // 2, start + size)] for cut in CUTS)
        middle = next((ends[-1] for ends in cuts if ends), start + size)
        yield Passage(start, middle)
        start = middle
    yield Passage(start, end)


def passages(text: str, language: str, size: int, overlap: int = 1) -> list[Passage]:
    """
    Cut a text into passages of whole sentences, as many as `size` (in characters) allows. A sentence of more than half
    of `size` is cut.

    A passage repeats the last `overlap` sentences of the one before, where they leave room for another sentence.
    """
    if len(text) <= size:
        units = [Passage(0, len(text))]
    else:
        units = [part for sentence in sentences(text, language) for part in pieces(text, sentence, max(size // 2, 1))]
    found: list[Passage] = []
    first = 0
    while first < len(units):
        last = first + 1
        while last < len(units) and units[last].end - units[first].start <= size:
            last += 1
        start, end = units[first].start, units[last - 1].end
        inner = text[start:end]
        passage = Passage(start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip()))
        if inner.strip() and not (found and passage.end <= found[-1].end):
            found.append(passage)
        if last == len(units):
            break
        first = last
        for _ in range(overlap):
            if units[last].end - units[first - 1].start <= size:
                first -= 1
    return found
