"""A run's networks on continuous audio: trained for it, and judged on it.

What is judged on is made of the part that the run reports (see `experiments`), and of running speech
that no training and no choice has heard. Detectors are chosen on the part that thresholds are chosen on.
"""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, reduce
from itertools import product
from multiprocessing import get_context
from operator import add
from pathlib import Path

import numpy as np
import pandas

from . import checkpoints, data, endpoints, events, models, runs, talk, tasks, tracks, training
from .events import Detector, Outcome
from .experiments import Experiment, Trained
from .streaming import MODES, Stream

STREAMED = "-stream"  # a network trained on clips, then on continuous audio: baseline-stream
MISSES = (0.02, 0.05, 0.10, 0.20)
OVER_DB = (20.0, 10.0, 5.0)
PLATEAU_S = 0.3  # at most so much later than offline the probability should fall
CHOICE_SEED = 1000  # of the stream that detectors are chosen on, none of those that are reported
GRID = {"smoothing": (1, 2, 3, 5, 8), "release": (0.3, 0.6, 0.9), "refractory_s": (0.5, 1.0)}


@dataclass(frozen=True)
class Plan:
    """How much audio a profile affords."""

    talk_minutes: float  # read by espeak-ng, to train on
    hours: float  # of each of the streams made of clips
    seeds: int  # of them
    choose_hours: float  # of the stream that detectors are chosen on
    read_minutes: float  # of talk to judge on, where none is recorded


PLANS = {
    "smoke": Plan(0.3, 0.03, 2, 0.03, 0.3),
    "quick": Plan(5, 0.2, 5, 0.25, 5),
    "full": Plan(40, 3, 5, 2, 30),
}


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


class Streams:
    """An experiment's audio, laid end to end."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.plan = PLANS[experiment.run.parameters.profile]

    @cached_property
    def spans(self) -> np.ndarray:
        return endpoints.spans(self.experiment.corpus.clips)

    def sources(self, part: str, speech: np.ndarray | None = None) -> tracks.Sources:
        """What tracks of a part's clips are made of; speech: running speech to go with them."""
        e, clips = self.experiment, self.experiment.parts[part]
        return tracks.Sources(
            clips=e.corpus.clips,
            spans=self.spans,
            keyword=clips[e.labels[clips] == 1],
            others=clips[e.labels[clips] == 0],
            background=tuple(e.corpus.background.values()),
            talk=np.zeros(0, np.int16) if speech is None else speech,
        )

    # Training

    def train(
        self,
        setting: str,
        share: tasks.Share | None = None,
        name: str | None = None,
        epochs: int | None = None,
        taught: bool = True,
    ) -> Trained:
        """Trains a setting of this run further, on continuous tracks, and saves it as `name`, by default
        SETTING-stream. Its teacher is baseline-stream; baseline-stream itself has the baseline, on clips
        alone, and so has every network with taught False. share: what the tracks are made of; epochs:
        other than the recipe's."""
        e, p = self.experiment, self.experiment.run.parameters
        name, recipe = name or setting + STREAMED, training.recipe(setting + STREAMED, p.profile)
        recipe = replace(recipe, epochs=epochs or recipe.epochs)
        if share is None:
            share = tasks.Share(clips=8, tracks=2) if p.profile == "smoke" else tasks.Share()
        model = models.load(e.run.needed("checkpoints", setting, "safetensors"))
        training.unfold_input(model)
        speech = talk.read(p.keyword, "train", self.plan.talk_minutes)
        taught = taught and setting != "baseline"
        teacher = e.load("baseline" + STREAMED if taught else "baseline")
        clips = tasks.Clips(e.features, e.labels, e.parts, teacher)
        result = training.train(
            model,
            tasks.Tracks(clips, self.sources("train", speech), share, teacher if taught else None),
            recipe,
            p.seed,
            e.run.resume(name),
            keep="last",  # validation clips say nothing of running speech
            progress=lambda row: training.print_epoch(name, row, recipe.epochs),
        )
        models.save(e.run.checkpoint(name), result.model)
        e.run.write_history(name, result.history)
        return Trained(result.model, result.epoch, e.run.history(name))

    # Audio to judge on

    def stream(self, seed: int) -> tracks.Track:
        """Hours of the reported clips; the keyword at known times."""
        return tracks.clip_stream(self.sources(self.experiment.part), self.plan.hours, seed)

    @cached_property
    def keywords(self) -> tracks.Track:
        """Every reported clip of the keyword between two others."""
        return tracks.between_words(self.sources(self.experiment.part), 0)

    @cached_property
    def speech(self) -> tuple[str, np.ndarray]:
        """Running speech that no training has heard: 'recorded' beside the corpus, else 'read'."""
        found = talk.recorded(self.experiment.corpus.root)
        if found:
            speech = np.concatenate(list(found.values()))
            some = round(self.plan.read_minutes * 60 * tracks.RATE_HZ)
            return "recorded", speech[:some] if self.plan is PLANS["smoke"] else speech
        keyword = self.experiment.run.parameters.keyword
        return "read", talk.read(keyword, "test", self.plan.read_minutes)

    # Judging

    def choose(self, settings: list[str]) -> dict[tuple[str, str], dict]:
        """Chooses a detector for each setting in each mode: the smoothing, release and refractory time
        with fewest misses, summed over the rates of false accepts that are reported; and its threshold,
        for at most one false accept an hour, or one in all where there is less than an hour: none at all
        would be a threshold that nothing reaches. On a stream made of clips of the part that choices are
        made on, and talk read by voices that no training heard. Settings trained for streams keep their
        detectors in the checkpoint. Returns (setting, mode) -> the detector's values, `grid`: rows of
        smoothing, release, refractory time and misses for every one tried, and `words` there were."""
        keyword = self.experiment.run.parameters.keyword
        track = tracks.clip_stream(
            self.sources(self.experiment.chosen_on), self.plan.choose_hours, CHOICE_SEED
        )
        speech = talk.read(keyword, "validation", self.plan.read_minutes)
        hours = track.hours + len(speech) / tracks.RATE_HZ / 3600
        own_rate = max(1.0, 1 / hours)
        chosen = {}
        heard = self.hear(settings, np.concatenate([track.samples, speech]))
        for key, (times, probabilities) in heard.items():
            tried = {}
            for values in product(*GRID.values()):
                detector = Detector(**dict(zip(GRID, values, strict=True)))
                smoothed = detector.smoothed(probabilities)
                at = events.thresholds([smoothed], 60)
                curve = events.det(times, smoothed, track.words, hours, detector, at)
                at = events.refined(at, [*_at_rates(curve), events.at_rate(curve, own_rate)], [smoothed])
                curve = events.det(times, smoothed, track.words, hours, detector, at)
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
                self._keep_detectors(setting, chosen)
        return chosen

    def _keep_detectors(self, setting: str, chosen: dict) -> None:
        """Writes the detectors into a checkpoint, the mode with fewer misses first."""
        path = self.experiment.run.checkpoint(setting)
        arrays, metadata = checkpoints.read(path)
        modes = modes_by_choice(chosen, setting)
        kept = {mode: asdict(_detector(chosen[setting, mode])) for mode in modes}
        checkpoints.write(path, arrays, metadata | {"detectors": json.dumps(kept)})

    def judge(self, chosen: dict[tuple[str, str], dict], plateaus: dict[str, pandas.DataFrame]) -> None:
        """Judges settings and modes with the detectors that `choose` gave them on everything; writes
        `streams/SETTING-MODE.json`. plateaus: setting -> as `Experiment.plateaus`, noted beside."""
        from tqdm import tqdm

        keys = list(chosen)
        settings = list(dict.fromkeys(setting for setting, _ in keys))
        offline = {setting: [] for setting in settings}
        heard, made = {key: [] for key in keys}, []
        for seed in tqdm(range(self.plan.seeds), "streams", disable=None):
            track = self.stream(seed)
            for key, rows in self.hear(settings, track.samples).items():
                heard[key].append((rows[0], _detector(chosen[key]).smoothed(rows[1])))
            for setting in settings:
                offline[setting].append(self._offline(setting, track))
            made.append((track.words, track.hours))
        kind, speech = self.speech
        on_speech, on_keywords = self.hear(settings, speech), self.hear(settings, self.keywords.samples)
        source = self.sources(self.experiment.part)
        mixed = {db: tracks.mixed_stream(speech, source, 0, db) for db in OVER_DB}
        on_mixed = {db: self.hear(settings, track.samples) for db, track in mixed.items()}
        for key in keys:
            detector = _detector(chosen[key])
            curves, pooled = _curves(detector, heard[key], made)
            self._write(
                key,
                detector=chosen[key],
                plateau_s=_plateau(plateaus[key[0]], key[1]),
                clips=self._on_clips(curves, pooled, detector, heard[key], made, offline[key[0]]),
                speech={"kind": kind} | self.on_speech(detector, on_speech[key], on_keywords[key], len(speech)),
                mixed={
                    str(round(db)): self._outcome(detector, *on_mixed[db][key], mixed[db].words, 0.0).to_json()
                    for db in OVER_DB
                },
            )  # fmt: skip

    def hear(self, settings: list[str], samples: np.ndarray) -> dict[tuple[str, str], tuple]:
        """(setting, mode) -> times and probabilities, (steps,) each, of samples (samples,) int16, by the
        streaming engine; as many processes as cores."""
        keys = list(product(settings, MODES))
        paths = [self.experiment.run.needed("checkpoints", s, "safetensors") for s, _ in keys]
        # As in synth.make: workers never touch torch.
        context = get_context("fork" if sys.platform == "linux" else "spawn")
        workers = min(len(keys), os.cpu_count() or 1)
        with ProcessPoolExecutor(workers, context, initializer=_keep, initargs=(samples,)) as pool:
            heard = pool.map(_hear, paths, [mode for _, mode in keys])
            return {key: tuple(rows.T) for key, rows in zip(keys, heard, strict=True)}

    def result(self, setting: str, mode: str) -> dict:
        """What `judge` wrote, or `MissingStageError`."""
        return json.loads(self.experiment.run.needed("streams", f"{setting}-{mode}", "json").read_text())

    def _write(self, key: tuple[str, str], **values) -> None:
        setting, mode = key
        path = self.experiment.run.folder / "streams" / f"{setting}-{mode}.json"
        runs.write_json(path, {"schema": 1, "setting": setting, "mode": mode, **values})

    def _on_clips(self, curves, pooled, detector, heard, made, offline) -> dict:
        """Results on the streams made of clips: DET, its points at the reported rates with the spread
        over streams, what offline scoring misses there, and what the chosen detector does."""
        rates = {}
        words = sum(int(labels.sum()) for labels, _, _ in offline)
        for rate in events.RATES_PER_H:
            indices = [events.at_rate(curve.outcomes, rate) for curve in (pooled, *curves)]
            rates[str(rate)] = (
                None
                if None in indices
                else pooled.at(indices[0])
                | {
                    "miss_rate_of_each": [
                        c.outcomes[n].misses / c.outcomes[n].words
                        for c, n in zip(curves, indices[1:], strict=True)
                    ],
                    "offline_miss_rate": _missed_offline(offline, rate) / words,
                }
            )
        at_chosen = [
            self._outcome(detector, times, None, words, hours, smoothed)
            for (times, smoothed), (words, hours) in zip(heard, made, strict=True)
        ]
        return {
            "streams": len(curves),
            "det": pooled.to_json(),
            "det_of_each": [c.to_json() for c in curves],
            "at_rate": rates,
            "chosen": reduce(add, at_chosen).to_json(),
        }

    def on_speech(self, detector, on_speech, on_keywords, samples: int) -> dict:
        """False accepts on running speech over misses of the keyword between two words."""
        smoothed = detector.smoothed(on_speech[1]), detector.smoothed(on_keywords[1])
        hours, words = samples / tracks.RATE_HZ / 3600, self.keywords.words

        def outcomes(at: np.ndarray) -> list[Outcome]:
            false = events.det(on_speech[0], smoothed[0], np.zeros((0, 2)), hours, detector, at)
            missed = events.det(on_keywords[0], smoothed[1], words, 0.0, detector, at)
            return [f + replace(m, false_accepts=0) for f, m in zip(false, missed, strict=True)]

        at = np.union1d(events.thresholds(smoothed[:1], 100), events.thresholds(smoothed[1:], 100))
        coarse = outcomes(at)
        at = events.refined(at, [events.at_misses(coarse, share) for share in MISSES], smoothed)
        curve = Curve(at, outcomes(at))
        reached = {}
        for share in MISSES:
            index = events.at_misses(curve.outcomes, share)
            reached[str(share)] = None if index is None else curve.at(index)
        false = self._outcome(detector, on_speech[0], None, np.zeros((0, 2)), hours, smoothed[0])
        missed = self._outcome(detector, on_keywords[0], None, words, 0.0, smoothed[1])
        chosen = false + replace(missed, false_accepts=0)
        return {"det": curve.to_json(), "at_misses": reached, "chosen": chosen.to_json()}

    @staticmethod
    def _outcome(detector, times, probabilities, words, hours, smoothed=None) -> Outcome:
        smoothed = detector.smoothed(probabilities) if smoothed is None else smoothed
        return events.outcome(times[detector.find(times, smoothed)], words, hours)

    def _offline(self, setting: str, track: tracks.Track) -> tuple[np.ndarray, np.ndarray, float]:
        """Labels and scores of the clips on a track, each scored alone where it lies; and the hours."""
        model, length = self.experiment.load(setting), data.CLIP_SAMPLES
        clips = np.lib.stride_tricks.sliding_window_view(track.samples, length)[track.clips]
        features = type(self.experiment.features)(clips, [], model.architecture.front_end)
        scores = training.probabilities(model, features, np.arange(len(clips)))
        return track.labels, scores, track.hours


def modes_by_choice(chosen: dict, setting: str) -> list[str]:
    """Modes of a setting, the one with fewer misses where detectors were chosen first."""
    return sorted(MODES, key=lambda mode: min(row[-1] for row in chosen[setting, mode]["grid"]))


def _at_rates(curve: list[Outcome]) -> list[int | None]:
    return [events.at_rate(curve, rate) for rate in events.RATES_PER_H]


def _curves(detector: Detector, heard: list[tuple], made: list[tuple]) -> tuple[list[Curve], Curve]:
    """DET curves of streams, and of all of them together, at the same thresholds. heard: times and
    smoothed probabilities of each; made: its keywords and hours."""
    smoothed = [values for _, values in heard]

    def outcomes(at: np.ndarray) -> tuple[list[list[Outcome]], list[Outcome]]:
        each = [
            events.det(times, values, words, hours, detector, at)
            for (times, values), (words, hours) in zip(heard, made, strict=True)
        ]
        return each, [reduce(add, of_seeds) for of_seeds in zip(*each, strict=True)]

    at = events.thresholds(smoothed, 100)
    each, pooled = outcomes(at)
    at = events.refined(at, [n for curve in (pooled, *each) for n in _at_rates(curve)], smoothed)
    each, pooled = outcomes(at)
    return [Curve(at, curve) for curve in each], Curve(at, pooled)


def _plateau(table: pandas.DataFrame, mode: str) -> dict:
    """How much later than offline the probability falls after a keyword: median, longest, tracks, and
    the share of them within the target."""
    longer = table["longer"] if mode == "carried" else 0 * table["longer"]
    return {
        "median": float(longer.median()),
        "longest": float(longer.max()),
        "tracks": len(longer),
        f"within_{PLATEAU_S}": float((longer <= PLATEAU_S + 1e-9).mean()),
    }


def _detector(values: dict) -> Detector:
    return Detector(**{name: values[name] for name in ("threshold", *GRID)})


def _missed_offline(offline, rate: float) -> int:
    """Keywords that offline scoring of the clips misses with at most so many false accepts an hour."""
    labels, scores = (np.concatenate([of[n] for of in offline]) for n in (0, 1))
    allowed = int(rate * sum(hours for *_, hours in offline) * (1 + 1e-12))
    others = np.sort(scores[labels == 0])[::-1]
    threshold = others[allowed] if allowed < len(others) else -1.0
    return int(np.sum(scores[labels == 1] <= threshold))


# For readers


def clips_table(results: list[dict]) -> pandas.DataFrame:
    """Misses on streams made of clips, in percent, at each rate of false accepts, and latency."""
    rows = {}
    for result in results:
        row = {}
        for rate, point in result["clips"]["at_rate"].items():
            row |= {f"{float(rate):g} an hour": "not reached", f"offline, {float(rate):g}": ""}
            if point:
                value, low, high = (100 * share for share in point["miss_rate"])
                each = [100 * share for share in point["miss_rate_of_each"]]
                row[f"{float(rate):g} an hour"] = (
                    f"{value:.1f} [{low:.1f}, {high:.1f}], {min(each):.1f} to {max(each):.1f}"
                )
                row[f"offline, {float(rate):g}"] = f"{100 * point['offline_miss_rate']:.1f}"
        point = result["clips"]["at_rate"]["1.0"]
        if point and point["latency_s"]:
            row["latency s"] = "{:.2f}, {:.2f}".format(*point["latency_s"])
        rows[f"{result['setting']}, {result['mode']}"] = row
    return pandas.DataFrame.from_dict(rows, orient="index").fillna("")


def speech_table(results: list[dict]) -> pandas.DataFrame:
    """False accepts an hour of running speech at each share of misses; misses and false accepts of the
    detector chosen beforehand; its misses of keywords mixed into speech, in percent."""
    rows = {}
    for result in results:
        row = {
            f"{100 * float(share):g} % missed": speech_words(result, share)
            for share in result["speech"]["at_misses"]
        }
        own = result["speech"]["chosen"]
        row["own detector: missed %"] = "{:.1f} [{:.1f}, {:.1f}]".format(
            *(100 * share for share in own["miss_rate"])
        )
        row["false accepts"] = "{:.1f} [{:.1f}, {:.1f}]".format(*own["false_accepts_per_h"])
        for over_db, point in result["mixed"].items():
            row[f"mixed in at {over_db} dB"] = (
                f"{100 * point['miss_rate'][0]:.0f}" if point["miss_rate"] else ""
            )
        rows[f"{result['setting']}, {result['mode']}"] = row
    return pandas.DataFrame.from_dict(rows, orient="index")


def speech_words(result: dict, share: str) -> str:
    """False accepts an hour of running speech where this share of keywords is missed, with interval."""
    point = result["speech"]["at_misses"][share]
    return "{:.1f} [{:.1f}, {:.1f}]".format(*point["false_accepts_per_h"]) if point else "not reached"


_samples = np.zeros(0, np.int16)  # what a worker hears


def _keep(samples: np.ndarray) -> None:
    global _samples
    _samples = samples


def _hear(path: Path, mode: str) -> np.ndarray:
    return Stream.load(path, mode).hear(_samples, chunk=16000)
