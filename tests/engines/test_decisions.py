"""Log-odds and log-probabilities of an answer's decisions, against a reference that asks the model token by token."""

import json
import math

import pytest
import torch
from helpers.tiny import make_sliding_window_model

from iepile_builder import InputError
from iepile_builder.chat import encode
from iepile_builder.engines.base import Completion, Request
from iepile_builder.engines.decisions import find_points, find_repeat
from iepile_builder.engines.decoding import GreedyDecoder, generate_padded
from iepile_builder.engines.rows import Row
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.tasks import TASKS


# "|" is where a decision is settled
ANSWERS = [
    '{"city": [|"Rome"|, "Oslo"|], "river": [|], "x": [|]}',
    '{"city": [|"a \\"] [b"|], "|, }{": [|"人]"|, ","|]}',
    '{"city": [|{"subject": "Rome", "object": "a"}|, {"subject": "Rome", "object": "b]"}|], "none": [|]}',
    '{"attack": [|{"trigger": "t", "arguments": {}}|, {"trigger": "t", "arguments": {"r": ["a", "b"], "s": "NAN"}}|]}',
    '{"person": {|"Ada": {"born": "1", "in": ["2", "3"]}|, "Bob": {"born": "1"}|}, "city": {|}}',
]


def without_marks(answer: str) -> tuple[str, list[int]]:
    """The answer, and the places of its decisions in bytes; a bar inside a string is part of it."""
    text, places, inside = b"", [], False
    for index, char in enumerate(answer):
        if char == '"' and answer[index - 1] != "\\":
            inside = not inside
        if char == "|" and not inside:
            places.append(len(text))
        else:
            text += char.encode()
    return text.decode(), places


@pytest.fixture(scope="module", params=["own loop", "sliding window"])
def engine(request: pytest.FixtureRequest, model: str) -> TransformersEngine:
    plain = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=3)
    if request.param == "own loop":
        return plain
    return TransformersEngine(make_sliding_window_model(), plain.tokenizer, batch_size=3)


def ask(text: str) -> Request:
    instruction = json.dumps({"instruction": "Find.", "schema": ["city"], "input": text})
    return Request([{"role": "user", "content": instruction}])


def read_slowly(engine: TransformersEngine, request: Request, answer: str) -> list[list[float]]:
    """
    For each decision, the log-probabilities of all that opens and of all that closes there, from the answer's start.

    A token settles a decision if its text does, or if only one of the continuations is encoded with it.
    """
    prompt = engine.prompt_ids(request)
    tokens = encode([answer], engine.tokenizer)[0]
    vocabulary = [engine.grammars.tokenizer.decode_bytes([token]) for token in range(len(engine.tokenizer))]
    with torch.no_grad():
        steps = [
            engine.model(torch.tensor([prompt + tokens[:step]])).logits[0, -1].double().log_softmax(-1).tolist()
            for step in range(len(tokens))
        ]
    found = []
    settled = 0
    for point in find_points(answer.encode()):
        ends = [point.close + after for after in (b"", b', "', b"}")]
        masses: tuple[list[float], list[float]] = ([], [])
        for step, token in enumerate(tokens):
            start = len(b"".join(vocabulary[token] for token in tokens[:step]))
            if step < settled or start > point.place:
                continue
            remainder = answer.encode()[start : point.place]
            to_open, to_close = (
                {encode([(remainder + end).decode(errors="ignore")], engine.tokenizer)[0][0] for end in either}
                for either in (point.opens, ends)
            )
            classes: tuple[set[int], set[int]] = (set(), set())
            for number, piece in enumerate(vocabulary):
                if piece.startswith(remainder) and piece != remainder:
                    following = piece[len(remainder) :][:1]
                    if following in [opened[:1] for opened in point.opens]:
                        classes[0].add(number)
                    elif following == point.close:
                        classes[1].add(number)
                elif remainder.startswith(piece) and (number in to_open) != (number in to_close):
                    classes[number in to_close].add(number)
            before = sum(steps[earlier][tokens[earlier]] for earlier in range(step))
            for numbers, mass in zip(classes, masses, strict=True):
                mass += [before + steps[step][number] for number in numbers]
            if token in classes[point.closed]:
                settled = step + 1
                break
        found.append([float(torch.tensor(mass).logsumexp(0)) for mass in masses])
    return found


@pytest.mark.parametrize("answer", ANSWERS)
def test_where_decisions_are(answer: str) -> None:
    text, places = without_marks(answer)
    points = find_points(text.encode())
    assert [point.place for point in points] == places
    assert [point.closed for point in points] == [text.encode()[place] in b"]}" for place in places]
    sizes = {label: len(value) + 1 for label, value in json.loads(text).items()}
    labels = [point.label for point in points]
    assert {label: labels.count(label) for label in labels} == sizes


def test_they_are_those_of_the_model_asked_token_by_token(engine: TransformersEngine) -> None:
    texts = [without_marks(answer)[0] for answer in ANSWERS]
    requests = [ask(f"by train {'to town ' * number}") for number in range(len(texts))]
    decisions = engine.score_decisions(requests, texts)
    for request, text, found in zip(requests, texts, decisions, strict=True):
        value = json.loads(text)
        assert {label: len(pairs) for label, pairs in found.items()} == {key: len(value[key]) + 1 for key in value}
        pairs = [pair for each in found.values() for pair in each]
        slow = read_slowly(engine, request, text)
        for index, ((odds, log_prob), (opens, closes)) in enumerate(zip(pairs, slow, strict=True)):
            assert math.isfinite(odds) and odds == pytest.approx(opens - closes, abs=1e-3)
            if log_prob is not None:  # all up to and with the next decision, given that an item was opened
                assert log_prob == pytest.approx(
                    math.log(math.fsum(math.exp(mass - opens) for mass in slow[index + 1])), abs=1e-3
                )
    assert engine.score_decisions(requests[::-1], texts[::-1])[0] == {
        label: [pytest.approx(pair, abs=1e-3) for pair in pairs] for label, pairs in decisions[-1].items()
    }


def test_answers_without_decisions(engine: TransformersEngine) -> None:
    answers = ["", "none", '{"city": ["Rome"', "[]", '{"city": "Rome", "river": []}', '{"a": [1], "a": []}']
    found = engine.score_decisions([ask("by train")] * len(answers), answers)
    assert found[:4] == [None] * 4
    assert list(found[4]) == ["river"] and found[5] == {}
    fenced = ['```"json {\n{"city": ["Rome"]}\n```', '\n```\n{"city": ["Rome"]}\n```']
    assert [
        {label: len(pairs) for label, pairs in each.items()}
        for each in engine.score_decisions([ask("by")] * 2, fenced)
    ] == [{"city": 2}] * 2
    with pytest.raises(InputError, match="a prompt of .* tokens leaves no room"):
        engine.score_decisions([ask("by train")], ['{"city": ["' + "no" * 300 + '"]}'])


def test_they_come_with_completions_if_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [ask(text)._replace(answer_schema=TASKS["NER"].answer_schema(["city"])) for text in ("a", "by train")]
    plain = TransformersEngine.from_pretrained(model, dtype="float32").generate(requests, 30)
    engine = TransformersEngine.from_pretrained(model, dtype="float32", scores=True)
    answers = engine.generate(requests, 30)
    assert [answer._replace(decisions=None) for answer in answers] == plain
    decisions = engine.score_decisions(requests, [answer.text for answer in answers])
    assert answers == [Completion(*answer[:2], each) for answer, each in zip(plain, decisions, strict=True)]
    assert engine.generate([], 30) == []
    monkeypatch.setattr("iepile_builder.engines.transformers.find_spec", lambda name: None)
    with pytest.raises(InputError, match="answers are scored with llguidance"):
        TransformersEngine(engine.model, engine.tokenizer, scores=True)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"a": ["x", "y", "x"|, ', True),
        ('{"a": ["x", "y", "x"], "b": ["x", ', False),
        ('{"a": ["x, ", "x"], "b": ["y", "y"|, "y", ', True),
        ('{"a": [{"subject": "x", "object": "x"}, {"subject": "x", "object": "y"}, ', False),
        ('{"a": [{"subject": "x", "object": "y"}, {"subject": "x", "object": "y"}|, {', True),
        ('{"a": [{"trigger": "t", "arguments": {}}, {"trigger": "t", "arguments": {"r": ["v", "w", "v"|, ', True),
        ('{"a": {"x": {"born": "1"}, "y": {"born": "1"}, "x": {"died": "2"}|, ', True),
        ('{"a": {"x": {"born": "1", "died": "1"}, ', False),
        ('{"a": ["x", "x, y, y, ', False),
        ('{"a": ["x, y, y, \\', False),
        ("", False),
    ],
)
def test_where_an_item_is_repeated(answer: str, found: bool) -> None:
    text = answer.replace("|", "").encode()
    assert find_repeat(text, 0) == (answer.index("|") if found else None)
    assert find_repeat(text, len(text)) is None


def make_requests(count: int) -> list[Request]:
    kinds = [
        ("NER", ["city", "river"]),
        ("RE", ["place of birth", "spouse"]),
        ("EE", [{"event_type": "attack", "trigger": True, "arguments": ["target"]}]),
        ("KG", [{"entity_type": "person", "attributes": ["born", "died"]}]),
    ]
    requests = []
    for number in range(count):
        task, items = kinds[number % len(kinds)]
        text = f"to {number} by train"
        # Strings of the text, for there are few, and a random model repeats them
        requests.append(
            ask(text)._replace(answer_schema=TASKS[task].answer_schema(items, text[: 1 + number % 8]), task=task)
        )
    return requests


def repeats(text: str) -> bool:
    """Whether a list has an item, or an object a key, twice."""
    found = False

    def pairs(items: list) -> dict:
        nonlocal found
        found |= len(dict(items)) < len(items)
        return dict(items)

    def look(value: object) -> None:
        nonlocal found
        if isinstance(value, list):
            found |= len({json.dumps(item) for item in value}) < len(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(inner)

    look(json.loads(text, object_pairs_hook=pairs))
    return found


def test_nothing_is_repeated(engine: TransformersEngine) -> None:
    requests = make_requests(24)
    answers = engine.generate(requests, 100)
    assert not any(repeats(answer.text) for answer in answers)
    assert sum(not answer.cut for answer in answers) > 8
    refused = 0
    for request, answer in zip(requests, answers, strict=True):
        plain = Row(engine.prompt_ids(request), (), engine.row(request, []).matcher)  # which may repeat
        row = engine.row(request, engine.prompt_ids(request))
        for each in (plain, row):
            if GreedyDecoder.supports(engine.model):
                GreedyDecoder(engine.model, engine.end_tokens, 100, 3)([each])
            else:
                generate_padded(engine.model, [each], engine.end_tokens, 100)
        assert engine.completion(row, request) == answer
        if find_repeat(engine.tokenizer.decode(plain.answer).encode(), 0) is None:
            assert row.answer == plain.answer
        else:
            refused += 1
    assert 0 < refused < len(requests)


def test_a_bias_shifts_the_log_odds_of_first_decisions_alone(model: str) -> None:
    plain = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=3)
    requests = make_requests(8)
    for bias, task in ((1.5, "NER"), (-2.0, "RE"), (0.7, "KG")):
        engine = TransformersEngine(plain.model, plain.tokenizer, empty_bias={task: bias})
        for request in requests:
            row = engine.row(request, engine.prompt_ids(request))
            assert row.empty_bias == (bias if request.task == task else 0.0)
            if request.task != task:
                continue
            [answer] = engine.generate([request], 100)
            decisions = plain.score_decisions([request], [answer.text])[0]
            shifted = shifted_log_odds(engine, row, answer.text, request.answer_schema)
            assert list(shifted) == list(decisions)
            for label, pairs in decisions.items():
                biases = [bias, *[0.0] * (len(pairs) - 1)]
                found = [pair[0] for pair in shifted[label]]
                assert found == pytest.approx([pair[0] + b for pair, b in zip(pairs, biases, strict=True)], abs=1e-3)


def shifted_log_odds(engine: TransformersEngine, row: Row, answer: str, schema: dict) -> dict:
    """Decisions as they are when the row has shifted the logits, for an answer that is given."""
    from iepile_builder.engines.decisions import AllSteps, read_decisions

    tokens = encode([answer], engine.tokenizer)[0]
    log_probs = []
    for token in tokens:
        with torch.no_grad():
            logits = engine.model(torch.tensor([row.tokens])).logits[0, -1]
        # Probabilities as the model's, times the factor of the bias: log-odds need no normalization
        log_probs.append(logits.log_softmax(-1))
        log_probs[-1][row.find_raised()] += row.empty_bias
        assert row.matcher.consume_token(token)
        row.tokens.append(token)
    return read_decisions(AllSteps(tokens, torch.stack(log_probs).numpy(), engine.vocabulary), schema)


@pytest.mark.parametrize("bias", [0.0, 2.0, -30.0])
def test_the_first_decision_is_the_same_however_it_is_answered(model: str, bias: float) -> None:
    """The tokenizer has ` ["` but no ` []`; an object as an item, which it writes otherwise, is not asked for."""
    engine = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=3, empty_bias=bias)
    request = ask("by train")._replace(answer_schema=TASKS["NER"].answer_schema(["city"]))
    answers = ['{"city": ["Rome"]}', '{"city": []}']
    expected = engine.score_decisions([request] * 2, answers)
    assert expected[0]["city"][0][0] == pytest.approx(expected[1]["city"][0][0], abs=1e-3)
    for answer in answers:
        shifted = shifted_log_odds(
            engine, engine.row(request, engine.prompt_ids(request)), answer, request.answer_schema
        )
        assert shifted["city"][0][0] == pytest.approx(expected[0]["city"][0][0] + bias, abs=1e-3)


def test_how_much_a_bias_opens(model: str) -> None:
    plain = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=3)
    requests = make_requests(8)
    empty = {}
    for bias in (-1000.0, -2.0, 0.0, 2.0, 1000.0):
        answers = TransformersEngine(plain.model, plain.tokenizer, empty_bias=bias).generate(requests, 100)
        if bias == 0:
            assert answers == plain.generate(requests, 100)
        values = [value for answer in answers if not answer.cut for value in json.loads(answer.text).values()]
        assert len(values) > 4
        empty[bias] = sum(not value for value in values) / len(values)
    assert list(empty.values()) == sorted(empty.values(), reverse=True)
    assert (empty[-1000], empty[1000]) == (1, 0)
    with pytest.raises(InputError, match="empty_bias shifts the decisions of constrained answers"):
        TransformersEngine(plain.model, plain.tokenizer, constrain="off", empty_bias=1.0)
