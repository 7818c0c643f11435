"""Options of a build that choose training records."""

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers.corpora import SAMPLE_CORPUS, write_corpus

from iepile_builder import IEPile, InputError
from iepile_builder.data.corpus import Corpus
from iepile_builder.data.options import IEPileConfig


def write_ner(folder: Path, labels: dict[str, int], none: int = 0) -> Path:
    """A corpus with so many records of each label, and so many without."""
    records = [
        {"text": f"{label} {number}", "entity": [{"entity": str(number), "entity_type": label}]}
        for label, count in labels.items()
        for number in range(count)
    ]
    records += [{"text": f"nothing {number}", "entity": []} for number in range(none)]
    return write_corpus(folder, [list(labels), [], {}], train=records, test=records)


def build_texts(tmp_path: Path, **options: object) -> dict[str, Counter]:
    """The records of each corpus that are trained on, with how often."""
    builder = IEPile(cache_dir=str(tmp_path / "cache"), splits=["train"], split_num=-1, **options)
    texts: dict[str, Counter] = {}
    for row in builder.as_dataset(split="train"):
        texts.setdefault(row["source"], Counter())[json.loads(row["instruction"])["input"]] += 1
    return texts


def test_records_of_a_label_are_capped(tmp_path: Path) -> None:
    folder = write_ner(tmp_path / "IE-en" / "NER" / "uneven", {"often": 60, "rare": 4}, none=20)
    drawn = []
    for options in ({}, {"epoch": 1}, {"seed": 7}):
        (texts,) = build_texts(tmp_path, data_dir=str(folder), max_records_per_label=10, **options).values()
        assert Counter(text.split()[0] for text in texts) == {"often": 10, "rare": 4, "nothing": 10}
        drawn.append({*texts})
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    builder = IEPile(cache_dir=str(tmp_path / "cache"), data_dir=str(folder), max_records_per_label=10)
    splits = builder.as_dataset()
    assert len(splits["test"]) == 84  # of training records alone
    (report,) = [each for each in builder.report() if each["split"] == "train"]
    assert (report["given"], report["records whose labels have max_records_per_label already"]) == (24, 60)


def test_a_record_is_kept_for_a_rare_label_of_it(tmp_path: Path) -> None:
    both = [{"entity": "x", "entity_type": label} for label in ("often", "rare")]
    records = [{"text": f"often {number}", "entity": both[:1]} for number in range(50)]
    records += [{"text": f"both {number}", "entity": both} for number in range(8)]
    folder = write_corpus(tmp_path / "IE-en" / "NER" / "mixed", [["often", "rare"], [], {}], train=records)
    (texts,) = build_texts(tmp_path, data_dir=str(folder), max_records_per_label=8).values()
    assert Counter(text.split()[0] for text in texts)["both"] == 8
    assert len(texts) <= 16


@pytest.mark.parametrize("temperature", [1, 0.5, 0])
def test_a_temperature_evens_out_the_corpora(tmp_path: Path, temperature: float) -> None:
    sizes = {"large": 1600, "small": 100}
    for name, size in sizes.items():
        write_ner(tmp_path / "corpora" / "IE-en" / "NER" / name, {"x": size})
    texts = build_texts(tmp_path, data_dir=str(tmp_path / "corpora"), sampling_temperature=temperature)
    totals = {name: of_corpus.total() for name, of_corpus in texts.items()}
    powers = {name: size**temperature for name, size in sizes.items()}
    for name, power in powers.items():
        share = power / sum(powers.values())
        assert totals[name] == pytest.approx(1700 * share, abs=0 if temperature == 1 else 80)
    assert len(texts["small"]) == 100  # a small corpus is repeated whole
    weighted = {"large": 0.5, "small": 1.0}
    texts = build_texts(
        tmp_path, data_dir=str(tmp_path / "corpora"), sampling_temperature=temperature, corpus_weights=weighted
    )
    assert texts["large"].total() == pytest.approx(totals["large"] / 2, abs=80)
    assert texts["small"].total() == totals["small"]


def test_weights_are_those_given_by_default() -> None:
    config = IEPileConfig(
        data_dir=str(SAMPLE_CORPUS), corpus_weights={"daily_news": 0.5}, language_weights={"zh": 3.0}
    )
    corpora = config.find_corpora()
    weights = config.weights({corpus: 7 * number for number, corpus in enumerate(corpora)})

    def given(corpus: Corpus) -> float:
        return (0.5 if corpus.source == "daily_news" else 1.0) * (3.0 if corpus.language == "zh" else 1.0)

    assert weights == {corpus: given(corpus) if number else 0.0 for number, corpus in enumerate(corpora)}


def test_a_schedule_is_the_negatives_of_an_epoch(tmp_path: Path) -> None:
    folder = str(SAMPLE_CORPUS / "IE-en" / "NER" / "daily_news")
    for epoch, negatives in enumerate(["ratio", "hard", "all", "all"]):
        options = {"data_dir": folder, "cache_dir": str(tmp_path), "splits": ["train"], "epoch": epoch}
        options |= {"negative_ratio": 0.1, "num_hard": 2, "num_random": 1}
        scheduled = IEPile(negatives_schedule=["ratio", "hard", "all"], **options).as_dataset(split="train")
        assert scheduled.to_list() == IEPile(negatives=negatives, **options).as_dataset(split="train").to_list()


def test_other_names_are_for_training_alone(tmp_path: Path) -> None:
    folder = write_ner(tmp_path / "IE-en" / "NER" / "named", {"city": 5})
    (tmp_path / "names.json").write_text('{"NER": {"city": ["town"]}}')
    options = {"data_dir": str(folder), "cache_dir": str(tmp_path), "label_synonyms": str(tmp_path / "names.json")}
    first = IEPile(**options)
    splits = first.as_dataset()
    assert {json.loads(row["instruction"])["schema"][0] for row in splits["train"]} == {"town"}
    assert {json.loads(row["instruction"])["schema"][0] for row in splits["test"]} == {"city"}
    (tmp_path / "names.json").write_text('{"NER": {"city": ["place"]}}')
    assert IEPile(**options).config_id != first.config_id  # the contents of the file count
    shipped, none = (
        IEPile(**options | {"label_synonyms": table}) for table in ("sample_corpus/label_synonyms.json", None)
    )
    assert shipped.config_id != none.config_id


def test_no_training_record_is_asked_by_the_name_of_a_label_that_is_held_out(tmp_path: Path) -> None:
    folder = write_ner(tmp_path / "IE-en" / "NER" / "named", {"city": 20, "town": 2})
    (tmp_path / "names.json").write_text('{"city": ["Town", "place"]}')
    options = {"data_dir": str(folder), "cache_dir": str(tmp_path), "label_synonyms": str(tmp_path / "names.json")}
    rows = IEPile(held_out_labels={"named": ["town"]}, **options).as_dataset(split="train")
    assert {json.loads(row["instruction"])["schema"][0] for row in rows} == {"place"}


def test_a_name_that_its_task_cannot_ask_for(tmp_path: Path) -> None:
    record = {"head": "a", "head_type": "x", "relation": "p", "tail": "b", "tail_type": "y"}
    train = [{"text": "a b", "relation": [record]}]
    folder = write_corpus(tmp_path / "IE-en" / "SPO" / "typed", [["x_p_y"], ["p"], {}], train=train)
    (tmp_path / "names.json").write_text('{"x_p_y": ["x_q_y", "relative"]}')
    with pytest.raises(InputError, match=r"names\.json: label 'relative' is not of the form subjecttype_"):
        IEPile(data_dir=str(folder), cache_dir=str(tmp_path), label_synonyms=str(tmp_path / "names.json")).as_dataset()


@pytest.mark.parametrize(
    "options",
    [
        {"label_dropout": 1.5},
        {"num_hard": -1},
        {"max_records_per_label": 0},
        {"sampling_temperature": -0.1},
        {"negatives_schedule": ["hard", "some"]},
        {"schema_order": "schema"},
    ],
)
def test_an_impossible_value_is_named(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(options)).removesuffix("_schedule")):
        IEPileConfig(data_dir=str(SAMPLE_CORPUS), **options).check()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("sampling_temperature", float("nan")),
        ("sampling_temperature", 1e9),
        ("max_negatives_per_positive", float("nan")),
        ("max_negatives_per_positive", float("inf")),
        ("corpus_weights", {"x": float("nan")}),
        ("language_weights", {"en": float("inf")}),
    ],
)
def test_numbers_that_are_not_finite(option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{option} is|the weight of"):
        IEPileConfig(**{option: value}).check()
