"""What is left out before building, and how it is reported."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.corpora import SAMPLE_CORPUS, assert_one_clear_line, write_corpus
from helpers.strategies import annotated
from hypothesis import given
from hypothesis import strategies as st

from iepile_builder import IEPile, InputError
from iepile_builder.data.cleaning import CleaningOptions, is_near_repeat, is_noise, signature
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.index import index_split, read_split
from iepile_builder.io import fold
from iepile_builder.tasks import TASKS, values


SCHEMA = [["person", "city"], [], {}]
ADA = {"text": "Ada went to Rome by train.", "entity": [{"entity": "Ada", "entity_type": "person"}]}


def corpus_of(tmp_path: Path, **splits: list):
    write_corpus(tmp_path / "IE-en" / "NER" / "people", SCHEMA, **splits)
    (corpus,) = find_corpora([tmp_path])
    return corpus


def texts(folder: Path, split: str = "train", **options: object) -> set[str]:
    rows = IEPile(data_dir=str(folder), **options).as_dataset(split=split)
    return {json.loads(instruction)["input"] for instruction in rows["instruction"]}


@pytest.mark.parametrize(
    ("text", "annotated", "language", "noise"),
    [
        ("Ada went to Rome.", True, "en", False),
        ("1234 5678 90 %% Ada", True, "en", True),
        ("Hm.", False, "en", True),
        ("Ada", True, "en", False),
        ("it is what it was and this is that", False, "en", True),
        ("他是的就在", False, "zh", True),
        ("明治天皇出生", True, "zh", False),
    ],
)
def test_texts_that_are_no_language(text: str, annotated: bool, language: str, noise: bool) -> None:
    assert is_noise(text, annotated, language) == noise


def test_near_repeats_are_found_in_most_of_a_text() -> None:
    long = "The committee met on Monday and agreed to postpone the decision about the bridge until spring"
    other = "Nobody in the village had expected that the old mill would ever be opened to visitors again"
    signatures = np.stack([signature(text) for text in (long, other, long + ".", long.upper(), other[:40])])
    assert is_near_repeat(signatures).tolist() == [False, False, True, True, False]


def test_duplicates_and_evaluation_texts_are_left_out_of_train_alone(tmp_path: Path) -> None:
    again = {**ADA, "entity": []}
    other = {"text": "Bob stayed in Oslo all winter.", "entity": []}
    shouted = {"text": "ADA  WENT to Rome by train.", "entity": []}
    corpus_of(tmp_path, train=[ADA, ADA, again, other], dev=[other, other], test=[shouted])
    builder = IEPile(data_dir=str(tmp_path), deduplicate="exact")
    builder.as_dataset()
    (report,) = [of_split for of_split in builder.report() if of_split["split"] == "train"]
    assert (report["records"], report["duplicates"], report["given"]) == (4, 1, 3)
    near = IEPile(data_dir=str(tmp_path), deduplicate="near")
    near.as_dataset()
    assert [(of["split"], of["given"]) for of in near.report()] == [("train", 2), ("validation", 2), ("test", 1)]
    assert texts(tmp_path) == {ADA["text"], other["text"]}
    with pytest.raises(ValueError, match="no records"):
        IEPile(data_dir=str(tmp_path), splits=["train"], drop_evaluation_texts=True).as_dataset()


def test_fix_leaves_out_annotations_that_cannot_be_used(tmp_path: Path) -> None:
    entities = [
        {"entity": "ada", "entity_type": "person"},
        {"entity": "", "entity_type": "person"},
        {"entity": "Rome", "entity_type": "town"},
        {"entity": "Paris", "entity_type": "city"},
        {"entity": "Rome  by", "entity_type": "city"},
        "Rome",
    ]
    broken = {"text": "", "entity": []}
    corpus = corpus_of(tmp_path, train=[{**ADA, "entity": entities}, ADA, broken])
    records = list(read_split(corpus, "train", on_error="fix"))
    assert [record["entity"] for record in records] == [
        [{"entity": "Ada", "entity_type": "person"}, {"entity": "Rome by", "entity_type": "city"}],
        ADA["entity"],
    ]
    index = index_split(corpus, "train", CleaningOptions(on_error="fix"))
    assert (index.report["fixed"], index.report["unusable"]) == (1, 1)


def test_fix_keeps_what_is_right_of_an_event(tmp_path: Path) -> None:
    arguments = [
        {"argument": "REBELS", "role": "attacker"},
        {"argument": "Rome", "role": "victim"},
        {"argument": "Pisa", "role": "place"},
    ]
    event = {"event_trigger": "attacked", "event_type": "attack", "arguments": arguments}
    schema = [["attack"], ["attacker", "place"], {"attack": ["attacker", "place"]}]
    record = {"text": "Rebels attacked Rome.", "event": [event, {"event_type": "attack"}]}
    write_corpus(tmp_path / "IE-en" / "EE" / "news", schema, train=[record])
    (corpus,) = find_corpora([tmp_path])
    (fixed,) = read_split(corpus, "train", on_error="fix")
    assert fixed["event"] == [{**event, "arguments": [{"argument": "Rebels", "role": "attacker"}]}]


@pytest.mark.parametrize("task", ["NER", "RE", "SPO", "EE", "EET", "EEA", "KG"])
@given(data=st.data())
def test_fixed_annotations_can_be_used_and_are_in_the_text(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    for annotation in annotations:
        fixed = TASKS[task].fix(annotation, text, schema)
        if fixed is None:
            continue
        TASKS[task].check(fixed, schema)
        assert TASKS[task].absent(fixed, text) == 0
        if TASKS[task].absent(annotation, text) == 0:
            assert fixed == annotation


@given(st.text())
def test_normalized_texts_are_the_same_again(text: str) -> None:
    assert fold(fold(text)) == fold(f"  {text}\n")


def test_the_report_counts_what_is_not_in_the_text(run_command, tmp_path: Path) -> None:
    absent = {**ADA, "entity": [{"entity": "Eve", "entity_type": "person"}]}
    corpus_of(tmp_path / "tree", train=[ADA, absent, {"text": "1 2 3 4 5", "entity": []}])
    done = run_command(
        "build", "--corpus_dir", tmp_path / "tree", "--clean", "--left_out_file", tmp_path / "report.jsonl",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert "mentions not in the text: 1" in done.stdout
    assert "noise: 1" in done.stdout
    (report,) = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert report == {
        "task": "NER", "language": "en", "source": "people", "split": "train",
        "given": 2, "records": 3, "mentions not in the text": 1, "noise": 1,
    }  # fmt: skip


def test_the_sample_corpus_has_nothing_to_clean() -> None:
    builder = IEPile(data_dir=str(SAMPLE_CORPUS), deduplicate="exact", drop_evaluation_texts=True)
    builder.as_dataset()
    for of_split in builder.report():
        assert of_split["given"] == of_split["records"]


def test_wrong_cleaning_options_end_with_one_clear_line(run_command, people: Path) -> None:
    arguments = ("build", "--corpus_dir", people, "--output_dir", "out")
    assert_one_clear_line(run_command(*arguments, "--deduplicate", "all", check=False), "unknown deduplicate 'all'")
    assert_one_clear_line(run_command(*arguments, "--on_error", "ignore", check=False), "raise, skip, fix")


def test_many_unusable_records_cost_one_look_for_the_closest_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []
    find = values.process.extractOne

    def count(name: str, known: list[str], **options: object) -> tuple:
        looked_up.append(name)
        return find(name, known, **options)

    monkeypatch.setattr(values.process, "extractOne", count)
    labels = [f"label {number}" for number in range(100_000)]
    wrong = {"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "Label 5"}]}
    right = {"text": "Ada.", "entity": [{"entity": "Ada", "entity_type": "label 99999"}]}
    records = [*[wrong] * 500, *[right] * 500]
    folder = write_corpus(tmp_path / "IE-en" / "NER" / "many", [labels, [], {}], train=records)
    (corpus,) = find_corpora([folder])
    for on_error, number in (("skip", 1), ("fix", 0)):
        index = index_split(corpus, "train", CleaningOptions(on_error=on_error))
        assert len(index.rows) == (500 if on_error == "skip" else 1000)
        assert len(looked_up) == number
        looked_up.clear()
    with pytest.raises(InputError, match="line 1: entity_type 'Label 5' is not in schema.json; .* is 'label 5'"):
        index_split(corpus, "train", CleaningOptions())
