"""`load_engine` chooses what runs a model, and says in one line which options exclude each other."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tiny import save_tiny_model

from iepile_builder import Extractor, InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.commands.cli import parse_options, run
from iepile_builder.engines import EngineOptions, choose_model, load_engine
from iepile_builder.engines.loading import SMOLLM2, load_model
from iepile_builder.engines.record import describe_engine
from iepile_builder.engines.transformers import TransformersEngine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(adapter_name_or_path="no/adapter"), "no/adapter: no adapter can be loaded from it"),
        (EngineOptions(engine="lookup"), "--engine lookup: give the instances to look up"),
        (EngineOptions("m", copied=True, constrain="off"), "--copied needs constrained answers"),
        (EngineOptions("m", copied=True, base_url="http://127.0.0.1:9/v1"), "--copied: not available with a server"),
        (EngineOptions("m", "a", base_url="http://127.0.0.1:9/v1"), "--base_url: start the server with the adapter"),
        (EngineOptions("m", base_url="http://127.0.0.1:9/v1", engine="vllm"), "--base_url: start the server"),
        (EngineOptions("m", vllm_args={"max_model_len": 64}), "--vllm_args .* for --engine vllm"),
        (EngineOptions("m", engine="vllm", load_in_8bit=True), "--load_in_8bit .* for --engine transformers"),
        (EngineOptions("m", empty_bias=0.5, constrain="off"), "--empty_bias needs constrained answers"),
        (EngineOptions("m", engine="vllm", empty_bias={"NER": 1.0}), "--empty_bias: not available with vLLM"),
        (EngineOptions(base_url="http://127.0.0.1:9/v1", empty_bias=1.0), "--empty_bias: not available with a server"),
        (EngineOptions("m", empty_bias=float("nan")), "--empty_bias: nan is not a finite number"),
        (EngineOptions("m", empty_bias={"RE": 1.0, "NER": float("inf")}), "--empty_bias: inf is not a finite number"),
        (EngineOptions("m", empty_bias={"NRE": 1.0}), "unknown task 'NRE'"),
        (EngineOptions("m", engine="lookup", scores=True), "--scores: not available with --engine lookup"),
        (EngineOptions("m", load_in_4bit=True, load_in_8bit=True), "exclude each other"),
    ],
)
def test_options_that_exclude_each_other(options: EngineOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_engine(options)


def test_copied_is_a_flag_that_can_be_turned_off() -> None:
    for words, copied in ([], None), (["--copied"], True), (["--copied", "false"], False), (["--copied=true"], True):
        assert parse_options("predict", "", (EngineOptions,), words)[0].copied is copied
    with pytest.raises(InputError, match="--copied: 'some' is not true or false"):
        parse_options("predict", "", (EngineOptions,), ["--copied", "some"])


@pytest.mark.parametrize("describe", [load_engine, describe_engine])
def test_the_model_of_this_package_is_the_default(
    describe: Callable[[EngineOptions], object], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iepile_builder.engines.loading.shipped_model", lambda: (model, None))
    options = EngineOptions()
    assert describe(options)
    assert options.model_name_or_path == model
    monkeypatch.undo()
    monkeypatch.setattr("iepile_builder.engines.loading.embedded_model", lambda: model)
    options = EngineOptions(SMOLLM2)
    assert describe(options)
    assert options.model_name_or_path == model


def test_an_adapter_alone_names_its_model(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import LoraConfig, get_peft_model

    adapter = str(tmp_path)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(model), lora).save_pretrained(adapter)
    options = EngineOptions(adapter_name_or_path=adapter)
    assert describe_engine(options) == describe_engine(EngineOptions(model, adapter))
    assert f"base model of the adapter: {model}" in capsys.readouterr().err
    assert Extractor.from_pretrained(adapter=adapter).engine.tokenizer  # type: ignore[attr-defined]
    given = EngineOptions("no/such/model", adapter)
    with pytest.raises(InputError, match="no/such/model"):
        describe_engine(given)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"base_model_name_or_path": SMOLLM2}, "the packaged weights"),
        ({"base_model_name_or_path": "/home/other/iepile/SmolLM2-135M-Instruct-Q4_1"}, "the packaged weights"),
        (
            {"base_model_name_or_path": "/home/other/base"},
            "was in /home/other/base, which is not there",
        ),
        ({"base_model_name_or_path": None}, "its adapter_config.json names no base model: give it"),
        ([], "its adapter_config.json names no base model: give it"),
    ],
)
def test_the_model_that_an_adapter_names(
    config: object, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iepile_builder.engines.loading.embedded_model", lambda: "the packaged weights")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    options = EngineOptions(adapter_name_or_path=str(tmp_path))
    try:
        choose_model(options)
    except InputError as error:
        assert found in str(error) and "\n" not in str(error)
    else:
        assert options.model_name_or_path == found


def test_a_model_with_its_options(tmp_path: Path) -> None:
    options = EngineOptions(str(save_tiny_model(tmp_path)), dtype="bfloat16", batch_size=3, constrain="off")
    engine = load_engine(options)
    assert isinstance(engine, TransformersEngine)
    assert str(engine.model.dtype) == "torch.bfloat16"
    assert (engine.batch_size, engine.constrained) == (3, False)


def test_the_windows_that_keep_an_engine_busy(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for address, size, windows in (
        (None, None, (128, 2048)),
        (None, 4, (32, 32)),
        ("http://127.0.0.1:9/v1", None, (1024, 1024)),
        ("http://127.0.0.1:9/v1", 256, (16384, 16384)),
    ):
        options = EngineOptions(base_url=address, batch_size=size)
        assert (options.window("cpu"), options.window("cuda")) == windows
    network = load_model(model)
    tokenizer = load_tokenizer(model)
    assert Extractor(TransformersEngine(network, tokenizer)).requests_at_once == 64
    assert Extractor(TransformersEngine(network, tokenizer), requests_at_once=7).requests_at_once == 7
    monkeypatch.setattr(TransformersEngine, "on_gpu", True)
    assert Extractor(TransformersEngine(network, tokenizer)).requests_at_once == 1024
    assert Extractor(TransformersEngine(network, tokenizer, batch_size=8)).requests_at_once == 32


def test_the_bias_is_that_of_the_calibration_if_none_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(save_tiny_model(tmp_path))
    assert load_engine(EngineOptions(model)).empty_bias == 0.0
    (tmp_path / "calibration.json").write_text('{"empty_bias": {"NER": 0.5, "RE": 0.0}}')
    for options, bias in (
        (EngineOptions(model), {"NER": 0.5}),
        (EngineOptions(model, constrain="off"), 0.0),
        (EngineOptions(model, empty_bias=0.0), 0.0),
        (EngineOptions(model, empty_bias={"RE": -1.0}), {"RE": -1.0}),
        (EngineOptions("other", model, empty_bias=2.0), 2.0),
    ):
        assert describe_engine(replace(options, model_name_or_path=model)).get("empty_bias", 0.0) == bias
        if options.adapter_name_or_path is None:
            assert load_engine(options).empty_bias == bias
    said = f"NER: empty_bias +0.50 from {tmp_path / 'calibration.json'}"
    with suppress(InputError):  # nothing listens
        load_engine(EngineOptions(model, base_url="http://127.0.0.1:9/v1"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "empty_bias" in line]
    assert lines == [said, f"{said} is not applied with --constrain off", f"{said} is not applied by a server"]
    with pytest.raises(InputError, match="adapter/calibration.json"):
        folder = tmp_path / "adapter"
        folder.mkdir()
        (folder / "calibration.json").write_text("[]")
        load_engine(EngineOptions(model, str(folder)))


def test_loading_an_adapter_says_nothing_of_other_libraries(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from helpers.tiny import save_tiny_model
from iepile_builder.engines import EngineOptions, load_engine
from iepile_builder.engines.loading import load_model, quiet_libraries
from pathlib import Path

base = str(save_tiny_model(Path({str(tmp_path / "base")!r})))
with quiet_libraries():
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(load_model(base), lora).save_pretrained({str(tmp_path / "adapter")!r})
load_engine(EngineOptions(base, {str(tmp_path / "adapter")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "is_gradient_checkpointing" not in done.stderr
    assert "gemm_4bit_forward" not in done.stderr


@pytest.mark.parametrize("option", ["model_name_or_path", "adapter_name_or_path"])
@pytest.mark.parametrize("command", ["predict", "extract", "demo", "merge", "export-gguf", "extract-corpus"])
def test_a_folder_that_is_not_there_is_one_line(command: str, option: str, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    model = str(tmp_path / "model")
    names = {"model_name_or_path": model, option: "/no/such"}
    arguments = [part for name, value in names.items() for part in (f"--{name}", value)]
    (tmp_path / "a.txt").write_text("Ada ran.")
    row = {"task": "NER", "instruction": '{"instruction": "x", "schema": ["person"], "input": "Ada ran."}'}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    arguments += {
        "predict": ["--dataset_name", str(tmp_path / "rows.jsonl"), "--output_file", str(tmp_path / "out.jsonl")],
        "extract": ["--text", "Ada ran.", "--schema", '["person"]', "--task", "NER"],
        "extract-corpus": ["--documents", str(tmp_path / "a.txt"), "--schema", '["person"]', "--task", "NER"],
    }.get(command, [])
    if command in ("merge", "export-gguf", "extract-corpus"):
        arguments += ["--output_dir", str(tmp_path / "out")]
    if command in ("merge", "export-gguf") and option == "model_name_or_path":
        arguments += ["--adapter_name_or_path", model]
    with pytest.raises(SystemExit, match="^error: /no/such: no such folder, and no Hub id$"):
        run(command, arguments)
