"""Short tracks of a run's reported clips: one to look at and listen to, many to measure a plateau on; and what the
offline network makes of them."""

import numpy as np
import pandas
import torch

from . import features, models
from .events import plateau_s
from .experiments import Experiment
from .streaming import MODES, Stream


def demo(
    experiment: Experiment, setting: str, stretch_s: int = 14, seed: int = 0
) -> tuple[np.ndarray, float]:
    """A track of reported clips: `stretch_s` other words, the keyword, as many other words again.

    The keyword's clip is the one of median score, so neither the easiest nor the hardest.
    Returns (samples,) float32 and the second at which the keyword's clip begins.
    """
    scores = experiment.scores(setting)["probabilities"]
    labels = experiment.labels[experiment.reported]
    positives = np.flatnonzero(labels == 1)
    median = positives[np.argsort(scores[positives])[len(positives) // 2]]
    others = _draw(np.flatnonzero(labels == 0), 2 * stretch_s, seed)
    order = [*others[:stretch_s], median, *others[stretch_s:]]
    return experiment.corpus.waveforms(experiment.reported[order]).reshape(-1), float(stretch_s)


def plateaus(experiment: Experiment, setting: str, tracks: int) -> pandas.DataFrame:
    """Seconds over the setting's threshold past the keyword's clip, a row a track: by the stream in each mode, and
    `offline`, every second by itself. Keywords and other words are drawn from the reported part."""
    threshold = experiment.run.metrics(setting)["quality"]["threshold"]
    model, path = experiment.load(setting), experiment.run.checkpoint(setting)
    streams = {mode: Stream.load(path, mode) for mode in MODES}
    labels, rows = experiment.labels[experiment.reported], []
    keywords = np.random.default_rng(1).permutation(np.flatnonzero(labels == 1))[:tracks]
    for number, keyword in enumerate(keywords):
        others = _draw(np.flatnonzero(labels == 0), 6, [2, number])
        order = [*others[:3], keyword, *others[3:]]
        track = experiment.corpus.waveforms(experiment.reported[order]).reshape(-1)
        curves = {"offline": offline_track(model, track, "window")}
        curves |= {mode: stream.hear(track).T for mode, stream in streams.items()}
        rows.append({name: plateau_s(*curve, threshold, 4.0) for name, curve in curves.items()})
    return pandas.DataFrame(rows)


def longer(table: pandas.DataFrame, mode: str) -> pandas.Series:
    """Of `plateaus`: seconds by which the probability falls later in a mode than offline, 0 where it does not."""
    return (table[mode] - table["offline"]).clip(lower=0)


def offline_track(model: models.CRNN, waveform: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """A recording scored by the offline network: times in seconds and probabilities, (steps,) each.

    'carried': convolution and GRU over the whole recording at once, attention over the outputs of the
    last second. 'window': every second by itself, as in training. What a stream must equal.
    """
    a = model.architecture
    with torch.inference_mode():
        power = features.mel_power(torch.from_numpy(waveform)[None], a.front_end)
        log_mels = features.log_mel(power, a.front_end)
        first = a.kernel[1] - 1
        if mode == "window":
            logits = model.windows(log_mels)[0]
            first += (a.steps - 1) * a.stride[1]
        else:
            outputs, _ = model.gru(model.convolve(log_mels))
            ends = range(1, outputs.shape[1] + 1)
            logits = torch.cat([model.classify(outputs[:, max(0, end - a.steps) : end]) for end in ends])
        probabilities = torch.softmax(logits.double(), dim=1)[:, 1].numpy()
    times = (first + a.stride[1] * np.arange(len(probabilities))) * a.front_end.hop_samples
    return times / a.front_end.sample_rate_hz, probabilities


def _draw(clips: np.ndarray, count: int, seed) -> np.ndarray:
    """`count` of the clips at random; one comes twice only where there are fewer."""
    return np.random.default_rng(seed).choice(clips, count, replace=len(clips) < count)
