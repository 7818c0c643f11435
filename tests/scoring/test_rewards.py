"""The rewards of answers, against cases that were worked out by hand."""

import json

import pytest
from helpers.corpora import SAMPLE_CORPUS

from iepile_builder import IEPile
from iepile_builder.scoring.rewards import answer_f1, ie_f1, valid_json


NER = '{"instruction": "Find them.", "schema": ["person", "city"], "input": "Ada and Bob left Rome."}'
BOTH = '{"person": ["Ada", "Bob"], "city": ["Rome"]}'
NOTHING = '{"person": [], "city": []}'
EE = json.dumps(
    {
        "instruction": "Find them.",
        "schema": [{"event_type": "move", "trigger": True, "arguments": ["who", "from"]}],
        "input": "Ada and Bob left Rome.",
    }
)
MOVE = '{"move": [{"trigger": "left", "arguments": {"who": ["Ada", "Bob"], "from": "Rome"}}]}'


@pytest.mark.parametrize(
    ("answer", "reference", "reward"),
    [
        (BOTH, BOTH, 1),
        ('{"city": ["Rome"], "person": ["Bob", "Ada"]}', BOTH, 1),  # in any order
        (f"```json\n{BOTH}\n```", BOTH, 1),
        (NOTHING, NOTHING, 1),  # nothing to find, nothing found
        ("{}", NOTHING, 1),
        (NOTHING, BOTH, 0),
        (BOTH, NOTHING, 0),
        ('{"person": ["Ada"], "city": []}', BOTH, 2 * 1 / (1 + 3)),
        ('{"person": ["Ada", "Rome"], "city": ["Rome"]}', BOTH, 2 * 2 / (3 + 3)),
        ('{"person": ["Ada", "Ada", "Bob"], "city": ["Rome"]}', BOTH, 2 * 3 / (4 + 3)),  # said twice
        ('{"person": ["Ada", "Bob"], "city": ["Rome"], "river": ["Tiber"]}', BOTH, 2 * 3 / (4 + 3)),  # not asked
        ('{"person": [], "city": [], "river": ["Tiber"]}', NOTHING, 0),
        ('{"person": ["ada", "Bob"], "city": ["Rome"]}', BOTH, 2 * 2 / (3 + 3)),  # other letters
        ('{"person": ["Ada", "Bob"], "city": ["Rome"', BOTH, 0),  # cut
        ("", NOTHING, 0),
        ("There is nothing.", NOTHING, 0),
        ("[]", NOTHING, 0),
        ('{"person": {"name": "Ada"}, "city": ["Rome"]}', BOTH, 2 * 1 / (2 + 3)),  # a value of another form is wrong
    ],
)
def test_entities(answer: str, reference: str, reward: float) -> None:
    assert answer_f1(answer, reference, NER, "NER") == pytest.approx(reward)


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        (MOVE, 1),
        ('{"move": [{"trigger": "left", "arguments": {"who": "Ada", "from": "NAN"}}]}', 2 * 2 / (2 + 4)),
        ('{"move": [{"trigger": "gone", "arguments": {"who": "Ada", "from": "Rome"}}]}', 2 * 2 / (3 + 4)),
        ('{"move": []}', 0),
    ],
)
def test_events_are_triggers_and_arguments(answer: str, reward: float) -> None:
    assert answer_f1(answer, MOVE, EE, "EE") == pytest.approx(reward)


def test_they_are_what_the_trainer_calls() -> None:
    completions = [[{"role": "assistant", "content": text}] for text in (BOTH, NOTHING, "no", MOVE)]
    rows = {
        "task": ["NER", "NER", "NER", "EE"],
        "instruction": [NER, NER, NER, EE],
        "output": [BOTH, BOTH, BOTH, MOVE],
    }
    others = {"prompts": [], "completion_ids": [], "trainer_state": None}
    assert ie_f1(completions=completions, **rows, **others) == [1, 0, 0, 1]
    assert valid_json(completions=completions, **rows, **others) == [1, 1, 0, 1]


def test_reference_answers_of_every_task_get_all(tmp_path) -> None:
    tasks = ["NER", "RE", "SPO", "EE", "EET", "EEA", "KG"]
    builder = IEPile(
        data_dir=str(SAMPLE_CORPUS), tasks=tasks, max_records=5, splits=["train"], cache_dir=str(tmp_path)
    )
    rows = builder.as_dataset()["train"].to_list()
    assert {row["task"] for row in rows} >= {"NER", "RE", "EE", "EET", "EEA", "KG"}
    for row in rows:
        assert answer_f1(row["output"], row["output"], row["instruction"], row["task"]) == 1
