"""`scripts/predict.py`: every instance is answered, in order, whatever the batches and however often it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers.corpora import ROOT, assert_one_clear_line, write_lines
from helpers.tiny import CHATML, load_script, make_instances, save_tiny_model
from jsonargparse import Namespace

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.engines.loading import load_model


COUNT = 40


@pytest.fixture(scope="module")
def predict() -> ModuleType:
    return load_script("predict")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "data" / "test.jsonl", make_instances(COUNT)).parent


@pytest.fixture
def answer(predict: ModuleType, model: str, data: Path, tmp_path: Path) -> Callable[..., list[dict]]:
    """Predict as the program does, and return the lines."""

    def run(output: str = "preds.jsonl", **args: object) -> list[dict]:
        predict.main(
            Namespace(
                **{
                    "model_name_or_path": model,
                    "adapter_name_or_path": None,
                    "dataset": str(data),
                    "split": "test",
                    "output_file": str(tmp_path / output),
                    "tasks": None,
                    "max_samples": None,
                    "batch_size": 4,
                    "max_new_tokens": 8,
                    "dtype": "float32",
                    "load_in_4bit": False,
                    "load_in_8bit": False,
                    "attn_implementation": None,
                    "chat_template_path": None,
                    "constrain": "off",
                    "endpoint": None,
                    "vllm": False,
                    "speculative_tokens": 0,
                    "in_text": False,
                    **args,
                }
            )
        )
        return [json.loads(line) for line in (tmp_path / output).read_text().splitlines()]

    return run


def test_lines_are_the_instances_with_the_answer(answer: Callable[..., list[dict]], model: str) -> None:
    lines, instances = answer(), make_instances(COUNT)
    assert [{**line, "output": line["reference"]} for line in lines] == [
        {**instance, "reference": instance["output"]} for instance in instances
    ]
    assert len({line["output"] for line in lines}) > COUNT // 2

    # One at a time, without padding, the model says the same.
    network, tokenizer = load_model(model).eval(), load_tokenizer(model)
    for line in lines[::7]:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": line["instruction"]}], add_generation_prompt=True, return_tensors="pt"
        )
        generated = network.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert line["output"] == tokenizer.decode(generated, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_do_not_matter(answer: Callable[..., list[dict]], batch_size: int) -> None:
    assert answer("other.jsonl", batch_size=batch_size) == answer()


def test_a_part_of_the_dataset(answer: Callable[..., list[dict]], data: Path) -> None:
    lines = answer()
    assert answer("few.jsonl", max_samples=5) == lines[:5]
    assert answer("ner.jsonl", tasks=["NER"]) == [line for line in lines if line["task"] == "NER"]
    assert answer("file.jsonl", dataset=str(data / "test.jsonl")) == lines
    with pytest.raises(InputError, match="no dev split, only test"):
        answer("dev.jsonl", split="dev")


def test_instances_without_a_reference(answer: Callable[..., list[dict]], data: Path) -> None:
    instances = make_instances(6)
    del instances[2]["output"]
    write_lines(data / "test.jsonl", instances)
    assert ["reference" in line for line in answer()] == [True, True, False, True, True, True]


@pytest.mark.parametrize("kept", [1, 7, 16, 39])
def test_it_goes_on_where_it_was_stopped(
    kept: int, answer: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    answer()
    whole = (tmp_path / "preds.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "torn.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
    answer("torn.jsonl")
    assert (tmp_path / "torn.jsonl").read_bytes() == whole
    assert f"{kept} of {COUNT} are answered already" in capsys.readouterr().err
    answer("torn.jsonl", model_name_or_path="nothing is left to load it for")


@pytest.mark.parametrize("line", ['{"instruction": "another"}', "[]", "{", '{"output": ""}'])
def test_a_file_of_something_else_is_left_alone(line: str, answer: Callable[..., list[dict]], tmp_path: Path) -> None:
    answer(max_samples=2)
    with (tmp_path / "preds.jsonl").open("a") as file:
        file.write(line + "\n")
    content = (tmp_path / "preds.jsonl").read_text()
    with pytest.raises(InputError, match=r"preds\.jsonl, line 3: not an answer"):
        answer()
    assert (tmp_path / "preds.jsonl").read_text() == content


def test_a_prompt_that_does_not_fit_is_counted(
    answer: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture
) -> None:
    instances = make_instances(6)
    instances[3]["instruction"] = "word " * 300
    write_lines(data / "test.jsonl", instances)
    answers = [line["output"] for line in answer()]
    assert answers[3] == ""
    assert all(answers[:3] + answers[4:])
    assert "1 prompts leave no room" in capsys.readouterr().err


def test_the_adapter_and_its_chat_template_are_used(
    answer: Callable[..., list[dict]], model: str, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    base = answer("base.jsonl")
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    adapter = tmp_path / "adapter"
    get_peft_model(load_model(model), lora).save_pretrained(adapter)
    adapted = answer("adapted.jsonl", adapter_name_or_path=str(adapter))
    assert adapted != base

    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = CHATML.replace("assistant", "helper")
    tokenizer.save_pretrained(adapter)
    assert answer("template.jsonl", adapter_name_or_path=str(adapter)) != adapted


def test_killed_it_writes_the_same_file(run_script: Callable, model: str, data: Path, tmp_path: Path) -> None:
    write_lines(data / "test.jsonl", make_instances(60))
    config = tmp_path / "config.yaml"
    config.write_text(f"model_name_or_path: {model}\ndataset: {data}\nbatch_size: 1\nmax_new_tokens: 24\n")
    run_script("predict.py", "--config", config, "--output_file", tmp_path / "whole.jsonl")

    killed = tmp_path / "killed.jsonl"
    command = [sys.executable, ROOT / "scripts" / "predict.py", "--config", config, "--output_file", killed]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    while not killed.exists() or killed.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = killed.read_bytes().count(b"\n")
    assert 5 <= done < 60

    run_script("predict.py", "--config", config, "--output_file", killed)
    assert killed.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_processes_share_the_work(
    answer: Callable[..., list[dict]], run_script: Callable, model: str, data: Path, tmp_path: Path
) -> None:
    answer("alone.jsonl", batch_size=1)  # five windows, the last of them not full
    whole = (tmp_path / "alone.jsonl").read_bytes()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {model}\ndataset: {data}\nbatch_size: 1\nmax_new_tokens: 8\ndtype: float32\n"
        f"constrain: 'off'\noutput_file: {tmp_path / 'together.jsonl'}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [ROOT / "scripts" / "predict.py", "--config", config]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "ACCELERATE_USE_CPU": "1"}
    (tmp_path / "together.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:9]))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    assert done.stderr.count("9 of 40 are answered already") == 1
    assert (tmp_path / "together.jsonl").read_bytes() == whole


def test_constrained(answer: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture) -> None:
    free = answer("free.jsonl")
    for line in answer("constrained.jsonl", constrain="on", in_text=True, max_new_tokens=60):
        text = json.loads(line["instruction"])["input"]
        found = json.loads(line["output"])["city"]
        strings = found if line["task"] == "NER" else [string for pair in found for string in pair.values()]
        assert all(string in text for string in strings)
    assert "answers were cut" in capsys.readouterr().err

    instances = make_instances(COUNT)
    for instance in instances:
        instance["instruction"] = "Find the cities in " + instance["instruction"]
    write_lines(data / "test.jsonl", instances)
    assert [line["output"] for line in answer("auto.jsonl", constrain="auto")] != [line["output"] for line in free]
    assert answer("off.jsonl") == answer("auto.jsonl", constrain="auto")
    with pytest.raises(InputError, match=r"instance 1: the instruction is not JSON.*--constrain auto or off"):
        answer("on.jsonl", constrain="on")
    with pytest.raises(InputError, match="--in_text needs constraints"):
        answer("on.jsonl", in_text=True)


def test_bad_input(run_script: Callable, data: Path, tmp_path: Path) -> None:
    common = ("--output_file", tmp_path / "preds.jsonl", "--dataset")
    done = run_script("predict.py", *common, data, "--model_name_or_path", data, check=False)
    assert_one_clear_line(done, str(data))
    done = run_script("predict.py", *common, tmp_path / "none", "--model_name_or_path", data, check=False)
    assert_one_clear_line(done, "none")
