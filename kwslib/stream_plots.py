"""Figures of streams, one function each, as in `plots`: what a stream says, and what results on streams are."""

from base64 import b64encode
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from .checkpoints import write_atomic
from .plots import GREY, INK, RED, colour, flac, png, tight
from .streaming import ROUNDING


def stream(waveform: np.ndarray, sample_rate_hz: int, curves: dict, threshold: float, spans: dict):
    """Waveform above, probability over time below, on one axis of seconds.

    waveform: (samples,); curves: label -> (times, probabilities); spans: label -> (start_s, end_s)
    shaded in both. The axes span the figure's full width, so a cursor's place is its share of time.
    """
    length_s = len(waveform) / sample_rate_hz
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 4), sharex=True, height_ratios=(1, 1.6))
    coarse = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
    times = np.arange(len(coarse)) * 160 / sample_rate_hz
    top.fill_between(times, coarse.min(axis=1), coarse.max(axis=1), color=INK, linewidth=0)
    for index, (label, (seconds, probabilities)) in enumerate(curves.items()):
        bottom.plot(
            seconds,
            probabilities,
            drawstyle="steps-post",
            label=label,
            color=colour(label) if colour(label) != GREY else sns.color_palette("colorblind")[index],
            linestyle="-" if index == 0 else "--",
        )
    for ax in (top, bottom):
        for tone, (start_s, end_s) in zip(("#fdae61", "#abd9e9"), spans.values(), strict=False):
            ax.axvspan(start_s, end_s, color=tone, alpha=0.45, linewidth=0)
    for label, (start_s, _) in spans.items():
        top.text(start_s, 0.97, f" {label}", transform=top.get_xaxis_transform(), va="top", fontsize=8)
    bottom.axhline(threshold, color=RED, linestyle=":", label=f"threshold {threshold:.3f}")
    top.set(ylabel="waveform", xlim=(0, length_s))
    bottom.set(ylabel="probability", xlabel="time in s", ylim=(-0.02, 1.02))
    # Over the waveform, where no curve runs.
    top.legend(
        *bottom.get_legend_handles_labels(), fontsize=8, ncols=len(curves) + 1, loc="lower right",
        bbox_to_anchor=(1, 1), borderaxespad=0.1, frameon=False,
    )  # fmt: skip
    figure.subplots_adjust(left=0.08, right=0.98, top=0.93, bottom=0.13, hspace=0.08)
    return figure


def word_spans(clips: np.ndarray, spans: np.ndarray, titles: list[str], sample_rate_hz: int = 16000):
    """Spectrograms of clips (clips, samples) int16, the word's begin and end, (clips, 2) samples, as lines."""
    figure, axes = plt.subplots(2, -(-len(clips) // 2), figsize=(9, 3.8), sharex=True, sharey=True)
    for ax, clip, edges_s, title in zip(axes.flat, clips, spans / sample_rate_hz, titles, strict=False):
        frames = np.lib.stride_tricks.sliding_window_view(clip.astype(float), 400)[::160]
        level_db = 10 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(400), axis=1)) ** 2 + 1)
        ax.imshow(
            level_db.T, origin="lower", aspect="auto", vmin=np.quantile(level_db, 0.3), cmap="Greys",
            extent=(0, len(clip) / sample_rate_hz, 0, sample_rate_hz / 2000),
        )  # fmt: skip
        for edge_s in edges_s:
            ax.axvline(edge_s, color=RED)
        ax.set_title(title, fontsize=8)
        ax.grid(False)
    for ax in axes[-1]:
        ax.set_xlabel("time in s")
    for ax in axes[:, 0]:
        ax.set_ylabel("kHz")
    return tight(figure)


def stream_equality(pairs: dict[str, tuple[np.ndarray, np.ndarray]]):
    """Streamed probability over offline probability of the same steps, and their difference. pairs:
    mode -> (offline, streamed), (steps,) each."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    for (mode, (offline, streamed)), mark in zip(pairs.items(), (".", "x"), strict=False):
        left.plot(offline, streamed, mark, markersize=5, label=mode)
        right.semilogy(np.maximum(np.abs(offline - streamed), 1e-12), mark, markersize=4, label=mode)
    left.set(xlabel="offline probability", ylabel="streamed probability")
    left.legend(fontsize=8)
    right.axhline(ROUNDING, color=RED, linestyle=":", label="asserted limit")
    right.set(xlabel="step of 80 ms", ylabel="absolute difference")
    right.legend(fontsize=8)
    return tight(figure)


def plateaus(seconds: dict, label: str, limit: float | None = None):
    """Spread of seconds over tracks, a row a setting. seconds: setting -> (tracks,)."""
    figure, ax = plt.subplots(figsize=(8, 0.6 * len(seconds) + 1.2))
    for row, (setting, values) in enumerate(seconds.items()):
        jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(values))
        ax.plot(values, row + jitter, "o", color=colour(setting), alpha=0.5, markersize=4)
        ax.plot([np.median(values)] * 2, [row - 0.35, row + 0.35], color=INK, linewidth=2)
    ax.set_yticks(range(len(seconds)), list(seconds))
    if limit is not None:
        ax.axvline(limit, color=RED, linestyle=":", label=f"target {limit:g} s")
        ax.legend(fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel=f"{label}, in s (line: median)", xlim=(-0.05, None))
    return tight(figure)


def _kind(setting: str) -> dict:
    """How a curve of a setting looks: its network's colour, broken where it was trained on clips alone."""
    return {"color": colour(setting), "linestyle": "-" if setting.endswith("-stream") else "--"}


def _by_mode(results: list[dict], height: float = 4.0):
    """A panel for each mode of streaming, and the results that belong there."""
    modes = list(dict.fromkeys(result["mode"] for result in results))
    figure, axes = plt.subplots(1, len(modes), figsize=(9, height), sharex=True, sharey=True, squeeze=False)
    panels = zip(modes, axes[0], strict=True)
    return figure, [(mode, ax, [r for r in results if r["mode"] == mode]) for mode, ax in panels]


def det(results: list[dict], rates: tuple[float, ...]):
    """Miss rate over false accepts an hour on streams made of clips; faint: each stream by itself; dots:
    offline scoring of the clips of the same streams. results: as `judging.result` gives them."""
    figure, panels = _by_mode(results)
    for mode, ax, of_mode in panels:
        for result in of_mode:
            clips = result["clips"]
            for each in clips["det_of_each"]:
                ax.plot(*_det_line(each), alpha=0.2, linewidth=0.8, **_kind(result["setting"]))
            ax.plot(*_det_line(clips["det"]), label=result["setting"], **_kind(result["setting"]))
            at = clips["at_rate"]
            reached = [rate for rate in rates if at[str(rate)]]
            offline = [at[str(rate)]["offline_miss_rate"] for rate in reached]
            fill = colour(result["setting"]) if result["setting"].endswith("-stream") else "white"
            ax.plot(
                reached, offline, "o", color=colour(result["setting"]), markerfacecolor=fill, markersize=5
            )
        ax.set_title(mode)
        ax.set(xscale="log", yscale="log", xlabel="false accepts an hour", xlim=(0.1, 100), ylim=(0.03, 1))
        ax.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["5 %", "10 %", "20 %", "50 %", "100 %"], minor=False)
        ax.set_yticks([], minor=True)
    panels[0][1].set_ylabel("share of keywords missed")
    panels[0][1].legend(fontsize=8)
    return tight(figure)


def _det_line(curve: dict) -> tuple[np.ndarray, np.ndarray]:
    _, misses, accepts = np.array(curve["points"]).T
    order = np.lexsort((-misses, accepts))
    lowest = np.minimum.accumulate(misses[order]) / max(1, curve["words"])  # nobody operates above it
    return np.maximum(accepts[order] / curve["hours"], 0.05), np.maximum(lowest, 1e-3)


def running_speech(results: list[dict], target: tuple[float, float]):
    """The share of keywords missed between other words over false accepts an hour on running speech, with exact
    95 % intervals of these at the reported shares, and broad and pale those over the keywords' speakers, which
    leave the figure where the share is not reached. target: (share missed, false accepts an hour)."""
    figure, panels = _by_mode(results, 4.6)
    lowest_rate, most = 0.5, 2000.0  # less is drawn at the first
    for mode, ax, of_mode in panels:
        for place, result in enumerate(of_mode):
            speech, tone = result["speech"], colour(result["setting"])
            _, misses, accepts = np.array(speech["det"]["points"]).T
            misses, accepts = misses / speech["det"]["words"], accepts / speech["det"]["hours"]
            order = np.lexsort((accepts, misses))
            lowest = np.minimum.accumulate(accepts[order])
            most = max(most, 1.5 * lowest[0])
            ax.plot(
                np.maximum(lowest, lowest_rate), misses[order], label=result["setting"],
                **_kind(result["setting"]),
            )  # fmt: skip
            filled = tone if result["setting"].endswith("-stream") else "white"
            for share, point in speech["at_misses"].items():
                if point:
                    at = float(share) * 1.075 ** (place - (len(of_mode) - 1) / 2)  # side by side
                    low, high = (1e9 if n is None else max(n, lowest_rate) for n in point["over_speakers"])
                    ax.plot([low, high], [at, at], color=tone, linewidth=4, alpha=0.25, solid_capstyle="butt")
                    value, low, high = (max(n, lowest_rate) for n in point["false_accepts_per_h"])
                    ax.errorbar(
                        value, at, xerr=[[value - low], [high - value]], color=tone, fmt="o", markersize=3.5,
                        markerfacecolor=filled, linewidth=1,
                    )  # fmt: skip
        ax.plot(
            target[1], target[0], marker="*", color=RED, markersize=14, markerfacecolor="none",
            linestyle="none", label="target", zorder=5,
        )  # fmt: skip
        ax.set_title(mode)
        ax.set(xscale="log", yscale="log", xlabel="false accepts an hour of running speech", ylim=(0.01, 0.5))
        ax.set_xticks([0.5, 1, 10, 100, 1000], ["≤ 0.5", "1", "10", "100", "1,000"])
        ax.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["1 %", "2 %", "5 %", "10 %", "20 %", "50 %"])
        ax.set_yticks([], minor=True)
    panels[0][1].set(ylabel="share of keywords missed", xlim=(0.45, most))  # of both panels
    panels[-1][1].plot([], [], color=INK, linewidth=1, label="exact 95 %")
    panels[-1][1].plot([], [], color=INK, linewidth=4, alpha=0.25, label="95 % over speakers")
    panels[-1][1].legend(fontsize=7, loc="upper right")
    return tight(figure)


def detector_grid(results: list[dict]):
    """Misses of every detector tried, as shares of all keywords at the four rates: a panel for each
    setting and mode, smoothing down, release and refractory time across; the chosen one framed."""
    rows_of_panels = -(-len(results) // 2)
    figure, axes = plt.subplots(
        rows_of_panels, min(len(results), 2), figsize=(9, 2.9 * rows_of_panels), squeeze=False
    )
    for result, ax in zip(results, axes.flat, strict=False):
        detector = result["detector"]
        grid = np.array(sorted(detector["grid"]))  # rows of smoothing, release, refractory_s, misses
        rows, columns = np.unique(grid[:, 0]), np.unique(grid[:, 1:3], axis=0)
        share = 100 * grid[:, 3].reshape(len(rows), len(columns)) / (4 * detector["words"])
        sns.heatmap(share, annot=True, fmt=".1f", cmap="Blues", cbar=False, ax=ax, vmin=0, vmax=3 * share.min(),
                    annot_kws={"size": 7})  # fmt: skip
        ax.set_xticklabels([f"{release:g}, {wait:g}" for release, wait in columns], rotation=45, fontsize=7)
        ax.set_yticklabels([f"{row:.0f}" for row in rows], rotation=0)
        chosen = (detector["release"], detector["refractory_s"])
        column = next(n for n, c in enumerate(columns) if tuple(c) == chosen)
        row = list(rows).index(detector["smoothing"])
        ax.add_patch(plt.Rectangle((column, row), 1, 1, fill=False, edgecolor=RED, linewidth=2))
        ax.set_title(f"{result['setting']}, {result['mode']}", fontsize=8)
    for ax in axes.flat[len(results) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("release, refractory s", fontsize=8)
    for ax in axes[:, 0]:
        ax.set_ylabel("steps smoothed", fontsize=8)
    return tight(figure)


def detections(heard: dict, spans: dict):
    """What detectors do, a panel each: probability, its mean, threshold and release, detections as triangles, deaf
    time shaded. heard: label -> (times, probabilities, detector); spans: label -> (start_s, end_s)."""
    figure, axes = plt.subplots(
        len(heard), 1, figsize=(9, 2.4 * len(heard) + 0.4), sharex=True, squeeze=False
    )
    for ax, (title, (times, probabilities, detector)) in zip(axes[:, 0], heard.items(), strict=True):
        smoothed = detector.smoothed(probabilities)
        ax.plot(times, probabilities, color=GREY, linewidth=0.8, drawstyle="steps-post", label="probability")
        ax.plot(times, smoothed, color=colour("baseline"), drawstyle="steps-post", label="its mean")
        ax.axhline(detector.threshold, color=RED, linestyle=":", label=f"threshold {detector.threshold:.3f}")
        ax.axhline(
            detector.release * detector.threshold, color=RED, linestyle="-.", linewidth=0.8, label="release"
        )
        for number, at in enumerate(times[detector.find(times, smoothed)]):
            ax.axvspan(
                at, at + detector.refractory_s, color="0.6", alpha=0.6, linewidth=0, zorder=1,
                label=None if number else "deaf",
            )  # fmt: skip
            ax.plot(at, 1.06, "v", color=INK, clip_on=False, label=None if number else "detection")
        for label, (start_s, end_s) in spans.items():
            ax.axvspan(start_s, end_s, color="#fdae61", alpha=0.45, linewidth=0, zorder=0)
            ax.text(start_s, 1.03, f"{label} ", fontsize=8, ha="right")
        ax.set(ylabel="probability", ylim=(-0.02, 1.1), xlim=(times[0], times[-1]))
        ax.set_title(title, fontsize=8, loc="left")
        ax.legend(fontsize=7, loc="upper left", ncols=2, bbox_to_anchor=(0, 0.93))
    axes[-1, 0].set_xlabel("time in s")
    return tight(figure)


def player(figure, path: Path, waveform: np.ndarray, sample_rate_hz: int, alt: str):
    """A figure of `stream` above a player: while it plays, a cursor runs over the figure, and a click
    on the figure jumps there. Needs no network."""
    from IPython.display import HTML

    content = png(figure, tight=False)
    write_atomic(path, content)
    left, right = figure.axes[0].get_position().x0, figure.axes[0].get_position().x1
    return HTML(
        _PLAYER.format(
            image=b64encode(content).decode(),
            audio=flac(waveform, sample_rate_hz),
            alt=escape(alt, quote=True),
            left=left,
            width=right - left,
            length_s=len(waveform) / sample_rate_hz,
        )
    )


_PLAYER = """<figure class="player" style="position:relative;margin:0;max-width:900px">
<div style="position:relative;cursor:pointer"><img alt="{alt}" src="data:image/png;base64,{image}"
style="width:100%;display:block"><div class="cursor" style="position:absolute;top:0;bottom:8%;width:2px;
background:#d7191c;left:calc(100% * {left})"></div></div>
<audio controls preload="auto" src="{audio}" style="width:100%"></audio>
<script>(() => {{
  const figure = document.currentScript.parentElement;
  const audio = figure.querySelector("audio"), cursor = figure.querySelector(".cursor");
  if (!audio) {{ cursor.remove(); return; }}
  const place = () => {{
    cursor.style.left = 100 * ({left} + {width} * audio.currentTime / {length_s}) + "%";
    if (!audio.paused) requestAnimationFrame(place);
  }};
  audio.addEventListener("play", place);
  audio.addEventListener("seeked", place);
  cursor.parentElement.addEventListener("click", event => {{
    const box = cursor.parentElement.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - {left}) / {width};
    audio.currentTime = Math.min(Math.max(share, 0), 1) * {length_s};
  }});
}})();</script></figure>"""
