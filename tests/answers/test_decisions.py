"""A character of an answer is forced exactly if no other accepted answer differs from it there first."""

import json

import pytest
from helpers.corpora import ALL_TASKS
from helpers.decisions import WORKED
from helpers.strategies import annotated
from helpers.tiny import save_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from iepile_builder import SchemaBatching
from iepile_builder.answers.decisions import mark_answer
from iepile_builder.answers.grammar import Grammars
from iepile_builder.chat import load_tokenizer
from iepile_builder.tasks import TASKS


@pytest.mark.parametrize("task, items, answer, expected", WORKED)
def test_worked_examples(task: str, items: list, answer: str, expected: str) -> None:
    marks = mark_answer(TASKS[task].answer_schema(items), answer)
    assert marks is not None
    assert "".join(".x0"[mark] for mark in marks) == expected


@pytest.mark.parametrize(
    "answer",
    ['{"city": ["Rome"],"river": []}', '{"river": [], "city": []}', '{"city": []}', '{"city": [""], "river": []}',
     '{"city": ["a\\u00e9"], "river": []}', '{"city": "Rome", "river": []}', '{"city": [], "river": []} ', ""],
)  # fmt: skip
def test_what_the_format_does_not_write(answer: str) -> None:
    assert mark_answer(TASKS["NER"].answer_schema(["city", "river"]), answer) is None


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Grammars:
    """Grammars over a vocabulary of single bytes."""
    tokenizer = load_tokenizer(str(save_tiny_model(tmp_path_factory.mktemp("tiny"), merges=False)))
    return Grammars(tokenizer, len(tokenizer), [tokenizer.eos_token_id])


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=25)
@given(data=st.data())
def test_the_grammar_forces_the_same(task: str, bytewise: Grammars, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    rows = SchemaBatching(task, "en", "generated", schema, negatives="all").instances("id", text, annotations)
    for row in rows:
        answer_schema = TASKS[task].answer_schema(json.loads(row["instruction"])["schema"])
        marks = mark_answer(answer_schema, row["output"])
        assert marks is not None
        matcher = bytewise.matcher(answer_schema)
        for character, mark in zip(row["output"], marks, strict=True):
            tokens = bytewise.tokenizer.tokenize_str(character)
            forced = []
            for token in tokens:
                forced.append(matcher.compute_ff_tokens()[:1] == [token])
                assert matcher.consume_token(token)
            assert all(forced) == (mark == 0)
        answer = json.loads(row["output"])
        assert marks.count(2) == sum(value == TASKS[task].nothing for value in answer.values())
