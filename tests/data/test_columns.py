"""Words with tags: CoNLL columns, datasets with `tokens` and `ner_tags`."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Features, Sequence, Value
from helpers.columns import BIO, PEOPLE, RECORDS, TOKENS, make_dataset
from helpers.corpora import write_lines
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import InputError
from iepile_builder.data.columns import read_conll, tagged_record, tagged_spans, token_records
from iepile_builder.data.convert import read_tokens


IOBES = "Ada\tB-PER\nLovelace\tE-PER\nmet\tO\nBob\tS-PER\nin\tO\nNew\tB-LOC\nYork\tE-LOC\n\nNothing\tO"
UNIVERSAL_NER = """# newdoc id = weblog
# sent_id = 1
# text = Ada Lovelace met Bob in New York
1	Ada	B-PER	-	-
2	Lovelace	I-PER	-	-
3	met	O	-	-
4	Bob	B-PER	-	-
5	in	O	-	-
6	New	B-LOC	-	-
7	York	I-LOC	-	-

# sent_id = 2
1	Nothing	O	-	-
"""
GERMEVAL = """#	http://de.wikipedia.org/wiki/FC_K%C3%B6ln [2010-01-17]
1	Der	O	O
2	FC	B-ORG	O
3	Köln	I-ORG	B-LOC
4	siegt	O	O

#	http://de.wikipedia.org/wiki/Ja [2010-01-17]
1	Ja	O	O
"""
CONLL_2003 = "1 CD I-NP O\n, , O O\nParis NNP I-NP B-LOC\n\n1 CD I-NP O\n2 CD I-NP O\n"
MULTICONER = "# id 7\tdomain=en\nNothing _ _ O\n\n# id 8\tdomain=en\n# _ _ O\n"


@pytest.mark.parametrize("content", [BIO, IOBES, UNIVERSAL_NER])
def test_columns(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.conll").write_text(content)
    assert list(read_conll(tmp_path / "train.conll", "en")) == RECORDS


def test_numbers_before_words(tmp_path: Path) -> None:
    (tmp_path / "NER-de-train.tsv").write_text(GERMEVAL, encoding="utf-8")
    first, second = read_conll(tmp_path / "NER-de-train.tsv", "de")
    assert first["text"] == "Der FC Köln siegt"
    assert first["entity"] == [{"entity": "FC Köln", "entity_type": "ORG", "start": 4, "end": 11}]
    assert second == {"text": "Ja", "entity": []}


def test_words_that_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "eng.train").write_text(CONLL_2003)
    assert [record["text"] for record in read_conll(tmp_path / "eng.train", "en")] == ["1 , Paris", "1 2"]


def test_comments_and_a_word_like_one(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text(MULTICONER)
    assert [record["text"] for record in read_conll(tmp_path / "train.conll", "en")] == ["Nothing", "#"]


def test_a_comment_that_ends_like_a_tag_and_documents_without_empty_lines(tmp_path: Path) -> None:
    lines = ["# text = Ada took the U-Bahn", "Ada B-PER", "-DOCSTART- -X- O", "Bob B-PER", "# I-PER", "-DOCSTART- O"]
    (tmp_path / "train.conll").write_text("\n".join(lines))
    records = list(read_conll(tmp_path / "train.conll", "en"))
    assert [record["text"] for record in records] == ["Ada", "Bob #"]
    assert [entity["entity"] for record in records for entity in record["entity"]] == ["Ada", "Bob #"]


def test_words_with_odd_white_space(tmp_path: Path) -> None:
    words = ["\u00a0", "A\u2028da", "\u0085", "5\u202f000"]
    content = "\ufeff" + "".join(f"{word}\t_ B-X\r\n" for word in words) + " \t\r\nin O\r\n"
    (tmp_path / "train.conll").write_bytes(content.encode())
    first, second = read_conll(tmp_path / "train.conll", "en")
    assert first["text"] == " ".join(words)
    assert [entity["entity"] for entity in first["entity"]] == words
    assert second == {"text": "in", "entity": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ada B-PER\nmet\n", "train.conll, line 2: one column only: 'met'"),
        ("Ada PER\n", "line 1: 'PER' is no tag of BIO"),
    ],
)
def test_wrong_columns_name_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.conll").write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_conll(tmp_path / "train.conll", "en"))


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["O", "PER", "LOC"])), max_size=8), st.booleans())
def test_spans_are_those_that_were_tagged(spans: list[tuple[int, str]], with_ends: bool) -> None:
    tags: list[str] = []
    expected = []
    for length, name in spans:
        if name == "O":
            tags += ["O"] * length
            continue
        expected.append((len(tags), len(tags) + length, name))
        inner = ["B", *"I" * (length - 1)]
        if with_ends:
            inner[-1] = "S" if length == 1 else "E"
        tags += [f"{prefix}-{name}" for prefix in inner]
    assert tagged_spans(tags) == expected


def test_tags_that_go_on_with_nothing_begin_an_entity() -> None:
    assert tagged_spans(["I-PER", "I-PER", "O", "I-LOC", "I-PER"]) == [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "PER")]


words = st.text("aab é人名🎉", min_size=1, max_size=3).filter(str.strip).map(str.strip)


@given(
    st.lists(st.tuples(words, st.sampled_from(["O", "B-X", "I-X"])), min_size=1), st.sampled_from(["en", "zh", "de"])
)
def test_offsets_of_words_are_those_of_the_text(tagged: list[tuple[str, str]], language: str) -> None:
    tokens, tags = zip(*tagged, strict=True)
    record = tagged_record(tokens, tags, language)
    space = "" if language == "zh" else " "
    assert record["text"] == space.join(tokens)
    assert [entity["entity"] for entity in record["entity"]] == [
        space.join(tokens[start:end]) for start, end, _ in tagged_spans(tags)
    ]
    for entity, (start, _, _) in zip(record["entity"], tagged_spans(tags), strict=True):
        assert record["text"][entity["start"] : entity["end"]] == entity["entity"]
        assert entity["start"] == len(space.join([*tokens[:start], ""]))


@pytest.mark.parametrize("names", [["O", "B-PER"], ["O", "PER"]])
def test_tags_are_named_by_the_features(tmp_path: Path, names: list[str]) -> None:
    made = make_dataset(names)
    made.to_parquet(tmp_path / "train.parquet")
    made.save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    for path in (tmp_path / "train.parquet", arrow):
        assert list(read_tokens(path, "en")) == PEOPLE


def test_rows_of_a_json_file_have_tags_in_words(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "train.json", [{"id": 0, "tokens": ["Ada", "met", "Bob"], "tags": ["B-PER", "O", "B-PER"]}]
    )
    assert list(read_tokens(path, "en")) == PEOPLE[:1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TOKENS[0], "record 1: 'ner_tags' are numbers without names"),
        ({"tokens": ["Ada"], "ner_tags": ["PER"]}, "record 1: 'PER' is no tag of BIO"),
        ({"tokens": None, "ner_tags": []}, "record 1: field 'tokens' is not a list"),
        ({"tokens": ["Ada"], "ner_tags": "O"}, "record 1: field 'ner_tags' is not a list"),
        ({"tokens": ["Ada"], "ner_tags": []}, "record 1: 1 words, but 0 tags"),
        ({"tokens": ["Ada"], "pos": ["NN"]}, "its columns are tokens, pos; give tokens and ner_tags"),
    ],
)
def test_rows_that_are_none_name_the_record(tmp_path: Path, row: dict, message: str) -> None:
    path = write_lines(tmp_path / "train.jsonl", [row])
    with pytest.raises(InputError, match=f"train.jsonl.*{message}"):
        list(read_tokens(path, "en"))


@pytest.mark.parametrize("tag", [-1, -100, 7, None])
def test_tags_that_the_features_do_not_name(tag: int | None) -> None:
    features = Features(
        {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=["O", "B-PER", "I-PER"]))}
    )
    rows = [{"tokens": ["Ada", "met"], "ner_tags": tags} for tags in ([1, 0], [0, tag])]
    with pytest.raises(InputError, match="^people, record 2: 'ner_tags' has a tag without a name"):
        list(token_records(iter(rows), features, "people", "en"))


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    for name in ("train.parquet", "train.arrow"):
        (tmp_path / name).write_text("no such thing, no such thing")
        with pytest.raises(InputError, match=f"{name}: not a Parquet or Arrow file"):
            list(read_tokens(tmp_path / name, "en"))
