"""The table of test sets, and how their files become corpora."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.corpora import ROOT, write_lines

from iepile_builder import InputError, Schema
from iepile_builder.data.benchmark import BenchmarkSet, convert, read_benchmark
from iepile_builder.data.sources import READERS
from iepile_builder.tasks import TASKS


SYSTEMS, SHOWN, SETS = read_benchmark()
PAGE = (ROOT / "benchmarks" / "BENCHMARK.md").read_text(encoding="utf-8")
CONLL = "Ada\tB-person\nuses\tO\nProlog\tB-programlang\n\nWords\tB-misc\n"
NER = BenchmarkSet(
    name="Cross",
    suite="ner",
    task="NER",
    language="en",
    reader="conll",
    corpora={"cross": {"test": "cross/test.txt", "train": "cross/train.txt", "records": 2, "annotations": 3}},
    labels={"programlang": "program language"},
    drop=["misc"],
)


@pytest.mark.parametrize("benchmark", SETS, ids=lambda each: each.name)
def test_an_entry_of_the_table_can_be_read_and_is_described(benchmark: BenchmarkSet) -> None:
    assert benchmark.reader in READERS
    blocks = TASKS[benchmark.task].blocks
    scores = [*([benchmark.published] if blocks == ("",) else benchmark.published.values())]
    assert blocks == ("",) or set(benchmark.published) <= set(blocks)
    scores += [of_corpus.get("published", {}) for of_corpus in benchmark.corpora.values()]
    for of_system in scores:
        assert of_system.keys() <= SYSTEMS.keys()
        assert all(0 <= score <= 100 for score in of_system.values())
    assert benchmark.published
    assert all(bool(benchmark.patterns(name, "test")) != (benchmark.reader == "unified") for name in benchmark.corpora)
    if benchmark.suite != "supervised":
        assert f"| {benchmark.name} |" in PAGE
        assert benchmark.source in PAGE
        for name in benchmark.corpora:
            for pattern in benchmark.patterns(name, "test"):
                assert pattern.split("/")[0] in PAGE


def test_the_table_is_whole() -> None:
    assert set(SHOWN) <= SYSTEMS.keys()
    assert len({each.name for each in SETS}) == len(SETS)
    assert {each.reader for each in SETS} == READERS.keys()
    assert {each.suite for each in SETS} == {"ner", "re", "ee", "zh", "supervised"}
    by_name = {each.name: each for each in SETS}
    for benchmark in SETS:  # each has something to be compared with in the printed table
        blocks = [benchmark.published] if TASKS[benchmark.task].blocks == ("",) else benchmark.published.values()
        assert any(set(SHOWN) & of_block.keys() for of_block in blocks), benchmark.name
    assert by_name["MIT restaurant"].published["InstructUIE"] == 20.99  # zero-shot; 82.55 when trained on it
    # of the image of the paper's repository, and the mean that stands there over the five domains of another
    assert by_name["CrossNER"].published["OneKE"] == 60.91
    domains = [of_corpus["published"]["YAYI-UIE"] for of_corpus in by_name["CrossNER"].corpora.values()]
    assert sum(domains) / 5 == pytest.approx(by_name["CrossNER"].published["YAYI-UIE"], abs=0.005)
    assert {"records": 270, "annotations": 418}.items() <= by_name["Weibo"].corpora["WEIBONER"].items()
    assert len(by_name["FewRel"].corpora) == len(by_name["Wiki-ZSL"].corpora) == 5
    assert by_name["MIT movie"].corpora["mit-movie"]["records"] == 2443
    checked = {each.name for each in SETS if not any("not checked" in note for note in each.notes)}
    assert checked == {"CrossNER (UniversalNER)", "MIT movie", "WikiEvents", "RAMS", "Boson", "Weibo"}


def write_cross(data_dir: Path, text: str = CONLL) -> None:
    (data_dir / "cross").mkdir(parents=True)
    for split in ("test", "train"):
        (data_dir / "cross" / f"{split}.txt").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("keep_misc", [False, True])
def test_a_corpus_is_converted_with_its_label_names(keep_misc: bool, tmp_path: Path) -> None:
    write_cross(tmp_path / "data")
    reader, files = NER.find_files("cross", tmp_path / "data")
    assert convert(NER, "cross", reader, files, tmp_path / "tree", keep_misc) == ["cross"]
    folder = tmp_path / "tree" / "IE-en" / "NER" / "cross"
    labels = (*(["misc"] if keep_misc else []), "person", "program language")
    assert Schema.read(folder / "schema.json") == Schema(types=labels)
    records = [json.loads(line) for line in (folder / "test.json").read_text().splitlines()]
    assert records[0]["entity"][1] == {"entity": "Prolog", "entity_type": "program language"}
    assert records[1] == {"text": "Words", "entity": [{"entity": "Words", "entity_type": "misc"}] if keep_misc else []}
    assert (folder / "train.json").read_text() == (folder / "test.json").read_text()


@pytest.mark.parametrize(
    ("name", "text"), [("1 records", "Ada\tB-person\n"), ("2 annotations", CONLL.replace("B-misc", "O"))]
)
def test_other_counts_than_the_published_are_an_error(name: str, text: str, tmp_path: Path) -> None:
    write_cross(tmp_path, text)
    reader, files = NER.find_files("cross", tmp_path)
    with pytest.raises(InputError, match=f"test.txt: {name}, not the [23] of the published.*--unchecked"):
        convert(NER, "cross", reader, files, tmp_path / "tree")
    assert convert(NER, "cross", reader, files, tmp_path / "tree", unchecked=True) == ["cross"]


def test_a_corpus_may_be_there_in_the_unified_format(tmp_path: Path) -> None:
    assert NER.find_files("cross", tmp_path) == ("unified", {})
    folder = tmp_path / "IE-en" / "NER" / "cross"
    write_lines(folder / "schema.json", [["misc", "person", "city"], [], {}])
    record = {"text": "Ada", "entity": [{"entity": "Ada", "entity_type": "person"}]}
    write_lines(folder / "test.json", [record])
    reader, files = NER.find_files("cross", tmp_path)
    assert (reader, files) == ("unified", {"test": [folder / "test.json"]})
    convert(NER, "cross", reader, files, tmp_path / "tree", unchecked=True)
    assert Schema.read(tmp_path / "tree" / "IE-en" / "NER" / "cross" / "schema.json").types == ("person", "city")


def test_the_schema_of_a_unified_corpus_has_the_names_and_the_labels_of_its_part(tmp_path: Path) -> None:
    write_lines(tmp_path / "schema.json", [["programlang", "city"], [], {}])
    record = {"text": "Prolog", "entity": [{"entity": "Prolog", "entity_type": "programlang"}]}
    write_lines(tmp_path / "test.json", [record])
    files = {"test": [tmp_path / "test.json"]}
    convert(NER, "cross", "unified", files, tmp_path / "tree", unchecked=True)
    folder = tmp_path / "tree" / "IE-en" / "NER" / "cross"
    assert Schema.read(folder / "schema.json").types == ("program language", "city")

    roles = {"Life.Die": ["Who"], "Life.Birth": [], "Contact.Meet": []}
    write_lines(tmp_path / "schema.json", [list(roles), ["Who"], roles])
    event = {"event_trigger": "x", "event_type": "Life.Die", "arguments": []}
    write_lines(tmp_path / "test.json", [{"text": "x", "event": [event]}])
    benchmark = BenchmarkSet("W", "ee", "EE", "en", {"W": {}}, split_by_type=True)
    assert convert(benchmark, "W", "unified", files, tmp_path / "tree") == ["W_Life"]
    folder = tmp_path / "tree" / "IE-en" / "EE" / "W_Life"
    assert Schema.read(folder / "schema.json").types == ("Life.Die", "Life.Birth")


def test_the_folder_of_any_release_of_rams_is_found(tmp_path: Path) -> None:
    (folder := tmp_path / "RAMS_1.0c" / "data").mkdir(parents=True)
    (folder / "test.jsonlines").touch()
    rams = next(benchmark for benchmark in SETS if benchmark.name == "RAMS")
    assert rams.find_files("RAMS", tmp_path) == ("rams", {"test": [folder / "test.jsonlines"]})


def test_the_order_of_labels_is_drawn_with_the_seed(tmp_path: Path) -> None:
    words = "".join(f"w{number}\tB-label {number:02}\n".replace("label ", "label") for number in range(20))
    write_cross(tmp_path, words)
    drawn = replace(NER, shuffled=True)
    reader, files = NER.find_files("cross", tmp_path)
    orders = []
    for benchmark, seed in ((NER, 0), (drawn, 0), (drawn, 0), (drawn, 1)):
        convert(benchmark, "cross", reader, files, tmp_path / "tree", seed=seed, unchecked=True)
        orders.append(Schema.read(tmp_path / "tree" / "IE-en" / "NER" / "cross" / "schema.json").types)
    assert orders[0] == tuple(sorted(orders[0]))
    assert orders[1] == orders[2]
    assert len({orders[0], orders[1], orders[3]}) == 3
    assert {frozenset(order) for order in orders} == {frozenset(orders[0])}


def test_events_are_split_by_the_first_part_of_their_type(tmp_path: Path) -> None:
    def event(label: str, role: str) -> dict:
        return {"event_type": label, "trigger": {"text": "x"}, "arguments": [{"role": role, "text": "y"}]}

    rows = [
        {"sentence": "x y", "golden-event-mentions": [event("Life.Die", "Victim"), event("Lifelong.Learn", "Who")]},
        {"sentence": "y x", "golden-event-mentions": [event("Life.Die", "Place"), event("Life.Birth", "Who")]},
        {"sentence": "z", "golden-event-mentions": []},
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    benchmark = replace(NER, task="EE", reader="ace", corpora={"W": {"test": "*.json"}}, labels={}, split_by_type=True)
    reader, files = benchmark.find_files("W", tmp_path)
    assert convert(benchmark, "W", reader, files, tmp_path / "tree") == ["W_Life", "W_Lifelong"]
    folder = tmp_path / "tree" / "IE-en" / "EE"
    assert Schema.read(folder / "W_Life" / "schema.json") == Schema(
        types=("Life.Birth", "Life.Die"),
        roles=("Who", "Place", "Victim"),
        type_roles={"Life.Birth": ("Who",), "Life.Die": ("Place", "Victim")},
    )
    assert len((folder / "W_Life" / "test.json").read_text().splitlines()) == 2
    assert len((folder / "W_Lifelong" / "test.json").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "test.json: no records"),
        ('{"entity": []}', "test.json: record 1 has no text"),
        ('{"text": "Ada"}', "test.json: no record has an annotation"),
        ('{"text": "Ada", "entity": "Ada"}', "test.json: record 1 has no text, or no list 'entity'"),
        ('{"text": "Ada", "entity": ["Ada"]}', "record 1: an entry of 'entity' has no 'entity_type'"),
        ('{"text": "Ada", "entity": [{"entity": "Ada", "entity_type": ["x"]}]}', "has no 'entity_type'"),
        ('{"text": "Ada", "entity": [{"entity": "Ada", "entity_type": "x", "arguments": [1]}]}', "has no 'role'"),
    ],
)
def test_records_that_cannot_be_converted(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "test.json").write_text(line)
    (tmp_path / "schema.json").write_text('["x"]\n[]\n{}\n')
    benchmark = BenchmarkSet("one", "ner", "NER", "en", {"one": {}})
    with pytest.raises(InputError, match=message):
        convert(benchmark, "one", "unified", {"test": [tmp_path / "test.json"]}, tmp_path / "tree")
