"""The `datasets` builder."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node
from helpers.corpora import ALL_TASKS, SAMPLE_CORPUS, SHARED, needs_shared, write_lines
from torch.utils.data import DataLoader

import iepile_builder
from iepile_builder import IEPile, InputError
from iepile_builder.data.batching import COLUMNS
from iepile_builder.data.cleaning import CleaningOptions
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.index import index_split, read_split
from iepile_builder.data.instructions import asked_schema
from iepile_builder.scoring.scorer import score
from iepile_builder.tasks import TASKS


def build(data_dir: Path = SAMPLE_CORPUS, **options: object) -> datasets.DatasetDict:
    return IEPile(data_dir=str(data_dir), **options).as_dataset()


def test_load_dataset_and_the_class_give_the_same() -> None:
    loaded = load_dataset("iepile", data_dir=str(SAMPLE_CORPUS), tasks=["NER", "EET"])
    assert list(loaded) == ["train", "validation", "test"]
    built = build(tasks=["NER", "EET"])
    streamed = load_dataset("iepile", data_dir=str(SAMPLE_CORPUS), tasks=["NER", "EET"], streaming=True)
    for split, rows in loaded.items():
        assert rows.column_names == list(COLUMNS)
        assert rows.to_list() == built[split].to_list() == list(streamed[split])


def test_a_task_is_a_config() -> None:
    rows = load_dataset("iepile", "EEA", data_dir=str(SAMPLE_CORPUS), split="test")
    assert set(rows["task"]) == {"EEA"}
    assert rows.to_list() == build(tasks=["EEA"])["test"].to_list()
    with pytest.raises(ValueError, match="not found"):
        load_dataset("iepile", "NERR", data_dir=str(SAMPLE_CORPUS))


def test_registering_is_all_that_load_dataset_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(datasets.packaged_modules._PACKAGED_DATASETS_MODULES, "iepile")
    iepile_builder.iepile.register()
    assert load_dataset("iepile", data_dir=str(SAMPLE_CORPUS), tasks=["NER"], split="test").num_rows


def test_without_a_folder_it_does_not_take_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.json").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no corpora: give data_dir"):
        load_dataset("iepile")


def test_any_number_of_processes_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("iepile_builder.data.index.SHARD_RECORDS", 20)
    builds = []
    for num_proc in (1, 3):
        builder = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=["NER", "RE"], cache_dir=str(tmp_path / str(num_proc)))
        builder.download_and_prepare(num_proc=num_proc)
        builds.append(builder.as_dataset())
    for split in builds[0]:
        assert builds[0][split].to_list() == builds[1][split].to_list()


def test_every_option_reaches_the_instances(people: Path) -> None:
    default = build(people)["train"]
    assert build(people, seed=1, epoch=3)["train"].num_rows == default.num_rows
    in_all = build(people, negatives="all", schema_order="sorted", split_num=-1)["train"]
    assert [json.loads(row["instruction"])["schema"] for row in in_all] == [["city", "person", "river"]] * 2
    own = build(people, negatives="ratio", negative_ratio=0.0, split_num={"NER": 1})["train"]
    assert [len(json.loads(row["instruction"])["schema"]) for row in own] == [1, 1, 1]
    assert build(people, max_records=1)["train"].num_rows == 1
    assert list(build(people, splits=["test"])) == ["test"]
    assert build(SAMPLE_CORPUS, languages=["zh"], corpora=["daily_news_zh"])["train"].unique("source") == [
        "daily_news_zh"
    ]
    for option, value in {
        "negatives": "none",
        "schema_order": "alphabetical",
        "on_error": "ignore",
        "negative_ratio": 2.0,
        "split_num": 0,
        "tasks": ["NERR"],
        "splits": ["dev"],
        "languages": ["fr"],
        "num_examples": -1,
        "max_records": 0,
        "max_negatives_per_positive": -1,
    }.items():
        with pytest.raises(InputError, match=str(value[0] if isinstance(value, list) else value)):
            IEPile(data_dir=str(people), **{option: value})


def test_purely_negative_instances_can_be_capped() -> None:
    def negatives(**options: object) -> tuple[int, int]:
        rows = build(tasks=["RE"], languages=["en"], negatives="all", **options)["train"]
        count = sum(not any(json.loads(output).values()) for output in rows["output"])
        return count, len(rows) - count

    all_negatives, others = negatives()
    assert all_negatives > others // 3
    assert negatives(max_negatives_per_positive=1 / 3) == (others // 3, others)
    assert negatives(max_negatives_per_positive=0.0) == (0, others)
    assert negatives(max_negatives_per_positive=100.0) == (all_negatives, others)


def test_an_edit_of_any_file_is_another_build(people: Path, tmp_path: Path) -> None:
    folder = people / "IE-en" / "NER" / "people"
    negatives = tmp_path / "negatives.json"
    negatives.write_text("{}")

    def key(**options: object) -> str:
        return IEPile(data_dir=str(people), hard_negatives=str(negatives), **options).config_id

    keys = [key(), key(seed=1)]
    (folder / "schema.json").write_text('["person", "city", "lake"]\n[]\n{}\n')
    keys.append(key())
    (folder / "dev.json").write_text('{"text": "Eve."}\n')
    keys.append(key())
    negatives.write_text('{"person": ["city"]}')
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


def test_test_mode_asks_for_everything_in_schema_order() -> None:
    for corpus in find_corpora([SAMPLE_CORPUS], ALL_TASKS):
        task = TASKS[corpus.task]
        for split in ("validation", "test"):
            rows = build(corpus.path, tasks=[corpus.task], languages=[corpus.language])[split]
            records = list(read_split(corpus, split))
            if corpus.task != "EEA":
                assert len(set(rows["id"])) == len(records)
            asked: dict[str, list[str]] = {}
            for row in rows:
                asked.setdefault(row["id"], []).extend(task.labels(asked_schema(row["instruction"], corpus.task)))
                assert row["output"] is not None
                assert row["label"] is not None
            for labels in asked.values():
                if corpus.task == "SPO":  # a predicate of two type pairs waits for the next batch
                    assert sorted(labels) == sorted(task.labels(corpus.schema))
                elif corpus.task != "EEA":
                    assert labels == list(task.labels(corpus.schema))


def test_text_without_annotation_is_asked(tmp_path: Path, people: Path) -> None:
    (people / "IE-en" / "NER" / "people" / "test.json").write_text('{"text": "Eve is in Oslo."}\n')
    (row,) = build(people)["test"]
    assert (row["output"], row["label"]) == (None, None)


def test_weights_repeat_records_with_another_draw_or_leave_them_out() -> None:
    corpora = {"tasks": ["NER"], "splits": ["train"]}
    records = {
        corpus.source: len(list(read_split(corpus, "train"))) for corpus in find_corpora([SAMPLE_CORPUS], ["NER"])
    }
    rows = build(**corpora, corpus_weights={"daily_news": 2.5}, language_weights={"zh": 0.5})["train"]
    given = Counter(source for source, _ in set(zip(rows["source"], rows["id"], strict=True)))
    assert abs(given["daily_news"] - 2.5 * records["daily_news"]) < 0.2 * records["daily_news"]
    assert abs(given["daily_news_zh"] - 0.5 * records["daily_news_zh"]) < 0.2 * records["daily_news_zh"]
    english = [row for row in rows if row["source"] == "daily_news"]
    first = [row for row in english if "-" not in row["id"]]
    assert first == build(**corpora, corpora=["daily_news"])["train"].to_list()
    again = {row["instruction"] for row in english if row["id"].endswith("-2")}
    assert len(again & {row["instruction"] for row in first}) < len(again) / 2
    with pytest.raises(InputError, match="unknown corpus 'daily'"):
        build(corpus_weights={"daily": 2.0})
    with pytest.raises(InputError, match="the weight of zh is -1"):
        build(language_weights={"zh": -1})


def test_held_out_labels_are_asked_in_test_alone() -> None:
    held_out = ["person", "city"]
    built = build(tasks=["NER"], languages=["en"], held_out_labels={"daily_news": held_out})
    for split, rows in built.items():
        asked = {label for row in rows for label in asked_schema(row["instruction"], "NER").types}
        found = {entity["entity_type"] for row in rows for entity in json.loads(row["label"])}
        assert (asked == set(held_out)) if split == "test" else asked.isdisjoint(held_out)
        assert found <= asked
    report = score(built["test"])
    assert report["overall"]["f1"] == 100
    with pytest.raises(InputError, match="unknown label of daily_news 'people'"):
        build(tasks=["NER"], languages=["en"], held_out_labels={"daily_news": ["people"]})


def test_examples_come_from_train_in_every_split() -> None:
    texts = {record["text"] for record in read_split(find_corpora([SAMPLE_CORPUS], ["EE"], ["en"])[0], "train")}
    for rows in build(tasks=["EE"], languages=["en"], num_examples=2).values():
        for row in rows:
            instruction = json.loads(row["instruction"])
            shown = [example["input"] for example in instruction["example"]]
            assert len(set(shown)) == 2
            assert set(shown) <= texts - {instruction["input"]}
            for example in instruction["example"]:
                assert list(example["output"]) == [item["event_type"] for item in instruction["schema"]]


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_examples_are_of_mended_records(people: Path, seed: int) -> None:
    lines = [
        {"text": "Eve likes Oslo.", "entity": [
            {"entity": "oslo", "entity_type": "city"}, {"entity": "Eve", "entity_type": "verb"},
        ]},
        {"text": "Al is here.", "entity": [{"entity": "Al", "entity_type": "person"}]},
    ]  # fmt: skip
    write_lines(people / "IE-en" / "NER" / "people" / "train.json", lines)
    rows = build(people, on_error="fix", num_examples=1, seed=seed)["train"]
    shown = [example for row in rows for example in json.loads(row["instruction"])["example"]]
    assert {example["input"] for example in shown} == {line["text"] for line in lines}
    assert [name for example in shown for name in example["output"].get("city", ())] == ["Oslo"]


def test_descriptions_are_of_a_corpus(people: Path, tmp_path: Path) -> None:
    path = tmp_path / "descriptions.json"
    path.write_text('{"NER": {"people": {"city": "a large town"}}}')
    (row, _) = build(people, descriptions=str(path))["test"]
    assert json.loads(row["instruction"])["schema"] == {"person": "", "city": "a large town", "river": ""}
    for text, message in (("{", "not JSON"), ('{"person": ["a"]}', "neither")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            build(people, descriptions=str(path))


def test_every_task_takes_descriptions(tmp_path: Path) -> None:
    texts = {}
    for corpus in find_corpora([SAMPLE_CORPUS], ALL_TASKS):
        for label in TASKS[corpus.task].labels(corpus.schema):
            roles = TASKS[corpus.task].roles(label, corpus.schema)
            texts[label] = {name: f"all about {name}" for name in (label, *roles)} if roles else f"all about {label}"
    path = tmp_path / "descriptions.json"
    path.write_text(json.dumps(texts))
    assert_gold_scores_100(SAMPLE_CORPUS, tasks=ALL_TASKS, descriptions=str(path), num_examples=1)
    (folder,) = {corpus.path for corpus in find_corpora([SAMPLE_CORPUS], ["EE"], ["en"])}
    for row in build(folder, tasks=["EE"], descriptions=str(path))["train"]:
        for label, item in json.loads(row["instruction"])["schema"].items():
            assert item[label] == f"all about {label}"
            assert item["arguments"] == {role: f"all about {role}" for role in item["arguments"]}


def test_an_epoch_of_the_builder_draws_anew() -> None:
    builder = IEPile(data_dir=str(SAMPLE_CORPUS), tasks=["NER"], splits=["train"])
    epochs = []
    for epoch in (0, 1, 0):
        builder.set_epoch(epoch)
        rows = builder.as_dataset(split="train").to_list()
        assert list(builder.as_streaming_dataset(split="train")) == rows
        assert rows == build(tasks=["NER"], splits=["train"], epoch=epoch)["train"].to_list()
        epochs.append(rows)
    assert epochs[0] == epochs[2] != epochs[1]
    assert {row["id"] for row in epochs[0]} == {row["id"] for row in epochs[1]}


def test_checking_in_parts_and_processes_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    corpus = find_corpora([SAMPLE_CORPUS], ["NER"], ["en"])[0]
    whole = index_split(corpus, "train", CleaningOptions(clean=True))
    monkeypatch.setattr("iepile_builder.data.index.PART_BYTES", 1000)
    for num_proc in (None, 2):
        parts = index_split(corpus, "train", CleaningOptions(clean=True), num_proc=num_proc)
        assert parts.rows.tolist() == whole.rows.tolist()
        assert parts.report == whole.report
    folder = tmp_path / "IE-en" / "NER" / "daily_news"
    shutil.copytree(corpus.path, folder)
    lines = (folder / "train.json").read_text().splitlines()
    lines[40] = "{"
    (folder / "train.json").write_text("\n".join(lines))
    with pytest.raises(InputError, match="train.json, line 41: not one JSON object"):
        index_split(find_corpora([tmp_path])[0], "train", CleaningOptions(), num_proc=2)


def assert_gold_scores_100(data_dir: Path, **options: object) -> None:
    for rows in build(data_dir, **options).values():
        counts = Counter(zip(rows["task"], rows["source"], strict=True))
        report = score(rows)
        assert report["overall"]["f1"] == 100
        for task, source in counts:
            block = report["sources"][source][task]
            for part in [block] if "f1" in block else block.values():
                assert part["tp"] == part["pred"] == part["gold"] > 0
                assert part["unparsed"] == part["outside_schema"] == 0


@pytest.mark.parametrize("negatives", ["hard", "all"])
def test_gold_answers_score_100_on_the_sample_corpus(negatives: str) -> None:
    assert_gold_scores_100(SAMPLE_CORPUS, tasks=ALL_TASKS, negatives=negatives)


@needs_shared
@pytest.mark.parametrize("task", ["NER", "RE", "SPO", "EE", "EET", "EEA"])
def test_gold_answers_score_100_on_real_corpora(task: str) -> None:
    assert_gold_scores_100(SHARED / "corpora", tasks=[task], max_records=1000)


@needs_shared
@pytest.mark.parametrize("task", ["NER", "RE", "EE"])
def test_real_records_are_asked_for_each_positive_once(task: str) -> None:
    rows = build(SHARED / "corpora", tasks=[task], max_records=500)["train"]
    asked: dict[tuple, list[str]] = {}
    for row in rows:
        key = (row["source"], row["id"], row["label"])
        asked.setdefault(key, []).extend(TASKS[task].labels(asked_schema(row["instruction"], task)))
    for (_, _, label), labels in asked.items():
        positives = {annotation[TASKS[task].names[0]] for annotation in json.loads(label)}
        assert len(labels) == len(set(labels))
        assert positives <= set(labels)


@pytest.mark.parametrize(
    "derive",
    [
        lambda stream: stream,
        lambda stream: stream.map(lambda row: {"length": len(row["instruction"])}).filter(bool),
        lambda stream: stream.shuffle(seed=1).select_columns(["instruction", "output"]),
        lambda stream: stream.shard(num_shards=1, index=0).take(1000).repeat(1),
        lambda stream: datasets.concatenate_datasets([stream, stream.take(0)]),
        lambda stream: split_dataset_by_node(stream, rank=0, world_size=1),
    ],
    ids=["stream", "map", "shuffle", "shard", "concatenate", "node"],
)
def test_a_stream_and_what_is_made_of_it_draw_anew_with_each_epoch(derive: Callable, tmp_path: Path) -> None:
    options = {"data_dir": str(SAMPLE_CORPUS), "tasks": ["NER"], "cache_dir": str(tmp_path)}
    stream = derive(load_dataset("iepile", split="train", streaming=True, **options))
    drawn = []
    for epoch in (0, 1, 2, 0):
        stream.set_epoch(epoch)
        drawn.append(sorted(row["instruction"] for row in stream))
        assert drawn[-1] == sorted(IEPile(epoch=epoch, **options).as_dataset(split="train")["instruction"])
    assert drawn[0] == drawn[3] != drawn[1] != drawn[2]


def test_the_epoch_of_a_stream_counts_from_its_builders(tmp_path: Path) -> None:
    options = {"data_dir": str(SAMPLE_CORPUS), "tasks": ["NER"], "cache_dir": str(tmp_path)}
    stream = load_dataset("iepile", split="train", streaming=True, epoch=1, **options)
    stream.set_epoch(2)
    assert sorted(row["instruction"] for row in stream) == sorted(
        IEPile(epoch=3, **options).as_dataset(split="train")["instruction"]
    )


def test_a_stream_caps_purely_negative_instances_by_the_negatives_of_its_epoch(tmp_path: Path) -> None:
    options = {"data_dir": str(SAMPLE_CORPUS), "tasks": ["NER"], "cache_dir": str(tmp_path), "split_num": 2}
    options |= {"negatives_schedule": ["ratio", "all"], "negative_ratio": 0.0, "max_negatives_per_positive": 0.5}
    stream = load_dataset("iepile", split="train", streaming=True, **options)
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        built = IEPile(epoch=epoch, **options).as_dataset(split="train")
        assert sorted(row["instruction"] for row in stream) == sorted(built["instruction"])


def test_workers_draw_what_one_process_does(tmp_path: Path) -> None:
    options = {"data_dir": str(SAMPLE_CORPUS), "tasks": ["NER", "RE"], "cache_dir": str(tmp_path)}
    stream = load_dataset("iepile", split="train", streaming=True, **options)
    assert stream.num_shards > 1
    loader = DataLoader(stream.shuffle(seed=1), batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        loader.dataset.set_epoch(epoch)
        expected = IEPile(epoch=epoch, **options).as_dataset(split="train")["instruction"]
        assert sorted(row["instruction"] for row in loader) == sorted(expected)


def test_a_version_that_cannot_draw_anew_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(datasets.iterable_dataset, "shift_ex_examples_rngs")
    stream = load_dataset(
        "iepile", data_dir=str(SAMPLE_CORPUS), tasks=["NER"], cache_dir=str(tmp_path), split="train", streaming=True
    )
    with pytest.raises(InputError, match=r"use datasets>=4.7, or load the stream of each epoch .*epoch=1"):
        stream.set_epoch(1)
