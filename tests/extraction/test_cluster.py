"""`extraction.cluster` on a Ray cluster of two nodes: what is killed in the middle changes no row."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.dataset
import pytest
from helpers.corpora import ROOT, SAMPLE_CORPUS

from iepile_builder import IEPile
from iepile_builder.commands.extract_corpus import ExtractCorpusOptions, extract_corpus
from iepile_builder.engines import EngineOptions
from iepile_builder.engines.base import Completion
from iepile_builder.errors import InputError
from iepile_builder.extraction.cluster import ClusterOptions
from iepile_builder.extraction.corpus_files import DocumentOptions


# the memory monitor would end workers on a machine that others fill
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal", RAY_memory_monitor_refresh_ms="0")
cluster_utils = pytest.importorskip("ray.cluster_utils")

STORE = 100 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each; Ray's processes listen at free ports."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which its workers cannot import
    node = {"num_cpus": 1, "object_store_memory": STORE}
    started = cluster_utils.Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        started.add_node(**node)
        ray.init(address=started.address, log_to_driver=False, logging_level=logging.CRITICAL)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


class Rules:
    """Finds names; what a text says may fail, end the process, or do so once."""

    def __init__(self, folder: str, seconds: float = 0.0) -> None:
        self.folder, self.seconds = Path(folder), seconds
        with suppress(FileNotFoundError):
            (self.folder / "loading").unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def context_left(self, request: Any, max_new_tokens: int) -> None:
        return None

    def generate(self, requests: Any, max_new_tokens: int) -> list[Completion]:
        completions = []
        for request in requests:
            time.sleep(self.seconds)
            asked = json.loads(request.messages[-1]["content"])
            words = [word.strip(".") for word in asked["input"].split()]
            if "POISON" in words:
                with (self.folder / "killed").open("a") as file:
                    file.write("killed\n")
                os.kill(os.getpid(), signal.SIGKILL)
            if "ONCE" in words and not (self.folder / "once").exists():
                (self.folder / "once").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if "HERE" in words:
                (self.folder / "here").touch()
            if "FAIL" in words:
                raise RuntimeError("no answer")
            answer = {label: [word for word in words if word.startswith(label)] for label in asked["schema"]}
            completions.append(Completion(json.dumps(answer)))
        return completions


def make_texts(count: int) -> list[str]:
    texts = [f"Here are person{n} and city{n}." for n in range(count)]
    texts[count // 2] = " ".join(f"In chapter {n}, person{n} leaves city{n}." for n in range(1500))
    return texts


def run(tmp_path: Path, texts: list[str], name: str, seconds: float = 0.0, **cluster: Any) -> dict[str, Any]:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / f"{name}.jsonl").write_text(lines)
    folder = str(tmp_path)
    return extract_corpus(
        DocumentOptions(str(tmp_path / f"{name}.jsonl")),
        ExtractCorpusOptions(str(tmp_path / name), ["person", "city"], shard_size=10, documents_at_once=4),
        ClusterOptions(**cluster),
        EngineOptions(max_new_tokens=4000),
        description={"engine": "rules"},
        load=lambda options: Rules(folder, seconds),
    )


def read_rows(output_dir: Path) -> list[dict[str, Any]]:
    rows = pyarrow.dataset.dataset(output_dir / "data").to_table().to_pylist()
    return [{**row, "id": row["id"].rpartition("/")[2].partition(":")[2]} for row in rows]


def test_killed_workers_change_no_row(cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """
    A worker is killed while it loads the model, another one once, and one document kills whatever answers it; one
    fails, and one has many parts.
    """
    texts = make_texts(60)
    texts[20], texts[33], texts[48] = "ONCE upon a time came person20.", "FAIL of person33.", "POISON of person48."
    (tmp_path / "loading").touch()
    report = run(tmp_path, texts, "spread", num_workers=2)
    assert not (tmp_path / "loading").exists() and (tmp_path / "once").exists()
    assert len((tmp_path / "killed").read_text().splitlines()) == 4
    plain = list(texts)
    plain[48] = "person48."  # as one process would not survive it
    assert run(tmp_path, plain, "plain")["failed"] == 1
    rows, expected = read_rows(tmp_path / "spread"), read_rows(tmp_path / "plain")
    assert report["failed"] == 2 and rows[48]["error"] == "the process that answers it was killed each time"
    assert len(rows) == 60 and len(rows[30]["facts"]) == 3000
    for number in range(60):
        if number != 48:
            assert {**rows[number], "id": ""} == {**expected[number], "id": ""}
    printed = capfd.readouterr()
    assert len(printed.err.splitlines()) == 6, printed.err  # three lines of each run
    assert all("(raylet)" in line for line in printed.out.splitlines())  # which says that workers were killed


def test_a_machine_that_is_lost_changes_no_row(cluster: Any, tmp_path: Path) -> None:
    texts = make_texts(60)
    texts[8] += " HERE"
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def lose_node() -> None:
        while not (tmp_path / "here").exists():
            time.sleep(0.2)
        cluster.remove_node(node, allow_graceful=False)

    thread = Thread(target=lose_node)
    thread.start()
    report = run(tmp_path, texts, "spread", 0.05, num_workers=3)
    thread.join()
    run(tmp_path, texts, "plain")
    assert report["failed"] == 0 and read_rows(tmp_path / "spread") == read_rows(tmp_path / "plain")


def test_a_driver_that_is_killed_is_resumed(cluster: Any, tmp_path: Path) -> None:
    texts = make_texts(60)
    texts[40] += " HERE"
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import importlib.util
spec = importlib.util.spec_from_file_location("cluster_test", {__file__!r})
module = importlib.util.module_from_spec(spec)
sys.modules["cluster_test"] = module
spec.loader.exec_module(module)
from ray import cloudpickle
cloudpickle.register_pickle_by_value(module)
module.run(Path({str(tmp_path)!r}), {texts!r}, "spread", 0.05, ray_address={cluster.address!r})
"""
    driver = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "here").exists() and driver.poll() is None:
        time.sleep(0.2)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL, driver.stderr.read()
    assert 0 < len(list((tmp_path / "spread" / ".shards").glob("*.json"))) < 6
    report = run(tmp_path, texts, "spread", 0.05, num_workers=2)
    run(tmp_path, texts, "plain")
    assert report["documents"] == 60 > report["run"]["documents"]
    assert read_rows(tmp_path / "spread") == read_rows(tmp_path / "plain")


def test_a_worker_without_a_model_and_a_cluster_without_room(cluster: Any, tmp_path: Path) -> None:
    def load(options: EngineOptions) -> Any:
        raise InputError("no model of this name")

    (tmp_path / "a.txt").write_text("Here is person1.")
    given = (DocumentOptions(str(tmp_path / "a.txt")), ExtractCorpusOptions(str(tmp_path / "out"), ["person"]))
    with pytest.raises(InputError, match="no model of this name"):
        extract_corpus(*given, ClusterOptions(num_workers=1), EngineOptions(), {"engine": "rules"}, load)
    with pytest.raises(InputError, match="50 workers with 1 cores and 0 GPUs each: Ray has 2 cores and 0 GPUs"):
        extract_corpus(*given, ClusterOptions(num_workers=50), EngineOptions(), {"engine": "rules"}, load)


def test_building_on_ray_as_documented(cluster: Any, tmp_path: Path) -> None:
    corpus = SAMPLE_CORPUS / "IE-en" / "NER" / "daily_news"
    (tmp_path / "corpus").symlink_to(corpus)
    (tmp_path / "hard_negatives.json").symlink_to(SAMPLE_CORPUS / "hard_negatives.json")
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(), re.DOTALL)
    exec(code.replace("/data", str(tmp_path)), {})
    built = IEPile(data_dir=str(corpus), cache_dir=str(tmp_path / "cache")).as_dataset(split="train")
    found = pyarrow.dataset.dataset(tmp_path / "instances").to_table().to_pydict()
    assert sorted(found["output"]) == sorted(built["output"])
    assert sorted(found["instruction"]) == sorted(built["instruction"])
