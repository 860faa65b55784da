"""One function a figure: arrays in, figure out.

Figures are as wide as a phone shows at 9 pixels a letter. A network keeps its colour through all
notebooks, and curves have their names beside them. Names are plain text: `$` means nothing.
"""

import matplotlib
import numpy as np
import seaborn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from .architecture import SETTINGS, Architecture
from .display import span

WIDTH_IN, RATE_HZ, HOP_S = 5.6, 16000, 0.01
INK, GREY, RED, SHADE = "0.15", "0.5", "#b2182b", "#fde0c0"
PALETTE = seaborn.color_palette("colorblind")
OTHERS = (*(PALETTE[n] for n in (0, 4, 2, 3, 9)), "0.4")
COLOURS = dict(zip(("baseline", "student1", "student2", "student3"), OTHERS, strict=False))
RC = {"text.parse_math": False, "font.family": ["DejaVu Sans"], "axes.grid": True}
RC |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
RC |= {"grid.color": "0.9", "axes.titlesize": 10, "axes.titlelocation": "left"}
NAMED = {str(setting): setting for setting in SETTINGS}
MIDDLE, SMALL = {"ha": "center", "va": "center"}, {"fontsize": 9}
# Where a name may stand beside its point, in points: the nearest places first.
BESIDE = [
    (dx, dy) for d in (9, 20, 32, 45) for dy in (0, d, -d) for dx in (min(d, 20), -min(d, 20))
]


def colour(name: str, place: int = 0) -> str:
    """The colour of a setting's network; of any other name, that of its place in the figure."""
    return COLOURS[NAMED[name].network] if name in NAMED else OTHERS[place % len(OTHERS)]


def marker(name: str) -> str:
    """Square for int8, a cross for labels alone, a plus for networks that listen, else round."""
    kind = NAMED.get(name, SETTINGS[0])
    return "s" if kind.int8 else "X" if kind.is_control else "P" if kind.is_stream else "o"


def canvas(height_in: float, rows: int = 1, columns: int = 1, **options):
    """Figure and axes, of one width and look."""
    matplotlib.rcParams.update(RC)
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")  # no cell displays it
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def log_scale(ax, axes: str) -> None:
    """Makes axes, "x", "y" or "xy", logarithmic, with plain numbers at 1, 3, 10, 30 .."""
    for axis in axes:
        ax.set(**{f"{axis}scale": "log"})
        part = getattr(ax, f"{axis}axis")
        part.set_major_locator(LogLocator(subs=(1, 3)))
        part.set_major_formatter("{x:,g}")
        part.set_minor_formatter("")


def mark_at(ax, x: float, text: str) -> None:
    """An upright line with its text above."""
    ax.axvline(x, color=GREY, linestyle=":")
    ax.text(x, 1.02, text, transform=ax.get_xaxis_transform(), ha="center", fontsize=9)


def network(architecture: Architecture):
    """The network from top to bottom: its parts in boxes, the shapes that they hand on between."""
    a, front_end = architecture, architecture.front_end
    kernel, stride = ("{} × {}".format(*pair) for pair in (a.kernel, a.stride))
    texts = [
        "log-mel spectrogram",
        f"↓ {front_end.mels} bands × {front_end.frames} frames",
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
        ax.text(0.5, -row, text, bbox=box, **MIDDLE)
    ax.set(ylim=(-len(texts) + 0.5, 0.8))
    ax.set_axis_off()
    return figure


def log_mels(images, titles, weights=None):
    """Spectrograms (clips, mels, frames), three in a row; weights: (clips, steps) of attention."""
    rows, columns = -(-len(images) // 3), min(3, len(images))
    figure, axes = canvas(1.8 * rows, rows, columns, sharex=True, sharey=True, squeeze=False)
    colours = {"cmap": "magma", "vmin": np.quantile(images, 0.02), "vmax": np.max(images)}
    for number, (ax, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        extent = (0, image.shape[1] * HOP_S, 0, len(image))
        ax.imshow(image, origin="lower", aspect="auto", extent=extent, **colours)
        ax.set_title(title)
        ax.grid(False)
        if weights is not None:  # a step in the middle of its 20 frames
            steps_s = (10 + 8 * np.arange(len(weights[number]))) * HOP_S
            tops = len(image) * np.asarray(weights[number])
            ax.bar(steps_s, tops, 0.06, color="white", alpha=0.7)
    figure.supxlabel("time in s", fontsize=10)
    figure.supylabel("mel band", fontsize=10)
    return figure


def lines(curves: dict, xlabel: str, ylabel: str, log="", at=(), mark=None, xlim=None, ylim=None):
    """Curves with their names beside them, broken for networks trained on labels alone.

    curves: name -> (x, y); log: the logarithmic axes, "x", "y" or "xy"; at: (name, x, y) of points
    on curves; mark: (x, text) of an upright line.
    """
    figure, ax = canvas(3.4)
    tones = {name: colour(name, place) for place, name in enumerate(curves)}
    for name, (x, y) in curves.items():
        ax.plot(x, y, "--" if marker(name) == "X" else "-", color=tones[name], linewidth=1.8)
    for name, x, y in at:
        ax.plot(x, y, marker(name), color=tones[name], markersize=8)
    log_scale(ax, log)
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=xlim, ylim=ylim)
    if mark:
        mark_at(ax, *mark)
    figure.draw_without_rendering()
    last = [np.searchsorted(x, ax.get_xlim()[1], side="right") - 1 for x, _ in curves.values()]
    ends = [(x[n], y[n]) for n, (x, y) in zip(last, curves.values(), strict=True)]
    heights = np.clip((ax.transData + ax.transAxes.inverted()).transform(ends)[:, 1], 0, 1)
    height, gap = -1.0, 0.085
    for place, n in enumerate(np.argsort(heights, kind="stable")):  # apart from each other
        height = max(height + gap, min(heights[n], 1 - gap * (len(ends) - 1 - place)))
        name, place = list(curves)[n], {"textcoords": "axes fraction", "va": "center"}
        line = {"arrowstyle": "-", "color": tones[name], "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(name, ends[n], (1.04, height), fontsize=9, arrowprops=line, **place)
    return figure


def rows(values: dict, xlabel: str, form: str = "{:.2f}", mark=None, log: bool = False):
    """A row a name: a dot and its 95 % interval, or where there is none a bar; numbers beside.

    values: name -> Estimate or number; mark: (x, text) of an upright line.
    """
    figure, ax = canvas(0.8 + 0.34 * len(values))
    for row, (name, value) in enumerate(values.items()):
        value, low, high = value if isinstance(value, tuple) else (value, None, None)
        if low is None:
            ax.barh(row, value, 0.6, color=colour(name))
        else:
            ax.plot([low, high], [row, row], color=colour(name), linewidth=3, alpha=0.5)
            ax.plot(value, row, marker(name), color=colour(name), markersize=7)
        place = {"xycoords": ax.get_yaxis_transform(), "va": "center", "fontsize": 9}
        ax.annotate(span((value, low, high), form), (1.02, row), **place)
    log_scale(ax, "x" if log else "")
    ax.set(xlabel=xlabel, ylim=(len(values) - 0.5, -0.5))
    ax.set_yticks(range(len(values)), list(values))
    if mark:
        mark_at(ax, *mark)
    return figure


def buffers(architecture: Architecture):
    """What the study's stream keeps: frames under the kernel, outputs of the GRU for a second."""
    a, blue = architecture, {"color": OTHERS[0], "linewidth": 4}
    width_s, step_s = a.kernel[1] * HOP_S, a.stride[1] * HOP_S
    figure, ax = canvas(3.0)
    for n in range(a.steps + 2):
        end_s, box = n * step_s + width_s, {"facecolor": OTHERS[0], "pad": 2}
        ax.plot([end_s - width_s, end_s], [3 - 0.1 * (n % 3)] * 2, **blue)
        ax.text(end_s, 2, n + 1, color="white", fontsize=8, bbox=box, **MIDDLE)
        if n >= a.steps - 1:
            y = 1.3 - 0.25 * (n - a.steps + 1)
            ax.plot([end_s - (a.steps - 1) * step_s, end_s], [y, y], color=GREY, linewidth=3)
            ax.plot(end_s, y, "o", color=RED)
    ax.axvspan(0, width_s, color=SHADE)
    ax.text(width_s / 2, 3.5, "initial call", **MIDDLE, **SMALL)
    names = (f"{a.kernel[1]} frames\nunder the kernel", "outputs of\nthe GRU", "attention")
    ax.set_yticks([2.9, 2, 1.05], names)
    ax.set(xlabel="time in s", ylim=(0.5, 3.8), xlim=(0, None))
    ax.grid(False)
    return figure


def stream(samples, curves: dict, threshold, keyword_s, words=(), notes=(), view_s=None):
    """A recording above, and a panel below for each way to score it.

    samples: (samples,) int16; curves: name -> (times_s, probabilities); threshold: of all curves;
    keyword_s: (start, end) of its clip; words: (name, start_s); notes: (curve's name, time_s,
    text); view_s: (start, end) to be shown, None for all.
    """
    figure, axes = canvas(1.3 + 1.35 * len(curves), 1 + len(curves), sharex=True)
    whole = np.asarray(samples)[: len(samples) // 160 * 160].reshape(-1, 160)
    seconds = np.arange(len(whole)) * HOP_S
    axes[0].fill_between(seconds, whole.min(1), whole.max(1), color=INK, linewidth=0)
    first_s, last_s = view_s or (0, len(samples) / RATE_HZ)
    above = {"transform": axes[0].get_xaxis_transform(), "rotation": 90, "fontsize": 8}
    for name, start_s in words:
        if first_s <= start_s < last_s:
            axes[0].text(start_s + 0.5, 1.04, name, ha="center", **above)
    for place, (ax, (name, (x, y))) in enumerate(zip(axes[1:], curves.items(), strict=True)):
        ax.plot(x, y, color=colour(name, place), drawstyle="steps-post", linewidth=1.5)
        ax.axhline(threshold, color=RED, linestyle=":", linewidth=1)
        ax.set(ylim=(-0.03, 1.05), yticks=(0, 0.5, 1), title=name)
        own = [note[1:] for note in notes if note[0] == name]
        for height, (time_s, text) in zip((0.35, 0.7, 0.15, 0.5) * len(own), own, strict=False):
            side = 1 if time_s < 0.4 * first_s + 0.6 * last_s else -1
            style = {"arrowprops": {"arrowstyle": "->", "color": RED}, "fontsize": 9}
            style |= {"ha": "left" if side > 0 else "right", "va": "center"}
            style["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            ax.annotate(text, (time_s, height), (14 * side, 0), textcoords="offset points", **style)
    for ax in axes:
        ax.axvspan(*keyword_s, color=SHADE, zorder=0)
    axes[0].set(yticks=())
    axes[-1].set(xlabel="time in s", xlim=(first_s, last_s))
    figure.supylabel("probability of the keyword", fontsize=10)
    return figure


def frontier(points: dict, xlabel: str, ylabel: str, arrow=None):
    """Quality against cost, each point with its name at the first place where nothing stands.

    points: name -> (cost, value, low, high); arrow: (from, to, text) between two of them.
    """
    figure, ax = canvas(4.2)
    for name, (cost, value, low, high) in points.items():
        if low is not None:
            ax.plot([cost, cost], [low, high], color=colour(name), linewidth=2, alpha=0.3)
        ax.plot(cost, value, marker(name), color=colour(name), markersize=8)
    log_scale(ax, "x")
    ax.margins(0.2, 0.1)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    names = {name: point[:2] for name, point in points.items()}
    figure.draw_without_rendering()
    taken = list(ax.transData.transform(list(names.values())))
    if arrow:
        (x0, y0), (x1, y1) = ends = [names[name] for name in arrow[:2]]
        style = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 7, "shrinkB": 7}
        ax.annotate("", ends[1], ends[0], arrowprops=style)
        taken += list(np.linspace(*ax.transData.transform(ends), 30))
        names = {arrow[2]: (np.sqrt(x0 * x1), (y0 + y1) / 2), **names}
    boxes = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in taken]
    frame, renderer = ax.get_window_extent(), figure.canvas.get_renderer()
    place = {"textcoords": "offset points", "va": "center", "fontsize": 9}
    place["arrowprops"] = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkB": 0}
    for name, point in names.items():
        for dx, dy in BESIDE:
            text = ax.annotate(name, point, (dx, dy), ha="left" if dx > 0 else "right", **place)
            text.update_positions(renderer)
            box = Text.get_window_extent(text)
            if frame.x0 < box.x0 and box.x1 < frame.x1 and not any(map(box.overlaps, boxes)):
                break
            if (dx, dy) != BESIDE[-1]:
                text.remove()
        boxes.append(box)
    return figure
