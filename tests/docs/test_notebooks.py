"""
The notebooks: a kernel runs those for a CPU, which give the outputs that are in the repository; the one for a GPU runs
with a random model in place of the real one. `WRITE_NOTEBOOKS=1` writes the outputs first.
"""

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from string import Template

import nbformat
import pytest
import torch
from helpers.hub_server import LocalHub
from helpers.models import MODELS, make_config, make_tokenizer
from helpers.notebooks import NOTEBOOKS, VARIES, blocks, execute, read
from helpers.pages import Reader, commands
from transformers import AutoModelForCausalLM

from iepile_builder.commands import train
from iepile_builder.commands.cli import parse_options


NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
FREE_GPU = "finetune_on_a_free_gpu.ipynb"
QWEN3 = "Qwen/Qwen3-0.6B"
CAPABILITIES = {"no GPU": None, "T4": (7, 5), "A100": (8, 0)}


def texts(name: str) -> str:
    return "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*NAMES} - {FREE_GPU}))
def test_a_notebook_gives_its_outputs(name: str, smollm2: str, tmp_path: Path) -> None:
    """Without the Hub, except for the one that publishes: it gets a stand-in."""
    environment = {"HF_HUB_OFFLINE": "1"}
    if name.startswith("label_studio"):
        with LocalHub(tmp_path / "hub") as hub:
            used = ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")
            environment = {name: hub.environment[name] for name in used} | {
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_CACHE": str(tmp_path / "hub" / "cache"),
            }
            notebook = execute(name, tmp_path, environment)
            published = hub.repository("user/tickets-ner").files()
        assert {"README.md", "adapter_model.safetensors", "predictions.jsonl"} <= published.keys()
    else:
        notebook = execute(name, tmp_path, environment)
    if os.environ.get("WRITE_NOTEBOOKS"):
        (NOTEBOOKS / name).write_text(nbformat.writes(notebook, indent=1) + "\n", encoding="utf-8")
    for cell, kept in zip(notebook.cells, read(name).cells, strict=True):
        if cell.cell_type == "code" and VARIES not in cell.metadata.get("tags", ()):
            assert cell.outputs == kept.outputs, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_of_a_run(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    run = [] if name == FREE_GPU else range(1, len(code) + 1)
    assert [cell.execution_count for cell in code if cell.execution_count] == [*run]  # once, from top to bottom
    outputs = str([cell.outputs for cell in code])
    assert not re.search(r"/(?:home|mnt|opt|root|tmp|usr|work|Users)/|Traceback|Warning|\\r|\\x1b", outputs)
    assert (NOTEBOOKS / name).stat().st_size < 40_000


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", texts(name)):
        assert link.startswith("https://") or (NOTEBOOKS / link).exists(), link


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Reader]:
    """Run the notebook for a GPU up to the cell that looks for one, which a GPU of this kind answers."""

    def run(kind: str) -> Reader:
        for variable in ("MODEL", "CORPUS", "OUTPUT", "TRAIN", "DTYPE"):
            monkeypatch.setenv(variable, "")  # so that it is gone after the test
        reader = Reader(tmp_path)
        with monkeypatch.context() as machine:
            machine.setattr(torch.cuda, "is_available", lambda: CAPABILITIES[kind] is not None)
            machine.setattr(torch.cuda, "get_device_capability", lambda: CAPABILITIES[kind])
            for block in blocks(FREE_GPU):
                if block["language"] == "bash":
                    return reader
                reader.follow(block)
        raise AssertionError("no command")

    return run


@pytest.mark.parametrize("kind", CAPABILITIES)
def test_commands_for_a_gpu(kind: str, settle: Callable[[str], Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the parsers of the commands, recipe included."""
    settle(kind)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: kind == "A100")
    code = [block["code"] for block in blocks(FREE_GPU) if block["language"] == "bash"]
    code += re.findall(r"^```bash\n(.*?)^```", texts(FREE_GPU), re.MULTILINE | re.DOTALL)
    trained = []
    for words in commands(Template("\n".join(code)).substitute(os.environ)):
        assert words[0] == "iepile"
        if words[1] == "train":
            _, training_args, model_args = train.parse(words[2:])
            trained.append((training_args.bf16, training_args.fp16, training_args.packing, model_args.dtype))
        else:
            parse_options(words[1], "", import_module(f"iepile_builder.commands.{words[1]}").OPTIONS, words[2:])
    recipe = {
        "no GPU": (False, False, False, "float32"),
        "T4": (False, True, False, "float32"),
        "A100": (True, False, True, "bfloat16"),
    }[kind]
    assert trained == [recipe, (False, True, False, "float16")]


def test_the_notebook_for_a_gpu_runs(
    settle: Callable[[str], Reader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its options for a T4, float16 too, for two steps on a CPU; no push, which needs a base on the Hub."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(MODELS[QWEN3])
    tokenizer.save_pretrained(tmp_path / QWEN3)
    AutoModelForCausalLM.from_config(make_config(MODELS[QWEN3], tokenizer)).save_pretrained(tmp_path / QWEN3)
    monkeypatch.chdir(tmp_path)
    reader = settle("T4")
    monkeypatch.setenv("TRAIN", f"{os.environ['TRAIN']} --use_cpu true --max_steps 2")
    for block in blocks(FREE_GPU):
        code = block["code"]
        if block["language"] == "bash" and "iepile push" not in code:
            reader.follow({**block, "code": Template(code).substitute(os.environ)})
        elif "Extractor" in code:
            reader.follow(block)
    assert (tmp_path / os.environ["OUTPUT"] / "adapter_model.safetensors").exists()
    assert reader.names["result"].answers
