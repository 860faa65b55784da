"""Networks on continuous audio: thresholds are chosen on one part of it, results are of another.

Each fold's network is judged on audio that it never heard: talk of its own group of speakers,
continuous speech, other words one after another, noise; and on the keyword between words and over
speech. Counts of all folds are added up.

A fold's threshold is the lowest at which talk gives at most one false accept an hour. That talk
trained none of the networks that score it, and none of it is talk that the fold is judged on.
"""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas
import torch

from . import events, files, metrics, synth, tracks
from .architecture import Setting
from .data import SAMPLE_RATE_HZ, deal
from .events import Detector, Outcome
from .experiment import GROUPS, Experiment
from .features import log_mel_of
from .streaming import Stream
from .tracks import Track
from .windows import window_ends_s

SMOOTHING = (1, 2, 3, 5)  # steps that are tried
CHOSEN_PER_HOUR = 1.0  # false accepts at which thresholds are chosen
OVER_DB = (20, 10, 5)  # of the keyword over speech
NOISE_MINUTES = {"smoke": 0.1, "quick": 0.5, "full": 4}  # of each kind, for each fold
AROUND = 14  # words before and after the keyword of the demo
READ_SPEECH = ("talk", "continuous speech")
FREE = (*READ_SPEECH, "words", "noise")  # of the keyword
MISSED_SHARE = 0.05  # at which false accepts are stated too


@dataclass(frozen=True)
class Demo:
    """Other words, the keyword, other words. samples: (samples,) int16; start_s, end_s: of the
    keyword's clip; words: name and start of every clip."""

    samples: np.ndarray
    start_s: float
    end_s: float
    words: list[tuple[str, float]]


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
        audio = free_audio(experiment, fold)
        for name, track in (audio | keyword_audio(experiment, fold, audio)).items():
            times, probabilities = stream.score(track.samples, chunk=SAMPLE_RATE_HZ).T
            smoothed = detector.smoothed(probabilities)
            heard.setdefault(name, []).append((detector, times, smoothed, track))
    speech = [part for name in READ_SPEECH for part in heard.get(name, [])]
    total = {name: _total(parts) for name, parts in heard.items()}
    free = {name: total[name] for name in FREE if name in total}
    spoken = {name: total[name] for name in total if name not in FREE and total[name].words}
    free["read speech"] = _total(speech)
    curve, at_missed = _curve(heard["between words"], speech)
    experiment.run.write_streams(setting, {
        "setting": str(setting),
        "detectors": [asdict(detector) for detector in detectors],
        "false_accepts": {name: _false_accepts(outcome) for name, outcome in free.items()},
        "missed": {name: _missed(outcome) for name, outcome in spoken.items()},
        "latency_s": _latency(spoken["between words"]),
        "again": sum(outcome.again for outcome in spoken.values()),
        "curve": curve,
        "at_5_percent_missed": at_missed,
    })  # fmt: skip
    return experiment.run.streams(setting)


def choose(experiment: Experiment, streams: list[Stream]) -> list[Detector]:
    """The detector of each fold. All have the smoothing that misses fewest keywords of training
    clips between words at the thresholds that it leads to."""
    talk, words = [], []  # of each fold, rows (steps, 2) and what they are of
    for fold, stream in enumerate(streams):
        group = experiment.talk_groups[(fold + 1) % GROUPS]
        talk.append([stream.score(samples) for samples in group.values()])
        track = tracks.between_words(_some(experiment.material(fold, "train"), 100), 1)
        words.append((stream.score(track.samples), track))
    tried = []
    for smoothing in SMOOTHING:
        detectors = [_detector(talk, fold, smoothing) for fold in range(len(streams))]
        outcomes = [
            _outcome(d, rows[:, 0], d.smoothed(rows[:, 1]), track)
            for d, (rows, track) in zip(detectors, words, strict=True)
        ]
        tried.append((sum(outcome.misses for outcome in outcomes), smoothing, detectors))
    return min(tried, key=lambda row: row[:2])[2]


def _detector(talk: list[list[np.ndarray]], fold: int, smoothing: int) -> Detector:
    """talk: what network n made of talk of group n + 1; what is of the fold's own group is left
    out."""
    rows = [rows for n, of_n in enumerate(talk) if (n + 1) % GROUPS != fold for rows in of_n]
    smooth = Detector(smoothing=smoothing)
    scored = [(r[:, 0], smooth.smoothed(r[:, 1])) for r in rows if len(r)]
    if not scored:
        return smooth
    hours = sum(times[-1] for times, _ in scored) / 3600
    threshold = events.threshold_at(scored, int(CHOSEN_PER_HOUR * hours))
    return replace(smooth, threshold=min(threshold, 1.0))


def free_audio(experiment: Experiment, fold: int) -> dict[str, Track]:
    """Audio without the keyword that the fold's network is judged on, by kind."""
    seed = 1000 * experiment.parameters.seed + fold
    found = {"talk": _track(experiment.talk_groups[fold].values())}
    if experiment.speech:
        speakers = experiment.speech.speakers
        group_of = deal(speakers, len(experiment.folds))
        found["continuous speech"] = _track([s for n, s in speakers.items() if group_of[n] == fold])
    found["words"] = tracks.join_words(experiment.material(fold, "test"), seed)
    minutes = NOISE_MINUTES[experiment.parameters.profile]
    found["noise"] = _track(synth.noises(minutes, 500 + seed).values())
    return {name: track for name, track in found.items() if len(track.samples)}


def keyword_audio(experiment: Experiment, fold: int, free: dict[str, Track]) -> dict[str, Track]:
    """Audio in which the fold's network has to find the keyword, by kind; free: `free_audio`."""
    material, seed = experiment.material(fold, "test"), 1000 * experiment.parameters.seed + fold
    speech = np.concatenate([free[name].samples for name in READ_SPEECH if name in free])
    found = {"between words": tracks.between_words(material, seed)}
    for over_db in OVER_DB:
        name = f"{over_db} dB over speech"
        found[name] = tracks.over_speech(speech, material, over_db, seed)
    return found


def _track(recordings) -> Track:
    samples = np.concatenate([np.zeros(0, np.int16), *recordings])
    return Track(samples, np.zeros((0, 2)), np.zeros(0, int))


def _some(material: tracks.Material, count: int) -> tracks.Material:
    return replace(material, keyword=np.random.default_rng(0).permutation(material.keyword)[:count])


def _outcome(detector: Detector, times, smoothed, track: Track) -> Outcome:
    return events.outcome(times[detector.find(times, smoothed)], track.words, track.hours)


def _total(parts: list[tuple], threshold: float | None = None) -> Outcome:
    """The outcome of all folds, at their own thresholds or at one for all."""
    total = Outcome(0, 0, 0, 0.0, ())
    for detector, times, smoothed, track in parts:
        own = detector if threshold is None else replace(detector, threshold=threshold)
        total += _outcome(own, times, smoothed, track)
    return total


def _false_accepts(outcome: Outcome) -> dict:
    count, hours = outcome.false_accepts, outcome.hours
    low, high = metrics.poisson_interval(count, hours)
    stated = {"count": count, "hours": hours, "per_hour": count / hours}
    return stated | {"low": low, "high": high}


def _missed(outcome: Outcome) -> dict:
    misses, words = outcome.misses, outcome.words
    low, high = metrics.binomial_interval(misses, words)
    stated = {"count": misses, "words": words, "share": misses / words}
    return stated | {"low": low, "high": high}


def _latency(outcome: Outcome) -> dict:
    if not outcome.latencies_s:
        return {"median": None, "p95": None}
    median, p95 = np.quantile(outcome.latencies_s, [0.5, 0.95])
    return {"median": float(median), "p95": float(p95)}


def _curve(spoken: list[tuple], speech: list[tuple]) -> tuple[dict, dict | None]:
    """Share missed and false accepts an hour at thresholds that are the same for all folds; and the
    false accepts at the highest of them that misses at most 5 %, None where none does."""
    curve, at_missed = {"threshold": [], "missed": [], "false_accepts_per_hour": []}, None
    for threshold in (1 / (1 + np.exp(-np.linspace(-4, 12, 97)))).tolist():
        missed, accepts = (_total(parts, threshold) for parts in (spoken, speech))
        share, stated = missed.misses / missed.words, _false_accepts(accepts)
        for values, value in zip(
            curve.values(), (threshold, share, stated["per_hour"]), strict=True
        ):
            values.append(value)
        if share <= MISSED_SHARE:
            at_missed = {"threshold": threshold} | stated
    return curve, at_missed


# The study's experiment: one GRU whose state runs on, beside windows that each begin afresh.


def demo(experiment: Experiment, fold: int = 0, seed: int = 0) -> Demo:
    """Half a minute of tested clips, a clip of the keyword in the middle."""
    material = experiment.material(fold, "test")
    generator = np.random.default_rng([experiment.parameters.seed, 31, seed])
    others = generator.choice(
        material.others, 2 * AROUND, replace=len(material.others) < 2 * AROUND
    )
    order = np.insert(others, AROUND, generator.choice(material.keyword))
    names = experiment.corpus.words[order].tolist()
    words = [(name, float(second)) for second, name in enumerate(names)]
    samples = material.clips[order].reshape(-1)
    return Demo(samples, float(AROUND), float(AROUND + 1), words)


def offline(model: torch.nn.Module, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the last frame and probability of every window of (samples,) int16, scored in
    torch: (windows,) each."""
    with torch.inference_mode():
        log_mels = log_mel_of(samples[None], model.architecture.front_end)
        logits = model.windows(log_mels)[0].double()
    times = window_ends_s(model.architecture, len(samples))
    return times, torch.softmax(logits, dim=1)[:, 1].numpy()


def carried(model: torch.nn.Module, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the last frame and probability at every step, the study's way: one GRU runs on
    from the start, attention sees its outputs of the last second: (steps,) each."""
    a, front_end = model.architecture, model.architecture.front_end
    with torch.inference_mode():
        log_mels = log_mel_of(samples[None], front_end)
        logits = model.carried(log_mels)[0].double()
    last = np.arange(len(logits)) * a.stride[1] + a.kernel[1] - 1
    times = last * front_end.hop_samples / front_end.sample_rate_hz
    return times, torch.softmax(logits, dim=1)[:, 1].numpy()


def plateaus(experiment: Experiment, setting: Setting, count: int = 20) -> pandas.DataFrame:
    """A row a clip of the keyword, between other words: seconds for which the probability stays
    over the threshold after the clip's end, by windows and carried. The threshold is the one that
    accepts 1 in 1,000 tested clips of other words."""
    scores = experiment.scores(setting)
    threshold = metrics.threshold_at(scores["labels"], scores["probabilities"])
    model, rows = experiment.load(setting), []
    for seed in range(count):
        track = demo(experiment, seed=seed)
        row = {}
        for name, scored in (("window_s", offline), ("carried_s", carried)):
            times, probabilities = scored(model, track.samples)
            row[name] = events.plateau_s(times, probabilities, threshold, track.end_s)
        rows.append(row)
    return pandas.DataFrame(rows)
