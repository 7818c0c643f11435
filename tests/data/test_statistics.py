"""Statistics of instances, counted by hand; plots leave the global state of matplotlib alone."""

import sys
from pathlib import Path

import datasets
import pytest
from helpers.answers import instance

from iepile_builder.data.statistics import look_into, plot


@pytest.fixture
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            instance("NER", ["person", "city", "river"], [], {"person": ["Ada"], "city": ["Rome"], "river": []}),
            instance("NER", ["person", "city"], [], {"person": [], "city": []}),
            instance("RE", ["wife"], [], {"wife": [{"subject": "Ada", "object": "Bob"}]}),
        ]
    )


def test_counts_by_hand(rows: datasets.Dataset) -> None:
    found = look_into(rows)
    assert found.instruction_lengths == [len(text) for text in rows["instruction"]]
    assert found.output_lengths == [len(text) for text in rows["output"]]
    assert found.labels == {("NER", 3): 1, ("NER", 2): 1, ("RE", 1): 1}
    assert found.positive == {("NER", 2): 1, ("NER", 0): 1, ("RE", 1): 1}
    together = {("person", "city"): 1, ("person", "river"): 1, ("city", "person"): 1, ("city", "river"): 1}
    assert found.together == {("NER", "hand"): together, ("RE", "hand"): {}}


def test_plots(rows: datasets.Dataset, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    files = plot(look_into(rows), tmp_path)
    assert [file.name for file in files] == ["lengths.png", "labels.png", "together_NER_hand.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert (dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules) == before
