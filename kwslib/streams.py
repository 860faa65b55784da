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

from . import endpoints, models, talk, tasks, tracks, training
from .architecture import ARCHITECTURES
from .experiments import Experiment, Trained
from .streaming import MODES, Stream

STREAMED = "-stream"  # a network trained on clips, then on continuous audio: baseline-stream
TEACHERS = 2  # baselines trained on tracks, whose mean teaches all others
# On tracks a network that learns from labels alone has this dropout; what is taught keeps the one it has from
# clips. A baseline that is taught is taught on whole tracks, all others on masked ones.
DROPOUT = {"baseline": 0.3}
TAUGHT_WHOLE = ("baseline",)


@dataclass(frozen=True)
class Plan:
    """How much audio a profile affords."""

    talk_minutes: float  # read by espeak-ng, to train on
    tracks: int  # made to train on; 64 KB each in memory
    renewed: int  # of them made anew at every step of training
    hours: float  # of each of the streams made of clips
    seeds: int  # of them
    choose_hours: float  # of the stream that detectors are chosen on
    read_minutes: float  # of talk to judge on, where none is recorded


PLANS = {
    "smoke": Plan(0.3, 24, 2, 0.03, 2, 0.03, 0.3),
    "quick": Plan(5, 2048, 0, 0.2, 5, 0.25, 5),
    "full": Plan(40, 16384, 4, 3, 5, 2, 30),
}


class Streams:
    """An experiment's audio, laid end to end."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.plan = PLANS[experiment.run.parameters.profile]
        self._pool = None

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
        epochs: int | None = None,
        taught: bool = True,
    ) -> Trained:
        """Trains a setting of this run further, on continuous tracks, and saves it as `name`, by default
        SETTING-stream. With taught, `teacher` teaches both clips and tracks; without, tracks have labels
        alone and clips the baseline as teacher. share: what the tracks are made of; epochs: other than
        the recipe's."""
        e, p = self.experiment, self.experiment.run.parameters
        name, recipe = name or setting + STREAMED, training.recipe(setting + STREAMED, p.profile)
        recipe = replace(recipe, epochs=epochs or recipe.epochs)
        result = self._train(setting, name, recipe, p.seed, share, taught)
        models.save(e.run.checkpoint(name), result.model)
        e.run.write_history(name, result.history)
        return Trained(result.model, result.epoch, e.run.history(name))

    @cached_property
    def teacher(self) -> tasks.Ensemble:
        """The mean of `TEACHERS` baselines, trained on the run's tracks, each with a seed of its own for what
        is drawn; here, if they are not yet. What one network says by chance weighs less in the mean."""
        p = self.experiment.run.parameters
        recipe = training.recipe("teacher" + STREAMED, p.profile)
        trained = [
            self._train("baseline", f"teacher{n}{STREAMED}", recipe, p.seed + n, None, taught=False)
            for n in range(1, TEACHERS + 1)
        ]
        return tasks.Ensemble([result.model for result in trained])

    def _train(self, setting, name, recipe, seed, share, taught) -> training.Result:
        e = self.experiment
        dropout = None if taught else DROPOUT.get(setting)
        model = models.load(e.run.needed("checkpoints", setting, "safetensors"), dropout)
        training.unfold_input(model)
        if share is None:
            few = {"clips": 8, "tracks": 2} if self.plan is PLANS["smoke"] else {}
            share = tasks.Share(**few, mix=tracks.Mix(masked=not (taught and setting in TAUGHT_WHOLE)))
        teacher = self.teacher if taught else None
        clips = tasks.Clips(e.features, e.labels, e.parts, teacher or e.load("baseline"))
        return training.train(
            model,
            tasks.Tracks(clips, self.pool(share), share, teacher),
            recipe,
            seed,
            e.run.resume(name),
            keep="last",  # validation clips say nothing of running speech
            progress=lambda row: training.print_epoch(name, row, recipe.epochs),
        )

    def pool(self, share: tasks.Share) -> tasks.Pool:
        """The run's training tracks, mixed as `share` says; those last asked for are kept."""
        e, p = self.experiment, self.experiment.run.parameters
        if self._pool is None or (self._pool.mix, self._pool.seconds) != (share.mix, share.seconds):
            sources = self.sources("train", talk.read(p.keyword, "train", self.plan.talk_minutes))
            a, plan = ARCHITECTURES["baseline"], self.plan
            self._pool = tasks.Pool(sources, share, a, plan.tracks, plan.renewed, p.seed, e.device)
        return self._pool

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
