"""The exports of annotation tools, with the field names that these tools write."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from helpers.corpora import write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_builder import InputError
from iepile_builder.data.convert import read_unified
from iepile_builder.data.detect import detect_format
from iepile_builder.data.formats import make_entity, read_brat, read_doccano, read_label_studio, read_spacy
from iepile_builder.data.tables import read_csv


TEXT = "Ada Lovelace, born in London, met Bob."
ADA = {"entity": "Ada Lovelace", "entity_type": "PER", "start": 0, "end": 12}
LONDON = {"entity": "London", "entity_type": "LOC", "start": 22, "end": 28}
BOB = {"entity": "Bob", "entity_type": "PER", "start": 34, "end": 37}
BORN = {
    "head": "Ada Lovelace", "relation": "born in", "tail": "London", "head_type": "PER", "tail_type": "LOC",
    "head_start": 0, "head_end": 12, "tail_start": 22, "tail_end": 28,
}  # fmt: skip


def region(id: str, start: int, end: int, label: str, text: str = TEXT) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text[start:end], "labels": [label]}
    return {"value": value, "id": id, "from_name": "label", "to_name": "text", "type": "labels", "origin": "manual"}


REGIONS = [
    region("Dx_aB91ISN", 0, 12, "PER"),
    region("q7LNSPRuEZ", 22, 28, "LOC"),
    region("zJ2fSfV4nO", 34, 37, "PER"),
]
RELATION = {
    "from_id": "Dx_aB91ISN", "to_id": "q7LNSPRuEZ", "type": "relation", "direction": "right", "labels": ["born in"],
}  # fmt: skip


def task(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {
        "id": 1, "annotations": list(annotations), "file_upload": "a.txt", "drafts": [], "predictions": [],
        "data": data or {"text": TEXT}, "meta": {}, "created_at": "2026-05-04T10:00:00.000000Z", "project": 1,
    }  # fmt: skip


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 1001, "completed_by": 1, "result": list(results), "was_cancelled": False, **more}


def read_json(path: Path, value: Any, reader: Any, lines: bool = False) -> list[dict[str, Any]]:
    if lines:
        write_lines(path, value)
    else:
        path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")
    return list(reader(path, "en"))


# Label Studio


def test_label_studio_json(tmp_path: Path) -> None:
    path = tmp_path / "project-1-at-2026-05-04-10-00-1a2b3c4d.json"
    (record,) = read_json(path, [task(annotation(*REGIONS, RELATION))], read_label_studio)
    assert record == {"text": TEXT, "entity": [ADA, LONDON, BOB], "relation": [BORN]}
    assert detect_format(path) == "label_studio"


def test_label_studio_json_min(tmp_path: Path) -> None:
    path = tmp_path / "project-1.json"
    row = {
        "text": TEXT, "id": 1, "label": [each["value"] for each in REGIONS], "annotator": 1, "annotation_id": 1,
        "created_at": "2026-05-04T10:00:00.000000Z", "updated_at": "2026-05-04T10:00:00.000000Z", "lead_time": 12.3,
    }  # fmt: skip
    (record,) = read_json(path, [row], read_label_studio)
    assert record == {"text": TEXT, "entity": [ADA, LONDON, BOB], "relation": []}
    assert detect_format(path) == "label_studio"


def test_label_studio_json_min_has_a_row_for_each_annotation(tmp_path: Path) -> None:
    rows = [
        {"text": TEXT, "id": 1, "label": [REGIONS[0]["value"]], "annotator": 1, "annotation_id": 1},
        {"text": TEXT, "id": 2, "annotator": 1, "annotation_id": 2},
        {"text": TEXT, "id": 1, "label": [REGIONS[1]["value"]], "annotator": 2, "annotation_id": 3},
        {"text": TEXT, "id": 3, "annotation_id": None},
    ]
    assert read_json(tmp_path / "a.json", rows, read_label_studio) == [
        {"text": TEXT, "entity": [ADA], "relation": [], "unused": 1},
        {"text": TEXT, "entity": [], "relation": []},
        {"text": TEXT},
    ]


@pytest.mark.parametrize(("direction", "number"), [("right", 1), ("left", 1), ("bi", 2)])
def test_label_studio_relations_have_a_direction(tmp_path: Path, direction: str, number: int) -> None:
    result = {**RELATION, "direction": direction}
    (record,) = read_json(tmp_path / "a.json", [task(annotation(*REGIONS, result))], read_label_studio)
    heads = {"right": ["Ada Lovelace"], "left": ["London"], "bi": ["Ada Lovelace", "London"]}[direction]
    assert [each["head"] for each in record["relation"]] == heads


def test_label_studio_takes_the_ground_truth_else_the_first_that_was_not_skipped(tmp_path: Path) -> None:
    skipped, first, second = annotation(was_cancelled=True), annotation(REGIONS[0]), annotation(REGIONS[1])
    rows = [task(skipped, first, second), task(first, {**second, "ground_truth": True}), task(skipped), task()]
    records = read_json(tmp_path / "a.json", rows, read_label_studio)
    assert [record.get("entity") for record in records] == [[ADA], [LONDON], None, None]


def test_label_studio_texts_of_any_name_and_results_of_other_tags(tmp_path: Path) -> None:
    choice = {
        "value": {"choices": ["good"]},
        "id": "x",
        "from_name": "sentiment",
        "to_name": "text",
        "type": "choices",
    }
    rows = [task(annotation(*REGIONS, choice), url="https://example.com", review=TEXT)]
    (record,) = read_json(tmp_path / "a.json", rows, read_label_studio)
    assert (record["text"], record["entity"]) == (TEXT, [ADA, LONDON, BOB])


def test_label_studio_texts_are_in_one_field_of_all_tasks(tmp_path: Path) -> None:
    url = "https://example.com/news/" + 40 * "x"
    short = annotation(region("a", 0, 3, "PER", "Ada"))
    short["result"][0]["value"].pop("text")  # its offsets fit the address, too
    rows = [
        task(annotation(), note="", url=url, meldung="Nothing."),
        task(short, note="", url=url, meldung="Ada"),
        task(annotation(*REGIONS), note="", url=url, meldung=TEXT),
        task(note="", url=url, meldung="It rained."),
    ]
    records = read_json(tmp_path / "a.json", rows, read_label_studio)
    assert [record["text"] for record in records] == ["Nothing.", "Ada", TEXT, "It rained."]
    assert [len(record.get("entity", ())) for record in records] == [0, 1, 3, 0]
    rows[1]["annotations"][0]["result"][0]["value"]["end"] = 99
    message = "a.json, record 2, field 'meldung': offsets 0 and 99 are not in the text, which has 3 characters"
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json", rows, read_label_studio)
    rows[3]["data"]["meldung"] = None
    rows[1]["annotations"] = []
    with pytest.raises(InputError, match="a.json, record 4, field 'meldung': None is not a text"):
        read_json(tmp_path / "a.json", rows, read_label_studio)


def test_label_studio_offsets_of_a_region_without_its_text(tmp_path: Path) -> None:
    def read(text: str, start: int, end: int) -> list[dict[str, Any]]:
        result = {"value": {"start": start, "end": end, "labels": ["PER"]}, "id": "a", "type": "labels"}
        rows = [task(annotation(result), text=text)]
        return read_json(tmp_path / "a.json", rows, read_label_studio)[0]["entity"]

    assert read("Ada met Bob 🎉", 8, 11) == [{"entity": "Bob", "entity_type": "PER", "start": 8, "end": 11}]
    assert read("🎉 Ada met Bob", 11, 14) == [{"entity": "Bob", "entity_type": "PER", "start": 10, "end": 13}]
    with pytest.raises(
        InputError, match="record 1: offsets 3 and 6 .* 'da ' in characters, 'Ada' in UTF-16 units; set"
    ):
        read("🎉 Ada met Bob", 3, 6)
    with pytest.raises(InputError, match="record 1: offsets 3 and 99 are not in the text, which has 13 characters"):
        read("🎉 Ada met Bob", 3, 99)


@given(
    before=st.text("a🎉é\n人", max_size=9),
    mention=st.text("b🎉人", min_size=1, max_size=4),
    after=st.text("a🎉", max_size=5),
)
def test_label_studio_offsets_may_count_utf_16_units(before: str, mention: str, after: str) -> None:
    text = before + mention + after
    start, end = (len(part.encode("utf-16-le")) // 2 for part in (before, before + mention))
    value = {"start": start, "end": end, "text": mention, "labels": ["X"]}
    row = task(annotation({"value": value, "id": "a", "type": "labels"}), text=text)
    with TemporaryDirectory() as folder:
        (record,) = read_json(Path(folder, "a.json"), [row], read_label_studio)
    (entity,) = record["entity"]
    assert text[entity["start"] : entity["end"]] == entity["entity"] == mention


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (task(annotation(region("a", 90, 95, "PER"))), "record 1: offsets 90 and 95 are not in the text"),
        (
            task(annotation({**REGIONS[0], "value": {**REGIONS[0]["value"], "start": 1}})),
            "region 'Ada Lovelace' is not at",
        ),
        (
            task(annotation({**REGIONS[0], "value": {**REGIONS[0]["value"], "start": "/div[1]/text()[1]"}})),
            "record 1: a region starts at '/div.*regions of <Text> tags alone are read",
        ),
        (
            task(annotation(*REGIONS, {**RELATION, "to_id": "gone"})),
            "record 1: a relation joins region 'gone', which has no label or is not there",
        ),
        (task(annotation(*REGIONS), image="a.png"), "record 1, field 'image': region 'Ada Lovelace' is not at"),
        (task({"id": 1}), "record 1: 'result' is missing"),
        ("text", "record 1: not of this format"),
    ],
)
def test_label_studio_tasks_that_cannot_be_read(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"a.json, {message}" if "record" in message else message):
        read_json(tmp_path / "a.json", [row], read_label_studio)


# doccano


def test_doccano_sequence_labelling(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": TEXT, "label": [[0, 12, "PER"], [22, 28, "LOC"]], "Comments": []},
        {"id": 2, "text": TEXT, "labels": [[34, 37, "PER"]]},
        {"id": 3, "data": TEXT, "label": []},
    ]
    records = read_json(tmp_path / "all.jsonl", rows, read_doccano, lines=True)
    assert records == [{"text": TEXT, "entity": entities} for entities in ([ADA, LONDON], [BOB], [])]
    assert detect_format(tmp_path / "all.jsonl") == "doccano"


def test_doccano_annotations_of_version_1(tmp_path: Path) -> None:
    row = {"text": TEXT, "annotations": [{"label": 4, "start_offset": 0, "end_offset": 12, "user": 1}]}
    with pytest.raises(InputError, match="line 1: label 4 is not a string"):
        read_json(tmp_path / "a.jsonl", [row], read_doccano, lines=True)


def test_doccano_relation_extraction(tmp_path: Path) -> None:
    entities = [
        {"id": 10, "label": "PER", "start_offset": 0, "end_offset": 12},
        {"id": 11, "label": "LOC", "start_offset": 22, "end_offset": 28},
    ]
    relations = [{"id": 1, "from_id": 10, "to_id": 11, "type": "born in"}]
    row = {"id": 1, "text": TEXT, "entities": entities, "relations": relations, "Comments": []}
    (record,) = read_json(tmp_path / "all.jsonl", [row], read_doccano, lines=True)
    assert record == {"text": TEXT, "entity": [ADA, LONDON], "relation": [BORN]}
    assert detect_format(tmp_path / "all.jsonl") == "doccano"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": TEXT, "label": [[0, 99, "PER"]]}, "line 2: offsets 0 and 99 are not in the text, which has 38"),
        ({"text": TEXT, "label": [[0, 0, "PER"]]}, "line 2: offsets 0 and 0 are not in the text"),
        ({"text": TEXT, "label": [[0, 3]]}, "line 2: not of this format"),
        ({"text": TEXT, "label": ["positive"]}, "line 2: label 'positive' is one of the whole text"),
        ({"label": []}, "line 2: 'data' is missing"),
    ],
)
def test_doccano_lines_that_cannot_be_read(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"all.jsonl, {message}"):
        read_json(tmp_path / "all.jsonl", [{"text": TEXT, "label": []}, row], read_doccano, lines=True)


# brat

ANN = """T1\tPER 0 12\tAda Lovelace
T2\tLOC 22 28\tLondon
T3\tPER 34 37\tBob
T4\tMeeting 30 33\tmet
T5\tBirth 14 18\tborn
R1\tborn-in Arg1:T1 Arg2:T2
E1\tMeeting:T4 Person:T1 Person2:T3 Cause:E2
E2\tBirth:T5
A1\tConfidence T1 High
N1\tReference T2 Wikipedia:Q84\tLondon
*\tEquiv T1 T3
#1\tAnnotatorNotes T1\tthe countess
"""


def brat(folder: Path, ann: str, text: str = TEXT) -> list[dict[str, Any]]:
    (folder / "doc.txt").write_bytes(text.encode())
    (folder / "doc.ann").write_bytes(ann.encode())
    return list(read_brat(folder / "doc.ann", "en"))


def test_brat_entities_relations_and_events(tmp_path: Path) -> None:
    (record,) = brat(tmp_path, ANN)
    assert record["text"] == TEXT
    assert record["entity"] == [ADA, LONDON, BOB]  # triggers are no entities
    assert record["relation"] == [{**BORN, "relation": "born-in"}]
    person, other, cause = (
        {"argument": "Ada Lovelace", "role": "Person", "start": 0, "end": 12},
        {"argument": "Bob", "role": "Person", "start": 34, "end": 37},
        {"argument": "born", "role": "Cause", "start": 14, "end": 18},
    )
    meeting = {"event_trigger": "met", "event_type": "Meeting", "arguments": [person, other, cause]}
    birth = {"event_trigger": "born", "event_type": "Birth", "arguments": [], "start": 14, "end": 18}
    assert record["event"] == [{**meeting, "start": 30, "end": 33}, birth]
    assert record["unread"] == 4  # A, N, * and #
    assert detect_format(tmp_path / "doc.ann") == "brat"


def test_brat_mentions_in_parts_and_on_two_lines(tmp_path: Path) -> None:
    text = "left and right knee in New\nYork 🎉!"
    ann = "T1\tPart 0 4;15 19\tleft knee\nT2\tLOC 23 26;27 31\tNew York\nT3\tX 32 33\t🎉\n"
    (record,) = brat(tmp_path, ann, text)
    assert record["entity"] == [
        {"entity": "left knee", "entity_type": "Part"},
        {"entity": "New\nYork", "entity_type": "LOC", "start": 23, "end": 31},
        {"entity": "🎉", "entity_type": "X", "start": 32, "end": 33},
    ]


@pytest.mark.parametrize(
    ("ann", "message"),
    [
        ("T1\tPER 0 12\tBob\n", "line 1: the mention is 'Bob', but the text has 'Ada Lovelace' at 0 12"),
        ("T1\tPER 0 99\tAda\n", "line 1: offsets 0 and 99 are not in the text"),
        ("T1\tPER 0\tAda\n", "line 1: not of this format"),
        ("E1\t\n", "line 1: not of this format"),
        ("\nR1\tborn-in Arg1:T1 Arg2:T2\n", "line 2: 'T1' is missing"),
        ("T1\tPER 0 12\tAda Lovelace\nR1\tborn-in Arg1:T1\n", "line 2: not of this format"),
    ],
)
def test_brat_lines_that_cannot_be_read(tmp_path: Path, ann: str, message: str) -> None:
    with pytest.raises(InputError, match=f"doc.ann, {message}"):
        brat(tmp_path, ann)


def test_brat_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "doc.ann").write_text(ANN)
    with pytest.raises(InputError, match="doc.ann: doc.txt is not beside it"):
        list(read_brat(tmp_path / "doc.ann", "en"))


# spaCy


def test_a_docbin_of_spacy(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    doc, other, empty = nlp(TEXT), nlp(TEXT), nlp("Nothing 🎉.")
    doc.set_ents([doc.char_span(0, 12, label="PER"), doc.char_span(22, 28, label="LOC")])
    other.spans["sc"] = [other.char_span(0, 12, label="PER"), other.char_span(0, 12, label="LADY")]
    both = doc.copy()
    both.spans["sc"] = [both[:1]]
    spacy.tokens.DocBin(docs=[doc, other, empty, both]).to_disk(tmp_path / "train.spacy")
    assert detect_format(tmp_path / "train.spacy") == "spacy"
    assert list(read_spacy(tmp_path / "train.spacy", "en")) == [
        {"text": TEXT, "entity": [ADA, LONDON]},
        {"text": TEXT, "entity": [ADA, {**ADA, "entity_type": "LADY"}]},
        {"text": "Nothing 🎉.", "entity": []},
        {"text": TEXT, "entity": [ADA, LONDON], "unused": 1},
    ]
    (tmp_path / "train.spacy").write_text("no such thing")
    with pytest.raises(InputError, match="train.spacy: not a DocBin of spaCy"):
        list(read_spacy(tmp_path / "train.spacy", "en"))


def test_json_that_spacy_writes(tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    import spacy
    from spacy.training import docs_to_json

    doc = spacy.blank("en")(TEXT)
    doc.set_ents([doc.char_span(0, 12, label="PER"), doc.char_span(22, 28, label="LOC")])
    doc[0].is_sent_start = True
    for token in doc[1:]:
        token.is_sent_start = False
    written = docs_to_json([doc])
    tags_alone = json.loads(json.dumps(written))
    del tags_alone["paragraphs"][0]["entities"]
    for value in (written, tags_alone):
        assert read_json(tmp_path / "train.json", [value], read_spacy) == [{"text": TEXT, "entity": [ADA, LONDON]}]
        assert detect_format(tmp_path / "train.json") == "spacy"


@pytest.mark.parametrize("wrapped", [False, True])
def test_pairs_of_text_and_entities(tmp_path: Path, wrapped: bool) -> None:
    pairs = [[TEXT, {"entities": [[0, 12, "PER"], [22, 28, "LOC"]]}], ["Nothing", {"entities": []}]]
    value = {"classes": ["PER", "LOC"], "annotations": [*pairs, None]} if wrapped else pairs
    assert read_json(tmp_path / "a.json", value, read_spacy) == [
        {"text": TEXT, "entity": [ADA, LONDON]},
        {"text": "Nothing", "entity": []},
    ]
    assert detect_format(tmp_path / "a.json") == "spacy"


# CSV


@pytest.mark.parametrize(
    "content",
    [
        'text,start,end,label\n"{0}",0,12,PER\n"{0}",22,28,LOC\n',
        'id;Text;entity;start;end;entity_type\n7;"{0}";Ada Lovelace;0;12;PER\n7;"{0}";London;22;28;LOC\n',
        'text\tstart_offset\tend_offset\tlabel\n{0}\t0\t12\tPER\n{0}\t22\t28\tLOC\n',
        'text,entities\n"{0}","[[0, 12, ""PER""], [22, 28, ""LOC""]]"\n',
        "text,spans\n\"{0}\",\"[(0, 12, 'PER'), (22, 28, 'LOC')]\"\n",
        'text,label\n"{0}","[{{""start"":0,""end"":12,""text"":""Ada Lovelace"",""labels"":[""PER""]}},'
        '{{""start"":22,""end"":28,""labels"":[""LOC""]}}]"\n',
    ],
)  # fmt: skip
def test_csv_of_spans(tmp_path: Path, content: str) -> None:
    path = tmp_path / ("a.tsv" if "\t" in content else "a.csv")
    path.write_text("\ufeff" + content.format(TEXT), encoding="utf-8")
    assert list(read_csv(path, "en")) == [{"text": TEXT, "entity": [ADA, LONDON]}]
    assert detect_format(path) == "csv"


def test_csv_keeps_the_spaces_of_a_text_and_all_labels_of_a_span(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,start,end,label\n Ada,1,4,PER\n")
    assert list(read_csv(path, "en")) == [{"text": " Ada", "entity": [{**ADA, "entity": "Ada", "start": 1, "end": 4}]}]
    path.write_text('text, start, end, label\n"Ada", 0, 3.0, PER\n')
    assert list(read_csv(path, "en")) == [{"text": "Ada", "entity": [{**ADA, "entity": "Ada", "end": 3}]}]
    path.write_text('text,label\nAda,"[{""start"":0,""end"":3,""labels"":[""PER"",""LADY""]}]"\n')
    assert [each["entity_type"] for each in next(read_csv(path, "en"))["entity"]] == ["PER", "LADY"]


def test_csv_of_entities_without_offsets_and_of_relations(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'text,entity,label\n"{TEXT}",Bob,PER\nNothing,,\n')
    bob = {"entity": "Bob", "entity_type": "PER"}
    assert list(read_csv(path, "en")) == [{"text": TEXT, "entity": [bob]}, {"text": "Nothing", "entity": []}]
    path.write_text(f'text,head,relation,tail\n"{TEXT}",Ada Lovelace,born in,London\nNothing,,,\n')
    born = {"head": "Ada Lovelace", "relation": "born in", "tail": "London"}
    assert list(read_csv(path, "en")) == [{"text": TEXT, "relation": [born]}, {"text": "Nothing", "relation": []}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", None),
        ("name,label\nAda,PER\n", "line 1: its columns are name, label; give text with start, end and label"),
        ('text,start,end,label\n"a\nb",0,9,PER\n', "line 3: offsets 0 and 9 are not in the text"),
        ("text,start,end,label\nAda,x,3,PER\n", "line 2: not of this format"),
        ("text,entity,start,end,label\nAda,Bob,0,3,PER\n", "line 2: 'Bob' is not at 0:3, where the text has 'Ada'"),
        ('text,entity,label\nAda,Ada,P\n"not closed,Bob,P\nEve,Eve,P\n', "line 3: not CSV .*; close the quotes"),
        ('text,entity,"label\nAda,Ada,P\n', "line 1: not CSV"),
        (
            "text,entity,label\nAda, Bob met,Ada,PER\n",
            "line 2: more cells than the 3 columns; put quotes around a ','",
        ),
        ("entity,label,text\nAda,PER\n", "line 2: fewer cells than the 3 columns: it has no text"),
        ("text,spans\nAda,PER\n", "line 2: 'PER' is no list of spans"),
        (f"text,spans\nAda,{'[' * 100_000}\n", r"line 2: '\[*' is no list of spans"),
        ('text,spans\nAda,"[{""start"": 0}]"\n', "line 2: offsets 0 and None are not in the text"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path: Path, content: str, message: str | None) -> None:
    (tmp_path / "a.csv").write_text(content)
    if message is None:
        assert list(read_csv(tmp_path / "a.csv", "en")) == []
        return
    with pytest.raises(InputError, match=f"a.csv, {message}"):
        list(read_csv(tmp_path / "a.csv", "en"))


# All of them


@given(st.text(min_size=1, max_size=20), st.data())
def test_an_entity_is_the_text_between_its_offsets_without_white_space_at_its_ends(
    text: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    entity = make_entity(text, start, end, "X")
    assert entity["entity"] == text[entity["start"] : entity["end"]] == text[start:end].strip()
    assert start <= entity["start"] <= entity["end"] <= end


@settings(max_examples=40, deadline=None)
@given(st.text("ab é人🎉\n\t", min_size=1, max_size=12), st.data())
def test_offsets_come_out_as_they_went_in(text: str, data: st.DataObject) -> None:
    places = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)), st.sampled_from(["X", "Y"]))
    spans = data.draw(st.lists(places.filter(lambda span: text[span[0] : span[1]].strip()), max_size=3))
    ann = [f"T{n}\t{label} {start} {end}\t\n" for n, (start, end, label) in enumerate(spans)]
    value = [{"start": start, "end": end, "text": text[start:end], "labels": [label]} for start, end, label in spans]
    with TemporaryDirectory() as name:
        folder = Path(name)
        records = [
            *read_json(folder / "a.jsonl", [{"text": text, "label": spans}], read_doccano, lines=True),
            *read_json(folder / "b.json", [{"text": text, "label": value, "annotation_id": 1}], read_label_studio),
            *read_json(folder / "c.json", [[text, {"entities": spans}], ["", {"entities": []}]], read_spacy)[:1],
            *brat(folder, "".join(ann), text),
        ]
    for record in records:
        assert record["text"] == text
        assert len(record["entity"]) == len(spans)
        for entity, (start, end, label) in zip(record["entity"], spans, strict=True):
            assert (entity["entity"], entity["entity_type"]) == (text[start:end].strip(), label)
            assert text[entity["start"] : entity["end"]] == entity["entity"]
            assert start <= entity["start"] < entity["end"] <= end


@pytest.mark.parametrize("lines", [True, False])
def test_records_in_json_lines_or_in_one_list(tmp_path: Path, lines: bool) -> None:
    rows = [{"text": TEXT, "entity": [ADA], "note": 1}, {"text": TEXT, "relation": [BORN], "entity": None}]
    path = tmp_path / "records.json"
    records = read_json(path, rows, read_unified, lines)
    assert records == [{"text": TEXT, "entity": [ADA]}, {"text": TEXT, "relation": [BORN]}]
    assert detect_format(path) == "unified"
    (single,) = read_json(path, rows[0], read_unified)  # one object on several lines
    assert single == records[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "entity": []}\n{"text": \n', "a.json, line 2: not JSON"),
        ('{"text": "a", "entity": []}\n["a"]\n', "a.json, line 2: no record with a 'text'"),
        ('[{"text": "a", "entity": []},\n 7]', "a.json, record 2: no record with a 'text'"),
        ('[{"text": "a",\n "entity": [}]', r"a.json: not JSON \(.* line 2 column"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_unified(tmp_path / "a.json", "en"))


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("notes.txt", "Ada was here.\n", None),
        ("train.txt", "Ada B-PER\n\n", "conll"),
        ("eng.train", "-DOCSTART- -X- O\n\nAda B-PER\n", "conll"),
        ("eng.testa", "Ada B-PER\n", "conll"),
        ("README.md", "Ada B-PER\n", None),
        ("a.tsv", "Ada\tB-PER\n", "conll"),
        ("a.json", "{", None),
        ("a.json", '{"name": "Ada"}', None),
        ("a.json", '{"task": "NER", "source": "x", "instruction": "{}"}', "instances"),
        ("a.jsonl", '{"cate": "Person", "text": "a", "relation": []}', "instructie"),
        ("a.jsonl", '{"tokens": [], "ner_tags": []}', "datasets"),
        ("a.jsonl", "", None),
    ],
)
def test_detected_formats(tmp_path: Path, name: str, content: str, format: str | None) -> None:
    (tmp_path / name).write_text(content)
    assert detect_format(tmp_path / name) == format
