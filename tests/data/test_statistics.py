"""Statistics of instances, counted by hand; plots leave the global state of matplotlib alone."""

import sys
import warnings
from pathlib import Path

import datasets
import pytest
from helpers.answers import instance

from iepile_builder.data.statistics import _find_fonts, look_into, plot


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
    files, notes = plot(look_into(rows), tmp_path)
    assert [file.name for file in files] == ["lengths.png", "labels.png", "together_NER_hand.png"]
    assert notes == []
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert (dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules) == before


def test_labels_are_drawn_with_the_fonts_that_have_their_characters(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert _find_fonts(set("city Ünal, É")) == ["DejaVu Sans"]
    labels = ["\U0010fffd", "city", "river"]  # a private character that no font has
    row = instance("NER", labels, [], {labels[0]: ["Ada"], "city": ["Rome"], "river": []})
    with warnings.catch_warnings(action="error"):  # matplotlib's "Glyph missing"
        files, notes = plot(look_into(datasets.Dataset.from_list([row])), tmp_path)
    assert len(files) == 3
    assert len(notes) == 1 and "labels of hand (NER)" in notes[0] and "Noto Sans CJK" in notes[0]


def test_a_font_that_was_installed_after_the_first_plot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    font_manager = pytest.importorskip("matplotlib.font_manager")
    manager = font_manager.fontManager
    stix = font_manager.findfont("STIXGeneral")  # has circled letters, as DejaVu Sans has not
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if font.name == "DejaVu Sans"])
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    assert _find_fonts(set("A \u24b6")) is None
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [__file__, stix])
    assert _find_fonts(set("A \u24b6")) == ["DejaVu Sans", "STIXGeneral"]
