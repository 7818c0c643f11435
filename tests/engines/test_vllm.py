"""
The vLLM engine: run for real where vLLM is installed, and everywhere held against the arguments that vLLM takes.

`vllm_contract.json` holds the names of the parameters of the calls that the engine makes, read from the sources in
the wheel of the release that it names.
"""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import accelerate
import numpy as np
import pytest
import torch
from helpers.corpora import ROOT
from helpers.tiny import save_tiny_model

from iepile_builder import Extractor, InputError
from iepile_builder.answers.grammar import lark_grammar
from iepile_builder.chat import encode
from iepile_builder.commands import benchmark, demo, extract, predict
from iepile_builder.commands.cli import parse_options
from iepile_builder.engines import EngineOptions, load_engine, vllm
from iepile_builder.engines.base import Completion, Request
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.record import describe_engine
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.engines.vllm import VLLMEngine, take_gpus
from iepile_builder.tasks import TASKS


CONTRACT = json.loads(Path(__file__).with_name("vllm_contract.json").read_text())
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "罗马"]}}, "required": ["city"]}
needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vllm is not installed: it needs an environment of its own"
)


def ask(text: str, schema: dict | None = None) -> Request:
    return Request([{"role": "user", "content": text}], schema)


ENDS = ["stop", "length"]
GIVEN = {"entity_type": "person", "attributes": ["born"]}
FIRE = {"event_type": "fire", "trigger": True, "arguments": ["by"]}
VLLM_OPTIONS = ["--engine", "vllm", "--vllm_args", '{"max_model_len": 64, "tensor_parallel_size": 2}']
REQUESTS = [ask(f"town {number} by train by train by train") for number in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The smallest heads that all of vLLM's kernels take.
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), head_dim=64)


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(str(model)), lora).save_pretrained(folder)
    return folder


# With vLLM


def plain_answers(model: Path, adapter: Path | None, max_new_tokens: int) -> list[str]:
    """
    What `generate` of transformers says to each request by itself.

    Not what our own engine says: vLLM pins an older release of transformers than that is made for.
    """
    engine = TransformersEngine.from_pretrained(str(model), adapter and str(adapter), dtype="float32")
    answers = []
    for request in REQUESTS:
        ids = torch.tensor([engine.prompt_ids(request)])
        generated = engine.model.generate(ids, max_new_tokens=max_new_tokens, do_sample=False)[0, ids.shape[1] :]
        answers.append(engine.tokenizer.decode(generated, skip_special_tokens=True))
    return answers


@pytest.fixture(scope="module")
def real(model: Path) -> VLLMEngine:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return VLLMEngine(str(model), dtype="float32", enforce_eager=True)


@needs_vllm
@pytest.mark.slow
def test_it_answers_as_transformers_does(real: VLLMEngine, model: Path) -> None:
    answers = real.generate(REQUESTS, 16)
    assert [answer.text for answer in answers] == plain_answers(model, None, 16)
    local = TransformersEngine.from_pretrained(str(model), dtype="float32")
    assert real.context_left(REQUESTS[0], 16) == local.context_left(REQUESTS[0], 16)
    with pytest.raises(InputError, match="leaves no room"):
        real.generate([ask("word " * 600)], 16)


@needs_vllm
@pytest.mark.slow
def test_an_answer_follows_its_schema(real: VLLMEngine) -> None:
    free, constrained = real.generate([ask("Rome"), ask("Rome", CITY)], 64)
    with pytest.raises(ValueError):
        json.loads(free.text)
    answer = json.loads(constrained.text)
    assert list(answer) == ["city"] and not constrained.cut
    assert constrained.text == json.dumps(answer, ensure_ascii=False)  # white space as in training


@needs_vllm
@pytest.mark.slow
def test_an_adapter_and_copied_tokens(model: Path, adapter: Path) -> None:
    engine = VLLMEngine(str(model), str(adapter), speculative_tokens=4, dtype="float32", enforce_eager=True)
    assert [answer.text for answer in engine.generate(REQUESTS, 16)] == plain_answers(model, adapter, 16)
    assert json.loads(engine.generate([ask("Rome", CITY)], 64)[0].text)
    texts = ['{"city": ["Rome"]}', '{"city": []}', '{"city": ["Rome", "Oslo"]}']
    requests = [ask(text, CITY) for text in ("Rome", "No city at all in this text", "Rome and Oslo")]
    together = engine.score_decisions(requests, texts)
    alone = [engine.score_decisions([request], [text])[0] for request, text in zip(requests, texts, strict=True)]
    for one, other, pairs in zip(together, alone, (2, 1, 3), strict=True):
        assert one is not None and other is not None and len(one["city"]) == pairs
        assert np.array(one["city"], float) == pytest.approx(np.array(other["city"], float), nan_ok=True)


@needs_vllm
@pytest.mark.slow
def test_what_vllm_cannot_load_is_one_line(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match="vLLM cannot load it") as error:
        VLLMEngine(str(model), max_model_len=10**6)
    assert "\n" not in str(error.value)


# Without


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """Stands in for vLLM: takes only what vLLM takes, and keeps it."""
    kept: dict[str, dict] = {}

    def taker(name: str, *positional: str) -> type:
        def take(self: object, *args: object, **kwargs: object) -> None:
            given = dict(zip(positional, args, strict=False)) | kwargs
            assert set(given) <= set(CONTRACT[name]), f"{name} of vLLM {CONTRACT['vllm']} does not take all of these"
            kept[name] = given
            vars(self).update(given)

        return type(name, (), {"__init__": take})

    class LLM(taker("LLM", "model")):  # type: ignore[misc]
        model_config = SimpleNamespace(max_model_len=100)

        def generate(self, prompts: list, sampling_params: list, **kwargs: object) -> list:
            assert set(kwargs) <= set(CONTRACT["LLM.generate"])
            kept["LLM.generate"] = {"prompts": prompts, "sampling_params": sampling_params, **kwargs}
            ends = [SimpleNamespace(token_ids=[300 + index], finish_reason=r) for index, r in enumerate(ENDS)]
            return [SimpleNamespace(outputs=[end]) for end in ends]

    for name, content in {
        "vllm": {"LLM": LLM, "SamplingParams": taker("SamplingParams")},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": taker("LoRARequest", "lora_name", "lora_int_id", "lora_path")},
        "vllm.sampling_params": {"StructuredOutputsParams": taker("StructuredOutputsParams")},
        "vllm.exceptions": {"VLLMError": type("VLLMError", (Exception,), {})},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {"EngineDeadError": type("EngineDeadError", (Exception,), {})},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return kept


def test_the_arguments_are_those_of_vllm(calls: dict[str, dict], model: Path, adapter: Path) -> None:
    engine = VLLMEngine(str(model), str(adapter), speculative_tokens=8, tensor_parallel_size=2)
    assert calls["LLM"]["max_lora_rank"] in CONTRACT["max_lora_rank"]
    assert calls["LLM"]["max_lora_rank"] >= 4
    assert calls["LLM"]["tensor_parallel_size"] == 2
    assert calls["LLM"]["max_model_len"] == -1  # what fits into the memory
    assert set(calls["LLM"]["speculative_config"]) <= set(CONTRACT["speculative_config"])
    assert calls["LoRARequest"]["lora_path"] == str(adapter)

    answers = engine.generate([ask("a"), ask("b", CITY)], 16)
    assert answers[0] == Completion(engine.tokenizer.decode([300]))
    assert answers[1] == Completion('{"city": "Rome"}', cut=True)  # closed
    free, constrained = calls["LLM.generate"]["sampling_params"]
    assert free.structured_outputs is None and free.temperature == 0 and free.max_tokens == 16
    assert constrained.structured_outputs.grammar == lark_grammar(CITY)
    local = TransformersEngine.from_pretrained(str(model))
    ids = local.prompt_ids(ask("a"))
    assert calls["LLM.generate"]["prompts"][0] == {"prompt_token_ids": ids}
    assert engine.context_left(ask("a"), 16) == 100 - 16 - len(ids)


def test_a_list_ends_before_an_item_that_it_has(
    calls: dict[str, dict], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VLLMEngine(str(model))
    schemas = [
        TASKS[task].answer_schema(items) for task, items in (("NER", ["a", "b"]), ("KG", [GIVEN]), ("EE", [FIRE]))
    ]
    fire = '{"trigger": "fire", "arguments": {"by": ["x", "y", "x"]}}'
    said = [
        ['{"a": ["x", "y", "x", "y", "x", ', '{"a": ["x", "y"], "b": ["z", "z", "z', '{"a": ["x", "y"], "b": ["z"]}'],
        ['{"person": {"Ada": {"born": "1"}, "Ada": {"born": "2"}, "Bo', '{"person": {"Ada": {"born": "1"}}}'],
        [f'{{"fire": [{fire}]}}'],  # what is repeated within an item is only left out
    ]
    rounds: list[list[str]] = []

    def generate(prompts: list, params: list, **kwargs: object) -> list:
        rounds.append([each.structured_outputs.grammar for each in params])
        texts = [texts.pop(0) for texts in said if texts]
        ends = [SimpleNamespace(token_ids=encode([text], engine.tokenizer)[0], finish_reason="stop") for text in texts]
        return [SimpleNamespace(outputs=[end]) for end in ends]

    monkeypatch.setattr(engine._llm, "generate", generate)
    answers = engine.generate([ask("x", schema) for schema in schemas], 16)
    assert [answer.text for answer in answers] == [
        '{"a": ["x", "y"], "b": ["z"]}',
        '{"person": {"Ada": {"born": "1"}}}',
        '{"fire": [{"trigger": "fire", "arguments": {"by": ["x", "y"]}}]}',
    ]
    assert [len(each) for each in rounds] == [3, 2, 1]
    local = TransformersEngine.from_pretrained(str(model))
    for grammar, fits, other in (
        (rounds[1][0], '{"a": ["x", "y"], "b": ["w"]}', '{"a": ["x"], "b": ["w"]}'),
        (rounds[2][0], '{"a": ["x", "y"], "b": ["z"]}', '{"a": ["x", "y"], "b": []}'),
    ):
        for text, taken in ((fits, True), (other, False)):
            matcher = local.grammars._compiled(grammar).deep_copy()
            tokens = encode([text], local.tokenizer)[0]
            assert (matcher.try_consume_tokens(tokens) == len(tokens)) == taken


def test_the_options_of_the_command_reach_vllm(calls: dict[str, dict], model: Path) -> None:
    given = {"max_model_len": 64, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "quantization": "fp8"}
    options = EngineOptions(str(model), engine="vllm", dtype="float16", vllm_args=given)
    assert isinstance(load_engine(options), VLLMEngine)
    assert calls["LLM"].items() >= {**given, "dtype": "float16"}.items()
    assert options.window("cuda") == 4096 and EngineOptions(batch_size=16).window("cuda") == 128
    assert Extractor(load_engine(options)).requests_at_once == 4096
    assert "max_num_seqs" not in calls["LLM"]  # vLLM's own default
    load_engine(EngineOptions(str(model), engine="vllm", load_in_4bit=True, batch_size=96))
    assert calls["LLM"].items() >= {"quantization": "bitsandbytes", "max_num_seqs": 96}.items()
    recorded = describe_engine(options)
    assert recorded["quantization"] == "fp8" and "tensor_parallel_size" not in recorded


def test_strings_of_the_text_are_not_its_default(calls: dict[str, dict], model: Path) -> None:
    assert Extractor(VLLMEngine(str(model))).copied is False
    assert Extractor(VLLMEngine(str(model)), copied=True).copied is True


def test_every_command_that_answers_takes_vllm() -> None:
    for command in (predict, extract, demo, benchmark):
        options = parse_options("x", "", command.OPTIONS[command.OPTIONS.index(EngineOptions) :][:1], VLLM_OPTIONS)[0]
        assert options.engine == "vllm" and options.vllm_args == {"max_model_len": 64, "tensor_parallel_size": 2}


def test_a_prompt_is_encoded_once(calls: dict[str, dict], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VLLMEngine(str(model))
    encoded: list[str] = []
    usual = vllm.encode
    monkeypatch.setattr(vllm, "encode", lambda texts, tokenizer: encoded.extend(texts) or usual(texts, tokenizer))
    requests = [ask("a"), ask("b")]
    assert all(engine.context_left(request, 16) > 0 for request in requests)
    engine.generate(requests, 16)
    assert len(encoded) == 2


def test_what_vllm_fails_at_is_one_line(calls: dict[str, dict], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VLLMEngine(str(model))

    refused = sys.modules["vllm.exceptions"].VLLMError("Grammar error: too large\nat line 1")
    for raised, said in (
        (sys.modules["vllm.v1.engine.exceptions"].EngineDeadError(), "gpu_memory_utilization in --vllm_args"),
        (torch.OutOfMemoryError("CUDA out of memory."), "gpu_memory_utilization in --vllm_args"),
        (refused, "^vLLM refuses a request: Grammar error: too large$"),
        (ValueError("prompt too long"), "^vLLM refuses a request: prompt too long$"),
    ):

        def die(*args: object, raised: Exception = raised, **kwargs: object) -> None:
            raise raised

        monkeypatch.setattr(engine._llm, "generate", die)
        with pytest.raises(InputError, match=said):
            engine.generate([ask("a")], 16)

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Engine core initialization failed.\nSee root cause above.")

    monkeypatch.setattr(type(engine._llm), "__init__", fail)
    with pytest.raises(InputError, match="initialization failed.*max_model_len") as error:
        VLLMEngine(str(model))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "visible, processes, rank, number, own",
    [
        (None, 1, 0, 2, None),
        (None, 4, 2, 1, "2"),
        ("4,5,6,7", 2, 1, 2, "6,7"),
        ("GPU-a,GPU-b", 2, 1, 1, "GPU-b"),
        ("0,1", 3, 0, 1, "--num_processes 2"),
    ],
)
def test_each_of_several_processes_has_its_own_gpus(
    visible: str | None, processes: int, rank: int, number: int, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("CUDA_VISIBLE_DEVICES", "VLLM_WORKER_MULTIPROC_METHOD"):
        monkeypatch.setenv(name, "")  # so that what is set is gone after the test
        monkeypatch.delenv(name)
    for name, value in {"CUDA_VISIBLE_DEVICES": visible, "LOCAL_WORLD_SIZE": processes, "LOCAL_RANK": rank}.items():
        if value is not None:
            monkeypatch.setenv(name, str(value))
    if own is not None and own.startswith("--"):
        with pytest.raises(InputError, match=own):
            take_gpus(number)
    else:
        take_gpus(number)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == own
        # vLLM forks by default: its engine would find itself in the group of these processes
        assert os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") == ("spawn" if processes > 1 else None)


def test_vllm_leaves_no_process_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that asks vLLM holds none of the memory that vLLM counts on."""
    asked = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(
        accelerate, "PartialState", lambda cpu, timeout: asked.append(cpu) or SimpleNamespace(num_processes=1)
    )
    for name in ("transformers", "vllm"):
        predict.join_processes(EngineOptions(engine=name))
    assert asked == [False, True]


def test_the_extra_is_not_installed_with_what_it_excludes() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    [extra] = [line for line in lines if "vllm" in line and not line.startswith("#")]
    assert extra.startswith('vllm = ["accelerate>=')  # vLLM does not bring it
    assert "iepile-builder[" not in extra


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm's transformers is too old for the own decoder")
def test_decisions_are_read_in_a_second_pass(
    calls: dict[str, dict], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the log-probabilities of all tokens, they are those of the model."""
    local = TransformersEngine.from_pretrained(str(model), dtype="float32")
    engine = VLLMEngine(str(model), scores=True)
    engine.context = 512
    requests, answers = [ask("a"), ask("b", CITY)], ['{"city": ["Rome"], "river": []}', '{"city": [{"a": "b"}]}']

    def generate(prompts: list, params: object, **kwargs: object) -> list:
        assert (params.max_tokens, params.prompt_logprobs) == (1, 20)
        outputs = []
        for prompt in prompts:
            ids = torch.tensor([prompt["prompt_token_ids"]])
            with torch.no_grad():
                log_probs = local.model(ids).logits[0].log_softmax(-1).tolist()
            tops = [{token: SimpleNamespace(logprob=value) for token, value in enumerate(row)} for row in log_probs]
            outputs.append(SimpleNamespace(prompt_logprobs=[None, *tops[:-1]]))
        return outputs

    monkeypatch.setattr(engine._llm, "generate", generate)
    for found, right in zip(
        engine.score_decisions(requests, answers), local.score_decisions(requests, answers), strict=True
    ):
        assert found == {label: [pytest.approx(pair, abs=1e-3) for pair in pairs] for label, pairs in right.items()}


def test_a_rank_that_vllm_has_no_room_for(calls: dict[str, dict], model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "rank_pattern": {"q_proj": 1024}}')
    with pytest.raises(InputError, match="rank 1024.*iepile merge"):
        VLLMEngine(str(model), str(tmp_path))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_a_missing_vllm_is_named(model: Path) -> None:
    with pytest.raises(InputError, match=r"an environment of its own, pip install 'iepile-builder\[vllm\]'"):
        VLLMEngine(str(model))
