"""`iepile predict`: every instance is answered, in order, whatever the batches and however often it is stopped."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
from helpers.corpora import ROOT, assert_one_clear_line, write_lines
from helpers.tiny import CHATML, make_instances

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.commands import predict
from iepile_builder.commands.cli import parse_options
from iepile_builder.commands.predict import PredictOptions
from iepile_builder.engines import EngineOptions
from iepile_builder.engines.loading import load_model
from iepile_builder.io import locked


COUNT = 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "data" / "test.jsonl", make_instances(COUNT)).parent


@pytest.fixture
def answer(model: str, data: Path, tmp_path: Path) -> Callable[..., list[dict]]:
    """Predict as the command does, and return the lines."""

    def run(output: str = "preds.jsonl", **args: object) -> list[dict]:
        asked: dict = {"dataset_name": str(data), "output_file": tmp_path / output}
        engine: dict = {
            "model_name_or_path": model, "batch_size": 4, "max_new_tokens": 8, "dtype": "float32", "constrain": "off"
        }  # fmt: skip
        for name, value in args.items():
            (asked if name in PredictOptions.__dataclass_fields__ else engine)[name] = value
        predict.main(PredictOptions(**asked), EngineOptions(**engine))
        return [json.loads(line) for line in (tmp_path / output).read_text().splitlines()]

    return run


@pytest.mark.usefixtures("dataset_bars")
def test_one_bar_and_where_the_answers_are(
    answer: Callable[..., list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    answer(max_samples=4, max_new_tokens=1)
    out, err = capsys.readouterr()
    assert out == ""
    *bar, answers, cut = [line for line in err.replace("\r", "\n").splitlines() if line]
    assert {line.partition(":")[0] for line in bar} == {"Answering"}
    assert (answers, cut) == (f"answers: {tmp_path / 'preds.jsonl'}", "4 answers were cut at --max_new_tokens 1")


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
    assert answer("file.jsonl", dataset_name=str(data / "test.jsonl")) == lines
    with pytest.raises(InputError, match="no dev split, only test"):
        answer("dev.jsonl", split="dev")
    with pytest.raises(InputError, match="the test split has no instance of SPO, EE"):
        answer("spo.jsonl", tasks=["SPO", "EE"])
    with pytest.raises(InputError, match="unknown task 'NERR'; known: NER, RE"):
        answer("nerr.jsonl", tasks=["NERR"])


@pytest.mark.parametrize("arguments", [("--tasks", "NER", "RE"), ("--config", "tasks: [NER, RE]")])
def test_tasks_from_the_command_line_and_from_a_file(arguments: tuple[str, ...], tmp_path: Path) -> None:
    name, *values = arguments
    if name == "--config":
        (tmp_path / "config.yaml").write_text(values[0])
        values = [str(tmp_path / "config.yaml")]
    asked = parse_options(
        "predict", "", predict.OPTIONS, ["--dataset_name", "data", "--output_file", "preds.jsonl", name, *values]
    )
    assert asked[0] == PredictOptions("data", Path("preds.jsonl"), tasks=["NER", "RE"])


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
    (tmp_path / "preds.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
    answer()
    assert (tmp_path / "preds.jsonl").read_bytes() == whole
    assert f"{kept} of {COUNT} are answered already" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [7, COUNT])
def test_answers_that_were_given_already_get_the_annotation_as_it_is_now(
    kept: int, answer: Callable[..., list[dict]], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lines = answer()
    content = "".join(json.dumps(line | {"decisions": {"a": [[0.5, None]]}}) + "\n" for line in lines[:kept])
    (tmp_path / "preds.jsonl").write_text(content + '{"id": "0')
    instances = make_instances(COUNT)
    instances[0] |= {"output": '{"person": ["Nobody"]}', "label": "[]"}
    write_lines(data / "test.jsonl", instances)
    resumed = answer()
    assert "preds.jsonl: 1 answer has the annotation as it is now" in capsys.readouterr().err
    assert (resumed[0]["reference"], resumed[0]["label"]) == ('{"person": ["Nobody"]}', "[]")
    assert [line["output"] for line in resumed] == [line["output"] for line in lines]
    assert ["decisions" in line for line in resumed] == [True] * kept + [False] * (COUNT - kept)
    answer()
    assert "annotation" not in capsys.readouterr().err


def test_another_model_or_other_options_are_refused(
    answer: Callable[..., list[dict]], model: str, tmp_path: Path
) -> None:
    answer(max_samples=10)
    content = (tmp_path / "preds.jsonl").read_bytes()
    other, same, adapter = tmp_path / "other", tmp_path / "same", tmp_path / "adapter"
    shutil.copytree(model, other)
    (other / "generation_config.json").write_text('{"eos_token_id": 5}')
    shutil.copytree(model, same)
    (same / "README.md").write_text("This does not change answers.")
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    for args, message in (
        ({"model_name_or_path": str(other)}, f"model {model}, not {other}"),
        ({"adapter_name_or_path": str(adapter)}, f"adapter None, not {adapter}"),
        ({"constrain": "auto", "copied": False}, "constrain False, not True"),
        ({"scores": True}, "scores None, not True"),
        (
            {"constrain": "on", "copied": True, "empty_bias": {"NER": 0.5}},
            "constrain False, not True; copied False, not True; empty_bias None, not {'NER': 0.5}",
        ),
        ({"max_new_tokens": 9, "dtype": "bfloat16"}, "dtype float32, not bfloat16; max_new_tokens 8, not 9"),
    ):
        with pytest.raises(InputError) as refused:
            answer(**args)
        assert str(refused.value) == (
            f"{tmp_path / 'preds.jsonl'}: its 10 answers were made with {message}: give another output, or "
            "delete this file"
        )
        assert (tmp_path / "preds.jsonl").read_bytes() == content
    record = tmp_path / "preds.run.json"
    made = record.read_text()
    record.unlink()
    with pytest.raises(InputError, match=r"10 answers were made with an unknown model: .*preds\.run\.json is missing"):
        answer()
    record.write_text(made)
    lines = answer(model_name_or_path=str(same), batch_size=16)  # which change no answers
    assert lines == answer("whole.jsonl")


def test_a_link_to_the_answers_has_their_lock_and_their_record(
    answer: Callable[..., list[dict]], tmp_path: Path
) -> None:
    (tmp_path / "link.jsonl").symlink_to("preds.jsonl")
    with locked(tmp_path / "preds.jsonl"), pytest.raises(InputError, match="link.jsonl: another run is writing it"):
        answer("link.jsonl")
    answer(max_samples=10)
    with pytest.raises(InputError, match="constrain False, not True"):
        answer("link.jsonl", constrain="auto")
    answer("link.jsonl", max_samples=12)
    answer("preds", constrain="auto")  # another file, with a record of its own
    names = sorted(path.name for path in tmp_path.glob("preds*")) + [(tmp_path / "link.jsonl").readlink().name]
    assert names == ["preds", "preds.jsonl", "preds.run", "preds.run.json", "preds.jsonl"]


def test_a_place_that_cannot_be_written_is_one_line_and_a_full_disk_loses_nothing(
    answer: Callable[..., list[dict]], tmp_path: Path
) -> None:
    for name, message in {".": "not a file", "file/preds.jsonl": "Not a directory|File exists"}.items():
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=message):
            answer(name)
    whole = answer("whole.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole.jsonl").stat().st_size - 100, limits[1]))
    try:
        with pytest.raises(InputError, match=r"preds\.jsonl: File too large; the same command resumes from there"):
            answer()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert answer() == whole


def test_a_folder_that_was_trained_again_is_another_model(
    answer: Callable[..., list[dict]], model: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    answer(model_name_or_path=str(folder), max_samples=10)
    weights = load_file(folder / "model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"model {folder} \(sha256 \w+\), not {folder} \(sha256 \w+\)"):
        answer(model_name_or_path=str(folder))


@pytest.mark.parametrize("line", ['{"instruction": "another"}', "[]", "{", '{"output": ""}'])
def test_a_file_of_something_else_is_left_alone(line: str, answer: Callable[..., list[dict]], tmp_path: Path) -> None:
    answer(max_samples=2)
    with (tmp_path / "preds.jsonl").open("a") as file:
        file.write(line + "\n")
    content = (tmp_path / "preds.jsonl").read_text()
    with pytest.raises(InputError, match=r"preds\.jsonl, line 3: not an answer"):
        answer()
    assert (tmp_path / "preds.jsonl").read_text() == content


def test_nothing_is_cut_off_a_file_of_something_else(
    answer: Callable[..., list[dict]], data: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("twenty years of notes, on one line")
    with pytest.raises(InputError, match=r"its unfinished line was made with an unknown model: .*notes\.txt\.run"):
        answer(notes.name)
    assert notes.read_text() == "twenty years of notes, on one line"
    instances = [json.dumps(instance) for instance in make_instances(3)]
    for lines, args in (instances, {}), (instances, {"max_samples": 2}):  # like the dataset, without an end
        (tmp_path / "copy.jsonl").write_text("\n".join(lines))
        with pytest.raises(InputError, match="its 2 answers were made with an unknown model"):
            answer("copy.jsonl", **args)
        assert (tmp_path / "copy.jsonl").read_text() == "\n".join(lines)


def test_the_first_line_of_a_killed_run_is_answered_again(answer: Callable[..., list[dict]], tmp_path: Path) -> None:
    lines = answer(max_samples=4)
    for left in (b"", b'{"id": "0'):
        (tmp_path / "preds.jsonl").write_bytes(left)
        assert answer(max_samples=4) == lines


def test_the_dataset_is_no_output(answer: Callable[..., list[dict]], data: Path, tmp_path: Path) -> None:
    before = (data / "test.jsonl").read_bytes()
    (tmp_path / "link.jsonl").symlink_to(data / "test.jsonl")
    (tmp_path / "out.run.json").write_bytes(before)
    for output, dataset, message in (
        ("data/test.jsonl", data / "test.jsonl", "is the input"),
        ("link.jsonl", data / "test.jsonl", "is the input"),
        ("data/test.jsonl", tmp_path / "link.jsonl", "is the input"),
        ("data/new.jsonl", data, "lies under the input folder"),
        ("out.jsonl", tmp_path / "out.run.json", r"out\.run\.json: the output file is the input"),
    ):
        with pytest.raises(InputError, match=message):
            answer(output, dataset_name=str(dataset))
        assert (data / "test.jsonl").read_bytes() == (tmp_path / "out.run.json").read_bytes() == before


def test_a_prompt_that_does_not_fit_is_counted(
    answer: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture
) -> None:
    instances = make_instances(6)
    instances[3]["instruction"] = "word " * 300
    write_lines(data / "test.jsonl", instances)
    answers = [line["output"] for line in answer()]
    assert answers[3] == ""
    assert all(answers[:3] + answers[4:])
    assert "1 prompt leaves no room" in capsys.readouterr().err


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


def test_killed_it_writes_the_same_file_and_meanwhile_nobody_else_does(
    answer: Callable[..., list[dict]], run_script: Callable, model: str, data: Path, tmp_path: Path
) -> None:
    write_lines(data / "test.jsonl", make_instances(60))
    config = tmp_path / "config.yaml"
    config.write_text(f"model_name_or_path: {model}\ndataset_name: {data}\nbatch_size: 1\nmax_new_tokens: 24\n")
    run_script("predict.py", "--config", config, "--output_file", tmp_path / "whole.jsonl")

    killed = tmp_path / "killed.jsonl"
    command = [sys.executable, ROOT / "scripts" / "predict.py", "--config", config, "--output_file", killed]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    while not killed.exists() or killed.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(InputError, match=r"killed\.jsonl: another run is writing it"):
        answer("killed.jsonl", batch_size=1, max_new_tokens=24, dtype="auto", constrain="auto")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = killed.read_bytes().count(b"\n")
    assert 5 <= done < 60

    run_script("predict.py", "--config", config, "--output_file", killed)
    assert killed.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_process_may_wait_for_the_whole_window_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(accelerate, "PartialState", lambda **kw: given.update(kw) or SimpleNamespace(num_processes=1))
    predict.join_processes(EngineOptions())
    assert given["timeout"] >= timedelta(hours=12)  # NCCL: 10 minutes


@pytest.mark.parametrize(
    ("options", "device", "count", "told"),
    [
        ({}, "cuda", 1001, True),
        ({}, "cuda", 1000, False),
        ({}, "cpu", 1001, False),
        ({"base_url": "http://127.0.0.1:9/v1"}, "cuda", 1001, False),
        ({"engine": "lookup"}, "cuda", 1001, False),
    ],
)
def test_the_hint_to_vllm(
    options: dict, device: str, count: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    state = predict.join_processes(EngineOptions())
    monkeypatch.setattr(predict, "join_processes", lambda options: state)
    monkeypatch.setattr(state, "device", SimpleNamespace(type=device))
    data = write_lines(tmp_path / "test.jsonl", make_instances(count))

    def load(options: EngineOptions) -> Any:
        raise InputError("only the hint is wanted")

    with pytest.raises(InputError, match="only the hint"):
        asked = PredictOptions(str(data), tmp_path / "preds.jsonl")
        predict.predict(asked, EngineOptions("m", **options), {"engine": "none"}, load)
    assert ("--engine vllm is made for many instances" in capsys.readouterr().err) == told


def test_processes_share_the_work(
    answer: Callable[..., list[dict]], run_script: Callable, model: str, data: Path, tmp_path: Path
) -> None:
    answer("alone.jsonl", batch_size=1)  # five windows, the last of them not full
    whole = (tmp_path / "alone.jsonl").read_bytes()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model_name_or_path: {model}\ndataset_name: {data}\nbatch_size: 1\nmax_new_tokens: 8\ndtype: float32\n"
        f"constrain: 'off'\noutput_file: {tmp_path / 'together.jsonl'}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "iepile_builder", "predict", "--config", config]  # without a clone
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "ACCELERATE_USE_CPU": "1"}
    (tmp_path / "together.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:9]))
    shutil.copy(tmp_path / "alone.run.json", tmp_path / "together.run.json")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    assert done.stderr.count("9 of 40 are answered already") == 1
    assert (tmp_path / "together.jsonl").read_bytes() == whole


def test_strings_of_the_text_are_the_default(answer: Callable[..., list[dict]], data: Path, tmp_path: Path) -> None:
    write_lines(data / "test.jsonl", make_instances(12))
    same = {"constrain": "on", "max_new_tokens": 30}
    by_default, copied, free = (answer(f"{copied}.jsonl", copied=copied, **same) for copied in (None, True, False))
    assert by_default == copied != free
    record = json.loads((tmp_path / "None.run.json").read_text())
    assert record["engine"]["copied"] == ["NER", "RE", "EE"]

    # A run that was begun without the default is continued as it was, or not at all
    lines = (tmp_path / "False.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "False.jsonl").write_text("".join(lines[:5]))
    with pytest.raises(InputError, match=r"copied False, not \['NER', 'RE', 'EE'\]: give another output"):
        answer("False.jsonl", **same)
    assert answer("False.jsonl", copied=False, **same) == free


def test_constrained(answer: Callable[..., list[dict]], data: Path, capsys: pytest.CaptureFixture) -> None:
    free = answer("free.jsonl")
    for line in answer("constrained.jsonl", constrain="on", copied=True, max_new_tokens=60):
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
    with pytest.raises(InputError, match="--copied needs constrained answers"):
        answer("on.jsonl", copied=True)


def test_scores(answer: Callable[..., list[dict]]) -> None:
    """The model's decisions are written beside each answer, and change none."""
    plain = answer(max_samples=10, constrain="on", max_new_tokens=30)
    scored = answer("scored.jsonl", max_samples=10, constrain="on", max_new_tokens=30, scores=True)
    for line, same in zip(scored, plain, strict=True):
        decisions = line.pop("decisions")
        assert line == same
        said = json.loads(line["output"])
        assert {label: len(pairs) - 1 for label, pairs in decisions.items()} == {key: len(said[key]) for key in said}
        for pairs in decisions.values():
            assert all(isinstance(odds, float) and log_prob < 0 for odds, log_prob in pairs[:-1])
            assert pairs[-1][1] is None


def test_bad_input(run_script: Callable, data: Path, tmp_path: Path) -> None:
    common = ("--output_file", tmp_path / "preds.jsonl", "--dataset_name")
    done = run_script("predict.py", *common, data, "--model_name_or_path", data, check=False)
    assert_one_clear_line(done, str(data))
    done = run_script("predict.py", *common, tmp_path / "none", "--model_name_or_path", data, check=False)
    assert_one_clear_line(done, "none")
