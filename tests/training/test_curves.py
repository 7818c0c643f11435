"""The curves of a run as plot and table."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from iepile_builder.training.curves import curve_rows, plot


SFT = [
    {"step": 1, "loss": 2.0, "grad_norm": 1.0},
    {"step": 2, "loss": 1.0},
    {"step": 2, "eval_loss": 1.5, "eval_ie_f1": 12.34},
    {"step": 2, "train_runtime": 3.0},
]
GRPO = [
    {
        "step": step,
        "loss": 0.0,
        "reward": step / 10,
        "rewards/ie_f1/mean": step / 20,
        "rewards/valid_json/mean": 1.0,
        "completions/mean_length": 9.5,
    }
    for step in range(1, 31)
]


def test_losses_and_scores() -> None:
    head, rows = curve_rows(SFT)
    assert head == ["step", "loss", "validation loss", "IE F1"]
    assert rows == [[1, "2.0000", "", ""], [2, "1.0000", "1.5000", "12.3"]]


def test_rewards() -> None:
    head, rows = curve_rows([*GRPO, {"step": 30, "eval_loss": 0.0, "eval_reward": 0.5}])
    assert head == ["step", "reward", "IE F1 reward", "JSON reward", "tokens an answer", "validation reward"]
    assert rows[0] == [1, "0.100", "0.050", "1.000", "9.5", ""]
    assert rows[-1] == [30, "3.000", "1.500", "1.000", "9.5", "0.500"]
    assert 10 <= len(rows) <= 12


def test_few_points_have_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: (figures.append(self), file.touch()))
    for steps in (1, 300):
        plot([{"step": step, "loss": 1.0} for step in range(steps)], tmp_path / "training.png")
    one, many = (figure.axes[0].lines[0].get_marker() for figure in figures)
    assert (one, many) == (".", "None")


def test_there_is_a_plot_if_there_is_anything_to_draw(tmp_path: Path) -> None:
    file = tmp_path / "training.png"
    assert not plot(SFT[3:], file) and not plot([], file)
    assert not list(tmp_path.iterdir())
    for log in (SFT, SFT[2:], GRPO):  # the second: more steps than one logs, and an evaluation
        assert plot(log, file)
        assert file.read_bytes().startswith(b"\x89PNG")
        file.unlink()
    assert not list(tmp_path.iterdir())
