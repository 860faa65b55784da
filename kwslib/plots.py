"""One function a figure: arrays in, figure out; colours that survive print and colour blindness.

`show` saves a figure and displays it with its alternative text. A setting keeps its colour through
all notebooks; a int8 version has its float model's colour and another marker.
"""

import io
from base64 import b64encode
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from . import metrics
from .checkpoints import write_atomic

_COLOURS = dict(
    zip(("baseline", "student1", "student2", "student3"), sns.color_palette("colorblind", 4), strict=True)
)
_MARKERS = {"": "o", "-int8-dynamic": "s", "-int8-static": "D", "-labels": "X", "-stream": "P"}
GREY = "0.45"
INK, RED = "0.2", "#b2182b"


def style() -> None:
    """The look of every figure; called once, at a notebook's top."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette="colorblind",
        rc={"figure.dpi": 110, "savefig.dpi": 150, "axes.titlelocation": "left", "figure.figsize": (8, 4)},
    )


def colour(setting: str):
    """The colour of a setting's network."""
    return _COLOURS.get(setting.split("-")[0], GREY)


def marker(setting: str) -> str:
    """The marker of a setting's kind: float, dynamic or static int8, labels only."""
    network = setting.split("-")[0]
    return _MARKERS.get(setting.removeprefix(network), "o")


def show(figure, path: Path, alt: str) -> None:
    """Saves the figure as PNG at `path`, displays it with alternative text, closes it."""
    from IPython.display import Image, display

    content = png(figure)
    write_atomic(path, content)
    display(Image(content, width=round(figure.get_figwidth() * 96)), metadata={"image/png": {"alt": alt}})


def word_counts(counts: dict[str, int], keyword: str):
    """Clips of each word, the keyword's bar in colour."""
    figure, ax = plt.subplots(figsize=(9, 3.6))
    words = list(counts)
    colours = [_COLOURS["baseline"] if word == keyword else "0.7" for word in words]
    ax.bar(words, [counts[word] for word in words], color=colours)
    ax.set(xlabel="word", ylabel="clips", xlim=(-0.7, len(words) - 0.3))
    ax.tick_params(axis="x", labelrotation=90, labelsize=8)
    ax.grid(False, axis="x")
    return tight(figure)


def log_mel_panels(log_mels: np.ndarray, titles: list[str], hop_s: float = 0.01):
    """log_mels: (panels, mels, frames), one scale of colour for all."""
    figure, axes = plt.subplots(1, len(log_mels), figsize=(9, 2.6), sharey=True, layout="constrained")
    low, high = np.quantile(log_mels, [0.02, 1])
    for ax, image, title in zip(np.atleast_1d(axes), log_mels, titles, strict=True):
        extent = (0, image.shape[1] * hop_s, 0, image.shape[0])
        drawn = ax.imshow(
            image, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high
        )
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("time in s")
        ax.grid(False)
    np.atleast_1d(axes)[0].set_ylabel("mel band")
    figure.colorbar(drawn, ax=axes, label="log mel power")
    return figure


def training_curves(histories: dict, kept: dict[str, int], bar: float | None = None):
    """Validation 1 - AUC and training loss over optimizer steps.

    histories: name -> frame with columns steps, loss, one_minus_auc; kept: name -> epoch that was
    kept, marked; bar: a line at a 1 - AUC that is to be beaten.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for name, history in histories.items():
        beside_its_stream = f"{name}-stream" in histories  # of the same colour
        dash = "--" if name.endswith("-labels") or beside_its_stream else "-"
        left.plot(history["steps"], history["loss"], dash, color=colour(name), label=name)
        error = np.maximum(history["one_minus_auc"], 1e-6)
        right.plot(history["steps"], error, dash, color=colour(name), label=name)
        if name in kept:
            row = history.index[history["epoch"] == kept[name]][0]
            right.plot(
                history["steps"][row], error[row], marker(name), color=colour(name), markeredgecolor="white"
            )
    if bar is not None:
        right.axhline(bar, color=GREY, linestyle=":", label=f"the study's bar, {bar:.1e}")
    for ax in (left, right):
        ax.locator_params(axis="x", nbins=5)
    left.set(xlabel="optimizer steps", ylabel="training loss")
    right.set(xlabel="optimizer steps", ylabel="validation 1 - AUC", yscale="log")
    right.legend(fontsize=8)
    return tight(figure)


def error_curves(scored: dict[str, tuple[np.ndarray, np.ndarray]], thresholds: dict[str, float]):
    """False rejects over false accepts as shares of all clips, the area under which is au_fa_fr.

    scored: setting -> (labels, scores); thresholds: setting -> operating point, marked.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
    for setting, (labels, scores) in scored.items():
        at, accepts, rejects = metrics.error_curve(labels, scores)
        accepts, rejects = accepts / len(labels), rejects / len(labels)
        area = metrics.au_fa_fr(labels, scores)
        dash = "--" if setting.endswith("-labels") else "-"
        left.plot(accepts, rejects, dash, color=colour(setting), label=f"{setting}: {area:.2e}")
        floor = 0.5 / len(labels)
        right.step(
            np.maximum(accepts, floor), np.maximum(rejects, floor), dash, where="post", color=colour(setting)
        )
        if setting in thresholds:
            point = np.searchsorted(at, thresholds[setting])
            for ax, low in ((left, 0), (right, floor)):
                ax.plot(
                    max(accepts[point], low),
                    max(rejects[point], low),
                    marker(setting),
                    color=colour(setting),
                    markeredgecolor="black",
                    zorder=5,
                )
        if len(scored) == 1:
            left.fill_between(accepts, rejects, color=colour(setting), alpha=0.25)
    knee = max(np.mean(labels) for labels, _ in scored.values())
    left.set(xlim=(-0.002, 0.12), ylim=(-0.002, 1.03 * knee))
    left.legend(title="au_fa_fr", fontsize=8, title_fontsize=8)
    right.set(xscale="log", yscale="log")
    for ax in (left, right):
        ax.set(xlabel="false accepts, share of all clips", ylabel="false rejects, share of all clips")
    right.set_title(f"{len(labels):,} clips, {int(np.sum(labels)):,} of the keyword", fontsize=9)
    return tight(figure)


def confusion_matrix(counts: dict[str, int], keyword: str):
    """counts: as `metrics.confusion` gives them."""
    figure, ax = plt.subplots(figsize=(4.6, 3.2))
    table = np.array(
        [[counts["hits"], counts["misses"]], [counts["false_accepts"], counts["correct_rejects"]]]
    )
    share = table / table.sum(axis=1, keepdims=True)
    labels = np.array(
        [[f"{n:,}\n{s:.1%}" for n, s in zip(*row, strict=True)] for row in zip(table, share, strict=True)]
    )
    sns.heatmap(share, annot=labels, fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, ax=ax, linewidths=1)
    ax.set(xlabel="heard as", ylabel="spoken")
    ax.set_xticklabels([keyword, "other"])
    ax.set_yticklabels([keyword, "other"], rotation=0)
    return tight(figure)


def score_histogram(labels: np.ndarray, scores: np.ndarray, threshold: float):
    """Scores of both classes on a logit axis, clips counted on a log axis, the threshold marked."""
    figure, ax = plt.subplots(figsize=(8, 3.2))
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    logits = np.log(clipped / (1 - clipped))
    bins = np.linspace(logits.min(), logits.max(), 50)
    for value, name, tone in ((0, "other words", "0.6"), (1, "keyword", _COLOURS["baseline"])):
        ax.hist(logits[labels == value], bins, alpha=0.7, label=name, color=tone)
    limit = np.clip(threshold, 1e-6, 1 - 1e-6)
    ax.axvline(np.log(limit / (1 - limit)), color=RED, linestyle="--", label=f"threshold {threshold:.3f}")
    ticks = np.array([1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6])
    ax.set_xticks(np.log(ticks / (1 - ticks)), [f"{t:g}" for t in ticks], rotation=45, fontsize=8)
    ax.set(
        yscale="log",
        xlabel="probability of the keyword",
        ylabel="clips",
        xlim=(bins[0] - 0.5, bins[-1] + 0.5),
    )
    ax.legend(fontsize=8)
    return tight(figure)


def cost_bars(rows: list[dict]):
    """Share of stored bytes and of MACs of each part. rows: as `cost.by_part` gives them."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True)
    for ax, key, label in zip(axes, ("bytes", "macs"), ("stored bytes", "MACs a clip"), strict=True):
        bars = ax.barh([row["part"] for row in rows], [row[key] for row in rows], color=_COLOURS["baseline"])
        ax.bar_label(bars, [f"{row[key]:,}" for row in rows], padding=3, fontsize=8)
        ax.set(xlabel=label, xlim=(0, 1.25 * max(row[key] for row in rows)))
        ax.grid(False, axis="y")
    axes[0].invert_yaxis()
    return tight(figure)


def times(value: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio of errors in words, with its interval: '1.20 times (1.05 to 1.33)'."""
    if not np.isfinite(value):
        return "no ratio (the other made no error)"
    return f"{value:.2f} times" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def format_table(table):
    """A results table for people: bytes whole, rates to one place, errors in powers of ten."""
    formats = {}
    for name in table.columns:
        if name.endswith(("au_fa_fr", "one_minus_auc")):
            formats[name] = "{:.2e}"
        elif name.endswith(("bytes", "_per_clip")):
            formats[name] = "{:,.0f}"
        else:
            formats[name] = "{:.1f}" if name.endswith(("size", "file", "speed")) else "{:.2f}"
    return table.style.format(formats, na_rep="–")


def ratios(table, column: str, limit: float, label: str, low: str = "low", high: str = "high"):
    """Ratio of each setting to its reference with a 95 % interval; a line at 1 and at the limit.

    table: frame indexed by setting with `column`, and columns `low` and `high` of its interval.
    """
    figure, ax = plt.subplots(figsize=(8, 0.8 + 0.42 * len(table)))
    for row, (setting, values) in enumerate(table.iterrows()):
        ax.plot([values[low], values[high]], [row, row], color=colour(setting), linewidth=2)
        ax.plot(values[column], row, marker(setting), color=colour(setting), markeredgecolor="black")
    ax.axvline(1, color=GREY)
    ax.axvline(limit, color=RED, linestyle=":", label=f"target: at most {limit:g}")
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlabel=label, ylim=(len(table) - 0.5, -0.5))
    ax.legend(fontsize=8)
    return tight(figure)


def size_measures(table):
    """Grouped bars of bytes by measure of size. table: frame, settings by measures, in bytes."""
    figure, ax = plt.subplots(figsize=(9, 3.8))
    table.plot.barh(ax=ax, logx=True, width=0.8, color=sns.color_palette("colorblind", table.shape[1]))
    ax.set(xlabel="bytes", ylabel="")
    ax.invert_yaxis()
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return tight(figure)


def frontier(points, peers, bar: dict[str, float]):
    """1 - AUC over cost rates: left MACs, right size. Down and right is better.

    points: frame by setting with speed, file, one_minus_auc, low, high; peers: frame by name with
    speed, size, one_minus_auc (another corpus: grey); bar: one_minus_auc and rate to be beaten.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharey=True)
    for ax, ours, theirs, label in (
        (axes[0], "speed", "speed", "times fewer MACs than its baseline"),
        (axes[1], "file", "size", "times smaller than its baseline (file)"),
    ):
        for number, (name, values) in enumerate(peers.iterrows(), start=1):
            place = (values[theirs], values["one_minus_auc"])
            ax.plot(*place, "v", color="0.6", markersize=5, label=f"{number}  {name} ({values['size_is']})")
            ax.annotate(str(number), place, fontsize=8, color=GREY, xytext=(3, 3), textcoords="offset points")
        for setting, values in points.iterrows():
            error = max(values["one_minus_auc"], 1e-5)
            ax.plot([values[ours]] * 2, [max(values["low"], 1e-5), values["high"]], color=colour(setting),
                    alpha=0.5, linewidth=1.5)  # fmt: skip
            ax.plot(values[ours], error, marker(setting), color=colour(setting), markeredgecolor="black",
                    label=setting, markersize=8)  # fmt: skip
        ax.axhline(bar["one_minus_auc"], color=RED, linestyle=":", linewidth=1.5)
        ax.axvline(bar["rate"], color=RED, linestyle=":", linewidth=1.5)
        ax.set(xscale="log", yscale="log", xlabel=label)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes[0].set_ylabel("1 - AUC")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return tight(figure)


def clips(waveforms: np.ndarray, captions: list[str], sample_rate_hz: int = 16000):
    """Players in a row of HTML. waveforms: (clips, samples) float."""
    from IPython.display import HTML

    players = [
        f'<figure class="clip"><audio controls preload="none" src="{flac(waveform, sample_rate_hz)}"></audio>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for waveform, caption in zip(waveforms, captions, strict=True)
    ]
    return HTML(f'<div class="clips">{"".join(players)}</div>')


def flac(waveform: np.ndarray, sample_rate_hz: int) -> str:
    """A waveform (samples,) float as the address of a page's audio."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{b64encode(buffer.getvalue()).decode()}"


def png(figure, tight: bool = True) -> bytes:
    """A figure as PNG; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight" if tight else None, facecolor="white",
                   metadata={"Software": None})  # fmt: skip
    plt.close(figure)
    return buffer.getvalue()


def tight(figure):
    """The figure, its axes laid out."""
    figure.tight_layout()
    return figure
