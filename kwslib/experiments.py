"""One run's corpus, split and folder together: train a setting into it, measure it, load it again.

What the notebooks call. The part that is reported on follows the split. With `speaker`, epoch and
threshold are chosen on validation and figures are of the test part. With `utterance`, the study's
split, there is no third part: so nothing is chosen on the clips that are reported, the last epoch
counts, and the threshold comes from the training part. (The study took the epoch best on the clips
that it reported; that figure stands beside ours as `at_best_epoch`.)
"""

import html
import json
from collections import namedtuple
from functools import cached_property

import numpy as np
import pandas
import torch

from . import cost, data, metrics, models, quantization, runs, tasks, training
from .architecture import ARCHITECTURES
from .features import ClipFeatures
from .runs import Parameters, Run

Trained = namedtuple("Trained", "model epoch history")
LABELS_ONLY = "-labels"  # a student trained without a teacher: student1-labels


class Experiment:
    """run: opened; corpus: loaded, made or downloaded here when it is not yet there."""

    def __init__(self, run: Run):
        self.run, p = run, run.parameters
        self.corpus = data.load(p.corpus)
        self.labels = self.corpus.labels(p.keyword)
        self.parts = data.split(self.corpus, p.keyword, p.split, p.seed)
        self.part = "test" if "test" in self.parts else "validation"
        self.chosen_on = "validation" if self.part == "test" else "train"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        run.write(corpus_digest=self.corpus.digest, compute=_device_name(self.device), **runs.provenance())

    @cached_property
    def features(self) -> ClipFeatures:
        c, front_end = self.corpus, ARCHITECTURES["baseline"].front_end
        return ClipFeatures(c.clips, list(c.background.values()), front_end, self.device, c.digest)

    @property
    def reported(self) -> np.ndarray:
        """Positions of the clips that results are stated on."""
        return self.parts[self.part]

    def about(self) -> str:
        """The run in one Markdown paragraph, warnings first."""
        p, c = self.run.parameters, self.corpus
        apart = "speakers shared" if p.split == "utterance" else "speakers kept apart"
        lines = [f"> **{caveat}**\n" for caveat in p.caveats()]
        lines.append(
            f"Corpus **{html.escape(c.name)}**: {len(c):,} clips, {c.hours:.2f} hours, {len(set(c.speakers.tolist())):,} "
            f"speakers, {len(c.word_counts())} words. Keyword **{html.escape(p.keyword)}**, {self.labels.sum():,} clips. "
            f"Split **{p.split}** ({apart}), profile **{p.profile}**, seed {p.seed}. "
            f"Results are of the **{self.part}** part."
        )
        return "\n".join(lines)

    def part_table(self) -> pandas.DataFrame:
        """A row a part: clips, clips of the keyword, speakers, and how many of them train hears."""
        of = {part: set(self.corpus.speakers[clips].tolist()) for part, clips in self.parts.items()}
        rows = {
            part: {
                "clips": len(clips),
                "of the keyword": int(self.labels[clips].sum()),
                "speakers": len(of[part]),
                "speakers also in train": len(of[part] & of["train"]),
            }
            for part, clips in self.parts.items()
        }
        return pandas.DataFrame(rows).T

    @property
    def why_kept(self) -> str:
        """Why a training run's epoch is the one that is kept."""
        if self.part == "test":
            return "the best on validation; results are of the test part"
        return "the last; none is chosen on the clips that results are of"

    def examples(self, seed: int, count: int = 3) -> np.ndarray:
        """Positions of `count` random training clips of the keyword and as many of other words."""
        generator, train = np.random.default_rng(seed), self.parts["train"]
        of = [train[self.labels[train] == label] for label in (1, 0)]
        return np.concatenate([generator.choice(c, min(count, len(c)), replace=False) for c in of])

    def size(self, setting: str) -> dict[str, int]:
        """The cost of a setting's checkpoint, as `cost.of_checkpoint`."""
        return cost.of_checkpoint(self.run.checkpoint(setting))

    def scores(self, setting: str) -> dict[str, np.ndarray]:
        """ids, labels, probabilities of the reported clips, or `MissingStageError`."""
        found = self.run.scores(setting)
        if not np.array_equal(found["ids"], self.corpus.ids[self.reported]):
            raise runs.MissingStageError(
                f"the scores of {setting} are of other clips than this corpus and split have: "
                f"run the notebook that makes them again"
            )
        return found

    def hardest(self, setting: str, label: int, count: int = 4) -> tuple[np.ndarray, list[str]]:
        """Positions and captions of the reported clips of one class that a setting scored worst."""
        scores = self.scores(setting)["probabilities"]
        of_class = np.flatnonzero(self.labels[self.reported] == label)
        worst = of_class[np.argsort(scores[of_class] if label else -scores[of_class])[:count]]
        clips = self.reported[worst]
        return clips, [f"{self.corpus.ids[c]}: {scores[w]:.3f}" for c, w in zip(clips, worst, strict=True)]

    def against(self, pairs: dict[str, str]) -> pandas.DataFrame:
        """A row a setting of setting -> reference: au_fa_fr, the reference's, their ratio and its 95 %
        interval over resampled speakers; `worst three`: the share of its 1 - AUC that the three clips
        of the keyword make that most others outrank, 0 where there is none."""
        rows = {}
        for setting, reference in pairs.items():
            mine, theirs = self.scores(setting), self.scores(reference)
            labels = mine["labels"]
            scores = [s["probabilities"] for s in (mine, theirs)]
            ratio, low, high = self.run.error_ratio(setting, reference)
            outranked = np.sort(metrics.outranked(labels, scores[0]))
            rows[setting] = {
                "au_fa_fr": metrics.au_fa_fr(labels, scores[0]),
                "reference au_fa_fr": metrics.au_fa_fr(labels, scores[1]),
                "ratio": ratio,
                "low": low,
                "high": high,
                "worst three": outranked[-3:].sum() / outranked.sum() if outranked.any() else 0.0,
            }
        return pandas.DataFrame.from_dict(rows, orient="index")

    def against_float(self, settings) -> pandas.DataFrame:
        """`against` of int8 settings and their float networks."""
        table = self.against({setting: setting.split("-int8")[0] for setting in settings})
        return table.drop(columns="worst three").rename(columns={"reference au_fa_fr": "float au_fa_fr"})

    def train(self, setting: str, distil: bool = True) -> Trained:
        """Trains a setting as its recipe says, or loads it if this has been done; writes checkpoint
        and history. distil False: on labels alone, otherwise alike, as setting-labels."""
        p = self.run.parameters
        recipe, name = training.recipe(setting, p.profile), setting
        teacher = self.load("baseline") if recipe.temperature and distil else None
        if recipe.temperature and not distil:
            recipe, name = training.on_labels(recipe), setting + LABELS_ONLY
        task = tasks.Clips(self.features, self.labels, self.parts, teacher)
        network = models.build(ARCHITECTURES[setting], p.seed)
        return self.fit(name, network, task, recipe, p.seed, keep="best" if self.part == "test" else "last")

    def fit(
        self, name: str, network: models.CRNN, task, recipe: training.Recipe, seed: int, keep: str
    ) -> Trained:
        """Trains a network on a task, as `training.train` does, and writes checkpoint and history as `name`; or
        loads it if that has been done with the same inputs, here or, by the same minor version of Python, where
        the run was copied from."""
        inputs = {"inputs": training.inputs_digest(network, task, recipe, seed), "kept": keep}
        made = self._made(name, inputs, recipe.epochs)
        if made is None:
            result = training.train(
                network,
                task,
                recipe,
                seed,
                self.run.resume(name),
                keep=keep,
                progress=lambda row: training.print_epoch(name, row, recipe.epochs),
            )
            made = result.model
            models.save(self.run.checkpoint(name), made)
            self.run.write_history(name, result.history)
            runs.write_json(self.run.made_of(name), inputs | {"weights": training.weights_digest(made)})
        history = self.run.history(name)
        epoch = history["epoch"].iloc[-1 if keep == "last" else history["au_fa_fr"].argmin()]
        return Trained(made, int(epoch), history)

    def _made(self, name: str, inputs: dict, epochs: int) -> models.CRNN | None:
        """The trained network of this name if it was made of these inputs, and is what was made; its files are
        then as good as new."""
        try:
            digests = json.loads(self.run.made_of(name).read_text())
            network = models.load(self.run.checkpoint(name))
            numbers = self.run.history(name)["epoch"].tolist()
        except (OSError, ValueError, KeyError, runs.MissingStageError):
            return None
        wanted = inputs | {"weights": training.weights_digest(network)}
        if digests != wanted or numbers != list(range(1, epochs + 1)):
            return None
        for path in (
            self.run.made_of(name),
            self.run.checkpoint(name),
            self.run.needed("history", name, "csv"),
        ):
            path.touch()
        return network

    def quantize(self, setting: str, mode: str) -> torch.nn.Module:
        """The int8 version of a trained setting, saved as SETTING-int8-MODE and loaded back. Static
        ranges come from 1,024 training clips."""
        model = self.load(setting)
        if mode == "static":
            train = self.parts["train"]
            clips = np.sort(np.random.default_rng(0).permutation(train)[:1024])
            quantized = quantization.quantize_static(model, self.features.plain(clips).cpu())
        else:
            quantized = quantization.quantize_dynamic(model)
        path = self.run.checkpoint(f"{setting}-int8-{mode}")
        quantization.save(path, quantized)
        return quantization.load(path)

    def load(self, setting: str) -> torch.nn.Module:
        """A trained setting of this run; `MissingStageError` says what to run first."""
        return quantization.load(self.run.needed("checkpoints", setting, "safetensors"))

    def evaluate_clips(self, model: torch.nn.Module) -> dict:
        """Quality of a network on the reported clips, nothing written."""
        clips = self.reported
        scores = training.probabilities(model, self.features, clips)
        return _quality(self.labels[clips], scores, self.corpus.speakers[clips])

    def measure(self, setting: str, model: torch.nn.Module, epoch: int | None = None) -> dict:
        """Scores the reported part, writes scores and metrics of the setting, returns the metrics."""
        clips, p = self.reported, self.run.parameters
        labels, speakers = self.labels[clips], self.corpus.speakers[clips]
        scores = training.probabilities(model, self.features, clips)
        chosen = self.parts[self.chosen_on]
        threshold = metrics.fewest_errors_threshold(
            self.labels[chosen], training.probabilities(model, self.features, chosen)
        )
        self.run.write_scores(setting, self.corpus.ids[clips], labels, scores)
        quality = {
            "part": self.part,
            **_quality(labels, scores, speakers),
            "threshold": threshold,
            "threshold_from": self.chosen_on,
            "confusion": metrics.confusion(labels, scores, threshold),
            "epoch": epoch,
        }
        if epoch is not None and self.part == "validation":
            history = self.run.history(setting)
            row = history.loc[history["au_fa_fr"].idxmin()]
            quality["at_best_epoch"] = {
                "epoch": int(row["epoch"]),
                "au_fa_fr": float(row["au_fa_fr"]),
                "one_minus_auc": float(row["one_minus_auc"]),
            }
        costs = cost.of_checkpoint(self.run.checkpoint(setting))
        values = {
            "setting": setting,
            "schema": 1,
            "quality": quality,
            "cost": costs,
            "versus_baseline": self._versus_baseline(setting, labels, speakers, scores, costs),
            "provenance": {
                **self.run.parameters.named(),
                "corpus_digest": self.corpus.digest,
                "profile": p.profile,
                "code": self.run.read().get("commit"),
                "versions": self.run.read()["versions"],
                "device": self.run.read()["compute"],
            },
        }
        self.run.write_metrics(setting, values)
        return values

    def _versus_baseline(self, setting, labels, speakers, scores, costs) -> dict:
        """Ratios to the baseline of this run: errors times as many, costs times less."""
        if setting == "baseline":
            base_scores, base_costs = scores, costs
        else:
            base_scores = self.scores("baseline")["probabilities"]
            base_costs = self.run.metrics("baseline")["cost"]
        ratio = metrics.error_ratio(labels, scores, base_scores)
        low, high = metrics.bootstrap(metrics.error_ratio, labels, scores, base_scores, groups=speakers)
        rates = cost.rates(costs, base_costs)
        known = np.isfinite(ratio)
        interval = [low, high if np.isfinite(high) else None]
        return {
            "au_fa_fr": ratio if known else None,
            "interval": {"au_fa_fr": interval if known and np.isfinite(low) else None},
            "parameter_bytes": rates["size"],
            "file_bytes": rates["file"],
            "macs": rates["speed"],
        }


def open_experiment(corpus, keyword, profile, split, seed, run) -> Experiment:
    """The experiment that a notebook's parameters cell names. Corpus and keyword are tried before
    the run's folder is made."""
    parameters = Parameters(corpus, keyword, profile, split, seed, run)
    data.split(data.load(corpus), keyword, split, seed)
    return Experiment(Run(parameters))


def evaluate(checkpoint, corpus: str, keyword: str, split: str = "speaker", seed: int = 0) -> dict:
    """Quality of a checkpoint on a corpus's test part (`utterance`: validation; `all`: every clip)."""
    if split not in (*data.SPLITS, "all"):
        raise data.CorpusError(f"split is {split!r}; it must be one of {', '.join(data.SPLITS)}, all")
    model = quantization.load(checkpoint)
    loaded = data.load(corpus)
    labels = loaded.labels(keyword)
    part, clips = "all", np.arange(len(loaded))
    if split != "all":
        parts = data.split(loaded, keyword, split, seed)
        part = "test" if "test" in parts else "validation"
        clips = parts[part]
    plain = ClipFeatures(loaded.clips, [], model.architecture.front_end)
    scores = training.probabilities(model, plain, clips)
    return {"part": part, **_quality(labels[clips], scores, loaded.speakers[clips])}


def _quality(labels, scores, speakers) -> dict:
    """Measures of the scores with 95 % intervals over resampled speakers."""
    measures = {"au_fa_fr": metrics.au_fa_fr, "one_minus_auc": metrics.one_minus_auc}
    return {
        "clips": len(labels),
        "positives": int(np.sum(labels)),
        **{name: measure(labels, scores) for name, measure in measures.items()},
        "miss_at_fa_1e-3": metrics.miss_rate_at(labels, scores, 1e-3),
        "interval": {
            name: metrics.bootstrap(measure, labels, scores, groups=speakers)
            for name, measure in measures.items()
        },
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"
