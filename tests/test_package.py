"""What an installed package must hold and need."""

import subprocess
import sys

import pytest
from helpers.corpora import ALL_TASKS, ROOT, SAMPLE_CORPUS


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "trl", "peft", "accelerate", "evaluate"):
    sys.modules[name] = None  # importing it is an ImportError
import iepile_builder
from iepile_builder import IEPile
from iepile_builder.scoring.scorer import score
rows = IEPile(data_dir=sys.argv[1], tasks=sys.argv[3:], max_records=5, cache_dir=sys.argv[2]).as_dataset(split="test")
print(score(rows)["overall"]["f1"])
"""


def test_the_core_needs_no_torch(tmp_path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(SAMPLE_CORPUS), str(tmp_path), *ALL_TASKS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "100.0\n", done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "build_dataset.py",
        "predict.py",
        "demo.py",
        "extract.py",
        "score.py",
        "sft.py",
        "quickstart.py",
        "merge_adapter.py",
        "export_gguf.py",
    ],
)
def test_every_program_has_help_and_an_example(run_script, script: str) -> None:
    assert "--" in run_script(script, "--help").stdout
    assert f"scripts/{script}" in (ROOT / "scripts" / script).read_text().split('"""')[1]
