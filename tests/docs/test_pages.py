"""The documentation: every block of code on every page runs or is checked, and links lead somewhere."""

import re
import shutil
from pathlib import Path

import datasets
import pytest
from helpers.corpora import ROOT
from helpers.pages import Reader, blocks
from helpers.tiny import save_tiny_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from iepile_builder.engines.loading import SMOLLM2 as MODEL
from iepile_builder.engines.loading import ZERO_SHOT


PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
WITH_THE_README = "docs/walkthrough.md"  # `test_readme.py` runs it, with a Hub


@pytest.fixture(scope="module")
def model_of_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few thousand weights, with room for the instructions, and an adapter of it."""
    folder = tmp_path_factory.mktemp("pages")
    model = AutoModelForCausalLM.from_pretrained(save_tiny_model(folder / MODEL, max_position_embeddings=4096))
    get_peft_model(model, LoraConfig(target_modules="all-linear")).save_pretrained(folder / ZERO_SHOT)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if page != WITH_THE_README])
def test_blocks_of_the_page(
    page: str, model_of_pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In an empty folder in which model and adapter have the names of the real ones."""
    shutil.copytree(model_of_pages, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    verbosity = datasets.logging.get_verbosity()
    reader = Reader(tmp_path)
    try:
        for block in blocks(page):
            reader.follow(block)
    except SystemExit as ended:
        pytest.fail(f"{ended.code}\n{block['code']}")
    finally:
        datasets.logging.set_verbosity(verbosity)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_hidden_from_the_tests(page: str) -> None:
    """Indented fences would not be found."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"^ +```", text, re.MULTILINE)
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES)
def test_pages_load_nothing_from_elsewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"!\[[^]]*\]\(http|<(?:img|script|link|iframe)\b", text)
