"""Schema batching: which labels a record is asked for, and which of them together."""

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers.corpora import ALL_TASKS, SHARED, needs_shared
from helpers.strategies import OPTIONS, annotated, asked_labels, batching_of
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_builder import Schema, SchemaBatching
from iepile_builder.data.corpus import find_corpora
from iepile_builder.data.hard_negatives import load_hard_negatives
from iepile_builder.data.index import read_split
from iepile_builder.data.sampling import ROLE_ORDERS, draws, shuffled
from iepile_builder.data.splitting import split_labels
from iepile_builder.tasks import TASKS


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=60)
@given(data=st.data())
def test_each_positive_is_asked_once_and_no_label_twice(task: str, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    batching = batching_of(task, schema, **data.draw(OPTIONS))
    instances = list(batching.instances("id", text, annotations))
    asked = asked_labels(instances, task)
    assert len(asked) == len(set(asked))
    positives = {TASKS[task].label(annotation, schema) for annotation in TASKS[task].distinct(annotations)}
    assert positives <= set(asked) <= set(TASKS[task].labels(schema))
    split_num = TASKS[task].split_num if batching.split_num is None else batching.split_num
    for row in instances:
        keys = json.loads(row["output"])
        items = json.loads(row["instruction"])["schema"]
        assert len(keys) == len(items)
        assert split_num == -1 or len(items) <= split_num + max(1, split_num // 2) - 1
    if task == "EEA":
        assert set(asked) == positives
    elif batching.negatives == "all":
        assert set(asked) == set(TASKS[task].labels(schema))


@given(data=st.data(), split_num=st.sampled_from([1, 2, 4, 6, -1]))
def test_hard_negatives_and_random_ones_are_asked_with_the_positives(data: st.DataObject, split_num: int) -> None:
    schema, text, annotations = data.draw(annotated("NER"))
    labels = st.sampled_from(schema.types)
    hard = data.draw(st.dictionaries(labels, st.lists(st.one_of(labels, st.just("no such label")), max_size=4)))
    batching = batching_of("NER", schema, hard_negatives=hard, split_num=split_num)
    asked = set(asked_labels(list(batching.instances("id", text, annotations)), "NER"))
    positives = {annotation["entity_type"] for annotation in annotations}
    near = positives | {label for positive in positives for label in hard.get(positive, [])} & set(schema.types)
    others = set(schema.types) - near
    assert near <= asked
    assert len(asked - near) == (len(others) if split_num == -1 else min(split_num, len(others)))


@given(data=st.data(), num_random=st.sampled_from([None, -1, 0, 1, 3]))
def test_random_negatives_are_as_many_as_the_hard_ones(data: st.DataObject, num_random: int | None) -> None:
    schema, text, annotations = data.draw(annotated("NER"))
    labels = st.sampled_from(schema.types)
    hard_negatives = data.draw(st.dictionaries(labels, st.lists(labels, max_size=4)))
    hard = batching_of("NER", schema, hard_negatives=hard_negatives, num_random=num_random)
    random_ones = replace(hard, negatives="random")
    positives = {annotation["entity_type"] for annotation in annotations}
    near = positives | {label for positive in positives for label in hard_negatives.get(positive, [])}
    others = len(schema.types) - len(near)
    asked = asked_labels(list(hard.instances("id", text, annotations)), "NER")
    drawn = {None: min(6, others), -1: others}.get(num_random, min(num_random or 0, others))
    assert near <= set(asked)
    assert len(asked) == max(len(near) + drawn, 1)
    asked_at_random = asked_labels(list(random_ones.instances("id", text, annotations)), "NER")
    assert positives <= set(asked_at_random)
    assert len(asked_at_random) == len(asked)


def test_random_negatives_are_all_labels_alike() -> None:
    schema = Schema(types=tuple("abcdefghij"))
    options = {"hard_negatives": {"a": ["b", "c", "d"]}, "num_random": 0}
    annotations = [{"entity": "x", "entity_type": "a"}]
    counts: dict[str, Counter] = {"hard": Counter(), "random": Counter()}
    for negatives, counter in counts.items():
        for number in range(900):
            batching = batching_of("NER", schema, negatives=negatives, **options)
            counter.update(asked_labels(list(batching.instances("id", f"x {number}", annotations)), "NER"))
    assert counts["hard"] == {"a": 900, "b": 900, "c": 900, "d": 900}
    assert counts["random"].pop("a") == 900
    assert counts["random"].keys() == set("bcdefghij")
    assert all(230 < count < 370 for count in counts["random"].values())  # 300 each, give or take 5 deviations


@given(data=st.data(), num_hard=st.integers(0, 5), num_random=st.sampled_from([None, -1, 0, 2]))
def test_some_of_the_hard_negatives_are_drawn(data: st.DataObject, num_hard: int, num_random: int | None) -> None:
    schema, text, annotations = data.draw(annotated("NER"))
    labels = st.sampled_from(schema.types)
    table = data.draw(st.dictionaries(labels, st.lists(labels, max_size=5)))
    every = batching_of("NER", schema, hard_negatives=table, num_random=num_random)
    some = replace(every, num_hard=num_hard)
    positives = {annotation["entity_type"] for annotation in annotations}
    hard = {label for positive in positives for label in table.get(positive, [])} - positives
    of_every, of_some = (
        {*asked_labels(list(each.instances("id", text, annotations)), "NER")} for each in (every, some)
    )
    assert len(of_some & hard) == min(num_hard, len(hard))
    if positives:
        assert of_some - hard == of_every - hard  # the same random ones
    else:
        drawn = len(schema.types) if num_random == -1 else (6 if num_random is None else num_random) + num_hard
        assert len(of_some) == min(max(drawn, 1), len(schema.types))
    at_random = asked_labels(list(replace(some, negatives="random").instances("id", text, annotations)), "NER")
    assert len(at_random) == len(of_some)


def test_every_epoch_draws_other_hard_negatives() -> None:
    batching = batching_of("NER", Schema(types=tuple("abcdefgh")), hard_negatives={"a": list("bcde")}, num_random=0)
    counts: Counter[str] = Counter()
    for epoch in range(800):
        rows = replace(batching, num_hard=1, epoch=epoch).instances("7", "x", [{"entity": "x", "entity_type": "a"}])
        counts.update(asked_labels(list(rows), "NER"))
    assert counts.pop("a") == 800
    assert counts.keys() == set("bcde")
    assert all(140 < count < 260 for count in counts.values())  # 200 each, give or take 5 deviations


def test_positives_are_grouped_with_their_hard_negatives() -> None:
    table = {"a": list("bc"), "A": ["B", "C", "a"], "x": ["y"]}
    batching = batching_of(
        "RE", Schema(roles=tuple("abcABCxyuvwz")), hard_negatives=table, schema_order="grouped", split_num=4
    )
    record = [{"head": "x", "relation": label, "tail": "x"} for label in "aAx"]
    places: Counter[tuple[str, int]] = Counter()
    for epoch in range(300):
        rows = list(replace(batching, epoch=epoch).instances("7", "x", record))
        batches = [asked_labels([row], "RE") for row in rows]
        of_label = {label: number for number, batch in enumerate(batches) for label in batch}
        assert sorted(map(len, batches)) == [4, 4, 4]
        # `a` is a hard negative of `A`, too, but a batch has no room for five
        cut = sum(of_label[label] != of_label[other] for label in table for other in table[label])
        assert cut == 1
        places.update((label, batches[of_label[label]].index(label)) for label in "ax")
        places[("batch of a", of_label["a"])] += 1
    for name in ("a", "x", "batch of a"):  # neither the place nor the batch tells that a label is positive
        counts = [count for (of_name, _), count in places.items() if of_name == name]
        assert len(counts) == (3 if name == "batch of a" else 4)
        assert max(counts) - min(counts) < 60


@given(data=st.data(), split_num=st.sampled_from([1, 2, 4, 6, -1]))
def test_grouping_changes_which_labels_are_together_and_nothing_else(data: st.DataObject, split_num: int) -> None:
    schema, text, annotations = data.draw(annotated("RE"))
    labels = st.sampled_from(schema.roles)
    table = data.draw(st.dictionaries(labels, st.lists(labels, max_size=5)))
    shuffled_labels = batching_of("RE", schema, hard_negatives=table, split_num=split_num)
    grouped = replace(shuffled_labels, schema_order="grouped")
    both = [
        [asked_labels([row], "RE") for row in batching.instances("id", text, annotations)]
        for batching in (shuffled_labels, grouped)
    ]
    assert list(map(len, both[0])) == list(map(len, both[1]))
    assert {*sum(both[0], [])} == {*sum(both[1], [])}
    if len(both[0]) == 1:
        assert both[0] == both[1]


@needs_shared
@pytest.mark.parametrize(
    ("place", "shuffled_share", "least"), [("IE-en/NER/mit-movie", 0.45, 0.97), ("IE-en/RE/semval-RE", 0.37, 0.64)]
)
def test_grouping_on_real_corpora(place: str, shuffled_share: float, least: float) -> None:
    corpus = find_corpora([str(SHARED / "corpora" / place)])[0]
    records = random.Random(0).sample(list(read_split(corpus, "train", "skip")), 1000)
    task, shares = TASKS[corpus.task], []
    for order in ("random", "grouped"):
        batching = SchemaBatching(corpus.task, "en", corpus.source, corpus.schema, schema_order=order)
        found = batching.find(record[task.field] for record in records)
        labels = batching.asked_labels()
        number = {label: number for number, label in enumerate(labels)}
        beside = []
        batches = batching.batches(found, batching.seeds([record["text"] for record in records], found))
        for (_, by_label), of_record in zip(found, batches, strict=True):
            for batch in of_record:
                for label in by_label.keys() & batch:
                    others = batching.hard_negatives.get(labels[label], [])
                    beside += [number[other] in batch for other in others if other in number]
        shares.append(sum(beside) / len(beside))
    assert shares[0] == pytest.approx(shuffled_share, abs=0.03)
    assert shares[1] > least


def test_batches_of_a_remainder() -> None:
    def sizes(number: int, split_num: int) -> list[int]:
        return [len(batch) for batch in split_labels([str(n) for n in range(number)], split_num, str)]

    assert sizes(12, 6) == [6, 6]
    assert sizes(15, 6) == [6, 6, 3]  # 3 = 6 // 2 is a batch of its own
    assert sizes(14, 6) == [6, 8]  # 2 joins the last
    assert sizes(2, 6) == [2]
    assert sizes(5, 4) == [5]
    assert sizes(3, 1) == [1, 1, 1]
    assert sizes(7, -1) == [7]


def test_no_batch_asks_for_a_predicate_twice() -> None:
    labels = ["a_p_b", "a_p_c", "a_q_b", "a_r_b", "a_p_d"]
    assert split_labels(labels, 3, TASKS["SPO"].answer_key) == [["a_p_b", "a_q_b", "a_r_b"], ["a_p_c"], ["a_p_d"]]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 4), st.integers(1, 9))
def test_draws_are_a_function_of_seed_stream_and_place(seeds: list[int], stream: int, number: int) -> None:
    together = draws(np.array(seeds, dtype=np.uint64), stream, number)
    assert together.shape == (len(seeds), number)
    for seed, row in zip(seeds, together, strict=True):
        assert draws(np.array([seed], dtype=np.uint64), stream, number + 3)[0, :number].tolist() == row.tolist()
        assert not np.isin(row, draws(np.array([seed], dtype=np.uint64), stream + 1, number)).any()


def test_draws_are_even() -> None:
    drawn = draws(np.arange(2000, dtype=np.uint64), 0, 10) * 2.0**-64
    assert np.abs(np.histogram(drawn, bins=10, range=(0, 1))[0] - 2000).max() < 200
    first = np.argsort(drawn, axis=1)[:, 0]
    assert np.abs(np.bincount(first, minlength=10) - 200).max() < 70


def test_random_negatives_and_orders_are_even() -> None:
    batching = batching_of("NER", Schema(types=tuple("abcdefghij")), split_num=3)
    records = {"text": [str(number) for number in range(3000)], "entity": [[]] * 3000}
    asked = [json.loads(instruction)["schema"] for instruction in batching(records)["instruction"]]
    for place in range(3):
        counts = Counter(labels[place] for labels in asked)
        assert len(counts) == 10
        assert all(abs(count - 300) < 100 for count in counts.values())


def test_roles_come_in_many_orders() -> None:
    roles = tuple("abcd")
    orders = {shuffled(roles, order) for order in range(ROLE_ORDERS)}
    assert len(orders) > 18  # of 24
    assert all(sorted(order) == sorted(roles) for order in orders)


def test_a_hundred_thousand_labels_are_batched() -> None:
    labels = tuple(f"label {number}" for number in range(100_000))
    near = {label: [f"label {number * 7 % 100_000}"] for number, label in enumerate(labels)}
    positives = [f"label {number * 991}" for number in range(50)]
    records = {
        "text": [f"Ada {number}" for number in range(50)],
        "entity": [[{"entity": "Ada", "entity_type": label}] for label in positives],
    }
    for negatives in ("hard", "random", "ratio"):
        batching = SchemaBatching(
            "NER", "en", "many", Schema(types=labels), negatives, negative_ratio=1e-5, hard_negatives=near
        )
        asked: dict[str, list[str]] = {}
        for instruction in map(json.loads, batching(records)["instruction"]):
            asked.setdefault(instruction["input"], []).extend(instruction["schema"])
        for text, label in zip(records["text"], positives, strict=True):
            assert len(set(asked[text])) == len(asked[text])
            assert label in asked[text]
            assert negatives != "hard" or near[label][0] in asked[text]
    keys = [f"a_{number % 50_000}_{number}" for number in range(100_000)]
    batches = split_labels(keys, 4, lambda label: label.split("_")[1])
    assert sorted(label for batch in batches for label in batch) == sorted(keys)
    assert batches[0] == keys[:4]
    assert split_labels(keys[:3] * 2, -1, str) == [keys[:3], keys[:3]]


@given(st.lists(st.sampled_from("abcde"), max_size=20), st.sampled_from([-1, 1, 2, 3, 4, 6]))
def test_batches_take_the_first_labels_that_can_be_asked_together(keys: list[str], split_num: int) -> None:
    rest, wanted = list(enumerate(keys)), []
    while rest:
        batch: list[tuple[int, str]] = []
        for label in rest:
            if label[1] not in [key for _, key in batch] and (len(batch) < split_num or split_num == -1):
                batch.append(label)
        wanted.append(batch)
        rest = [label for label in rest if label not in batch]
    found = split_labels(list(enumerate(keys)), split_num, lambda label: label[1])
    assert [label for batch in found for label in batch] == [label for batch in wanted for label in batch]
    assert found[:-1] == wanted[: len(found) - 1]


def test_by_default_hard_negatives_are_found_or_mined() -> None:
    schema = Schema(types=("date", "date of birth", "person", "city"))
    batching = SchemaBatching("NER", "en", "of my own", schema)
    assert batching.hard_negatives == {"date": ["date of birth"], "date of birth": ["date"]}
    assert SchemaBatching("NER", "en", "of my own", schema, hard_negatives={}).hard_negatives == {}
    assert SchemaBatching("NER", "en", "of my own", schema, negatives="all").hard_negatives is None
    published = SchemaBatching("NER", "en", "mit-movie", Schema(types=("actor", "title"))).hard_negatives
    assert published == load_hard_negatives()["NER"]["mit-movie"]
