"""Networks on continuous audio: thresholds are chosen on one part of it, results are of another.

Each fold's network is judged on audio that it never heard; counts of all folds are added up. A
fold's threshold is the lowest at which talk gives at most one false accept an hour. That talk
trained none of the networks that score it, and none of it is talk that the fold is judged on.
"""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas
import torch

from . import events, files, metrics, synth, tracks
from .architecture import Setting
from .audio import SAMPLE_RATE_HZ
from .data import deal
from .events import Detector, Outcome
from .experiment import GROUPS, Experiment
from .features import log_mel_of
from .models import CRNN
from .streaming import Stream
from .tracks import Track

OVER_DB = 10  # of the keyword over speech
NOISE_MINUTES = {"smoke": 0.1, "quick": 0.5, "full": 4}  # of each kind, for each fold
FREE = ("talk", "continuous speech", "words", "noise", "read speech")  # of the keyword
THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-4, 12, 97)))  # of the curve
AROUND = 14  # words before and after the keyword of the demo
WAYS = {"window": CRNN.windows, "carried": CRNN.carried}  # to hear the demo


def judge(experiment: Experiment, setting: Setting) -> dict:
    """Chooses the detectors of a setting and judges it. Writes `streams/SETTING.json` and returns
    it; the detectors go into the checkpoints of networks that listen."""
    paths = [experiment.run.checkpoint(setting, fold) for fold in range(len(experiment.folds))]
    streams = [Stream.load(path) for path in paths]
    detectors = choose(experiment, streams)
    heard = {}  # kind of audio -> (detector, times, smoothed, track) of each fold
    for fold, (path, stream, detector) in enumerate(zip(paths, streams, detectors, strict=True)):
        if setting.is_stream:
            files.set_metadata(path, detector=json.dumps(asdict(detector)))
        for name, track in audio(experiment, fold).items():
            times, probabilities = stream.score(track.samples, chunk=SAMPLE_RATE_HZ).T
            smoothed = detector.smoothed(probabilities)
            heard.setdefault(name, []).append((detector, times, smoothed, track))
    heard["read speech"] = heard.get("talk", []) + heard.get("continuous speech", [])
    totals = {name: _total(parts) for name, parts in heard.items()}
    values = {
        "setting": str(setting),
        "detectors": [asdict(detector) for detector in detectors],
        "false_accepts": {name: _false_accepts(totals[name]) for name in FREE if name in totals},
        "missed": {name: _missed(total) for name, total in totals.items() if total.words},
        "latency_s": np.median(totals["between words"].latencies_s or np.nan),
        "curve": _curve(heard["between words"], heard["read speech"]),
    }
    files.write_json(experiment.run.path("streams", setting, "json"), values)
    return experiment.run.streams(setting)


def choose(experiment: Experiment, streams: list[Stream]) -> list[Detector]:
    """The detector of each fold. All have the smoothing that misses fewest keywords of training
    clips between words at the thresholds that it leads to."""
    talk, spoken = [], []  # of each fold
    for fold, stream in enumerate(streams):
        group = experiment.talk_groups[(fold + 1) % GROUPS]
        talk.append([stream.score(samples) for samples in group.values()])
        material = experiment.material(fold, "train")
        some = np.random.default_rng(0).permutation(material.keyword)[:100]
        track = tracks.between_words(replace(material, keyword=some), 1)
        spoken.append((*stream.score(track.samples).T, track))
    tried = []
    for smoothing in (1, 2, 3, 5, 8):  # steps
        detectors = [_detector(talk, fold, smoothing) for fold in range(len(streams))]
        scored = zip(detectors, spoken, strict=True)
        parts = [(own, times, own.smoothed(p), track) for own, (times, p, track) in scored]
        tried.append((_total(parts).misses, smoothing, detectors))
    return min(tried, key=lambda row: row[:2])[2]


def _detector(talk: list[list[np.ndarray]], fold: int, smoothing: int) -> Detector:
    """talk: what network n made of group n + 1, of which the fold's own group is left out."""
    rows = [rows for n, of_n in enumerate(talk) if (n + 1) % GROUPS != fold for rows in of_n]
    smooth = Detector(smoothing=smoothing)
    scored = [(r[:, 0], smooth.smoothed(r[:, 1])) for r in rows if len(r)]
    if not scored:
        return smooth
    hours = sum(times[-1] for times, _ in scored) / 3600  # one false accept in each
    return replace(smooth, threshold=events.threshold_at(scored, int(hours)))


def audio(experiment: Experiment, fold: int) -> dict[str, Track]:
    """What the fold's network is judged on, by kind: four without the keyword, two with it."""
    material, seed = experiment.material(fold, "test"), 1000 * experiment.parameters.seed + fold
    found = {"talk": _joined(experiment.talk_groups[fold].values())}
    if experiment.speech:
        speakers = experiment.speech.speakers
        group_of = deal(speakers, len(experiment.folds))
        own = [samples for name, samples in speakers.items() if group_of[name] == fold]
        found["continuous speech"] = _joined(own)
    speech = np.concatenate([track.samples for track in found.values()])
    minutes = NOISE_MINUTES[experiment.parameters.profile]
    found["words"] = tracks.join_words(material, seed)
    found["noise"] = _joined(synth.noises(minutes, 500 + seed).values())
    found["between words"] = tracks.between_words(material, seed)
    found[f"{OVER_DB} dB over speech"] = tracks.over_speech(speech, material, OVER_DB, seed)
    return {name: track for name, track in found.items() if len(track.samples)}


def _joined(recordings) -> Track:
    return Track(np.concatenate([np.zeros(0, np.int16), *recordings]))


def _total(parts: list[tuple], threshold: float | None = None) -> Outcome:
    """The outcome of all folds, at their own thresholds or at one for all."""
    total = Outcome(0, 0, 0, 0.0, ())
    for detector, times, smoothed, track in parts:
        own = detector if threshold is None else replace(detector, threshold=threshold)
        total += events.outcome(times[own.find(times, smoothed)], track.words, track.hours)
    return total


def _false_accepts(o: Outcome) -> dict:
    low, high = metrics.poisson_interval(o.false_accepts, o.hours)
    stated = {"count": o.false_accepts, "hours": o.hours, "per_hour": o.false_accepts / o.hours}
    return stated | {"low": low, "high": high}


def _missed(o: Outcome) -> dict:
    low, high = metrics.binomial_interval(o.misses, o.words)
    stated = {"count": o.misses, "words": o.words, "share": o.misses / o.words}
    return stated | {"low": low, "high": high}


def _curve(spoken: list[tuple], speech: list[tuple]) -> dict[str, list[float]]:
    """Share missed and false accepts an hour at thresholds that are the same for all folds."""
    curve = {"threshold": THRESHOLDS.tolist()}
    missed, accepts = ([_total(parts, t) for t in THRESHOLDS] for parts in (spoken, speech))
    curve["missed"] = [total.misses / total.words for total in missed]
    curve["false_accepts_per_hour"] = [total.false_accepts / total.hours for total in accepts]
    return curve


# The study's experiment: one GRU whose state runs on, beside windows that each begin afresh.


@dataclass(frozen=True)
class Demo:
    """Other words, the keyword, other words."""

    samples: np.ndarray  # (samples,) int16
    start_s: float  # of the keyword's clip
    end_s: float
    words: list[tuple[str, float]]  # name and start of every clip


def demo(experiment: Experiment, fold: int = 0, seed: int = 0) -> Demo:
    """Half a minute of tested clips, a clip of the keyword in the middle."""
    material, count = experiment.material(fold, "test"), 2 * AROUND
    generator = np.random.default_rng([experiment.parameters.seed, 31, seed])
    others = generator.choice(material.others, count, replace=len(material.others) < count)
    order = np.insert(others, AROUND, generator.choice(material.keyword))
    words = [(name, float(s)) for s, name in enumerate(experiment.corpus.words[order].tolist())]
    return Demo(material.clips[order].reshape(-1), float(AROUND), float(AROUND + 1), words)


def offline(model: CRNN, samples: np.ndarray, way: str = "window") -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the last frame and probability, (steps,) each, of (samples,) int16 in torch. way:
    `window` scores the last second, once there is one; `carried`, the study's way, runs one GRU on
    from the start, and attention sees its outputs of the last second."""
    a, front_end = model.architecture, model.architecture.front_end
    with torch.inference_mode():
        log_mels = log_mel_of(samples[None], front_end)
        logits = WAYS[way](model, log_mels)[0].double()
    steps = (log_mels.shape[2] - a.kernel[1]) // a.stride[1] + 1
    last = np.arange(steps - len(logits), steps) * a.stride[1] + a.kernel[1] - 1
    times = last * front_end.hop_samples / front_end.sample_rate_hz
    return times, torch.softmax(logits, dim=1)[:, 1].numpy()


def plateaus(experiment: Experiment, model: CRNN, threshold: float, count: int) -> pandas.DataFrame:
    """A row a demo: seconds for which the probability stays over the threshold after the keyword's
    clip, in each way."""
    rows = []
    for each in (demo(experiment, seed=seed) for seed in range(count)):
        heard = {way: offline(model, each.samples, way) for way in WAYS}
        rows.append({w: events.plateau_s(*h, threshold, each.end_s) for w, h in heard.items()})
    return pandas.DataFrame(rows).add_suffix("_s")
