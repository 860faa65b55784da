"""One run's corpus, folds, talk and folder together: train a setting, quantize it, measure it.

Every tested clip is scored once, by the network of its fold, which never heard the clip's speaker
(save with the split `utterance`). Nothing is chosen on these clips.
"""

import functools
import html
import json
import sys
from pathlib import Path

import numpy as np
import pandas
import torch

from . import cost, data, files, metrics, models, quantization, runs, talk, tracks, training
from .architecture import ARCHITECTURES, Setting
from .runs import Parameters, Run
from .talk import Talk
from .windows import ClipPool, TrackPool

TALK_MINUTES = {"smoke": 2, "quick": 15, "full": 60}  # that espeak-ng reads
GROUPS = 5  # of speakers of talk: one to judge on, one to choose thresholds on, three to train
BASELINE = Setting("baseline")
COSTS = ("parameter_bytes", "file_bytes", "network_macs", "path_macs")


def open(corpus, keyword, talk, profile, split, seed, run) -> "Experiment":
    """The experiment that a notebook's parameters cell names."""
    return Experiment(Parameters(corpus, keyword, talk, profile, split, seed, run))


class Experiment:
    """Corpus, keyword and folds are looked at when it is opened, talk when it is first needed, or
    by `check_talk`. What cannot be used raises a `ValueError` of one line."""

    def __init__(self, parameters: Parameters):
        self.parameters = p = parameters
        self.corpus = data.load(p.corpus)
        self.labels = self.corpus.labels(p.keyword)
        self.folds = data.split(self.corpus, p.keyword, p.split, p.seed)
        self.tested = np.sort(np.concatenate([fold.test for fold in self.folds]))
        self.noises = list(self.corpus.background.values())
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._talk = Path(p.talk) if p.talk else talk.find(self.corpus.root, "talk")
        self.run = Run(p)
        if self.run.read().get("corpus_digest") not in (None, self.corpus.digest):
            reason = f"{p.folder} is of another corpus of this name, a clip changed"
            raise runs.ParameterError(f"{reason}: `kws report --force`, or choose another `run`")
        self.run.write(corpus_digest=self.corpus.digest)

    @functools.cached_property
    def read(self) -> Talk:
        """What espeak-ng reads."""
        return talk.espeak(self.parameters.keyword, TALK_MINUTES[self.parameters.profile])

    @functools.cached_property
    def talk(self) -> Talk:
        """Talk to train on, to choose thresholds on and, fold by fold, to judge on."""
        return talk.recordings(self._talk, self.parameters.keyword) if self._talk else self.read

    @functools.cached_property
    def speech(self) -> Talk | None:
        """Continuous speech, which is judged on alone; None where there is none."""
        found = talk.find(self.corpus.root, "continuous_speech")
        return talk.recordings(found, self.parameters.keyword) if found else None

    def check_talk(self) -> dict[str, str]:
        """Reads all talk, before anything trains; returns its digests."""
        known = {"read": self.read, "talk": self.talk, "speech": self.speech}
        return {name: found.digest for name, found in known.items() if found}

    @functools.cached_property
    def pool(self) -> ClipPool:
        return ClipPool(self.corpus.clips, self.noises, ARCHITECTURES["baseline"], self.device)

    @functools.cached_property
    def spans(self) -> np.ndarray:  # (clips, 2) samples, where the words lie
        return np.array([tracks.word_span(clip) for clip in self.corpus.clips])

    @functools.cached_property
    def talk_groups(self) -> list[dict]:
        """Five groups of talk, as `talk.deal_groups` makes them."""
        return talk.deal_groups(self.talk.speakers, GROUPS)

    def material(self, fold: int, part: str) -> tracks.Material:
        """What tracks of a part ('train', 'test') of a fold are made of, with talk that trains."""
        clips = getattr(self.folds[fold], part)
        others, keyword = (clips[self.labels[clips] == label] for label in (0, 1))
        groups = [n for n in range(GROUPS) if n not in (fold, (fold + 1) % GROUPS)]
        heard = [said for group in groups for said in self.talk_groups[group].values()]
        heard += list(self.read.speakers.values()) if self._talk else []
        return tracks.Material(self.corpus.clips, self.spans, keyword, others, self.noises, heard)

    def about(self) -> str:
        """The run in one Markdown paragraph, warnings first."""
        p, c = self.parameters, self.corpus
        return "".join(f"> **{caveat}**\n\n" for caveat in p.caveats()) + (
            f"Corpus **{html.escape(c.name)}**: {len(c):,} clips of {len(c.word_counts())} words "
            f"by {len(np.unique(c.speakers)):,} speakers. Keyword **{html.escape(p.keyword)}**: "
            f"{self.labels.sum():,} clips. Split **{p.split}**: {len(self.folds)} "
            f"network{'s' * (len(self.folds) > 1)} a setting, which together score "
            f"{len(self.tested):,} clips once each. Profile **{p.profile}**, seed {p.seed}."
        )

    def examples(self, count: int = 3) -> np.ndarray:
        """Positions of `count` clips of the keyword, and of a clip each of `count` other words."""
        order = np.random.default_rng(self.parameters.seed).permutation(len(self.corpus))
        keyword, others = (order[self.labels[order] == label] for label in (1, 0))
        first = np.sort(np.unique(self.corpus.words[others], return_index=True)[1])
        return np.concatenate([keyword[:count], others[first[:count]]])

    def log_mels(self, positions: np.ndarray) -> np.ndarray:
        """(n, mels, frames) log-mels of clips, as networks see them."""
        return self.pool.log_mels(np.asarray(positions)).cpu().numpy()

    def recipe(self, setting: Setting) -> training.Recipe:
        return training.recipe_of(setting, self.parameters.profile)

    def inputs(self, setting: Setting, fold: int) -> dict:
        """What the weights of a setting depend on, as recorded in its checkpoints."""
        p = self.parameters
        known = {"setting": str(setting), "corpus": self.corpus.digest, "keyword": p.keyword}
        known |= {"profile": p.profile, "split": p.split, "seed": p.seed, "fold": fold}
        heard = {"talk": self.talk.digest, "read": self.read.digest} if setting.is_stream else {}
        return known | heard

    def train(self, setting: Setting) -> pandas.DataFrame:
        """Trains a setting in every fold where that is not yet done; returns its history."""
        for fold in range(len(self.folds)):
            self.train_fold(setting, fold)
        return self.run.history(setting)

    def train_fold(self, setting: Setting, fold: int) -> bool:
        """Trains a setting in a fold and writes checkpoint and history; False if that was done."""
        if self.is_trained(setting, fold):
            return False
        torch.set_num_threads(1)  # two threads on two cores wait for each other
        recipe, seed = self.recipe(setting), 1000 * self.parameters.seed + fold
        others = training.start_of(setting), training.teacher_of(setting)
        start, teacher = (each and self.load(each, fold).to(self.device) for each in others)
        model = start or models.build(setting.architecture, seed).to(self.device)
        told, made = f"{setting} fold {fold}, {recipe.epochs} epochs:", None
        say = functools.partial(print, told, file=sys.stderr, flush=True)
        if recipe.windows:
            material = self.material(fold, "train")
            made = TrackPool(material, setting.architecture, recipe.tracks, seed, say)
        train, inputs = self.folds[fold].train, self._metadata(setting, fold)
        batches = training.Batches(self.pool, self.labels, train, recipe, made)
        resume = self.run.path("resume", setting, "safetensors", fold)
        history = training.train(model, batches, recipe, seed, resume, inputs, teacher, say)
        self.run.write_history(setting, fold, history)
        models.save(self.run.checkpoint(setting, fold), model.cpu(), **inputs)
        resume.unlink(missing_ok=True)
        return True

    def is_trained(self, setting: Setting, fold: int) -> bool:
        """Whether the checkpoint of a setting is there, whole, and of these inputs."""
        try:
            _, metadata = files.read_checkpoint(self.run.checkpoint(setting, fold))
            epochs = pandas.read_csv(self.run.path("history", setting, "csv", fold))["epoch"]
        except (ValueError, OSError, KeyError):
            return False
        is_same = metadata.items() >= self._metadata(setting, fold).items()
        return is_same and epochs.tolist()[-1:] == [self.recipe(setting).epochs]

    def _metadata(self, setting: Setting, fold: int) -> dict[str, str]:
        """By which finished training is recognised."""
        inputs = json.dumps(self.inputs(setting, fold), sort_keys=True)
        version = str(training.version_of(setting))
        return {"setting": str(setting), "recipe_version": version, "inputs": inputs}

    def quantize(self, setting: Setting) -> None:
        """Makes an int8 setting's checkpoints; static ranges come from 1,024 training clips."""
        for fold, parts in enumerate(self.folds):
            model, path = self.load(setting.float, fold), self.run.checkpoint(setting, fold)
            if setting.int8 == "static":
                clips = np.random.default_rng(0).permutation(parts.train)[:1024]
                made = quantization.quantize_static(model, self.pool.log_mels(np.sort(clips)).cpu())
            else:
                made = quantization.quantize_dynamic(model)
            quantization.save(path, made, **self._metadata(setting, fold))

    def load(self, setting: Setting, fold: int = 0) -> torch.nn.Module:
        """A network of this run, or `FileError`: what to run first."""
        return self.run.result("checkpoints", "safetensors", quantization.load, setting, fold)

    def measure(self, setting: Setting) -> dict:
        """Scores every tested clip by its fold's network; writes and returns the metrics."""
        probabilities, of_fold = np.zeros(len(self.corpus)), np.zeros(len(self.corpus), np.int64)
        for fold, (_, test) in enumerate(self.folds):
            probabilities[test] = training.probabilities(self.load(setting, fold), self.pool, test)
            of_fold[test] = fold
        at = self.tested
        labels, scores, speakers = self.labels[at], probabilities[at], self.corpus.speakers[at]
        found = {"ids": self.corpus.ids[at], "labels": labels, "folds": of_fold[at]}
        self.run.write_scores(setting, **found, probabilities=scores)
        versus = self.compare(setting, BASELINE)
        versus |= {"verdict": metrics.verdict(versus["missed"])}
        base, costs = (cost.of_checkpoint(self.run.checkpoint(s)) for s in (BASELINE, setting))
        provenance = self.inputs(setting, 0) | {"compute": self.device} | runs.provenance()
        values = {
            "schema": 2,
            "setting": str(setting),
            "quality": metrics.quality(labels, scores, speakers),
            "cost": costs,
            "versus_baseline": versus | {name: base[name] / costs[name] for name in COSTS},
            "provenance": provenance | {"recipe_version": training.version_of(setting)},
        }
        files.write_json(self.run.path("metrics", setting, "json"), values)
        return self.run.metrics(setting)

    def scores(self, setting: Setting) -> dict[str, np.ndarray]:
        """ids, labels, folds, probabilities of the tested clips, (clips,) each, or `FileError`."""
        found = self.run.scores(setting)
        if not np.array_equal(found["ids"], self.corpus.ids[self.tested]):
            reason = f"the scores of {setting} are of other clips than this corpus and split have"
            raise files.FileError(f"{reason}: run the notebook that makes them again")
        return found

    def compare(self, setting: Setting, reference: Setting) -> dict[str, metrics.Estimate]:
        """Ratios of a setting's `missed` and `one_minus_auc` to those of another on the same clips,
        with 95 % intervals over the same resampled speakers."""
        mine, theirs = self.scores(setting), self.scores(reference)
        labels, speakers = mine["labels"], self.corpus.speakers[self.tested]
        pair = mine["probabilities"], theirs["probabilities"]
        measures = {"missed": metrics.missed, "one_minus_auc": metrics.one_minus_auc}
        return {n: metrics.ratio(m, labels, *pair, speakers) for n, m in measures.items()}


open_cached = functools.lru_cache(maxsize=1)(Experiment)  # a worker trains many settings of a run


def evaluate(checkpoint: Path, corpus: str, keyword: str, split: str, seed: int, fold: int) -> dict:
    """Quality of a checkpoint on the test part of a fold of any corpus."""
    loaded, model = data.load(corpus), quantization.load(checkpoint)
    folds = data.split(loaded, keyword, split, seed)
    if not 0 <= fold < len(folds):
        raise runs.ParameterError(f"fold is {fold}; split {split} has {len(folds)} folds")
    clips, pool = folds[fold].test, ClipPool(loaded.clips, (), model.architecture)
    scores = training.probabilities(model, pool, clips)
    return metrics.quality(loaded.labels(keyword)[clips], scores, loaded.speakers[clips])
