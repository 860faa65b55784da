"""Figures of streams have labelled axes; the player's cursor starts where time does."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kwslib import events, stream_plots

RNG = np.random.default_rng(0)
TIMES = np.arange(10) * 0.08
CURVE = {"words": 20, "hours": 2.0, "points": [[0.2, 1, 30], [0.6, 3, 4], [1.0, 20, 0]]}
AT = {"miss_rate": [0.15, 0.03, 0.4], "false_accepts_per_h": [2.0, 0.5, 5.0], "offline_miss_rate": 0.1}
STREAMED = {  # as judging.result gives it, as far as figures look
    "setting": "student3-stream",
    "mode": "carried",
    "clips": {"det": CURVE, "det_of_each": [CURVE], "at_rate": {"1.0": None, "5.0": AT}},
    "speech": {"det": CURVE, "at_misses": {"0.02": None, "0.2": AT | {"over_speakers": [1.0, None]}}},
    "detector": {
        "smoothing": 3, "release": 0.5, "refractory_s": 1.0, "words": 20,
        "grid": [[1, 0.5, 1.0, 7], [3, 0.5, 1.0, 5], [1, 0.9, 1.0, 8], [3, 0.9, 1.0, 6]],
    },
}  # fmt: skip

FIGURES = {
    "word_spans": lambda: stream_plots.word_spans(
        RNG.integers(-9, 9, (4, 16000)), np.tile([3200, 9600], (4, 1)), list("abcd")
    ),
    "stream": lambda: stream_plots.stream(
        RNG.random(16000), 16000, {"a": (TIMES, TIMES)}, 0.5, {"happy": (0.2, 0.4)}
    ),
    "stream_equality": lambda: stream_plots.stream_equality({"window": (TIMES, TIMES + 1e-7)}),
    "plateaus": lambda: stream_plots.plateaus({"baseline": np.array([0.1, 0.2])}, "seconds", 0.3),
    "det": lambda: stream_plots.det([STREAMED, STREAMED | {"setting": "student3"}], (1.0, 5.0)),
    "running_speech": lambda: stream_plots.running_speech([STREAMED], (0.05, 10)),
    "detector_grid": lambda: stream_plots.detector_grid([STREAMED]),
    "detections": lambda: stream_plots.detections(
        dict.fromkeys(("window", "carried"), (TIMES, TIMES, events.Detector())), {"happy": (0.1, 0.2)}
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled(name):
    figure = FIGURES[name]()
    shown = [ax for ax in figure.axes if ax.get_visible() and ax.axison]
    bare = [n for n, ax in enumerate(shown) if not (ax.get_xlabel() or ax.get_ylabel() or ax.get_title())]
    assert not bare, "panels that say nothing"
    assert any(ax.get_xlabel() for ax in shown) and any(
        ax.get_ylabel() or ax.get_yticks().size for ax in shown
    )
    plt.close(figure)


def test_the_cursor_starts_at_the_left_axis(tmp_path):
    figure = FIGURES["stream"]()
    left = figure.axes[0].get_position().x0
    page = stream_plots.player(
        figure, tmp_path / "x.png", np.zeros(16000, np.float32), 16000, "a 'stream'"
    ).data
    assert f"left:calc(100% * {left})" in page and "currentTime" in page and "http" not in page
