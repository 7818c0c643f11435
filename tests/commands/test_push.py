"""`scripts/push_to_hub.py`, and back again with the libraries that strangers use."""

import json
import re
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers.corpora import ROOT, write_lines
from helpers.hub_server import LocalHub
from helpers.tiny import load_script, make_instances, save_tiny_model
from huggingface_hub import snapshot_download

from iepile_builder import InputError
from iepile_builder.chat import load_tokenizer, to_prompt
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import embedded_gguf, load_model
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.hub.push import take_push
from iepile_builder.scoring.scorer import Scorer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what its base answers, with what a training leaves beside it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json"):
        (folder / name).write_text(f"made in {folder}")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Answers and their report."""
    folder = tmp_path_factory.mktemp("scored")
    rows = [
        {
            "id": str(number),
            "task": "NER",
            "source": "towns",
            "instruction": json.dumps({"instruction": "", "schema": ["city"], "input": "Rome"}),
            "label": '[{"entity": "Rome", "entity_type": "city"}]',
            "output": '{"city": ["Rome"]}' if number % 3 else "Rome",
        }
        for number in range(9)
    ]
    scorer = Scorer()
    for row in rows:
        scorer.add(row)
    (folder / "report.json").write_text(json.dumps(scorer.report(resamples=50)))
    return write_lines(folder / "preds.jsonl", rows), folder / "report.json"


@pytest.fixture
def run(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run the program in this process, and return what it prints."""
    program: ModuleType = load_script("push_to_hub")

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["push_to_hub.py", *map(str, arguments)])
        capsys.readouterr()
        program.main()
        printed = capsys.readouterr()
        assert hub.token not in printed.out + printed.err
        return printed.out

    return call


def with_base(hub: LocalHub, base: Path) -> list[str]:
    """The base model on the Hub, and the option that names it."""
    hub.api().create_repo("user/tiny")
    hub.api().upload_folder(repo_id="user/tiny", folder_path=base)
    card = b"---\nlicense: cc-by-4.0\n---\n"
    hub.api().upload_file(repo_id="user/tiny", path_or_fileobj=card, path_in_repo="README.md")
    return ["--base_model", "user/tiny"]


PEFT_MODEL = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

base = AutoModelForCausalLM.from_pretrained("user/tiny")
model = PeftModel.from_pretrained(base, "user/tiny-ie")
tokenizer = AutoTokenizer.from_pretrained("user/tiny-ie")
config = GenerationConfig.from_pretrained("user/tiny-ie", max_new_tokens=20)
answers = []
for messages in json.loads(sys.argv[1]):
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, generation_config=config)
    answers.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(json.dumps(answers))
"""


def test_an_adapter_and_back(
    hub: LocalHub, base: Path, adapter: Path, scored: tuple[Path, Path], run: Callable[..., str]
) -> None:
    printed = run(
        "adapter", "--folder", adapter, "--repo_id", "tiny-ie", *with_base(hub, base),
        "--predictions_file", scored[0], "--report_file", scored[1],
    )  # fmt: skip
    repository = hub.repository("user/tiny-ie")
    files = repository.files()
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
        "generation_config.json", "predictions.jsonl", "score_report.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert repository.private
    assert "model user/tiny-ie (new, private)" in printed
    assert all(re.search(rf"{len(content):,}  {re.escape(path)}\n", printed) for path, content in files.items())
    for content in files.values():
        assert str(base.parent).encode() not in content
        assert hub.token.encode() not in content
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/tiny"
    card = files["README.md"].decode()
    assert "license: cc-by-4.0" in card

    # The same answers in a new process
    def answers(prompts: list, tokens: int) -> list[str]:
        engine = TransformersEngine.from_pretrained(str(base), str(adapter))
        return [engine.generate([Request(prompt)], tokens)[0].text for prompt in prompts]

    prompts = [to_prompt(instance) for instance in make_instances(4)]
    here = answers(prompts, 20)
    assert len(set(here)) > 1
    assert json.loads(hub.run(PEFT_MODEL, json.dumps(prompts)).splitlines()[-1]) == here

    # The card's code as pasted
    (code,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    content = {}
    exec(code[code.index("instruction = ") : code.index("messages = ")], content)
    instruction = {"instruction": json.dumps(content["instruction"], ensure_ascii=False)}
    assert hub.run(code).removesuffix("\n") == answers([to_prompt(instruction)], 256)[0]

    # Again: no commit; with other scores: one
    before = hub.count("POST", "/commit/")
    again = ["adapter", "--folder", adapter, "--repo_id", "user/tiny-ie", "--base_model", "user/tiny"]
    printed = run(*again, "--predictions_file", scored[0], "--report_file", scored[1])
    assert "nothing has changed" in printed
    assert hub.count("POST", "/commit/") == before
    run(*again, "--tag", "v2")
    assert hub.count("POST", "/commit/") == before + 1
    assert "predictions.jsonl" not in repository.files()
    assert repository.tags == {"v2": repository.branches["main"]}


def test_a_dry_run_shows_and_sends_nothing(
    hub: LocalHub, base: Path, adapter: Path, scored: tuple[Path, Path], run: Callable[..., str]
) -> None:
    arguments = ["adapter", "--folder", adapter, "--repo_id", "user/tiny-ie", *with_base(hub, base), "--dry_run"]
    hub.requests.clear()
    printed = run(*arguments, "--report_file", scored[1], "--public")
    assert "model user/tiny-ie (new, public), branch main" in printed
    assert "  adapter_model.safetensors\n" in printed
    assert "\n# tiny-ie\n" in printed
    assert "| NER | **" in printed
    assert printed.endswith("A dry run: nothing was pushed.\n")
    assert {request.method for request in hub.requests} == {"GET"}


def test_a_merged_model(hub: LocalHub, base: Path, run: Callable[..., str]) -> None:
    run("merged", "--folder", base, "--repo_id", "user/whole", *with_base(hub, base), "--license", "mit")
    files = hub.repository("user/whole").files()
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} <= set(files)
    assert "base_model_relation: finetune" in files["README.md"].decode()
    assert "license: mit" in files["README.md"].decode()


@pytest.mark.parametrize(
    ("without", "options", "message"),
    [
        ("adapter_model.safetensors", {}, "no adapter_model.safetensors in it"),
        ("", {"--base_model": None}, "its base model has no Hub id: give --base_model"),
        ("", {"--license": None}, "the licence of the base model is not known: give --license .user/none: no such"),
        ("", {"--report_file": "none.json"}, "none.json: No such file"),
        ("", {"--predictions_file": "none.jsonl"}, "none.jsonl: no such file of predictions"),
    ],
)
def test_what_is_wrong_is_said(
    hub: LocalHub, adapter: Path, tmp_path: Path, run: Callable[..., str], without: str, options: dict, message: str
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in adapter.glob("*.*"):
        if path.name != without:
            (folder / path.name).write_bytes(path.read_bytes())
    given = {"--base_model": "user/none", "--license": "mit", **options}
    command = [part for name, value in given.items() if value is not None for part in (name, value)]
    with pytest.raises(InputError, match=message):
        run("adapter", "--folder", folder, "--repo_id", "user/tiny-ie", *command)
    assert hub.repositories == {}


@pytest.mark.slow
def test_an_adapter_of_the_real_small_model_and_back(
    hub: LocalHub, smollm2: str, tmp_path: Path, run: Callable[..., str]
) -> None:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "adapter"
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(load_model(smollm2, dtype="float32"), config).save_pretrained(folder)
    load_tokenizer(smollm2).save_pretrained(folder)
    base = ["--base_model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--license", "apache-2.0"]
    run("adapter", "--folder", folder, "--repo_id", "user/tiny-ie", *base)
    prompts = [to_prompt({"instruction": instruction}) for instruction in ("Name a city.", "Name a river.")]
    engine = TransformersEngine.from_pretrained(smollm2, str(folder), dtype="float32")
    here = [engine.generate([Request(prompt)], 20)[0].text for prompt in prompts]
    code = PEFT_MODEL.replace('from_pretrained("user/tiny")', f"from_pretrained({smollm2!r}, dtype='float32')")
    assert json.loads(hub.run(code, json.dumps(prompts)).splitlines()[-1]) == here


@pytest.mark.slow
def test_gguf_and_back(hub: LocalHub, smollm2: str, tmp_path: Path, run: Callable[..., str]) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    gguf = embedded_gguf()
    (folder / "small-q4.gguf").symlink_to(gguf)
    (folder / "Modelfile").write_text("FROM ./small-q4.gguf\n")
    base = ["--base_model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--license", "apache-2.0"]
    run("gguf", "--folder", folder, "--repo_id", "user/small", *base)
    files = hub.repository("user/small").files()
    assert set(files) == {"README.md", "Modelfile", "small-q4.gguf"}
    assert files["small-q4.gguf"] == gguf.read_bytes()
    card = files["README.md"].decode()
    assert "base_model_relation: quantized" in card
    assert "llama-server -hf user/small" in card
    (code,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert "named entity recognition" in hub.run(code)  # untuned, the small model repeats what it is asked


def test_the_metric_and_back(hub: LocalHub, tmp_path: Path, run: Callable[..., str]) -> None:
    run("metric", "--repo_id", "user/my_f1")
    files = hub.repository("user/my_f1", "space").files()
    assert {"README.md", "app.py", "my_f1.py", "requirements.txt", "iepile_builder/scoring.py"} <= set(files)
    assert hub.repository("user/my_f1", "space").sdk == "gradio"
    requirements = files["requirements.txt"].decode().splitlines()
    assert "iepile-builder" not in " ".join(requirements)
    assert {"evaluate", "gradio", "datasets", "numpy"} <= {re.split("[>\\[]", line)[0] for line in requirements}

    columns = {
        "predictions": ['{"city": ["Rome"]}', "{}"],
        "references": ['[{"entity": "Rome", "entity_type": "city"}]'] * 2,
        "tasks": ["NER"] * 2,
        "sources": ["towns"] * 2,
        "ids": ["1", "2"],
        "instructions": ['{"instruction": "", "schema": ["city"], "input": "Rome"}'] * 2,
    }
    # A fresh snapshot has all that is ours
    folder = Path(snapshot_download("user/my_f1", repo_type="space", local_dir=tmp_path / "space"))
    code = (
        "import json, sys, evaluate, iepile_builder\n"
        "metric = evaluate.load('user/my_f1')\n"
        "print(iepile_builder.__file__)\n"
        "print(metric.compute(**json.loads(sys.argv[1]))['overall']['recall'])\n"
    )
    place, recall = hub.run(code, json.dumps(columns), cwd=folder).splitlines()[-2:]
    assert recall == "50.0"
    assert Path(place).is_relative_to(folder)


def test_sft_pushes_what_it_trained(hub: LocalHub, base: Path, tmp_path: Path) -> None:
    with_base(hub, base)
    write_lines(tmp_path / "data" / "train.jsonl", make_instances(8))
    command = [sys.executable, ROOT / "scripts" / "sft.py", "--model_name_or_path", "user/tiny", "--push_to_hub"]
    command += ["--dataset_name", tmp_path / "data", "--use_peft", "--lora_target_modules", "all-linear", "--use_cpu"]
    command += ["--bf16", "false", "--max_steps", "4", "--logging_steps", "1", "--output_dir", tmp_path / "trained"]

    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=hub.environment, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert hub.token not in done.stdout + done.stderr
    repository = hub.repository("user/trained")
    assert repository.private
    assert [commit.title for commit in repository.history()] == ["Upload adapter", "initial commit"]
    files = repository.files()
    assert {"training.json", "recipe.yaml", "training.png", "chat_template.jinja", "README.md"} <= set(files)
    assert not any("training_args" in name or "optimizer" in name or "checkpoint" in name for name in files)
    for name, content in files.items():
        assert hub.token.encode() not in content, name
        assert str(tmp_path).encode() not in content, name
    sent = files["adapter_model.safetensors"]
    assert sent == (tmp_path / "trained" / "adapter_model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert "base_model: user/tiny" in card
    assert "license: cc-by-4.0" in card
    assert "8 instances of data" in card
    assert "LoRA of rank 16 on all-linear, alpha 32" in card
    assert "2e-05, linear, warm-up" in card and "adamw_torch_fused" in card


def test_the_demo_and_back(
    hub: LocalHub, base: Path, adapter: Path, tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_base(hub, base)
    run("adapter", "--folder", adapter, "--repo_id", "user/tiny-ie", "--base_model", "user/tiny")
    models = ["--model_name_or_path", "user/tiny", "--adapter_name_or_path", "user/tiny-ie"]
    run("demo", "--repo_id", "user/demo", *models)
    files = hub.repository("user/demo", "space").files()
    assert {"README.md", "app.py", "requirements.txt", "iepile_builder/page.py"} <= set(files)
    requirements = {re.split("[>\\[]", line)[0] for line in files["requirements.txt"].decode().splitlines()}
    assert {"gradio", "torch", "transformers", "peft", "datasets"} <= requirements
    with pytest.raises(InputError, match="a Space loads its model from the Hub"):
        run("demo", "--repo_id", "user/demo", "--model_name_or_path", base)

    # The app of a fresh snapshot, with the library that came along
    folder = Path(snapshot_download("user/demo", repo_type="space", local_dir=tmp_path / "space"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**hub.environment, "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": ""}
    code = (
        "import runpy, iepile_builder\nprint(iepile_builder.__file__)\nrunpy.run_path('app.py', run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"), text=True,
    ) as app:  # fmt: skip
        try:
            assert app.stdout is not None
            assert Path(app.stdout.readline()).parent.parent == folder
            assert f"http://127.0.0.1:{port}" in app.stdout.readline(), (tmp_path / "log").read_text()[-3000:]
            from gradio_client import Client

            monkeypatch.setenv("HF_HUB_OFFLINE", "0")
            client = Client(f"http://127.0.0.1:{port}", verbose=False)
            asked = ("Ada met Bob in Rome.", "NER", "person\ncity", "", "", False)
            found, data = client.predict(*asked, api_name="/extract")
            assert json.loads(data)["text"] == "Ada met Bob in Rome."
            assert "Ada met Bob" in found
        finally:
            app.terminate()


def test_what_would_keep_a_result_from_being_pushed_is_said_before_the_training(
    hub: LocalHub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_base(hub, base)
    args = Namespace(push_to_hub=True, hub_model_id=None, output_dir=str(tmp_path / "mine"))
    assert take_push(args, "user/tiny") == "user/mine"
    assert take_push(args, "user/tiny") is None  # and the trainer has nothing to push, too
    for model, message in ((str(base), "is a folder"), ("user/none", "the licence of the base model is not known")):
        with pytest.raises(InputError, match=message):
            take_push(Namespace(push_to_hub=True, hub_model_id="user/name", output_dir="mine"), model)
    monkeypatch.setenv("HF_TOKEN", "hf_Unknown")
    with pytest.raises(InputError, match="the Hub refuses the token"):
        take_push(Namespace(push_to_hub=True, hub_model_id="user/name", output_dir="mine"), "user/tiny")
