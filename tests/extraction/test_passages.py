"""`iepile_builder.extraction.passages`: sentences of both languages, and passages that cover the text with overlap."""

import pytest
from helpers.counting import count_calls
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder.extraction.passages import detect_language, passages, sentences


@pytest.mark.parametrize(
    ("language", "parts"),
    [
        ("en", ["Dr. A. Smith met Mr. Jones at 3.5 p.m. in the U.S. ", "He left. ", "Why? ", "So!"]),
        ("en", ['He said "Hello there. How are you?" and left. ', '"Why?" she asked! ', "See e.g. Fig. 3.\n", "Ok"]),
        ("en", ["A headline\n\n", "The first sentence. \r\n\r\n", "Another one."]),
        (
            "zh",
            [
                "他说：“你好。你怎么样？”",
                "然后走了。",
                "真的吗？！",
                "是的……好。\n",
                "Apple Inc. 发布了 iPhone 15.0。",
                "他来了",
            ],
        ),
        ("de", ["Er kam z.B. am 3. Mai. ", "Dann ging Dr. Müller."]),
        ("zh", ["甲公司收购乙公司！", "价格不详；双方没有评论。"]),
    ],
)
def test_sentences(language: str, parts: list[str]) -> None:
    text = "".join(parts)
    assert [text[start:end] for start, end in sentences(text, language)] == parts


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Xi Jinping (习近平) visited Rome.", "en"),
        ("Apple 今天发布了 iPhone 15 Pro Max。", "zh"),
        ("今天 GDP 增长", "zh"),
        ("12.5 %", "en"),
        ("Москва", "en"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert detect_language(text) == language


any_text = st.text(st.sampled_from('abC .!?"“”。！？，;\n\r\t人名\ud800é'), max_size=200)


@given(any_text, st.sampled_from(["en", "zh"]))
def test_sentences_are_the_whole_text(text: str, language: str) -> None:
    parts = sentences(text, language)
    assert "".join(text[start:end] for start, end in parts) == text
    assert all(start < end for start, end in parts)


@given(any_text, st.integers(1, 60), st.integers(0, 3))
def test_passages_cover_the_text(text: str, size: int, overlap: int) -> None:
    covered = [False] * len(text)
    before = (-1, -1)
    for start, end in passages(text, "en", size, overlap):
        assert end - start <= size
        assert text[start:end] == text[start:end].strip() != ""
        assert start >= before[0] and end > before[1]
        before = (start, end)
        covered[start:end] = [True] * (end - start)
    assert all(text[place].isspace() for place, inside in enumerate(covered) if not inside)


def test_passages_overlap_by_sentences() -> None:
    text = "One is here. Two is here. Six is here. Ten is here."
    assert [text[start:end] for start, end in passages(text, "en", 26)] == [
        "One is here. Two is here.",
        "Two is here. Six is here.",
        "Six is here. Ten is here.",
    ]
    assert len(passages(text, "en", 26, overlap=0)) == 2
    assert passages(text, "en", len(text)) == [(0, len(text))]


def test_a_long_sentence_is_cut_between_words() -> None:
    text = "one two, " * 30 + "end."
    parts = [text[start:end] for start, end in passages(text, "en", 60)]
    assert all(part.startswith("one") and part.endswith(("two,", "end.")) for part in parts)


@pytest.mark.parametrize("unit", ["a", "(“", '"', "\n", "。", "\ud800 x. ", "\n\n a"])
def test_a_hostile_text_is_cut_in_linear_time(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    assert count_calls(passages, text, "en", 1500) < 6 * count_calls(passages, text[:60_000], "en", 1500)
