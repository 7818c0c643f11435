"""The transformers engine: as fast as it may be, it says what the model says when it is asked plainly."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from helpers.tiny import make_sliding_window_model

from iepile_builder import InputError
from iepile_builder.chat import encode, load_tokenizer, render
from iepile_builder.engines.base import Completion, Request
from iepile_builder.engines.decoding import GreedyDecoder, GrowingLayer, PassCost, generate_padded
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.rows import Question, Row, find_best
from iepile_builder.engines.transformers import TransformersEngine, shared_prefixes
from iepile_builder.tasks import TASKS


LONGEST = 30


@pytest.fixture(scope="module")
def engine(model: str) -> TransformersEngine:
    return TransformersEngine.from_pretrained(model, dtype="float32", batch_size=5)


def make_requests(count: int, constrained: bool, seed: int = 0) -> list[Request]:
    rng = random.Random(seed)
    requests = []
    for _ in range(count):
        items = rng.choice([["city", "river"], ["person", "人物 a"], [str(rng.random())]])
        text = " ".join(rng.choices(["Rome", "Find", "them", "input", "schema", "人"], k=rng.randint(1, 12)))
        instruction = json.dumps({"instruction": "Find.", "schema": items, "input": text}, ensure_ascii=False)
        schema = TASKS["NER"].answer_schema(items, text if rng.random() < 0.5 else None) if constrained else None
        requests.append(Request([{"role": "user", "content": instruction}], schema))
    return requests


def one_by_one(engine: TransformersEngine, requests: list[Request], longest: int = LONGEST) -> list[Completion]:
    """What the model's own `generate` says, without a batch, a draft, or a token that is not asked for."""
    completions = []
    for request in requests:
        row = engine.row(request, engine.prompt_ids(request))
        generate_padded(engine.model, [row], engine.end_tokens, longest)
        completions.append(engine.completion(row, request))
    return completions


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("lookup", [False, True])
def test_it_says_what_the_model_says(model: str, constrained: bool, share_prefix: bool, lookup: bool) -> None:
    engine = TransformersEngine.from_pretrained(
        model, dtype="float32", batch_size=7, share_prefix=share_prefix, lookup=lookup
    )
    requests = make_requests(24, constrained)
    answers = engine.generate(requests, LONGEST)
    assert answers == one_by_one(engine, requests)
    assert {answer.cut for answer in answers} == {False, True}
    assert len(set(answers)) > 10
    assert engine.generate(list(reversed(requests)), LONGEST) == list(reversed(answers))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An entry for each pass of the decoder."""
    made: list[None] = []
    forward = GreedyDecoder.forward

    def count(*args: object, **kwargs: object) -> object:
        made.append(None)
        return forward(*args, **kwargs)

    monkeypatch.setattr(GreedyDecoder, "forward", count)
    return made


def test_drafts_are_right_and_wrong(model: str, passes: list[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft of the very answer saves passes; one of anything else costs nothing but time."""
    engine = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=4)
    requests = make_requests(8, constrained=False)
    answers = engine.generate(requests, LONGEST)
    spoken = {}
    for request, answer in zip(requests, one_by_one(engine, requests), strict=True):
        prompt = engine.prompt_ids(request)
        row = Row(prompt)
        generate_padded(engine.model, [row], engine.end_tokens, LONGEST)
        spoken[tuple(prompt)] = row.answer
        assert answer in answers

    monkeypatch.setattr(Row, "draft", lambda row: ([], 0.6))
    passes.clear()
    assert engine.generate(requests, LONGEST) == answers
    without = len(passes)
    passes.clear()
    monkeypatch.setattr(Row, "draft", lambda row: (spoken[tuple(row.tokens[: row.start])][len(row.answer) :][:8], 0.9))
    assert engine.generate(requests, LONGEST) == answers
    assert len(passes) < without / 2
    monkeypatch.setattr(Row, "draft", lambda row: ([1, 2, 3, 4], 0.6))
    assert engine.generate(requests, LONGEST) == answers


@pytest.mark.parametrize("constrained", [False, True])
def test_what_a_pass_costs_decides_its_width(model: str, constrained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dear pass takes whole prompts and all drafts, and none where attention copies a long context; answers stay."""
    fed = []
    forward = GreedyDecoder.forward

    def count(self: GreedyDecoder, cache: object, mask: torch.Tensor, rows: list, feeds: list, asked: list) -> object:
        fed.append((mask.shape[1], max(map(len, feeds))))
        return forward(self, cache, mask, rows, feeds, asked)

    monkeypatch.setattr(GreedyDecoder, "forward", count)
    engine = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=8, share_prefix=False)
    requests = make_requests(8, constrained)
    longest = max(len(engine.prompt_ids(request)) for request in requests)
    answers = engine.generate(requests, LONGEST)
    assert engine.pass_cost == (12, 0)
    passes = {}
    for cost in (PassCost(1e6), PassCost(0), PassCost(1e4, 1e6)):
        fed.clear()
        engine.pass_cost = cost
        assert engine.generate(requests, LONGEST) == answers
        passes[cost] = fed.copy()
    dear, free, long = passes.values()
    assert len(dear) < len(free)
    for at_once in (dear, long):
        assert at_once[0][0] == 0 and at_once[0][1] >= longest
    assert max(width for context, width in dear[1:]) > 1
    assert constrained or max(width for context, width in long[1:]) == 1


def test_what_a_pass_costs_is_measured(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = GreedyDecoder(engine.model, engine.end_tokens, LONGEST, 4)
    measured = decoder.measure(rows=2, context=8)
    assert 0 < measured.fixed <= 2**14 and measured.context >= 0
    clock, forward = 0.0, GreedyDecoder.forward

    def run(self: GreedyDecoder, cache: object, mask: torch.Tensor, rows: list, feeds: list, asked: list) -> object:
        nonlocal clock
        width = max(map(len, feeds))
        clock += 0.050 + 1e-4 * len(rows) * width + (3e-6 * len(rows) * 64 if width > 1 else 0.0)
        return forward(self, cache, mask, rows, feeds, asked)

    monkeypatch.setattr(GreedyDecoder, "forward", run)
    monkeypatch.setattr("iepile_builder.engines.decoding.time.perf_counter", lambda: clock)
    assert decoder.measure(rows=4, context=64) == pytest.approx((504, 0.03))


@pytest.mark.parametrize("devices", [1, 2])
def test_logits_only_where_they_are_asked_for(
    engine: TransformersEngine, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        engine.model, "hf_device_map", {f"layer.{number}": number for number in range(devices)}, raising=False
    )
    keep = []
    forward = engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda **kwargs: keep.append(kwargs.get("logits_to_keep")) or forward(**kwargs)
    )
    decoder = GreedyDecoder(engine.model, engine.end_tokens, LONGEST, 4)
    feeds, asked = [[5, 6, 7], [8], [9, 10]], [range(1, 3), range(0), range(1)]
    rows = [Row(feed) for feed in feeds]
    with torch.no_grad():
        logits, mask = decoder.forward(*decoder.fill([()] * 3), rows, feeds, asked)
        expected = [engine.model(input_ids=torch.tensor([feed])).logits[0] for feed in feeds]
    expected = [logits_of_row[list(each)] for logits_of_row, each in zip(expected, asked, strict=True)]
    torch.testing.assert_close(logits, torch.cat(expected))
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert isinstance(keep[0], torch.Tensor) == (devices == 1)  # which would be on the device of the inputs


def test_questions_to_the_logits() -> None:
    """The best of the tokens whose bit is set, that are not barred, some of them raised."""
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0], [0.0] * 9 + [1]], dtype=torch.bfloat16)
    none, some = b"\xff\xff\x00\x00", b"\x1c\x01\x00\x00"  # all; 2, 3, 4, 8
    questions = [
        Question(0, none), Question(1, none), Question(0, some), Question(0, some, [2]), Question(0, some, [2, 3, 8]),
        Question(0, some, [], [4, 8], 2.5), Question(0, none, [], [8], 8.5), Question(0, some, [3], [3, 8], 100.0),
        Question(1, some, [], [8], -1.0),
    ]  # fmt: skip
    assert find_best(questions, logits) == [0, 9, 2, 3, 4, 4, 8, 8, 2]


def test_a_batch_that_fits_a_gpu(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from transformers import Qwen3Config

    plain = TransformersEngine(engine.model, engine.tokenizer)
    assert plain.find_batch_size(400, 128) == 16
    config = Qwen3Config(  # of Qwen3-4B: 147,456 bytes of cache a token
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=151936,
    )  # fmt: skip
    monkeypatch.setattr(TransformersEngine, "on_gpu", True)
    plain.model = SimpleNamespace(device=torch.device("cuda", 0), config=config, dtype=torch.bfloat16)
    free = 0
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free - 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 2 * 2**30)
    sizes = []
    for gigabytes in (0.05, 6, 14, 70):
        free = int(gigabytes * 2**30)
        sizes.append(plain.find_batch_size(400, 128))
        assert sizes[-1] == 1 or sizes[-1] * 147456 * (400 + 128) < free
        assert plain.find_batch_size(3000, 512) <= sizes[-1]
    assert sizes[0] == 1 and 16 < sizes[1] < sizes[2] < 128 and sizes[3] == 256
    plain.batch_size = 7
    assert plain.find_batch_size(400, 128) == 7


def test_on_a_gpu_a_pass_is_measured_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(12, constrained=True)
    answers = TransformersEngine.from_pretrained(model, dtype="float32").generate(requests, LONGEST)
    engine = TransformersEngine.from_pretrained(model, dtype="float32")
    monkeypatch.setattr(TransformersEngine, "on_gpu", True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2**24, 2**24))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 0)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 0)
    assert 1 < engine.find_batch_size(100, LONGEST) < 256
    assert engine.generate(requests, LONGEST) == answers
    measured = engine.pass_cost
    assert measured is not None and measured != (12, 0)
    assert engine.generate(requests, LONGEST) == answers and engine.pass_cost is measured


def test_constrained_answers_are_valid(engine: TransformersEngine) -> None:
    requests = make_requests(30, constrained=True, seed=1)
    complete = 0
    for request, answer in zip(requests, engine.generate(requests, 100), strict=True):
        complete += not answer.cut
        value = json.loads(answer.text)
        assert answer.text == json.dumps(value, ensure_ascii=False)
        assert list(value) == request.answer_schema["required"]
        if "x-text" in request.answer_schema:
            assert all(string in request.answer_schema["x-text"] for strings in value.values() for string in strings)
    assert complete > 10
    free = [Request(request.messages) for request in requests]
    assert engine.generate(free, LONGEST) == TransformersEngine(
        engine.model, engine.tokenizer, constrain="off"
    ).generate(requests, LONGEST)


@pytest.mark.slow
def test_a_real_model(smollm2: str) -> None:
    """The same answers as one at a time, free and constrained, and Chinese that a byte-level vocabulary spells."""
    engine = TransformersEngine.from_pretrained(smollm2, dtype="float32", batch_size=4)
    asked = [
        ("NER", "en", ["person", "city"], "Ada Lovelace met Charles Babbage in London."),
        ("NER", "zh", ["人物", "城市"], "鲁迅在北京认识了许广平。"),
        ("RE", "en", ["place of birth"], 'Thomas Edison, "the wizard", was born in Milan.'),
        ("NER", "en", ["person", "city"], "Nobody was there."),
    ]
    free, constrained, copied = [], [], []
    for task, language, items, text in asked:
        instruction = json.dumps(
            {"instruction": TASKS[task].instructions[language], "schema": items, "input": text}, ensure_ascii=False
        )
        messages = [{"role": "user", "content": instruction}]
        free.append(Request(messages))
        constrained.append(Request(messages, TASKS[task].answer_schema(items)))
        copied.append(Request(messages, TASKS[task].answer_schema(items, text)))
    assert engine.generate(free, 16) == one_by_one(engine, free, 16)
    answers = engine.generate(constrained + copied, 40)
    assert any(not answer.cut for answer in answers)
    for (_, _, items, text), answer, copy in zip(asked, answers[:4], answers[4:], strict=True):
        assert answer.cut or list(json.loads(answer.text)) == items
        strings = re.findall(r'[\[ ]("(?:[^"\\]|\\.)*")(?!:)', copy.text)
        assert all(json.loads(string) in text for string in strings), copy


def test_shared_prefixes(engine: TransformersEngine) -> None:
    requests = [
        Request([{"role": "user", "content": f'{{"instruction": "Find.", "schema": [{schema}], "input": "{text}"}}'}])
        for schema, text in [('"city"', "Rome"), ('"city"', "Rome now"), ('"river"', "Po"), ('"city"', "a")]
    ]
    prompts = [render(request.messages, engine.tokenizer) for request in requests] + ["something else"]
    token_ids = encode(prompts, engine.tokenizer)
    shared = [engine.tokenizer.decode(prefix) for prefix in shared_prefixes(prompts, token_ids)]
    assert shared[0] == shared[1] == shared[3]
    assert shared[0].endswith('"schema": ["city"], "input": "')
    assert '"instruction": "Find."' in shared[2] and "river" not in shared[2]
    assert shared[4] == ""
    assert len(shared_prefixes(prompts[:1] * 2, token_ids[:1] * 2)[0]) == len(token_ids[0]) - 1


def test_models_that_forget(model: str) -> None:
    """Where layers keep only a window of the text, tokens cannot be taken back: the model's own loop answers."""
    plain = TransformersEngine.from_pretrained(model)
    network = make_sliding_window_model()
    assert GreedyDecoder.supports(plain.model)
    assert not GreedyDecoder.supports(network)
    engine = TransformersEngine(network, plain.tokenizer, batch_size=4)
    for constrained in (False, True):
        requests = make_requests(9, constrained, seed=4)
        answers = engine.generate(requests, LONGEST)
        assert answers == one_by_one(engine, requests)
        assert any(not answer.cut for answer in answers) or not constrained


def test_a_layer_on_another_gpu_than_the_mask() -> None:
    """`merge` spreads a model over all cards; what an index may select from is on the card of the index."""

    class OnCard:
        def __init__(self, device: str) -> None:
            self.device = device

        def to(self, device: str) -> "OnCard":
            return OnCard(device)

        def __getitem__(self, _: object) -> "OnCard":
            return self

        def index_select(self, _: int, index: "OnCard") -> "OnCard":
            assert index.device == self.device
            return self

    layer = GrowingLayer()
    layer.keys = layer.values = torch.empty(1, 1, 3, 1)
    layer.is_initialized = True
    layer.room = [OnCard("cuda:1"), OnCard("cuda:1")]
    layer.select(OnCard("cuda:0"), OnCard("cuda:0"))
    assert layer.keys is layer.room[0]


def test_batches_that_do_not_fit_into_the_memory_are_halved(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    requests = make_requests(14, constrained=True)
    expected = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=1).generate(requests, LONGEST)
    room, decode = 3, GreedyDecoder.__call__

    def limited(self: GreedyDecoder, rows: list[Row]) -> None:
        if len(rows) > room:
            rows[0].tokens.append(0)  # what has been answered so far is lost
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        decode(self, rows)

    monkeypatch.setattr(GreedyDecoder, "__call__", limited)
    engine = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=13)
    assert engine.generate(requests, LONGEST) == expected
    assert engine.batch_size == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert told == [f"out of memory: from here on {number} requests at a time" for number in (6, 3)]
    room = 0
    with pytest.raises(InputError, match="a single request does not fit into the memory: CUDA out of memory"):
        engine.generate(requests, LONGEST)


def test_a_measurement_that_does_not_fit_into_the_memory(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine.from_pretrained(model, dtype="float32")
    measured = []

    def measure(self: GreedyDecoder, rows: int, context: int) -> PassCost:
        measured.append(rows)
        if rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return PassCost(7)

    monkeypatch.setattr(GreedyDecoder, "measure", measure)
    monkeypatch.setattr(TransformersEngine, "on_gpu", True)
    monkeypatch.setattr(TransformersEngine, "count_fitting", lambda self, prompt, answer: 30)
    assert len(engine.generate(make_requests(6, constrained=True), LONGEST)) == 6
    assert measured[:3] == [15, 7, 3]
    assert engine.pass_cost == PassCost(7) and engine.batch_size == 3


def test_scores_whose_batches_do_not_fit_into_the_memory(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    requests = make_requests(7, constrained=True)
    engine = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=7)
    answers = [answer.text for answer in engine.generate(requests, LONGEST)]
    expected = engine.score_decisions(requests, answers)
    read = GreedyDecoder.read

    def limited(self: GreedyDecoder, rows: list[Row], starts: list[int]) -> list[torch.Tensor]:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(self, rows, starts)

    monkeypatch.setattr(GreedyDecoder, "read", limited)
    for found, right in zip(engine.score_decisions(requests, answers), expected, strict=True):
        assert found is not None and right is not None
        assert found == {label: [pytest.approx(pair, abs=1e-3) for pair in pairs] for label, pairs in right.items()}
    assert "from here on 3 requests at a time" in capsys.readouterr().err
    engine.score_decisions(requests, answers)
    assert "out of memory" not in capsys.readouterr().err
    assert engine.batch_size == 7  # that of the answers


def test_more_prefixes_than_are_kept(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine.from_pretrained(model, dtype="float32", batch_size=3)
    requests = [
        Request([{"role": "user", "content": f'{{"instruction": "Find.", "schema": [{n // 2}], "input": "a{n}"}}'}])
        for n in range(20)
    ]
    answers = engine.generate(requests, 10)
    monkeypatch.setattr("iepile_builder.engines.decoding.MOST_PREFIXES", 2)
    assert engine.generate(requests, 10) == answers == one_by_one(engine, requests, 10)


def test_kept_prefixes(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before the text is computed once for a schema, whatever is asked in between."""
    computed: list[tuple[int, ...]] = []
    prefill = GreedyDecoder.prefill

    def record(self: GreedyDecoder, prefixes: list[tuple[int, ...]]) -> None:
        computed.extend(prefixes)
        prefill(self, prefixes)

    monkeypatch.setattr(GreedyDecoder, "prefill", record)
    engine = TransformersEngine.from_pretrained(model, dtype="float32", keep_prefixes=True)
    contents = [("city", "Rome"), ("river", "Po"), ("city", '"(Bonn)"'), ("city", ""), ("river", "Rome"), ("", "Rome")]
    requests = [
        Request(
            [{"role": "user", "content": f'{{"instruction": "Find.", "schema": ["{schema}"], "input": "{text}"}}'}]
        )
        for schema, text in contents
    ]
    requests.append(Request([{"role": "user", "content": "no instruction"}]))
    answers = [engine.generate([request], LONGEST)[0] for request in requests]
    assert answers == engine.generate(requests, LONGEST) == one_by_one(engine, requests)
    schemas = [engine.tokenizer.decode(prefix).rpartition("[")[2] for prefix in computed if prefix]
    assert schemas == [f'"{schema}"], "input":' for schema in ("city", "river", "")]

    monkeypatch.setattr("iepile_builder.engines.decoding.MOST_PREFIXES", 2)
    assert [engine.generate([request], LONGEST)[0] for request in requests] == answers
    assert len(engine.kept) <= 4


def test_packed_linears(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a bfloat16 model answers with packed weights; its logits are those of the weights as they were."""
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 on this processor")
    plain = load_model(model, dtype=torch.bfloat16).eval()
    packed = TransformersEngine.from_pretrained(model, dtype="bfloat16").model
    kinds = {name: type(layer).__name__ for name, layer in packed.named_modules() if "proj" in name or "head" in name}
    assert kinds.pop("lm_head") == "Linear"
    assert set(kinds.values()) == {"PackedLinear"}
    for width in (1, 5, 40):
        ids = torch.arange(width)[None]
        with torch.no_grad():
            torch.testing.assert_close(packed(ids).logits, plain(ids).logits, atol=0.02, rtol=0.02)
    saved = packed.state_dict()
    assert saved.keys() == plain.state_dict().keys()
    assert all(torch.equal(saved[name], weight) for name, weight in plain.state_dict().items())
    assert "PackedLinear" not in str(TransformersEngine.from_pretrained(model, dtype="float32").model)
    # A PyTorch without oneDNN, such as that of a Mac, does not have the operators
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.delattr(torch.ops, "mkldnn")
    assert "PackedLinear" not in str(TransformersEngine.from_pretrained(model, dtype="bfloat16").model)


def test_in_training(model: str) -> None:
    """The model is used as it is, and left so."""
    from peft import LoraConfig, get_peft_model

    plain = TransformersEngine.from_pretrained(model, dtype="float32")
    requests = make_requests(6, constrained=False)
    before = plain.generate(requests, LONGEST)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    adapted = get_peft_model(load_model(model, dtype=torch.float32), lora).eval()
    engine = TransformersEngine(adapted, plain.tokenizer)
    assert engine.generate(requests, LONGEST) == before
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
            assert weight.requires_grad
    assert engine.generate(requests, LONGEST) != before
    adapted(input_ids=torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).loss.backward()


def test_context(engine: TransformersEngine) -> None:
    [request] = make_requests(1, constrained=False)
    length = len(engine.prompt_ids(request))
    assert engine.context_left(request, 100) == 512 - 100 - length
    assert engine.generate([request], 512 - length)
    assert engine.generate([], 10) == []
    with pytest.raises(InputError, match="leaves no room"):
        engine.generate([request], 513 - length)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized(bits: int, model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(model, hidden_size=64, intermediate_size=128, head_dim=16)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    load_tokenizer(model).save_pretrained(tmp_path)
    engine = TransformersEngine.from_pretrained(str(tmp_path), **{f"load_in_{bits}bit": True})
    assert engine.model.is_quantized
    requests = make_requests(6, constrained=True)
    for request, answer in zip(requests, engine.generate(requests, 200), strict=True):
        assert answer.cut or list(json.loads(answer.text)) == request.answer_schema["required"]
    assert "MatMul8bitLt" not in caplog.text  # what `bitsandbytes` says of its casts at every layer


def test_bad_input(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="exclude each other"):
        TransformersEngine.from_pretrained(model, load_in_4bit=True, load_in_8bit=True)
    monkeypatch.setattr("iepile_builder.engines.transformers.find_spec", lambda name: None)
    assert TransformersEngine.from_pretrained(model).row(*make_requests(1, constrained=True), []).matcher is None
    with pytest.raises(InputError, match=r"pip install 'iepile-builder\[extract\]'"):
        TransformersEngine.from_pretrained(model, constrain="on")


def test_labels_to_come_are_drafted_as_empty(
    engine: TransformersEngine, passes: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [f"label {number}" for number in range(6)]
    schema = TASKS["NER"].answer_schema(labels, "Rome")
    request = Request([{"role": "user", "content": "Find."}], schema, "NER")
    biased = TransformersEngine(engine.model, engine.tokenizer, empty_bias=-1000.0, pass_cost=PassCost(1000))
    assert json.loads(biased.generate([request], 200)[0].text) == dict.fromkeys(labels, [])
    drafted = len(passes)
    passes.clear()
    monkeypatch.setattr(biased.grammars, "nothing", lambda schema: [])
    assert json.loads(biased.generate([request], 200)[0].text) == dict.fromkeys(labels, [])
    assert drafted < len(passes) / 2
