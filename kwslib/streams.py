"""A run's continuous audio, and its networks trained on it.

What is judged on is made of the part that the run reports (see `experiments`), and of running speech
that no training and no choice of a detector has heard.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from . import endpoints, models, soundscapes, talk, tasks, tracks, training
from .architecture import ARCHITECTURES
from .experiments import Experiment, Trained
from .streaming import MODES, Stream

STREAMED = "-stream"  # a network trained on clips, then on continuous audio: baseline-stream


def streamed(setting: str, again: int = 0) -> str:
    """Name of a setting that was trained on continuous audio too, the n-th time again if `again`."""
    return f"{setting}-again-{again}{STREAMED}" if again else setting + STREAMED


@dataclass(frozen=True)
class Plan:
    """How much audio a profile affords."""

    talk_minutes: float  # read by espeak-ng, to train on
    tracks: int  # made to train on; 64 KB each in memory
    renewed: int  # of them made anew at every step of training
    hours: float  # of each of the streams made of clips
    seeds: int  # of them
    choose_hours: float  # of the stream that detectors are chosen on
    read_minutes: float  # of talk that detectors are chosen on; to judge on too, where none is recorded


PLANS = {
    "smoke": Plan(0.3, 24, 2, 0.03, 2, 0.03, 0.3),
    "quick": Plan(20, 2048, 0, 0.2, 5, 0.25, 20),
    "full": Plan(160, 16384, 4, 3, 5, 2, 30),
}

# Of a step in training, where it is not as `tasks.Share` says: see data/README.md.
SHARES = {"baseline": tasks.Share(weight=0.35)}


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

    def from_noisiest(self, count: int) -> np.ndarray:
        """(count,) clips of the keyword to train on, evenly from the noisiest to the cleanest."""
        clips = self.sources("train").keyword
        clear = [endpoints.over_noise(self.experiment.corpus.clips[clip]).max(initial=0) for clip in clips]
        return clips[np.argsort(clear)[np.linspace(0, len(clips) - 1, count).astype(int)]]

    # Training

    def train(
        self,
        setting: str,
        share: tasks.Share | None = None,
        name: str | None = None,
        recipe: training.Recipe | None = None,
        taught: bool = True,
        again: int = 0,
    ) -> Trained:
        """Trains a setting of this run further, on continuous tracks, and saves it as `name`, by default
        `streamed`. With taught, both clips and tracks have a teacher: the baseline `first_teacher`, all others
        baseline-stream. Without, tracks have labels alone, and clips the baseline as teacher. share: of a
        step, other than the setting's in `SHARES`; recipe: other than SETTING-stream's; again: 1, 2 .. trains
        the same once more, teachers too, with other draws from other tracks."""
        profile = self.experiment.run.parameters.profile
        name = name or streamed(setting, again)
        recipe = recipe or training.recipe(setting + STREAMED, profile)
        teacher = None
        if taught:
            of_baseline = setting == "baseline"
            teacher = self.first_teacher(again) if of_baseline else self._load(streamed("baseline", again))
        return self._train(setting, name, recipe, self._seed(again), again, share, teacher)

    def first_teacher(self, again: int = 0) -> models.CRNN:
        """A baseline that teaches the baseline, trained here if it is not yet, on tracks with labels alone and
        with a seed of its own for what is drawn. again: as in `train`."""
        recipe = training.recipe("teacher" + STREAMED, self.experiment.run.parameters.profile)
        name = streamed("teacher", again)
        return self._train("baseline", name, recipe, self._seed(again) + 1, again, None, None).model

    def _share(self, setting: str) -> tasks.Share:
        share = SHARES.get(setting, tasks.Share())
        return replace(share, clips=8, tracks=2) if self.plan is PLANS["smoke"] else share

    def _load(self, setting: str) -> models.CRNN:
        return models.load(self.experiment.run.needed("checkpoints", setting, "safetensors"))

    def _seed(self, again: int) -> int:
        return self.experiment.run.parameters.seed + 1000 * again

    def _train(self, setting, name, recipe, seed, again, share, teacher) -> Trained:
        e, network, share = self.experiment, self._load(setting), share or self._share(setting)
        clips = tasks.Clips(e.features, e.labels, e.parts, teacher or e.load("baseline"))
        training.unfold_input(network)
        task = tasks.Tracks(clips, self._pool(share, again), share, teacher)
        return e.fit(name, network, task, recipe, seed, keep="last")  # clips say nothing of running speech

    def _pool(self, share: tasks.Share, again: int = 0) -> tasks.Pool:
        """The run's training tracks, mixed as `share` says."""
        e, p, plan = self.experiment, self.experiment.run.parameters, self.plan
        sources = self.sources("train", talk.read(p.keyword, "train", plan.talk_minutes))
        a = ARCHITECTURES["baseline"]
        return tasks.Pool(sources, share, a, plan.tracks, plan.renewed, self._seed(again), e.device)

    # Audio to judge on

    def stream(self, seed: int) -> soundscapes.Soundscape:
        """Hours of the reported clips; the keyword at known times."""
        return soundscapes.clip_stream(self.sources(self.experiment.part), self.plan.hours, seed)

    @cached_property
    def keywords(self) -> soundscapes.Soundscape:
        """Every reported clip of the keyword between two others."""
        return soundscapes.between_words(self.sources(self.experiment.part), 0)

    @cached_property
    def speech(self) -> tuple[str, np.ndarray]:
        """Running speech that no training has heard: 'recorded' beside the corpus, else 'read'."""
        keyword = self.experiment.run.parameters.keyword
        found = talk.recorded(self.experiment.corpus.root, keyword)
        if found:
            speech = np.concatenate(list(found.values()))
            some = round(self.plan.read_minutes * 60 * endpoints.RATE_HZ)
            return "recorded", speech[:some] if self.plan is PLANS["smoke"] else speech
        return "read", talk.read(keyword, "test", self.plan.read_minutes)

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


_samples = np.zeros(0, np.int16)  # what a worker hears


def _keep(samples: np.ndarray) -> None:
    global _samples
    _samples = samples


def _hear(path: Path, mode: str) -> np.ndarray:
    return Stream.load(path, mode).hear(_samples, chunk=16000)
