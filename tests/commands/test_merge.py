"""`iepile merge`: the merged model answers as base and adapter did, or is not written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.corpora import write_lines
from helpers.rules import AnswerEngine
from helpers.tiny import make_instances, save_tiny_model

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.commands.merge import MergeOptions, main
from iepile_builder.engines import ModelOptions
from iepile_builder.engines.agreement import AgreementOptions, sample_requests
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import load_model
from iepile_builder.engines.transformers import TransformersEngine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(str(base)), lora).save_pretrained(folder)
    tokenizer = load_tokenizer(str(base))
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "helper")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def merge(base: Path, adapter: Path, tmp_path: Path) -> Callable[..., Path]:
    data = write_lines(tmp_path / "test.jsonl", make_instances(12))

    def run(
        adapter_name_or_path: Path = adapter, dtype: Any = "auto", output_dir: Path = tmp_path / "merged", **args: Any
    ) -> Path:
        main(
            MergeOptions(output_dir, **args),
            ModelOptions(str(base), str(adapter_name_or_path), dtype=dtype),
            AgreementOptions(str(data), num_samples=12, max_new_tokens=16, batch_size=4),
        )
        return output_dir

    return run


def test_the_merged_model_answers_alone(
    merge: Callable[..., Path], base: Path, adapter: Path, capsys: pytest.CaptureFixture
) -> None:
    merged = merge()
    out, err = capsys.readouterr()
    assert "12 of 12 greedy answers are equal" in out
    assert err.splitlines() == [
        f"answering 12 prompts with {what}" for what in ("base and adapter", "the merged model")
    ]
    requests = [Request([{"role": "user", "content": row["instruction"]}]) for row in make_instances(5)]
    answers = TransformersEngine.from_pretrained(str(merged)).generate(requests, 16)
    assert answers == TransformersEngine.from_pretrained(str(base), str(adapter)).generate(requests, 16)
    assert answers != TransformersEngine.from_pretrained(str(base)).generate(requests, 16)

    assert load_tokenizer(str(merged)).chat_template == load_tokenizer(str(adapter)).chat_template
    names = {path.name for path in merged.iterdir()}
    assert names >= {"model.safetensors", "generation_config.json", "chat_template.jinja", "tokenizer.json"}
    assert not {"adapter_config.json", "pytorch_model.bin"} & names
    assert list(merged.parent.glob(".merged*")) == []


def test_the_calibration_goes_along(
    merge: Callable[..., Path], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "calibration.json"
    file.write_text('{"empty_bias": {"NER": 0.5}}')
    asked = []
    # As from the Hub, where the adapter is no folder
    monkeypatch.setattr("iepile_builder.commands.merge.find_file", lambda *names: asked.append(names) or file)
    assert (merge() / "calibration.json").read_text() == file.read_text()
    assert asked == [("calibration.json", None, str(adapter))]


def test_a_merge_that_changes_answers_is_refused(merge: Callable[..., Path], tmp_path: Path) -> None:
    # The weights of this model are so large that rounding them to 8 bits of precision changes what it says.
    with pytest.raises(InputError, match=r"only \d+ of 12 greedy answers are equal .*--dtype float32"):
        merge(dtype="bfloat16")
    assert {path.name for path in tmp_path.iterdir()} <= {"datasets_cache", "test.jsonl"}
    merged = merge(dtype="bfloat16", min_equal=0.0)
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.usefixtures("dataset_bars")
def test_sample_prompts_come_without_bars(capsys: pytest.CaptureFixture) -> None:
    requests = sample_requests(AgreementOptions(num_samples=3), AnswerEngine({}))
    assert len(requests) == 3
    assert capsys.readouterr() == ("", "")


def test_only_an_earlier_merge_is_replaced(merge: Callable[..., Path], base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not empty, and not written by iepile merge"):
        merge(output_dir=tmp_path, overwrite=True)
    merged = merge()
    with pytest.raises(InputError, match="not empty; give another folder or --overwrite"):
        merge()
    before = {path.name: path.read_bytes() for path in merged.iterdir()}
    (merged / "README.md").write_text("mine")
    with pytest.raises(InputError, match="holds README.md, which iepile merge did not write"):
        merge(overwrite=True)
    (merged / "README.md").unlink()
    assert {path.name: path.read_bytes() for path in merge(overwrite=True).iterdir()} == before
    with pytest.raises(InputError, match="both the base model and the output folder"):
        merge(output_dir=base, overwrite=True)


def test_what_is_no_adapter(merge: Callable[..., Path], base: Path) -> None:
    with pytest.raises(InputError, match="not an adapter for"):
        merge(adapter_name_or_path=base)
