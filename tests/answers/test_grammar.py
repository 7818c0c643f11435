"""Every reference answer satisfies the grammar of its schema batch, and nothing written otherwise does."""

import json
from pathlib import Path

import pytest
from helpers.corpora import ALL_TASKS, SHARED, needs_shared
from helpers.strategies import annotated
from helpers.tiny import save_tiny_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from iepile_builder import IEPile, InputError, Schema, SchemaBatching
from iepile_builder.answers.grammar import Grammars, close_answer
from iepile_builder.chat import load_tokenizer
from iepile_builder.engines.base import Request
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.io import to_json
from iepile_builder.tasks import TASKS


class Judge:
    """Says whether an answer satisfies a schema, token by token as a decoder does."""

    def __init__(self, model: Path) -> None:
        self.tokenizer = load_tokenizer(str(model))
        self.grammars = Grammars(self.tokenizer, len(self.tokenizer), [self.tokenizer.eos_token_id])

    def accepts(self, schema: dict, answer: str) -> bool:
        matcher = self.grammars.matcher(schema)
        tokens = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_stopped()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(save_tiny_model(tmp_path_factory.mktemp("tiny")))


def batches(task: str, schema: Schema, text: str, annotations: list[dict]) -> list[tuple[list, str]]:
    """The schema items of each instance of a record, and its reference answer."""
    instances = SchemaBatching(task, "en", "generated", schema, negatives="all").instances("id", text, annotations)
    return [(json.loads(row["instruction"])["schema"], row["output"]) for row in instances]


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=40)
@given(data=st.data())
def test_reference_answers_satisfy_it(task: str, judge: Judge, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    for items, output in batches(task, schema, text, annotations):
        wanted = TASKS[task].answer_schema(items)
        assert judge.accepts(wanted, output)
        answer = json.loads(output)
        # Other separators, escapes, one key more, less, or in another place
        assert not judge.accepts(wanted, json.dumps(answer, ensure_ascii=False, separators=(",", ":")))
        assert not judge.accepts(wanted, output + " ")
        assert not judge.accepts(wanted, to_json({**answer, "no label": TASKS[task].nothing}))
        assert not judge.accepts(wanted, to_json(dict(list(answer.items())[1:])))
        if not output.isascii():
            assert not judge.accepts(wanted, json.dumps(answer))
        if len(answer) > 1:
            assert not judge.accepts(wanted, to_json(dict(reversed(answer.items()))))


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=25)
@given(data=st.data())
def test_strings_of_the_text(task: str, judge: Judge, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    assume(annotations)
    absent = sum(TASKS[task].absent(annotation, text) for annotation in TASKS[task].distinct(annotations))
    given_away = task == "EEA"  # its triggers are the instruction's, in the text or not
    for items, output in batches(task, schema, text, annotations):
        accepted = judge.accepts(TASKS[task].answer_schema(items, text), output)
        between_words = all(_between_words(string, text) for string in set(_strings(json.loads(output))) - {"NAN"})
        if accepted:
            assert between_words or given_away
        elif task != "KG":  # heads are keys
            assert absent or not between_words


def _between_words(string: str, text: str) -> bool:
    """Whether a string occurs in a text without the cut of a word, by the letters of `words`."""
    latin = set("abcXYé")
    starts = [start for start in range(len(text)) if text.startswith(string, start)]
    edges = [
        (text[start - 1 : start + 1], text[start + len(string) - 1 : start + len(string) + 1]) for start in starts
    ]
    return any(not any(len(edge) == 2 and set(edge) <= latin for edge in both) for both in edges)


def _strings(value: object) -> list[str]:
    """List the strings of an answer, except the keys of its first level."""
    if isinstance(value, str):
        return [value]
    values = list(value.values()) if isinstance(value, dict) else value
    return [string for one in values for string in _strings(one)]


@pytest.mark.parametrize(
    "task, items, answer",
    [
        ("NER", ["a"], {"a": "x"}),
        ("NER", ["a"], {"a": [""]}),
        ("NER", ["a"], {"a": [1]}),
        ("NER", ["a"], {"a": None}),
        ("RE", ["a"], {"a": [{"subject": "x"}]}),
        ("RE", ["a"], {"a": [{"object": "x", "subject": "y"}]}),
        ("RE", ["a"], {"a": [{"head": "x", "tail": "y"}]}),
        ("EE", [{"event_type": "a", "trigger": True, "arguments": ["r", "s"]}], {"a": ["x"]}),
        (
            "EE",
            [{"event_type": "a", "trigger": True, "arguments": ["r", "s"]}],
            {"a": [{"trigger": "x", "arguments": {"r": "y"}}]},
        ),
        (
            "EE",
            [{"event_type": "a", "trigger": True, "arguments": ["r"]}],
            {"a": [{"trigger": "x", "arguments": {"r": ["y"]}}]},
        ),
        (
            "EEA",
            [{"event_type": "a", "trigger": ["t"], "arguments": ["r"]}],
            {"a": [{"trigger": "x", "arguments": {"r": "y"}}]},
        ),
        ("KG", [{"entity_type": "a", "attributes": ["r", "s"]}], {"a": {"x": {"s": "1", "r": "2"}}}),
        ("KG", [{"entity_type": "a", "attributes": ["r", "s"]}], {"a": {"x": {}}}),
        ("KG", [{"entity_type": "a", "attributes": ["r", "s"]}], {"a": []}),
    ],
)
def test_other_forms_are_refused(judge: Judge, task: str, items: list, answer: dict) -> None:
    assert not judge.accepts(TASKS[task].answer_schema(items), to_json(answer))


@pytest.mark.parametrize("string", ['"', "\\", "/", "\n", "\x01", "\x0f", "\x1f", "\x7f", "\u2028", "é", "人", "🎉"])
def test_characters_are_written_as_python_writes_them(judge: Judge, string: str) -> None:
    for text in (None, f"a {string} b"):
        schema = TASKS["NER"].answer_schema([f"label {string}"], text)
        assert judge.accepts(schema, to_json({f"label {string}": [string]}))
        escaped = f'{{{to_json(f"label {string}")}: ["\\u{ord(string[0]):04x}"]}}'
        assert judge.accepts(schema, escaped) == (to_json(string) == f'"\\u{ord(string):04x}"')


def test_it_is_a_json_schema(judge: Judge) -> None:
    """What is served to other engines says the same in the words of JSON schema."""
    assert TASKS["NER"].answer_schema(["a", "b"]) == {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"$ref": "#/$defs/mention"}, "minItems": 0},
            "b": {"type": "array", "items": {"$ref": "#/$defs/mention"}, "minItems": 0},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"mention": {"type": "string", "minLength": 1}},
    }


@pytest.mark.parametrize("task", ALL_TASKS)
@settings(max_examples=15)
@given(data=st.data())
def test_a_cut_answer_is_closed(task: str, judge: Judge, data: st.DataObject) -> None:
    schema, text, annotations = data.draw(annotated(task))
    for items, output in batches(task, schema, text, annotations):
        wanted = TASKS[task].answer_schema(items)
        closed = close_answer(wanted, output[: data.draw(st.integers(0, len(output)))])
        assert judge.accepts(wanted, closed)


def test_what_a_cut_answer_keeps() -> None:
    schema = TASKS["RE"].answer_schema(["a", "b"])
    fact, other = '{"subject": "x", "object": "y"}', '{"subject": "y", "object": "x"}'
    for cut, closed in [
        (f'{{"a": [{fact}, {fact}, {{"subj', f'{{"a": [{fact}], "b": []}}'),
        (f'{{"a": [{fact}, {{"subject": "z", "object": "unfin', f'{{"a": [{fact}], "b": []}}'),
        (f'{{"a": [{fact}], "b": [', f'{{"a": [{fact}], "b": []}}'),
        # each item once
        (f'{{"a": [{fact}, {other}, {fact}, {other}, {{"subject": "z", "obj', f'{{"a": [{fact}, {other}], "b": []}}'),
        ("", '{"a": [], "b": []}'),
    ]:
        assert close_answer(schema, cut) == closed


FORMS = {  # of an item, before and after its string
    "NER": ("", ""),
    "RE": ('{"subject": "]", "object": ', "}"),
    "EE": ('{"trigger": ', ', "arguments": {"r": "v", "s": ["w", "x"]}}'),
    "KG": ("", ': {"r": "v", "s": ["w", "x"]}'),
}


@pytest.mark.parametrize("task", FORMS)
@settings(max_examples=15)
@given(
    answer=st.dictionaries(
        st.text('ab"\\[', max_size=2),
        st.lists(st.text('xN"\\]}[{:, ', min_size=1, max_size=3) | st.sampled_from(["None", "Null"]), max_size=3),
        min_size=1,
        max_size=2,
    )
)
def test_a_cut_answer_keeps_what_it_finished(task: str, answer: dict[str, list[str]]) -> None:
    roles = ["r", "s"]
    items = {
        "EE": [{"event_type": label, "trigger": True, "arguments": roles} for label in answer],
        "KG": [{"entity_type": label, "attributes": roles} for label in answer],
    }
    schema = TASKS[task].answer_schema(items.get(task, list(answer)))
    start, end = FORMS[task]
    opened, closed = "{}" if task == "KG" else "[]"

    def write(strings: list[str]) -> str:
        return opened + ", ".join(start + to_json(string) + end for string in dict.fromkeys(strings)) + closed

    text, expected = "{", []  # what each prefix has finished
    finished: dict[str, list[str]] = {label: [] for label in answer}
    for label, strings in answer.items():
        pieces = [f"{', ' * (len(text) > 1)}{to_json(label)}: {opened}"]
        pieces += [f"{', ' * bool(number)}{start}{to_json(string)}{end}" for number, string in enumerate(strings)]
        for number, piece in enumerate([*pieces, closed]):
            before = "{" + ", ".join(f"{to_json(each)}: {write(of)}" for each, of in finished.items()) + "}"
            expected += [before] * len(piece)
            text += piece
            finished[label] = strings[:number]
    whole = "{" + ", ".join(f"{to_json(label)}: {write(strings)}" for label, strings in answer.items()) + "}"
    for length, closing in enumerate([*expected, whole, whole]):
        assert close_answer(schema, (text + "}")[: length + 1]) == closing


def test_long_texts(judge: Judge) -> None:
    text = "".join(f"word{index} " for index in range(3000))
    schema = TASKS["NER"].answer_schema(["a"], text)
    assert judge.accepts(schema, to_json({"a": ["word1600 word1601"]}))
    assert not judge.accepts(schema, to_json({"a": ["word1600 word1601x"]}))


def test_words_stay_whole(judge: Judge) -> None:
    text = "He took 500mg of O'Neil's co-op naïve Übergröße; Москва. 鲁迅1936年在London 서울에서"
    schema = TASKS["NER"].answer_schema(["a"], text)
    for whole in ("500", "mg", "500mg", "O'Neil", "op", "naïve Übergröße", "Москва", "迅", "1936", "London", "서울"):
        assert judge.accepts(schema, to_json({"a": [whole]})), whole
    for cut in ("took 5", "50", "m", "Neil's c", "na", "Über", "осква", "36年", "Lond"):
        assert cut in text and not judge.accepts(schema, to_json({"a": [cut]})), cut


def test_odd_texts(judge: Judge) -> None:
    """The text of a default run may be anything."""
    for text in ("", " ", "\n", "\x00\x1f", "\ud800", "a\ud800b", "<|im_end|>", '"\\'):
        schema = TASKS["NER"].answer_schema(["a"], text)
        assert judge.accepts(schema, to_json({"a": []}))
        assert not judge.accepts(schema, to_json({"a": ["x"]}))
    assert judge.accepts(TASKS["NER"].answer_schema(["a"], "a\ud800b"), to_json({"a": ["a", "b"]}))


@pytest.mark.parametrize("label", ["person<|im_end|>", "<|endoftext|>", "a<|im_start|>b"])
def test_a_label_may_hold_a_control_token(judge: Judge, model: str, label: str) -> None:
    """llguidance would force the token itself, and end the answer with an error."""
    schema = TASKS["NER"].answer_schema([label, "city"], "Ada in Rome")
    assert judge.accepts(schema, to_json({label: ["Ada"], "city": []}).replace("<", "\\u003c"))
    engine = TransformersEngine.from_pretrained(model, batch_size=1)
    (completion,) = engine.generate([Request([{"role": "user", "content": "Ada in Rome"}], schema)], 60)
    assert list(json.loads(completion.text)) == [label, "city"]


def test_compiled_grammars_are_kept(judge: Judge) -> None:
    grammars = Grammars(judge.tokenizer, len(judge.tokenizer), [judge.tokenizer.eos_token_id], size=2)
    first = grammars.matcher(TASKS["NER"].answer_schema(["a"]))
    tokens = judge.tokenizer('{"a": []}', add_special_tokens=False)["input_ids"]
    assert first.consume_tokens(tokens) and first.is_stopped()
    assert not grammars.matcher(TASKS["NER"].answer_schema(["a"])).is_stopped()
    for label in "bcd":
        grammars.matcher(TASKS["NER"].answer_schema([label]))
    assert grammars._compiled.cache_info()[:] == (1, 4, 2, 2)


def test_sentencepiece() -> None:
    """The token that starts a word is the one that an answer starts with; Chinese may be spelled in bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *'{}[]": a,', "\u2581", "\u2581{", "人"]
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, [("\u2581", "{")], unk_token="<unk>", byte_fallback=True
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    grammars = Grammars(tokenizer, len(pieces), [1])
    answer = '{"人名": ["a人b", "a"]}'
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert pieces[tokens[0]] == "\u2581{" and tokenizer.decode(tokens) == answer
    for said in (tokens, [pieces.index("{"), *tokens[1:]]):
        matcher = grammars.matcher(TASKS["NER"].answer_schema(["人名"]))
        assert matcher.try_consume_tokens(said) == len(said) and matcher.is_stopped()


def test_bad_items() -> None:
    for task, items in [("EE", ["a"]), ("KG", [{"entity_type": "a"}]), ("NER", [{"a": "b"}])]:
        with pytest.raises(InputError, match=f"not schema items of {task}"):
            TASKS[task].answer_schema(items)


@needs_shared
def test_real_corpora(judge: Judge) -> None:
    rows = IEPile(data_dir=str(SHARED / "corpora"), tasks=["NER", "RE", "SPO", "EE", "EET", "EEA"], max_records=40)
    checked = 0
    for row in rows.as_dataset()["train"]:
        schema = TASKS[row["task"]].answer_schema(json.loads(row["instruction"])["schema"])
        assert judge.accepts(schema, row["output"]), row
        checked += 1
    assert checked > 1000
