"""One function a figure: arrays in, figure out. Networks keep their colours; `$` is text."""

import matplotlib
import numpy as np
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .architecture import ARCHITECTURES, SETTINGS, Architecture
from .display import RATE_HZ, span

WIDTH_IN, HOP_S, GREY, RED, SHADE = 5.6, 0.01, "0.5", "#b2182b", "#fde0c0"
TONES = [*(seaborn.color_palette("colorblind")[n] for n in (0, 4, 2, 3, 9)), "0.4"]
COLOURS = dict(zip(ARCHITECTURES, TONES, strict=False))
RC = {"text.parse_math": False, "font.family": ["DejaVu Sans"], "grid.color": "0.9"}
RC |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
RC |= {"axes.grid": True, "axes.titlesize": 10, "axes.titlelocation": "left", "image.cmap": "magma"}
NAMED = {str(setting): setting for setting in SETTINGS}
BESIDE, HEIGHTS = {"va": "center", "fontsize": 9}, (0.35, 0.7, 0.15, 0.5)  # of notes
PLACES = [(x, y) for y in (0, 10, -10, 20, -20, 32, -32, 45, -45) for x in (10, -10)]  # in points


def colour(name: str, place: int = 0):
    """The colour of a setting's network; of any other name, that of its place in the figure."""
    return COLOURS[NAMED[name].network] if name in NAMED else TONES[place % len(TONES)]


def marker(name: str) -> str:
    """Square for int8, a cross for labels alone, a plus for networks that listen, else round."""
    kind = NAMED.get(name, SETTINGS[0])
    return "s" if kind.int8 else "X" if kind.is_control else "P" if kind.is_stream else "o"


def canvas(height_in: float, rows: int = 1, columns: int = 1, **options):
    """Figure and axes, of one look, as wide as a phone shows at 9 pixels a letter."""
    matplotlib.rcParams.update(RC)
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")  # no cell displays it
    return figure, figure.subplots(rows, columns, **options)


def dress(ax, log: bool = False, mark=None, **values) -> None:
    """Labels, limits; log: a horizontal axis of 1, 3, 10 ..; mark: (x, text) of an upright line."""
    if log:
        ax.set_xscale("log")
        ax.xaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:,g}")
        ax.xaxis.set_minor_formatter("")
    if mark:
        ax.axvline(mark[0], color=GREY, linestyle=":")
        ax.text(mark[0], 1.02, mark[1], transform=ax.get_xaxis_transform(), ha="center", fontsize=9)
    ax.set(**values)


def network(a: Architecture):
    """The parts of the network in boxes, and between them the shapes that they hand on."""
    kernel, stride = ("{} × {}".format(*pair) for pair in (a.kernel, a.stride))
    texts = [
        "log-mel spectrogram",
        f"↓ {a.front_end.mels} bands × {a.front_end.frames} frames",
        f"convolution: {a.channels} kernels of {kernel}, stride {stride}",
        f"↓ {a.steps} steps × {a.channels} kernels × {a.conv_mels} bands",
        f"GRU: {a.layers} layers that read the steps in order",
        f"↓ {a.steps} steps × {a.hidden} values",
        "attention: weighs the steps and adds them up",
        f"↓ {a.hidden} values",
        "classifier: a weighted sum for each answer",
        "↓ 2 scores: other words, the keyword",
    ]
    figure, ax = canvas(4)
    for row, text in enumerate(texts):
        box = None if row % 2 else {"boxstyle": "round,pad=0.5", "facecolor": SHADE}
        ax.text(0.5, -row, text, ha="center", va="center", bbox=box)
    ax.set(ylim=(-len(texts) + 0.5, 0.8))
    ax.set_axis_off()
    return figure


def log_mels(images, titles, weights=None):
    """Spectrograms (clips, mels, frames), three in a row; weights: (clips, steps) of attention."""
    rows, columns = -(-len(images) // 3), min(3, len(images))
    figure, axes = canvas(1.8 * rows, rows, columns, sharex=True, sharey=True, squeeze=False)
    look = {"origin": "lower", "aspect": "auto", "clim": np.quantile(images, (0.02, 1))}
    for number, (ax, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        ax.imshow(image, extent=(0, image.shape[1] * HOP_S, 0, len(image)), zorder=1, **look)
        ax.set_title(title)
        if weights is not None:
            steps_s = (10 + 8 * np.arange(len(weights[number]))) * HOP_S  # middle of 20 frames
            ax.bar(steps_s, len(image) * weights[number], 0.06, color="white", alpha=0.7)
    figure.supxlabel("time in s", fontsize=10)
    figure.supylabel("mel band", fontsize=10)
    return figure


def lines(curves: dict, xlabel: str, ylabel: str, log=False, at=(), mark=None):
    """Curves name -> (x, y), named beside their ends, broken for networks trained on labels alone.
    at: (name, x, y) of points on curves; log, mark: as in `dress`."""
    figure, ax = canvas(3.4)
    tones = {name: colour(name, place) for place, name in enumerate(curves)}
    for name, (x, y) in curves.items():
        ax.plot(x, y, "--" if marker(name) == "X" else "-", color=tones[name], linewidth=1.8)
    for name, x, y in at:
        ax.plot(x, y, marker(name), color=tones[name], markersize=8)
    dress(ax, log, mark, xlabel=xlabel, ylabel=ylabel)
    (low, high), height, gap = ax.get_ylim(), -0.085, 0.085
    ends = sorted((y[-1], x[-1], name) for name, (x, y) in curves.items())
    for above, (y, x, name) in zip(range(len(ends) - 1, -1, -1), ends, strict=True):
        height = max(height + gap, min((y - low) / (high - low), 1 - gap * above))
        line = {"arrowstyle": "-", "color": tones[name], "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(name, (x, y), (1.04, height), "data", "axes fraction", line, **BESIDE)
    return figure


def rows(values: dict, xlabel: str, form: str = "{:.2f}", mark=None):
    """A bar a name -> number, a dot and its 95 % interval an Estimate; mark: as in `dress`."""
    figure, ax = canvas(0.8 + 0.34 * len(values))
    for row, (name, value) in enumerate(values.items()):
        value, low, high = value if isinstance(value, tuple) else (value, None, None)
        if low is None:
            ax.barh(row, value, 0.6, color=colour(name))
        else:
            ax.plot([low, high], [row, row], color=colour(name), linewidth=3, alpha=0.5)
            ax.plot(value, row, marker(name), color=colour(name), markersize=7)
        told = span((value, low, high), form)
        ax.annotate(told, (1.02, row), xycoords=ax.get_yaxis_transform(), **BESIDE)
    dress(ax, mark=mark, xlabel=xlabel, ylim=(len(values) - 0.5, -0.5))
    ax.set_yticks(range(len(values)), list(values))
    return figure


def buffers(architecture: Architecture):
    """What the study's stream keeps: frames under the kernel, outputs of the GRU for a second."""
    width_s, step_s = architecture.kernel[1] * HOP_S, architecture.stride[1] * HOP_S
    starts_s = step_s * np.arange(architecture.steps + 2)
    ends_s, heights = starts_s + width_s, (1.3, 1.05, 0.8)
    figure, ax = canvas(3.0)
    ax.hlines(3 - 0.1 * (np.arange(len(starts_s)) % 3), starts_s, ends_s, TONES[0], linewidth=4)
    for number, end_s in enumerate(ends_s, start=1):
        box = {"facecolor": TONES[0], "pad": 2}
        ax.text(end_s, 2, number, color="white", fontsize=8, ha="center", va="center", bbox=box)
    ax.hlines(heights, ends_s[:3], ends_s[-3:], GREY, linewidth=3)
    ax.plot(ends_s[-3:], heights, "o", color=RED)
    ax.axvspan(0, width_s, color=SHADE)
    ax.text(width_s / 2, 3.5, "initial call", ha="center", **BESIDE)
    ax.set_yticks([2.9, 2, 1.05], ["frames under\nthe kernel", "outputs\nof the GRU", "attention"])
    ax.set(xlabel="time in s", ylim=(0.5, 3.8), xlim=(0, None))
    ax.grid(False)
    return figure


def stream(samples, curves: dict, threshold, keyword_s, words=(), notes=()):
    """A recording above, and a panel below for each way to score it. samples: (samples,) int16;
    curves: name -> (times_s, probabilities); threshold: of all curves; keyword_s: (start, end) of
    its clip; words: (name, start_s); notes: (curve's name, time_s, text)."""
    figure, axes = canvas(1.3 + 1.35 * len(curves), 1 + len(curves), sharex=True)
    seconds = np.linspace(0, len(samples) / RATE_HZ, len(samples))
    axes[0].plot(seconds, samples, color="0.15", linewidth=0.3)
    top, middles_s = axes[0].secondary_xaxis("top"), [start_s + 0.5 for _, start_s in words]
    top.set_xticks(middles_s, [name for name, _ in words], rotation=90, fontsize=8)
    for place, (ax, (name, (x, y))) in enumerate(zip(axes[1:], curves.items(), strict=True)):
        ax.plot(x, y, color=colour(name, place), drawstyle="steps-post", linewidth=1.5)
        ax.axhline(threshold, color=RED, linestyle=":", linewidth=1)
        ax.set(ylim=(-0.03, 1.05), yticks=(0, 0.5, 1), title=name)
        for n, (_, time_s, text) in enumerate(note for note in notes if note[0] == name):
            x, side = (14, "left") if time_s < 0.6 * seconds[-1] else (-14, "right")
            style = {"arrowprops": {"arrowstyle": "->", "color": RED}, "ha": side, **BESIDE}
            style["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            ax.annotate(text, (time_s, HEIGHTS[n % 4]), (x, 0), textcoords="offset points", **style)
    for ax in axes:
        ax.axvspan(*keyword_s, color=SHADE, zorder=0)
    axes[0].set(yticks=())
    axes[-1].set(xlabel="time in s", xlim=(0, seconds[-1]))
    figure.supylabel("probability of the keyword", fontsize=10)
    return figure


def frontier(points: dict, xlabel: str, ylabel: str):
    """Quality against cost: name -> (cost, value, low, high), named where nothing else stands."""
    (figure, ax), spots = canvas(4.2), []
    for name, (cost, value, low, high) in points.items():
        ax.plot([cost, cost], [low, high], color=colour(name), linewidth=2, alpha=0.3)
        spots += ax.plot(cost, value, marker(name), color=colour(name), markersize=8)
    dress(ax, log=True, xlabel=xlabel, ylabel=ylabel, xmargin=0.2, ymargin=0.1)
    figure.draw_without_rendering()
    boxes = [spot.get_window_extent() for spot in spots]
    frame, line = ax.get_window_extent(), {"arrowstyle": "-", "color": GREY, "linewidth": 0.6}
    for name, (cost, value, *_) in points.items():
        text = ax.annotate(name, (cost, value), (0, 0), textcoords="offset points", **BESIDE)
        for x, y in PLACES:
            text.set(position=(x, y), ha="left" if x > 0 else "right")
            box = text.get_window_extent()
            if frame.count_contains(box.get_points()) == 2 and not box.count_overlaps(boxes):
                break
        boxes.append(box)
        ax.annotate("", (cost, value), (x, y), textcoords="offset points", arrowprops=line)
    return figure
