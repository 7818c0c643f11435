"""
The commands and programs of the READMEs and of `docs/walkthrough.md`, run as written and in their order.

They run in a copy of the repository, against a local Hub that has a model of a few thousand weights under the name of
the real one. Blocks marked `<!-- installs -->` or `<!-- needs a GPU -->` are checked, not run; those marked
`<!-- needs the model -->` run with the real weights.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.corpora import ROOT
from helpers.hub_server import LocalHub
from helpers.pages import blocks, check


MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
NOT_RUN = ("installs", "needs a GPU", "needs the model")


def test_both_languages_have_the_same_code() -> None:
    english, chinese = ([each for each in blocks(name) if each["language"]] for name in ("README.md", "README_CN.md"))
    assert english == chinese


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "README_CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#]+)", text)
        pictures = re.findall(r'src(?:set)?="([^"]+)"', text)
        assert links and len(pictures) == 4
        for link in links + pictures:
            assert link.startswith("https://") or (ROOT / link).exists(), f"{name}: {link}"


@pytest.mark.parametrize("name", ["README.md", "README_CN.md", "docs/walkthrough.md"])
def test_links_to_sections_lead_somewhere(name: str) -> None:
    for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        page = (ROOT / name).parent / file if file else ROOT / name
        headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{name}: {file}#{anchor}"


@pytest.mark.parametrize("name", ["README.md", "docs/walkthrough.md"])
def test_blocks_that_are_not_run_name_what_exists(name: str) -> None:
    for block in blocks(name):
        if block["mark"] in NOT_RUN:
            check(block)


def test_all_extras_are_listed() -> None:
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", table, re.MULTILINE)) - {"test", "docs", "quality"}
    assert "graph" in extras
    for name in ("README.md", "README_CN.md", "docs/index.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not [extra for extra in extras if f"`{extra}`" not in text], name


def test_make_targets_exist() -> None:
    code = "".join(each["code"] for each in blocks("README.md") if each["mark"] == "installs")
    targets = re.findall(r"^make (\w+)", code, re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
def test_the_first_extraction_prints_what_is_shown(smollm2: str, capsys: pytest.CaptureFixture) -> None:
    """Other processors round otherwise, so one line may differ."""
    program, shown = blocks("README.md")[1:3]
    assert (program["mark"], shown["mark"]) == ("needs the model", "prints")
    exec(program["code"], {})
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("model: ")]
    assert len(set(printed) ^ set(shown["code"].splitlines())) <= 1


@pytest.mark.slow
def test_every_block_runs(hub: LocalHub, smollm2: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    model = tmp_path / "model"
    # The real tokenizer, so that the recipe's lengths fit, over weights that cost nothing.
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.save_pretrained(model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(model)
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n")

    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    copy = tmp_path / "repository"
    for file in files.split("\0")[:-1]:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    # An adapter of this model in place of the one that ships
    lora = get_peft_model(LlamaForCausalLM.from_pretrained(model), LoraConfig(target_modules="all-linear"))
    lora.save_pretrained(copy / "recipes" / "smollm2-135m-instruct" / "zero_shot" / "adapter")

    hub.tokens["hf_Owner"] = MODEL.split("/")[0]
    hub.api("hf_Owner").create_repo(MODEL)
    hub.api("hf_Owner").upload_folder(repo_id=MODEL, folder_path=model)
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**hub.environment, "PATH": binaries, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(copy)
    done_before = set()
    for block in blocks("README.md") + blocks("docs/walkthrough.md"):
        if block["language"] not in ("bash", "python") or block["mark"] in NOT_RUN or block["code"] in done_before:
            continue
        done_before.add(block["code"])
        shell = ["bash", "-euo", "pipefail", "-c"] if block["language"] == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, block["code"]], cwd=copy, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{block['code']}\n{done.stdout}\n{done.stderr}"
