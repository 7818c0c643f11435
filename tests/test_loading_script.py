"""The builder's file as a loading script: under `datasets` 3.6, the last release that runs scripts."""

import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from helpers.corpora import ROOT, SAMPLE_CORPUS

from iepile_builder import IEPile


OPTIONS = {"tasks": ["NER", "EEA", "KG"], "negatives": "hard", "seed": 7, "num_examples": 1}
PROGRAM = """
import json, sys
from datasets import load_dataset
script, data_dir, options, output_file = sys.argv[1:]
loaded = load_dataset(script, data_dir=data_dir, trust_remote_code=True, **json.loads(options))
with open(output_file, "w", encoding="utf-8") as file:
    json.dump({split: rows.to_list() for split, rows in loaded.items()}, file)
"""


@pytest.mark.slow
def test_rows_are_those_of_the_class(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--no-input", "--retries", "1", "--timeout", "10"]
    core = [needed for needed in requires("iepile-builder") or () if "extra ==" not in needed]
    installed = subprocess.run([*install, "datasets==3.6.0", *core], capture_output=True, text=True, timeout=600)
    if installed.returncode != 0:
        pytest.skip(f"pip cannot install datasets 3.6.0 here: {installed.stderr.strip().splitlines()[-1]}")
    output_file = tmp_path / "rows.json"
    script = ROOT / "iepile_builder" / "iepile.py"
    command = [python, "-c", PROGRAM, script, SAMPLE_CORPUS, json.dumps(OPTIONS), output_file]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    built = IEPile(data_dir=str(SAMPLE_CORPUS), **OPTIONS).as_dataset()
    assert json.loads(output_file.read_text(encoding="utf-8")) == {
        split: rows.to_list() for split, rows in built.items()
    }
