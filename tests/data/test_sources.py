"""What the files of published test sets hold, in small files written here in their formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from iepile_builder import InputError
from iepile_builder.data.sources import READERS, read_source


def entities(**by_type: str) -> list[dict[str, str]]:
    return [{"entity": mention, "entity_type": label} for label, mention in by_type.items()]


def relation(head: str, label: str, tail: str) -> dict[str, str]:
    return {"head": head, "relation": label, "tail": tail}


def event(label: str, trigger: str, **arguments: str) -> dict:
    listed = [{"argument": argument, "role": role} for role, argument in arguments.items()]
    return {"event_trigger": trigger, "event_type": label, "arguments": listed}


def talk(text: str, label: str, answer: Any) -> dict:
    turns = (f"Text: {text}", "I've read this text.", f"What describes {label} in the text?", json.dumps(answer))
    return {"id": "x", "conversations": [{"from": "human", "value": turn} for turn in turns]}


def triplet(head: list[int], label: str, tail: list[int]) -> dict:
    return {
        "tokens": ["Mill", "Road", "is", "in", "Ely", "."],
        "head": head,
        "tail": tail,
        "label": label,
        "label_id": "P1",
    }


WIKIEVENTS = {
    "doc_id": "d",
    "sentences": [[[["A", 0, 1]], "A bomb hurt Li in Ely."], [[["B", 9, 10]], "Police held a man."]],
    "entity_mentions": [
        {"id": "e1", "sent_idx": 0, "text": "Li"},
        {"id": "e2", "sent_idx": 1, "text": "Police"},
        {"id": "e3", "sent_idx": 1, "text": "a man"},
    ],
    "event_mentions": [
        {
            "event_type": "Life.Injure.Unspecified",
            "trigger": {"text": "hurt", "sent_idx": 0},
            "arguments": [
                {"entity_id": "e1", "role": "Victim", "text": "Li"},
                {"entity_id": "e3", "role": "Injurer", "text": "a man"},  # in another sentence
            ],
        },
        {
            "event_type": "Justice.Arrest.Unspecified",
            "trigger": {"text": "held", "sent_idx": 1},
            "arguments": [{"entity_id": "e2", "role": "Jailer", "text": "Police"}],
        },
    ],
}
RAMS = {
    "sentences": [["They", "met", "."], ["Two", "men", "sold", "the", "old", "mill", "."]],
    "evt_triggers": [[5, 5, [["transaction.transfer.sell", 1.0]]]],
    "gold_evt_links": [
        [[5, 5], [3, 4], "evt017arg01seller"],
        [[5, 5], [6, 8], "evt017arg04artifact"],
    ],
}
ACE = {
    "sentence": "Oil fell on Monday .",
    "golden-event-mentions": [
        {
            "event_type": "MOVEMENT-DOWN-LOSS",
            "trigger": {"text": "fell", "start": 1, "end": 2},
            "arguments": [{"role": "ITEM", "text": "Oil"}, {"role": "TIME", "text": "Monday"}],
        }
    ],
}
FEWFC = {
    "content": "甲公司减持乙公司股份。",
    "events": [
        {
            "type": "减持",
            "mentions": [
                {"word": "甲公司", "span": [0, 3], "role": "sub"},
                {"word": "减持", "span": [3, 5], "role": "trigger"},
                {"word": "乙公司", "span": [5, 8], "role": "obj"},
            ],
        }
    ],
}
DUIE = {
    "text": "王芳写了《山雨》。",
    "spo_list": [
        {"subject": "山雨", "predicate": "作者", "object": {"@value": "王芳"}, "subject_type": "书"},
        {"subject": "山雨", "predicate": "又名", "object": "雨"},
    ],
}
MILL = "Mill Road is in Ely ."
CASES = {
    "conll": (
        ["Ada\tB-person\nLee\tI-person\nuses\tO\nProlog\tB-programlang\n\nNo\tO\n"],
        [
            {"text": "Ada Lee uses Prolog", "entity": entities(person="Ada Lee", programlang="Prolog")},
            {"text": "No", "entity": []},
        ],
    ),
    "mit": (
        ["O\tshow\nB-ACTOR\tada\nI-ACTOR\tlee\n"],
        [{"text": "show ada lee", "entity": entities(ACTOR="ada lee")}],
    ),
    "weibo": (
        ["王0\tB-PER.NAM\n芳1\tI-PER.NAM\n来0\tO\n\n好\tO\n"],
        [{"text": "王芳来", "entity": entities(**{"PER.NAM": "王芳"})}, {"text": "好", "entity": []}],
    ),
    "uniner": (
        [
            json.dumps(
                [
                    talk("Ada in Ely", "person", ["Ada"]),
                    talk("Ada in Ely", "city", ["Ely"]),
                    talk("Ada in Ely", "person", []),  # the same text once more
                    talk("Nobody", "person", []),
                ]
            )
        ],
        [
            {"text": "Ada in Ely", "entity": entities(person="Ada", city="Ely")},
            {"text": "Ada in Ely", "entity": []},
            {"text": "Nobody", "entity": []},
        ],
    ),
    "boson": (
        ["{{person_name: 王芳}}在{{location:北京}}。{{time:}}\n\n没\u2028有。\r\n"],
        [
            {"text": "王芳在北京。", "entity": entities(person_name="王芳", location="北京")},
            {"text": "没\u2028有。", "entity": []},
        ],
    ),
    "zero_rte": (
        [json.dumps({"triplets": [triplet([0, 1], "location", [4]), triplet([4], "has part", [0, 1])]})],
        [
            {
                "text": MILL,
                "relation": [relation("Mill Road", "location", "Ely"), relation("Ely", "has part", "Mill Road")],
            }
        ],
    ),
    "duie": (
        [json.dumps(DUIE)],
        [{"text": DUIE["text"], "relation": [relation("山雨", "作者", "王芳"), relation("山雨", "又名", "雨")]}],
    ),
    "ipre": (
        [
            "S1\t王芳\t李明\t王芳 和 李明 结婚 。\nS2\t李明\t王芳\t王芳 和 李明 结婚 。\nS3\t甲\t乙\t甲\u0085乙 。\n",
            "S1\t2\nS2\t1\nS3\t0\n",
            "NA\t0\n亲属/配偶/丈夫/现夫\t1\n亲属/配偶/妻子/现妻\t2\n",
        ],
        [
            {
                "text": "王芳和李明结婚。",
                "relation": [relation("王芳", "现妻", "李明"), relation("李明", "现夫", "王芳")],
            }
        ],
    ),
    "wikievents": (
        [json.dumps(WIKIEVENTS)],
        [
            {"text": "A bomb hurt Li in Ely.", "event": [event("Life.Injure.Unspecified", "hurt", Victim="Li")]},
            {"text": "Police held a man.", "event": [event("Justice.Arrest.Unspecified", "held", Jailer="Police")]},
        ],
    ),
    "rams": (
        [json.dumps(RAMS)],
        [
            {
                "text": "They met . Two men sold the old mill .",
                "event": [event("transaction.transfer.sell", "sold", seller="Two men", artifact="the old mill")],
            }
        ],
    ),
    "ace": (
        [json.dumps([ACE])],
        [{"text": "Oil fell on Monday .", "event": [event("MOVEMENT-DOWN-LOSS", "fell", ITEM="Oil", TIME="Monday")]}],
    ),
    "fewfc": (
        [json.dumps(FEWFC)],
        [{"text": FEWFC["content"], "event": [event("减持", "减持", sub="甲公司", obj="乙公司")]}],
    ),
    "unified": (['{"text": "x"}\n'], [{"text": "x"}]),
}


def write(folder: Path, contents: list[str]) -> list[Path]:
    files = [folder / f"{number}.txt" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_text(content, encoding="utf-8")
    return files


@pytest.mark.parametrize("reader", READERS)
def test_a_source_becomes_records(reader: str, tmp_path: Path) -> None:
    contents, records = CASES[reader]
    assert read_source(reader, write(tmp_path, contents)) == records


@pytest.mark.parametrize("reader", sorted(READERS.keys() - {"boson", "unified"}))
def test_a_file_of_another_format_is_named_in_one_line(reader: str, tmp_path: Path) -> None:
    files = write(tmp_path, ['{"other": 1}\n'] * len(CASES[reader][0]))
    with pytest.raises(InputError, match="0.txt") as error:
        read_source(reader, files)
    assert "\n" not in str(error.value)


def test_of_many_files_the_wrong_one_is_named(tmp_path: Path) -> None:
    right, wrong = write(tmp_path, [json.dumps([ACE]), json.dumps([ACE])[:-9]])
    assert len(read_source("ace", [right, right])) == 2
    with pytest.raises(InputError, match=r"1\.txt: not JSON") as error:
        read_source("ace", [right, wrong])
    assert "0.txt" not in str(error.value)


def asking(answer: Any) -> list[dict]:
    return [talk("Ada in Ely", "person", ["Ada"]), talk("Ada in Ely", "city", answer)]


@pytest.mark.parametrize(
    ("reader", "row", "message"),
    [
        ("uniner", asking("Ada"), "record 2: the answer '\"Ada\"' is not a list of strings"),
        ("uniner", asking([1]), "record 2: the answer '[1]' is not a list of strings"),
        ("uniner", asking({"Ada": 1}), "record 2: the answer '{\"Ada\": 1}' is not a list of strings"),
        ("zero_rte", [triplet([-1], "in", [4])], "tokens [-1], which are not among the 6"),
        ("zero_rte", [triplet([0], "in", [6])], "tokens [6], which are not among the 6"),
        ("zero_rte", [triplet([0], "in", [0, -3, 2])], "tokens [0, -3, 2], which are not among"),
        ("zero_rte", [triplet([], "in", [4])], "tokens [], which are not among"),
        ("zero_rte", [triplet("0", "in", [4])], "not of this format (TypeError: "),
        ("zero_rte", [{**triplet([0], "in", [1]), "tokens": "Ada"}], "tokens 'Ada' are not a list"),
        ("zero_rte", [{**triplet([0], "in", [1]), "tokens": ["Ada", 1]}], "not of this format (TypeError: "),
        (
            "zero_rte",
            [{**triplet([0], "in", [1]), "tokens": ["Ada", " "]}],
            "a mention is at tokens [1], which are blank",
        ),
        (
            "rams",
            {"gold_evt_links": [[[5, 5], [9, 12], "x"]]},
            "tokens [9, 10, 11, 12], which are not among the 10",
        ),
        ("rams", {"gold_evt_links": [[[5, 5], [0, 10**9], "x"]]}, "tokens [0, 1, 2, 3, 4, 5, 6, 7, 8], which"),
        ("rams", {"gold_evt_links": [[[5, 5], [2, 0], "x"]]}, "tokens [], which are not among"),
        ("rams", {"gold_evt_links": [[[5, 5], [-1, -1], "x"]]}, "tokens [-1], which are not among"),
        (
            "rams",
            {"gold_evt_links": [[[5, 6], [0, 0], "x"]]},
            "an argument is that of an event at [5, 6], where none is",
        ),
        (
            "rams",
            {"evt_triggers": [[-5, -5, [["x", 1.0]]]], "gold_evt_links": []},
            "tokens [-5], which are not among",
        ),
        ("rams", {"sentences": ["They met ."]}, "tokens 'They met .' are not a list"),
        (
            "wikievents",
            {"event_mentions": [{**WIKIEVENTS["event_mentions"][0], "trigger": {"text": "hurt", "sent_idx": -1}}]},
            "a mention is in sentence -1, which is none of the 2",
        ),
        ("wikievents", {"entity_mentions": []}, "'e1' is missing"),
    ],
)
def test_a_row_with_wrong_places_tokens_or_answers_is_named(
    reader: str, row: Any, message: str, tmp_path: Path
) -> None:
    if reader == "zero_rte":
        content = CASES[reader][0][0] + "\n" + json.dumps({"triplets": row})
    elif reader == "uniner":
        content = json.dumps(row)
    else:
        right = {"rams": RAMS, "wikievents": WIKIEVENTS}[reader]
        content = json.dumps(right) + "\n" + json.dumps({**right, **row})
    with pytest.raises(InputError) as error:
        read_source(reader, write(tmp_path, [content]))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / '0.txt'}, {'record' if reader == 'uniner' else 'line'} 2: ")
