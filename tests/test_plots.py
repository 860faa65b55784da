"""Figures are legible and labelled; names in them, in sound and in tables are plain text."""

import base64
import io
import re
import warnings
from itertools import combinations

import numpy as np
import pandas
import pytest
import soundfile
from matplotlib import pyplot
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from kwslib import display, plots
from kwslib.architecture import ARCHITECTURES, SETTINGS

RNG = np.random.default_rng(0)
X, TIMES = np.geomspace(0.1, 10, 20), np.arange(1, 6, 0.08)
SAMPLES = (3000 * RNG.standard_normal(6 * 16000)).clip(-32000, 32000).astype(np.int16)
STREAM = (SAMPLES, {"window": (TIMES, RNG.random(len(TIMES)))}, 0.9, (2, 3))
KB, MISSED = (283, 74, 28, 14, 77, 75, 9, 6.2, 5.6), (2.5, 2.2, 3.1, 3.4, 2.5, 2.6, 3.1, 3.5, 3.7)
SHOWN = [str(each) for each in SETTINGS if not (each.is_control or each.is_stream)]
POINTS = {n: (kb, m, m - 1, m + 1) for n, kb, m in zip(SHOWN, KB, MISSED, strict=True)}
CURVES, MARK = {"baseline": (X, 1 / X), "x": (X, X)}, (1, "1 in 1,000")
FIGURES = {
    "log_mels": lambda: plots.log_mels(RNG.random((4, 40, 101)), "abcd", np.ones((4, 11)) / 11),
    "lines": lambda: plots.lines(CURVES, "a", "b", log=True, at=[("x", 1, 1)], mark=MARK),
    "rows": lambda: plots.rows({"baseline": (1.2, 0.9, 1.5), "b": 2}, "ratio", mark=MARK),
    "stream": lambda: plots.stream(*STREAM, [("bed", 0)], [("window", 4, "lets go")]),
    "frontier": lambda: plots.frontier(POINTS, "kB on disk", "missed in %"),
}


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_legible_on_a_phone_and_says_what_it_shows(name):
    """352 pixels are left for it on a phone."""
    figure = FIGURES[name]()
    sizes = [text.get_fontsize() / 72 * 352 / 5.6 for text in texts(figure)]
    assert figure.get_figwidth() == 5.6 and min(sizes) > 6.9
    assert figure.get_supxlabel() or figure.axes[-1].get_xlabel()
    assert figure.get_supylabel() or figure.axes[-1].get_yticklabels()


def test_a_network_keeps_its_colour_and_each_kind_has_its_marker():
    for setting in SETTINGS:
        assert plots.colour(str(setting), 3) == plots.colour(setting.network)
    assert len({plots.colour(network) for network in ARCHITECTURES}) == len(ARCHITECTURES)
    kinds = ("baseline", "baseline-int8-static", "student1-labels", "baseline-stream")
    assert len(set(map(plots.marker, kinds))) == len(kinds)


def test_names_stand_beside_curves_and_points_and_do_not_overlap():
    close = {f"curve {n}": (X, X + n / 1000) for n in range(6)}
    for figure, names in ((plots.lines(close, "x", "y"), close), (FIGURES["frontier"](), POINTS)):
        display.png(figure)
        told = [text for text in figure.axes[0].texts if text.get_text()]
        boxes = [Text.get_window_extent(text) for text in told]
        assert {text.get_text() for text in told} == set(names)
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("name", ["$x$ and $", r"\frac{", "<img src=x onerror=alert(1)>"])
def test_a_name_is_plain_text_everywhere(name):
    figure = plots.stream(*STREAM, [(name, 0)], [("window", 4, name)])
    assert display.png(figure) and display.png(plots.rows({name: 1}, name))
    assert name in map(Text.get_text, texts(figure))
    table = display.table(pandas.DataFrame({"a": [np.nan]}, index=[name]), {"a": ("a", "{}")})
    clips = display.clips(SAMPLES[None, :100], [name])
    assert "<img" not in table.data + clips.data
    assert table.data.endswith(" | – |") and not re.search(r"[$\\_^<]", display.plain(name))


def test_letters_without_a_font_are_told_once_and_a_font_that_has_them_is_taken():
    display.fonts.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            display.png(plots.rows({"\U00012000": 1}, "x"))
    assert len(told) == 1 and "no installed font has" in str(told[0].message)
    usual, other = (get_font(findfont(n)).get_charmap() for n in ("DejaVu Sans", "STIXGeneral"))
    letter = chr(max(other.keys() - usual.keys()))
    assert len(display.fonts(frozenset(letter))) == 1 and display.fonts(frozenset()) == []


def test_show_writes_the_figure_and_displays_it_with_its_text_and_finding(tmp_path, monkeypatch):
    seen, path = [], tmp_path / "figures" / "x.png"
    monkeypatch.setattr(display, "display", lambda thing, **more: seen.append((thing.data, more)))
    display.show(FIGURES["rows"](), path, "two ratios", "1 < 2")
    text = {"metadata": {"image/png": {"alt": "two ratios"}}}
    assert seen == [(path.read_bytes(), text), ('<p class="caption">1 &lt; 2</p>', {})]
    assert not pyplot.get_fignums(), "a cell would display it once more"


def test_a_player_holds_the_very_samples():
    coded = re.search('src="data:audio/flac;base64,([^"]+)"', display.clips([SAMPLES], "x").data)
    samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(coded[1])), dtype="int16")
    assert rate_hz == 16000 and np.array_equal(samples, SAMPLES)


def test_numbers_are_told_with_their_interval_where_there_is_one():
    assert display.span((0.56, 0.26, 0.87)) == "0.56 (0.26 to 0.87)"
    assert display.percent((0.0721, 0.05, 0.099)) == "7.2\u00a0% (5.0\u00a0% to 9.9\u00a0%)"
    assert display.percent((0.5, None, None)) == display.percent(0.5) == "50.0\u00a0%"
    assert display.span((float("nan"), None, None)) == "cannot be stated"
