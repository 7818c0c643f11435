"""`iepile push`, and back again with the libraries that strangers use."""

import json
import re
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.corpora import ROOT, assert_one_clear_line, write_lines
from helpers.hub_server import LocalHub
from helpers.tiny import make_instances, save_tiny_model
from huggingface_hub import snapshot_download

from iepile_builder import InputError
from iepile_builder.chat import to_prompt
from iepile_builder.commands import cli
from iepile_builder.engines.base import Request
from iepile_builder.engines.loading import embedded_gguf
from iepile_builder.engines.transformers import TransformersEngine
from iepile_builder.hub.cards import model_card
from iepile_builder.hub.push import take_push
from iepile_builder.scoring.scorer import Scorer


PAGES_ON_PUSHING = ("walkthrough.md", "tutorials/publish.md")


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
def run(hub: LocalHub, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run the command in this process, and return what it prints."""

    def call(what: str, *arguments: object) -> str:
        capsys.readouterr()
        cli.run("push", ["--what", what, *map(str, arguments)])
        printed = capsys.readouterr()
        assert hub.token not in printed.out + printed.err
        return printed.out

    return call


def with_base(hub: LocalHub, base: Path) -> None:
    """The base model on the Hub."""
    hub.api().create_repo("user/tiny")
    hub.api().upload_folder(repo_id="user/tiny", folder_path=base)
    card = b"---\nlicense: cc-by-4.0\n---\n"
    hub.api().upload_file(repo_id="user/tiny", path_or_fileobj=card, path_in_repo="README.md")


def code_of(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)


def test_an_adapter_and_back(
    hub: LocalHub, base: Path, adapter: Path, scored: tuple[Path, Path], run: Callable[..., str], tmp_path: Path
) -> None:
    with_base(hub, base)
    command = ["adapter", "--folder", adapter, "--repo_id", "tiny-ie", "--base_model", "user/tiny"]
    with_scores = ["--predictions_file", scored[0], "--report_file", scored[1], "--split", "test"]
    printed = run(*command, *with_scores)
    repository = hub.repository("user/tiny-ie")
    files = repository.files()
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "predictions.jsonl",
        "score_report.json", "tokenizer.json", "tokenizer_config.json",
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

    # Both blocks of the card's code as pasted, there and with the folder's own card here, answer the same
    extractor, plain = code_of(card)
    content: dict = {}
    exec(plain[plain.index("instruction = ") : plain.index("messages = ")], content)
    prompt = to_prompt({"instruction": json.dumps(content["instruction"], ensure_ascii=False)})
    engine = TransformersEngine.from_pretrained(str(base), str(adapter), constrain="off")
    answer = engine.generate([Request(prompt)], 256)[0].text
    assert answer != TransformersEngine.from_pretrained(str(base)).generate([Request(prompt)], 256)[0].text
    local = code_of(str(model_card("adapter", adapter)))
    for code, folder in ((plain, tmp_path), (local[1], adapter)):
        assert hub.run(code, cwd=folder).removesuffix("\n") == answer
    assert hub.run(extractor) == hub.run(local[0], cwd=adapter) != "[]\n"

    # Again: no commit; without scores: one, and what is not pushed any more is gone
    assert "nothing has changed" in run(*command, *with_scores)
    assert hub.count("POST", "/commit/") == 2 + 1  # two are those of the base model
    run(*command)
    assert hub.count("POST", "/commit/") == 4
    assert set(files) - set(repository.files()) == {"predictions.jsonl", "score_report.json"}


def test_a_dry_run_shows_and_sends_nothing(
    hub: LocalHub, base: Path, adapter: Path, scored: tuple[Path, Path], run: Callable[..., str]
) -> None:
    with_base(hub, base)
    hub.requests.clear()
    command = ["--folder", adapter, "--repo_id", "user/tiny-ie", "--base_model", "user/tiny", "--dry_run"]
    printed = run("adapter", *command, "--report_file", scored[1], "--public")
    assert "model user/tiny-ie (new, public)" in printed
    assert "  adapter_model.safetensors\n" in printed
    assert "\n# tiny-ie\n" in printed
    assert "| NER | **" in printed
    assert printed.endswith("A dry run: nothing was pushed.\n")
    assert {method for method, _ in hub.requests} <= {"GET", "HEAD"}
    hub.fail("GET", "/api/models/", status=None)
    printed = run("adapter", *command, "--license", "mit")
    assert "model user/tiny-ie (new, private, unless it exists: the Hub was not reached)" in printed


def test_answers_that_the_report_does_not_score(
    hub: LocalHub, adapter: Path, scored: tuple[Path, Path], run: Callable[..., str], tmp_path: Path
) -> None:
    answers, report = scored
    lines = answers.read_text().splitlines()
    command = ["--folder", adapter, "--repo_id", "user/x", "--base_model", "org/b", "--license", "mit", "--dry_run"]
    file = tmp_path / "preds.jsonl"
    command += ["--report_file", report, "--predictions_file", file]
    for wrong, message in (
        (lines[:4], "4 answers of NER from 'towns', but 9 in"),
        ([*lines, lines[0]], "10 answers of NER from 'towns', but 9 in"),
        ([line.replace("towns", "rivers") for line in lines], "9 answers of NER from 'rivers', but 0 in"),
        (["x"], "line 1: not one JSON object a line"),
    ):
        file.write_text("\n".join(wrong))
        with pytest.raises(SystemExit, match=f"^error: .*preds.jsonl.*{message}"):
            run("adapter", *command)
    file.write_text("\n".join(lines[::-1]))
    assert "  predictions.jsonl\n" in run("adapter", *command)


def test_it_is_said_that_the_file_of_answers_has_texts_and_annotations(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.run("push", ["--help"])
    shown = [capsys.readouterr().out, *((ROOT / "docs" / page).read_text() for page in PAGES_ON_PUSHING)]
    assert all(
        "texts and the gold annotations" in " ".join(text.split()).replace("and gold", "and the gold")
        for text in shown
    )


def test_a_dry_run_with_the_name_of_a_user_needs_no_login(
    adapter: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "tutorials" / "publish.md").read_text()
    assert page.index("--dry_run\n") < page.index("hf auth login")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "nowhere")
    options = ["--folder", str(adapter), "--repo_id", "user/x", "--base_model", "org/b", "--license", "mit"]
    cli.run("push", ["--what", "adapter", *options, "--dry_run"])
    assert capsys.readouterr().out.endswith("A dry run: nothing was pushed.\n")


def test_a_merged_model_in_shards(hub: LocalHub, base: Path, run: Callable[..., str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    with_base(hub, base)
    folder = tmp_path / "merged"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="20KB")
    run("merged", "--folder", folder, "--repo_id", "user/whole", "--base_model", "user/tiny", "--license", "mit")
    files = hub.repository("user/whole").files()
    shards = {path.name for path in folder.glob("model-*.safetensors")}
    assert len(shards) > 1
    assert {"config.json", "model.safetensors.index.json", "generation_config.json"} | shards <= set(files)
    assert "base_model_relation: finetune" in files["README.md"].decode()
    assert "license: mit" in files["README.md"].decode()


def copied(adapter: Path, folder: Path) -> Path:
    return Path(shutil.copytree(adapter, folder, ignore=shutil.ignore_patterns("checkpoint-*")))


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (None, {}, "no adapter model in it"),
        ({}, {"--base_model": None}, "its base model has no Hub id: give --base_model"),
        ({"base_model_name_or_path": 7}, {"--base_model": None}, "its base model has no Hub id: give --base_model"),
        ({"base_model_name_or_path": "."}, {"--base_model": None}, "its base model has no Hub id: give --base_model"),
        ([], {"--base_model": None}, "adapter_config.json: not a JSON object"),
        ({}, {"--license": None}, "the licence of the base model is not known: give --license .user/none: no such"),
        ({}, {"--report_file": "none.json"}, "none.json: no such file"),
        ({}, {"--base_model": None, "--report_file": "no.json"}, "give --base_model; no.json: no such file"),
        ({}, {"--predictions_file": "none.jsonl"}, "none.jsonl: no such file"),
        ({}, {"--folder": "none"}, "--folder: none is not a folder"),
        ({}, {"--repo_id": 'user/x\\1"', "--dry_run": ""}, "Repo id must use alphanumeric chars"),
    ],
)
def test_bad_input_is_one_line(
    hub: LocalHub, adapter: Path, tmp_path: Path, run: Callable[..., str], config: object, options: dict, message: str
) -> None:
    folder = copied(adapter, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if config is None:
        (folder / "adapter_model.safetensors").unlink()
    given = {
        "--folder": str(folder),
        "--repo_id": "user/tiny-ie",
        "--base_model": "user/none",
        "--license": "mit",
        **options,
    }
    command = [part for name, value in given.items() if value is not None for part in (name, value) if part]
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run("adapter", *command)
    assert hub.repositories == {}


def test_only_files_of_a_model_leave_and_none_by_a_link(
    hub: LocalHub, adapter: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    folder = copied(adapter, tmp_path / "adapter")
    (tmp_path / "outside.txt").write_text("mine")
    (folder / "tokenizer_notes.txt").symlink_to(tmp_path / "outside.txt")
    for name in ("tokenizer_cache.pkl", "vocab.db", "private_selfie.png", "predictions.jsonl", "score_report.json"):
        (folder / name).write_bytes(b"{}")
    command = ["--folder", folder, "--repo_id", "user/tiny-ie", "--base_model", "org/base", "--license", "mit"]
    run("adapter", *command)
    assert set(hub.repository("user/tiny-ie").files()) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    (folder / "vocab.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(SystemExit, match="vocab.txt: a link that leads out of the folder"):
        run("adapter", *command)


def test_the_kind_may_stand_first(run_script: Callable[..., subprocess.CompletedProcess]) -> None:
    done = run_script("push_to_hub.py", "adapter", "--repo_id", "user/name", "--folder", "none", check=False)
    assert_one_clear_line(done, "--folder: none is not a folder")


@pytest.mark.slow
def test_gguf_and_back(hub: LocalHub, smollm2: str, tmp_path: Path, run: Callable[..., str]) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    gguf = embedded_gguf()
    shutil.copy(gguf, folder / "small-q4.gguf")
    (folder / "Modelfile").write_text("FROM ./small-q4.gguf\n")
    (folder / "notes.gguf").write_text("not what its name says")
    base = ["--base_model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--license", "apache-2.0"]
    run("gguf", "--folder", folder, "--repo_id", "user/small", *base)
    files = hub.repository("user/small").files()
    assert set(files) == {"README.md", "Modelfile", "small-q4.gguf"}
    assert files["small-q4.gguf"] == gguf.read_bytes()
    card = files["README.md"].decode()
    assert "base_model_relation: quantized" in card
    assert "llama-server -hf user/small" in card
    assert "named entity recognition" in hub.run(code_of(card)[1])  # untuned, it repeats what it is asked


def test_the_metric_and_back(hub: LocalHub, tmp_path: Path, run: Callable[..., str]) -> None:
    printed = run("metric", "--repo_id", "user/my_f1")
    assert re.search(r"\n +[\d,]{7,}  iepile_builder/ \(1\d\d files\)\n", printed)
    assert printed.count("iepile_builder/") == 1
    files = hub.repository("user/my_f1", "space").files()
    assert {"README.md", "app.py", "my_f1.py", "requirements.txt", "iepile_builder/scoring/scorer.py"} <= set(files)
    assert "iepile_builder/resources/hard_negatives.json" not in files
    assert hub.repository("user/my_f1", "space").sdk == "gradio"
    assert 'evaluate.load("user/my_f1")' in files["README.md"].decode()
    assert b"evaluate_metrics/" not in files["README.md"]
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
    assert [commit.title for commit in repository.commits] == ["initial commit", "Upload adapter"]
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
    assert "Trained on 8 instances, " in card
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
    assert {"README.md", "app.py", "requirements.txt", "iepile_builder/extraction/page.py"} <= set(files)
    requirements = {re.split("[>\\[]", line)[0] for line in files["requirements.txt"].decode().splitlines()}
    assert {"gradio", "torch", "transformers", "peft", "datasets"} <= requirements
    assert "gradio[mcp]>=6" in files["requirements.txt"].decode().splitlines()
    with pytest.raises(SystemExit, match="a Space loads its model from the Hub"):
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
            import httpx
            from gradio_client import Client

            monkeypatch.setenv("HF_HUB_OFFLINE", "0")
            client = Client(f"http://127.0.0.1:{port}", verbose=False)
            asked = ("Ada met Bob in Rome.", "NER", "person\ncity", "", "", False, 0)
            found, data, *_ = client.predict(*asked, api_name="/extract")
            assert json.loads(data)["text"] == "Ada met Bob in Rome."
            assert "<h3>Text</h3>" in found  # what is marked is random
            tools = httpx.get(f"http://127.0.0.1:{port}/gradio_api/mcp/schema").json()
            assert [tool["name"] for tool in tools] == ["extract_facts"]
        finally:
            app.terminate()


def test_a_push_that_would_fail_is_refused_before_the_training(
    hub: LocalHub, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_base(hub, base)
    args = Namespace(push_to_hub=True, hub_model_id=None, output_dir=str(tmp_path / "mine"))
    assert take_push(args, "user/tiny") == "user/mine"
    assert take_push(args, "user/tiny") is None  # the trainer's own push is off
    for model, message in ((str(base), "is a folder"), ("user/none", "the licence of the base model is not known")):
        with pytest.raises(InputError, match=message):
            take_push(Namespace(push_to_hub=True, hub_model_id="user/name", output_dir="mine"), model)
    monkeypatch.setenv("HF_TOKEN", "hf_Unknown")
    with pytest.raises(InputError, match="the Hub got no valid token"):
        take_push(Namespace(push_to_hub=True, hub_model_id="user/name", output_dir="mine"), "user/tiny")
