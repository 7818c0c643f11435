"""Mining hard negatives: what each method finds, and what none may give."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.corpora import SAMPLE_CORPUS, assert_one_clear_line, write_corpus, write_lines
from helpers.strategies import names
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from iepile_builder import IEPile, InputError, Schema, SchemaBatching
from iepile_builder.commands.mine import MineOptions, main
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.hard_negatives import PUBLISHED, load_hard_negatives
from iepile_builder.data.mining import (
    confusion_scores,
    embedding_scores,
    find_hard_negatives,
    frequent_mentions,
    label_texts,
    lexical_scores,
    make_symmetric,
    nearest,
    union,
)
from iepile_builder.data.options import CorpusOptions


@given(st.data())
def test_never_the_label_itself_nor_one_of_another_schema(data: st.DataObject) -> None:
    labels = data.draw(st.lists(names, min_size=1, max_size=8, unique=True))
    numbers = st.lists(st.floats(0, 1), min_size=len(labels) ** 2, max_size=len(labels) ** 2)
    scores = np.array(data.draw(numbers)).reshape(len(labels), len(labels))
    top_k, threshold = data.draw(st.integers(1, 10)), data.draw(st.floats(0, 1))
    table = nearest(labels, scores, top_k, threshold)
    for row, label in enumerate(labels):
        found = [labels.index(other) for other in table[label]]
        assert row not in found
        assert len(found) <= top_k
        assert [scores[row, other] for other in found] == sorted((scores[row, other] for other in found), reverse=True)
        assert all(scores[row, other] > threshold for other in found)
        left = [scores[row, other] for other in range(len(labels)) if other not in found and other != row]
        assert len(found) == top_k or all(score <= threshold for score in left)
    both_ways = make_symmetric(table)
    for label in labels:
        assert set(table[label]) <= set(both_ways[label])
        assert all(label in both_ways[other] for other in both_ways[label])


@pytest.mark.parametrize("task", ["NER", "RE"])
def test_lexical_scores_are_those_of_scikit_learn(task: str) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = json.loads(PUBLISHED.read_text(encoding="utf-8"))[task]
    for labels in (list(of_corpus) for of_corpus in table.values() if of_corpus):
        words = TfidfVectorizer(token_pattern=r"[^\W_]+")
        characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), token_pattern=None)
        matrices = [vectorizer.fit_transform(labels) for vectorizer in (words, characters)]
        expected = sum((matrix @ matrix.T).toarray() for matrix in matrices) / 2
        np.testing.assert_allclose(list(lexical_scores(labels)), expected, atol=1e-12)


def test_lexical_finds_labels_that_are_written_alike() -> None:
    labels = ["place of birth", "place of death", "founder", "founded by", "出生地", "出生日期"]
    table = nearest(labels, lexical_scores(labels), 1)
    assert table == {
        "place of birth": ["place of death"], "place of death": ["place of birth"],
        "founder": ["founded by"], "founded by": ["founder"], "出生地": ["出生日期"], "出生日期": ["出生地"],
    }  # fmt: skip


@pytest.fixture
def embedding_model(tmp_path: Path) -> str:
    """A sentence-transformers model of a few words, those of one topic near one another."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    topics = {"actor": 0, "performer": 0, "stage": 0, "town": 1, "city": 1, "large": 1, "[UNK]": 2}
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(topics)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.eye(3, dtype=np.float32)[list(topics.values())]
    folder = str(tmp_path / "embedding")
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(folder)
    return folder


def test_embedding_finds_labels_of_one_meaning(run_command, tmp_path: Path, embedding_model: str) -> None:
    labels = ["actor", "performer", "town", "city", "where"]
    descriptions = {"where": {"where": "stage", "who": "town"}}

    def mined(texts: list[str]) -> dict[str, list[str]]:
        return nearest(labels, embedding_scores(texts, embedding_model), 2, 0.4)

    pairs = {"actor": ["performer"], "performer": ["actor"], "town": ["city"], "city": ["town"]}
    assert mined(label_texts(labels, {}, {})) == {**pairs, "where": []}
    assert mined(label_texts(labels, descriptions, {}))["where"] == ["actor", "performer"]

    records = [{"text": "a large town", "entity": [{"entity": "large town", "entity_type": "where"}]}]
    write_corpus(tmp_path / "tree" / "IE-en" / "NER" / "films", [labels, [], {}], train=records)
    run_command(
        "mine", "--corpus_dir", tmp_path / "tree", "--method", "embedding",
        "--model_name_or_path", embedding_model, "--num_mentions", 1, "--top_k", 2, "--threshold", 0.4,
        "--output_file", tmp_path / "mined.json",
    )  # fmt: skip
    assert load_hard_negatives(tmp_path / "mined.json")["NER"]["films"] == {
        **pairs, "town": ["city", "where"], "city": ["town", "where"], "where": ["town", "city"],
    }  # fmt: skip


def test_confusion_counts_what_a_model_took_for_another_label() -> None:
    labels = ("actor", "director", "title", "song")
    batching = SchemaBatching("NER", "en", "films", Schema(types=labels), negatives="all", schema_order="schema")
    annotations = [
        {"entity": "Ada", "entity_type": "director"},
        {"entity": "Bob", "entity_type": "actor"},
        {"entity": "Eve", "entity_type": "director"},
    ]
    (row,) = batching.instances("1", "Ada, Bob and Eve", annotations)
    row["output"] = json.dumps({"actor": ["Ada", "Bob"], "director": ["Eve"], "title": ["Rome"], "song": []})
    scores = np.array(list(confusion_scores(labels, [row])))
    assert scores.tolist() == [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert nearest(labels, scores, 3)["director"] == ["actor"]


def test_confusion_counts_labels_that_were_not_asked() -> None:
    labels = ("actor", "director", "title", "song")
    batching = SchemaBatching("NER", "en", "films", Schema(types=("actor", "director")), schema_order="schema")
    (row,) = batching.instances("1", "Ada", [{"entity": "Ada", "entity_type": "director"}])
    row["output"] = '{"actor": [], "song": ["Rome"]}'
    assert nearest(labels, confusion_scores(labels, [row]), 3) == {
        "actor": [], "director": ["song"], "title": [], "song": [],
    }  # fmt: skip
    row["output"] = "no JSON"
    assert not np.any(list(confusion_scores(labels, [row])))


def test_a_union_has_what_any_table_has_once() -> None:
    assert union([{"a": ["b"], "b": []}, {"a": ["c", "b"], "b": ["a"]}]) == {"a": ["b", "c"], "b": ["a"]}


def test_what_is_embedded() -> None:
    records = [{"entity": [{"entity": name, "entity_type": "person"}]} for name in ("Bob", "Ada", "Ada")]
    mentions = frequent_mentions("NER", Schema(types=("person", "the_city")), records, 2)
    assert mentions == {"person": ["Ada", "Bob"]}
    assert label_texts(["person", "the_city"], {"the_city": "a large town"}, mentions) == [
        "person (Ada, Bob)", "the city: a large town",
    ]  # fmt: skip


def test_the_published_dictionary_is_recovered_better_than_by_chance() -> None:
    published = load_hard_negatives()["EE"]["DuEE1.0"]
    labels = list(published)
    mined = nearest(labels, lexical_scores(labels), 5)
    known = [label for label in labels if published[label]]
    both = sum(len({*mined[label]} & {*published[label]}) for label in known)
    chance = sum(len(published[label]) for label in known) / (len(labels) - 1) / len(labels)
    assert both / sum(len(mined[label]) for label in known) > 3 * chance


def test_a_mined_dictionary_is_one_to_build_with(run_script, tmp_path: Path) -> None:
    output_file = tmp_path / "out" / "mined.json"
    predictions = write_lines(tmp_path / "predictions.jsonl", build_rows())
    done = run_script(
        "mine_hard_negatives.py", "--corpus_dir", SAMPLE_CORPUS, "--tasks", "NER", "--method", "lexical", "confusion",
        "--predictions_file", predictions, "--top_k", 2, "--symmetric", "--output_file", output_file,
    )  # fmt: skip
    assert "NER daily_news: " in done.stdout
    table = load_hard_negatives(output_file)
    assert set(table["NER"]) == {"daily_news", "daily_news_zh"}
    for near in table["NER"].values():
        assert near == make_symmetric(near)
    assert IEPile(data_dir=str(SAMPLE_CORPUS), tasks=["NER"], hard_negatives=str(output_file)).as_dataset()


def build_rows() -> list[dict]:
    return IEPile(data_dir=str(SAMPLE_CORPUS), tasks=["NER"]).as_dataset(split="test").to_list()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--method", "guess"], ["unknown method 'guess'", "lexical, embedding, confusion"]),
        (["--method", "embedding"], ["needs --model_name_or_path"]),
        (["--method", "confusion"], ["needs --predictions_file"]),
        (["--tasks", "NERR"], ["unknown task 'NERR'"]),
    ],
)
def test_wrong_options_end_with_one_clear_line(run_command, tmp_path: Path, arguments: list, parts: list) -> None:
    given = ("--corpus_dir", SAMPLE_CORPUS, "--output_file", tmp_path / "mined.json", *arguments)
    assert_one_clear_line(run_command("mine", *given, check=False), *parts)


def test_a_file_that_cannot_be_written_is_named_first(run_command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = ("--corpus_dir", "no/such/corpus", "--output_file", tmp_path / "file" / "mined.json")
    assert_one_clear_line(run_command("mine", *given, check=False), "mined.json: ")


def test_a_file_that_holds_no_predictions_is_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    options = MineOptions([str(SAMPLE_CORPUS)], tmp_path / "mined.json", ["confusion"], predictions_file=path)
    with pytest.raises(InputError, match="predictions.jsonl: no such file"):
        main(options, CorpusOptions())
    row = build_rows()[0]
    for change, message in (
        ({"label": None}, "field 'label' is missing or not a string"),
        ({"label": "Ada"}, "the label is not an annotation of NER in JSON"),
        ({"output": 5}, "field 'output' is missing or not a string"),
        ({"instruction": None}, "field 'instruction' is missing or not a string"),
    ):
        write_lines(path, [row, {**row, **change}])
        with pytest.raises(InputError, match=f"predictions.jsonl, line 2: {message}"):
            main(options, CorpusOptions())


def test_the_hard_negatives_of_a_corpus_are_found_or_mined(tmp_path: Path) -> None:
    schema = [["date", "date of birth", "person"], [], {}]
    write_corpus(tmp_path / "IE-en" / "NER" / "mine", schema, train=[])
    write_corpus(tmp_path / "IE-en" / "NER" / "mit-movie", [["actor", "director"], [], {}], train=[])
    mine, movie = find_corpora([tmp_path])
    assert find_hard_negatives(mine) == (
        {"date": ["date of birth"], "date of birth": ["date"]},
        "mined from the label names",
    )
    published, origin = find_hard_negatives(movie)
    assert published == load_hard_negatives()["NER"]["mit-movie"] and origin == "published"

    tree = write_lines(tmp_path / "hard_negatives.json", [{"NER": {"mine": {"person": ["date"]}}}])
    assert find_hard_negatives(mine) == ({"person": ["date"]}, f"{tree.parent.name}/hard_negatives.json")
    assert find_hard_negatives(movie)[1] == "published", "the tree's file says nothing of it"
    write_lines(mine.path / "hard_negatives.json", [{"date": ["person"]}])
    assert find_hard_negatives(mine) == ({"date": ["person"]}, "mine/hard_negatives.json")
    assert find_hard_negatives(mine, {"NER": {"mine": {"date": ["date"]}}}) == ({"date": ["date"]}, "the given file")
    assert find_hard_negatives(mine, {"NER": {"other": {"date": ["date"]}}})[1] == "mine/hard_negatives.json"


def test_the_sample_corpus_has_its_own() -> None:
    for corpus in find_corpora([SAMPLE_CORPUS]):
        found, origin = find_hard_negatives(corpus)
        if corpus.task != "KG":
            assert sum(map(len, found.values())) > 10
            assert origin == "sample_corpus/hard_negatives.json"
