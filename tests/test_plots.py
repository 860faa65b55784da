"""Every figure has labelled axes, keeps a setting's colour, and is shown with its alternative text."""

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest

from kwslib import plots, published

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [60, 20])
SCORES = np.clip(LABELS * 0.5 + RNG.random(80) * 0.5, 0, 1)
HISTORY = pandas.DataFrame(
    {"epoch": [1, 2], "steps": [10, 20], "loss": [0.7, 0.5], "one_minus_auc": [0.2, 0.0]}
)
COUNTS = {"hits": 18, "misses": 2, "false_accepts": 3, "correct_rejects": 57}
POINTS = pandas.DataFrame(
    {"speed": [1, 12], "file": [1, 50], "one_minus_auc": [1e-3, 0], "low": [5e-4, 0], "high": [2e-3, 1e-3]},
    index=["baseline", "student3-int8-static"],
)

FIGURES = {
    "word_counts": lambda: plots.word_counts({"happy": 3, "cat": 2}, "happy"),
    "log_mel_panels": lambda: plots.log_mel_panels(RNG.random((2, 40, 101)), ["a", "b"]),
    "training_curves": lambda: plots.training_curves({"baseline": HISTORY}, {"baseline": 2}, 2e-3),
    "error_curves": lambda: plots.error_curves({"baseline": (LABELS, SCORES)}, {"baseline": 0.5}),
    "confusion_matrix": lambda: plots.confusion_matrix(COUNTS, "happy"),
    "score_histogram": lambda: plots.score_histogram(LABELS, SCORES, 0.5),
    "cost_bars": lambda: plots.cost_bars([{"part": "gru", "bytes": 5, "macs": 7}]),
    "ratios": lambda: plots.ratios(POINTS, "speed", 1.6, "times"),
    "size_measures": lambda: plots.size_measures(pandas.DataFrame({"file": [5, 9]}, index=["a", "b"])),
    "frontier": lambda: plots.frontier(POINTS, published.peers(), published.bar()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled(name):
    figure = FIGURES[name]()
    assert any(ax.get_xlabel() for ax in figure.axes)
    assert any(ax.get_ylabel() or ax.get_yticklabels() for ax in figure.axes)
    plt.close(figure)


def test_a_setting_keeps_its_colour_and_int8_its_marker():
    assert plots.colour("student3") == plots.colour("student3-int8-static") == plots.colour("student3-labels")
    assert len({plots.colour(s) for s in ("baseline", "student1", "student2", "student3")}) == 4
    kinds = ["baseline", "baseline-int8-dynamic", "baseline-int8-static", "student1-labels"]
    assert len({plots.marker(kind) for kind in kinds}) == 4


def test_the_plot_does_not_hide_a_baseline_without_an_error():
    """1 - AUC of 0 has no place on a log axis: it is drawn at the axis' end, not dropped."""
    figure = plots.frontier(POINTS, published.peers(), published.bar())
    drawn = [line.get_ydata() for line in figure.axes[0].lines if line.get_label() == "student3-int8-static"]
    assert len(drawn) == 1 and drawn[0][0] > 0
    plt.close(figure)


def test_show_writes_the_file_and_displays_it_with_its_text(tmp_path, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *things, **more: shown.append((things, more)))
    plots.show(FIGURES["confusion_matrix"](), tmp_path / "figures" / "x.png", "counts by class")
    assert (tmp_path / "figures" / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert shown[0][1]["metadata"]["image/png"]["alt"] == "counts by class"
    assert not plt.get_fignums(), "the figure was left open"


def test_players_hold_the_audio_and_escape_captions():
    page = plots.clips(np.zeros((1, 100), np.float32), ["<script>"]).data
    assert 'src="data:audio/flac;base64,' in page and "<script>" not in page


def test_training_curves_can_be_told_apart():
    names = ("baseline", "student3", "baseline-stream", "student3-stream")
    figure = plots.training_curves(dict.fromkeys(names, HISTORY), {})
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names)
    plt.close(figure)
