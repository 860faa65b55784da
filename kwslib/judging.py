"""Networks judged on a run's continuous audio: detectors chosen, then curves, rates and misses.

What is reported is of audio that no detector was chosen on: streams made of clips, with the keyword at
known times; running speech without it; and the keyword mixed into that speech.
"""

import hashlib
import json
from collections import Counter, namedtuple
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from itertools import product
from operator import add
from pathlib import Path

import numpy as np
import pandas

from . import checkpoints, data, events, excerpts, metrics, runs, soundscapes, talk, training
from .endpoints import RATE_HZ
from .events import Detector, Outcome
from .soundscapes import Soundscape
from .streaming import MODES
from .streams import STREAMED, Streams

MISSES = (0.02, 0.05, 0.10, 0.20)
OVER_DB = (20.0, 10.0, 5.0)
SPEECH_DB = -15.0  # by which speech is lowered before keywords are mixed in, so that hardly one is clipped
CHOICE_SEED = 1000  # of the stream that detectors are chosen on, none of those that are reported
# Of equals the first is chosen. The largest smoothing is one too many, so that the choice is not at an end.
GRID = {"smoothing": (1, 2, 3, 5, 8), "release": (0.6, 0.3, 0.9), "refractory_s": (1.0, 0.5, 2.0)}


@dataclass(frozen=True)
class Curve:
    """A DET curve: thresholds, ascending, and the outcome at each."""

    thresholds: np.ndarray
    outcomes: list[Outcome]

    def to_json(self) -> dict:
        """Exposure, and a row a point: threshold, misses, false accepts."""
        one = self.outcomes[0]
        points = [
            [float(t), o.misses, o.false_accepts] for t, o in zip(self.thresholds, self.outcomes, strict=True)
        ]
        return {"words": one.words, "hours": one.hours, "points": points}

    def at(self, index: int) -> dict:
        return {"threshold": float(self.thresholds[index])} | self.outcomes[index].to_json()


# Choosing


def choose(audio: Streams, settings: list[str]) -> dict[tuple[str, str], dict]:
    """Chooses a detector for each setting in each mode: the smoothing, release and refractory time
    with fewest misses, summed over the rates of false accepts that are reported; and its threshold,
    for at most one false accept an hour, or one in all where there is less than an hour: none at all
    would be a threshold that nothing reaches. On a stream made of clips of the part that choices are
    made on, and talk read by voices that no training heard. Settings trained for streams keep their
    detectors in the checkpoint. Returns (setting, mode) -> the detector's values, `grid`: rows of
    smoothing, release, refractory time and misses for every one tried, and `words` there were."""
    keyword = audio.experiment.run.parameters.keyword
    source = audio.sources(audio.experiment.chosen_on)
    track = soundscapes.clip_stream(source, audio.plan.choose_hours, CHOICE_SEED)
    speech = talk.read(keyword, "validation", audio.plan.read_minutes)
    hours = track.hours + len(speech) / RATE_HZ / 3600
    own_rate = max(1.0, 1 / hours)
    chosen = {}
    heard = audio.hear(settings, np.concatenate([track.samples, speech]))
    for key, (times, probabilities) in heard.items():
        tried = {}
        for values in product(*GRID.values()):
            detector = Detector(**dict(zip(GRID, values, strict=True)))
            smoothed = detector.smoothed(probabilities)
            at, curve = events.drawn(
                events.thresholds([smoothed], 60),
                partial(events.det, times, smoothed, track.words, hours, detector),
                lambda curve: [*_at_rates(curve), events.at_rate(curve, own_rate)],
                [smoothed],
            )
            indices = _at_rates(curve)
            misses = sum(len(track.words) if n is None else curve[n].misses for n in indices)
            own = events.at_rate(curve, own_rate)
            tried[values] = misses, 1.0 if own is None else float(at[own])
        best = min(tried, key=lambda values: tried[values][0])
        chosen[key] = asdict(Detector(tried[best][1], *best)) | {
            "grid": [[*values, misses] for values, (misses, _) in tried.items()],
            "words": len(track.words),
        }
    for setting in settings:
        if setting.endswith(STREAMED):
            _keep_detectors(audio.experiment.run.checkpoint(setting), setting, chosen)
    return chosen


def matters(values: dict) -> tuple[int, int]:
    """By how many misses, over the four rates, release and refractory time matter at the smoothing chosen, and
    smoothing, but for the largest, at the release and refractory time chosen. values: of a detector, as `choose`
    gives them."""
    grid, spans = values["grid"], []
    own, largest = [values[name] for name in GRID], GRID["smoothing"][-1]
    for like in (lambda row: row[0] == own[0], lambda row: row[1:3] == own[1:] and row[0] < largest):
        misses = [row[-1] for row in grid if like(row)]
        spans.append(max(misses) - min(misses))
    return tuple(spans)


def _keep_detectors(path: Path, setting: str, chosen: dict) -> None:
    """Writes the detectors into a checkpoint, the mode with fewer misses first."""
    arrays, metadata = checkpoints.read(path)
    modes = modes_by_choice(chosen, setting)
    kept = {mode: asdict(_detector(chosen[setting, mode])) for mode in modes}
    checkpoints.write(path, arrays, metadata | {"detectors": json.dumps(kept)})


def modes_by_choice(chosen: dict, setting: str) -> list[str]:
    """Modes of a setting, the one with fewer misses where detectors were chosen first."""
    return sorted(MODES, key=lambda mode: min(row[-1] for row in chosen[setting, mode]["grid"]))


def _at_rates(curve: list[Outcome]) -> list[int | None]:
    return [events.at_rate(curve, rate) for rate in events.RATES_PER_H]


def _detector(values: dict) -> Detector:
    return Detector(**{name: values[name] for name in ("threshold", *GRID)})


# Judging

# What is said on a soundscape: words, (words, 2), and hours as there, and who says each word, (words,); when its clips
# begin, (clips,) seconds, and which word of the corpus each is, (clips,).
Said = namedtuple("Said", "words hours speakers begins_s names")


def judge(audio: Streams, chosen: dict[tuple[str, str], dict], plateaus: dict[str, pandas.DataFrame]) -> None:
    """Judges each setting and mode on all audio, with the detector that `choose` gave it; writes
    `streams/SETTING-MODE.json`. plateaus: setting -> as `excerpts.plateaus`, noted beside."""
    from tqdm import tqdm

    keys = list(chosen)
    settings = list(dict.fromkeys(setting for setting, _ in keys))
    offline = {setting: [] for setting in settings}
    heard, made = {key: [] for key in keys}, []
    for seed in tqdm(range(audio.plan.seeds), "streams", disable=None):
        track = audio.stream(seed)
        for key, rows in audio.hear(settings, track.samples).items():
            heard[key].append((rows[0], _detector(chosen[key]).smoothed(rows[1])))
        for setting in settings:
            offline[setting].append(_offline(audio, setting, track))
        made.append(_said(audio, track))
    kind, speech = audio.speech
    heard_speech = {"kind": kind, "digest": hashlib.sha256(speech.tobytes()).hexdigest()[:16]}
    of_speech, of_keywords = audio.hear(settings, speech), audio.hear(settings, audio.keywords.samples)
    mixed = {db: mixed_in(audio, db) for db in OVER_DB}
    of_mixed = {db: audio.hear(settings, track.samples) for db, track in mixed.items()}
    drawn = {key: _curves(_detector(chosen[key]), heard[key], made) for key in keys}
    for key in keys:
        detector = _detector(chosen[key])
        curves, pooled = drawn[key]
        setting, mode = key
        others = {m: drawn[s, m][1] for s, m in keys if s == setting and m != mode}
        values = {
            "detector": chosen[key],
            "plateau_s": _plateau(plateaus[setting], mode),
            "clips": _on_clips(curves, pooled, detector, heard[key], made, offline[setting])
            | {"beside": {m: _beside(pooled, other) for m, other in others.items()}},
            "speech": heard_speech | on_speech(audio, detector, of_speech[key], of_keywords[key]),
            "mixed": {
                str(round(db)): _outcome(detector, *of_mixed[db][key], mixed[db].words, 0.0).to_json()
                for db in OVER_DB
            },
        }
        path = audio.experiment.run.folder / "streams" / f"{setting}-{mode}.json"
        runs.write_json(path, {"schema": 1, "setting": setting, "mode": mode, **values})


def _said(audio: Streams, soundscape: Soundscape) -> Said:
    corpus = audio.experiment.corpus
    return Said(
        soundscape.words,
        soundscape.hours,
        corpus.speakers[soundscape.word_clips],
        soundscape.clips / RATE_HZ,
        corpus.words[soundscape.which],
    )


def mixed_in(audio: Streams, over_db: float) -> Soundscape:
    """The reported clips of the keyword mixed into `Streams.speech`, lowered, so many dB above it."""
    lowered = np.round(audio.speech[1] * 10 ** (SPEECH_DB / 20)).astype(np.int16)
    return soundscapes.mixed_stream(lowered, audio.sources(audio.experiment.part), 0, over_db)


def result(audio: Streams, setting: str, mode: str) -> dict:
    """What `judge` wrote, or `MissingStageError`."""
    return json.loads(audio.experiment.run.needed("streams", f"{setting}-{mode}", "json").read_text())


def _on_clips(curves, pooled, detector, heard, made, offline) -> dict:
    """Results on the streams made of clips: DET; its points at the reported rates, with misses of each stream
    and over speakers, what offline scoring misses, and how much more the stream does, over speakers too, both
    thresholds held; and what the chosen detector does."""
    rates, speakers = {}, np.concatenate([said.speakers for said in made])
    for rate in events.RATES_PER_H:
        indices = [events.at_rate(curve.outcomes, rate) for curve in (pooled, *curves)]
        if None in indices:
            rates[str(rate)] = None
            continue
        missed = ~np.array(pooled.outcomes[indices[0]].hit)
        missed_offline = _missed_offline(offline, rate)
        more = missed.astype(float) - missed_offline
        of_each = [curve.outcomes[n] for curve, n in zip(curves, indices[1:], strict=True)]
        rates[str(rate)] = pooled.at(indices[0]) | {
            "miss_rate_of_each": [o.misses / o.words for o in of_each],
            "miss_rate_over_speakers": metrics.mean_interval(missed, speakers),
            "offline_miss_rate": float(missed_offline.mean()),
            "offline_miss_rate_of_each": [float(_missed_offline([one], rate).mean()) for one in offline],
            "more_than_offline": [float(more.mean()), *metrics.mean_interval(more, speakers)],
            "taken": _taken(replace(detector, threshold=pooled.thresholds[indices[0]]), heard, made),
        }
    at_chosen = [
        _outcome(detector, times, None, said.words, said.hours, smoothed)
        for (times, smoothed), said in zip(heard, made, strict=True)
    ]
    return {
        "streams": len(curves),
        "det": pooled.to_json(),
        "det_of_each": [c.to_json() for c in curves],
        "at_rate": rates,
        "chosen": reduce(add, at_chosen).to_json(),
    }


def _beside(pooled: Curve, other: Curve) -> dict | None:
    """Of the keywords on the streams, how many one mode hits and another misses, each at one false accept an
    hour; None where one of them has no such point."""
    indices = [events.at_rate(curve.outcomes, 1.0) for curve in (pooled, other)]
    if None in indices:
        return None
    mine, its = (np.array(c.outcomes[n].hit, bool) for c, n in zip((pooled, other), indices, strict=True))
    parts = {"both": mine & its, "alone": mine & ~its, "other": its & ~mine, "neither": ~mine & ~its}
    return {name: int(np.sum(part)) for name, part in parts.items()}


def _taken(detector: Detector, heard: list[tuple], made: list[Said]) -> dict[str, int]:
    """Word -> at how many false accepts it was heard, most first: that of the clip which begins nearest to a
    second before; between two words it may be the other one. heard, made: as of `_curves`."""
    words = Counter()
    for (times, smoothed), said in zip(heard, made, strict=True):
        found_s = times[detector.find(times, smoothed)]
        of_words = events.hits(found_s, said.words)
        for at_s in np.delete(found_s, of_words[of_words >= 0]):
            words[str(said.names[np.argmin(np.abs(said.begins_s - (at_s - 1)))])] += 1
    return dict(words.most_common())


def _curves(detector: Detector, heard: list[tuple], made: list[Said]) -> tuple[list[Curve], Curve]:
    """DET curves of streams, and of all of them together, at the same thresholds. heard: times and
    smoothed probabilities of each; made: what is said there."""
    smoothed = [values for _, values in heard]

    def outcomes(at: np.ndarray) -> tuple[list[list[Outcome]], list[Outcome]]:
        each = [
            events.det(times, values, said.words, said.hours, detector, at)
            for (times, values), said in zip(heard, made, strict=True)
        ]
        return each, [reduce(add, of_seeds) for of_seeds in zip(*each, strict=True)]

    def reported(curves: tuple[list[list[Outcome]], list[Outcome]]) -> list[int | None]:
        each, pooled = curves
        return [n for curve in (pooled, *each) for n in _at_rates(curve)]

    at, (each, pooled) = events.drawn(events.thresholds(smoothed, 100), outcomes, reported, smoothed)
    return [Curve(at, curve) for curve in each], Curve(at, pooled)


def on_speech(audio: Streams, detector: Detector, of_speech: tuple, of_keywords: tuple) -> dict:
    """False accepts on `Streams.speech` over misses of `Streams.keywords`, each as `Streams.hear` gives
    them: `det`, `at_misses` (share -> point, or None where it is not reached), `at_rate` (false accepts an hour ->
    point, likewise) and `chosen`. Points of `at_misses` have `over_speakers` as well, the rate's interval over the
    speakers of the keywords."""
    smoothed = detector.smoothed(of_speech[1]), detector.smoothed(of_keywords[1])
    hours = len(audio.speech[1]) / RATE_HZ / 3600
    said = _said(audio, audio.keywords)

    def outcomes(at: np.ndarray) -> list[Outcome]:
        false = events.det(of_speech[0], smoothed[0], np.zeros((0, 2)), hours, detector, at)
        missed = events.det(of_keywords[0], smoothed[1], said.words, 0.0, detector, at)
        return [f + replace(m, false_accepts=0) for f, m in zip(false, missed, strict=True)]

    def reported(curve: list[Outcome]) -> list[int | None]:
        return [events.at_misses(curve, share) for share in MISSES]

    def near(curve: list[Outcome]) -> list[int | None]:
        return reported(curve) + _at_rates(curve)

    at = np.union1d(events.thresholds(smoothed[:1], 100), events.thresholds(smoothed[1:], 100))
    curve = Curve(*events.drawn(at, outcomes, near, smoothed))
    reached = {}
    for share, index in zip(MISSES, reported(curve.outcomes), strict=True):
        reached[str(share)] = None
        if index is not None:
            over = events.at_misses_over(curve.outcomes, share, said.speakers)
            reached[str(share)] = curve.at(index) | {"over_speakers": over}
    at_rate = {
        str(rate): None if index is None else curve.at(index)
        for rate, index in zip(events.RATES_PER_H, _at_rates(curve.outcomes), strict=True)
    }
    false = _outcome(detector, of_speech[0], None, np.zeros((0, 2)), hours, smoothed[0])
    missed = _outcome(detector, of_keywords[0], None, said.words, 0.0, smoothed[1])
    chosen = false + replace(missed, false_accepts=0)
    return {
        "det": curve.to_json(),
        "at_misses": reached,
        "at_rate": at_rate,
        "chosen": chosen.to_json(),
    }


def _outcome(detector, times, probabilities, words, hours, smoothed=None) -> Outcome:
    smoothed = detector.smoothed(probabilities) if smoothed is None else smoothed
    return events.outcome(times[detector.find(times, smoothed)], words, hours)


def _offline(audio: Streams, setting: str, track: Soundscape) -> tuple[np.ndarray, np.ndarray, float]:
    """Labels and scores of the clips on a track, each scored alone where it lies; and the hours."""
    model, length = audio.experiment.load(setting), data.CLIP_SAMPLES
    clips = np.lib.stride_tricks.sliding_window_view(track.samples, length)[track.clips]
    features = type(audio.experiment.features)(clips, [], model.architecture.front_end)
    scores = training.probabilities(model, features, np.arange(len(clips)))
    return track.labels, scores, track.hours


def _missed_offline(offline, rate: float) -> np.ndarray:
    """(words,) whether offline scoring of the clips misses each keyword with at most so many false accepts an
    hour."""
    labels, scores = (np.concatenate([of[n] for of in offline]) for n in (0, 1))
    allowed = int(rate * sum(hours for *_, hours in offline) * (1 + 1e-12))
    others = np.sort(scores[labels == 0])[::-1]
    threshold = others[allowed] if allowed < len(others) else -1.0
    return scores[labels == 1] <= threshold


def _plateau(table: pandas.DataFrame, mode: str) -> dict:
    """How much later than offline the probability falls after a keyword: median, longest, tracks, and
    the share of them within the target. table: of `excerpts.plateaus`."""
    longer = excerpts.longer(table, mode)
    return {
        "median": float(longer.median()),
        "longest": float(longer.max()),
        "tracks": len(longer),
        f"within_{events.PLATEAU_S}": float((longer <= events.PLATEAU_S + 1e-9).mean()),
    }
