"""The notebooks of the documentation: their cells, and their outputs as a kernel gives them."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from helpers.corpora import ROOT


NOTEBOOKS = ROOT / "docs" / "notebooks"
VARIES = "varies"  # tag of cells whose output depends on the machine
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
    "OMP_NUM_THREADS": "1",
}


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def blocks(name: str) -> list[dict[str, str]]:
    """List the code of the cells as [`helpers.pages.blocks`] lists that of a page."""
    found = []
    for cell in read(name).cells:
        if cell.cell_type == "code":
            magic = re.match(r"%%(\w+)\n", cell.source)
            code = cell.source[magic.end() :] if magic else cell.source
            language = "bash" if magic and magic[1] == "bash" else "python"
            found.append({"language": language, "code": code, "mark": "", "title": ""})
    return found


def execute(name: str, folder: Path, environment: dict[str, str]) -> Any:
    """Run all cells in a folder, with the commands of this Python, and give the notebook with its new outputs."""
    notebook = read(name)
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    paths = {"PATH": binaries, "IPYTHONDIR": str(folder / ".ipython"), "HF_DATASETS_CACHE": str(folder / ".cache")}
    client.execute(env={**os.environ, **environment, **QUIET, **paths})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if "outputs" in cell:
            cell.outputs = join_streams(cell.outputs)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def join_streams(outputs: list[Any]) -> list[Any]:
    """
    Give what a cell printed as one output for each stream, in whichever pieces it came, before what it shows; without
    progress bars and colours, which a kernel asks its programs for.
    """
    streams = dict.fromkeys(("stdout", "stderr"), "")
    for each in outputs:
        if each.output_type == "stream":
            streams[each.name] += each.text
    printed = []
    for name, text in streams.items():
        text = re.sub(r"\x1b\[[\d;]*m", "", text)
        text = re.sub(r"^.*\r.*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r" +$", "", text, flags=re.MULTILINE)
        if text:
            printed.append(nbformat.v4.new_output("stream", name=name, text=text))
    return printed + [each for each in outputs if each.output_type != "stream"]
