"""Log-odds and log-probabilities of an answer's decisions, against a reference that asks the model token by token."""

import json
import math

import pytest
import torch
from helpers.tiny import save_tiny_model

from iepile_builder import InputError
from iepile_builder.chat import encode
from iepile_builder.engines.base import Completion, Request
from iepile_builder.engines.decisions import find_points
from iepile_builder.engines.transformers import TransformersEngine


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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module", params=["own loop", "sliding window"])
def engine(request: pytest.FixtureRequest, model: str) -> TransformersEngine:
    plain = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=3)
    if request.param == "own loop":
        return plain
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, initializer_range=0.5, bos_token_id=None, eos_token_id=1,
        max_position_embeddings=512,
    )  # fmt: skip
    return TransformersEngine(MistralForCausalLM(config).eval(), plain.tokenizer, batch_size=3)


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
            assert odds == pytest.approx(opens - closes, abs=1e-3)
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
    with pytest.raises(InputError, match="a prompt of .* tokens leaves no room"):
        engine.score_decisions([ask("by train")], ['{"city": ["' + "no" * 300 + '"]}'])


def test_they_come_with_completions_if_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from iepile_builder.tasks import TASKS

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
