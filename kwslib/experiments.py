"""One run's corpus, split and folder together: train a setting into it, measure it, load it again.

What the notebooks call. The part that is reported on follows the split. With `speaker`, epoch and
threshold are chosen on validation and figures are of the test part. With `utterance`, the study's
split, there is no third part: so nothing is chosen on the clips that are reported, the last epoch
counts, and the threshold comes from the training part. (The study took the epoch best on the clips
that it reported; that figure stands beside ours as `at_best_epoch`.)
"""

from collections import namedtuple
from functools import cached_property

import numpy as np
import torch

from . import cost, data, metrics, models, quantization, training
from .architecture import ARCHITECTURES
from .features import ClipFeatures
from .runs import Run

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
        run.write(corpus_digest=self.corpus.digest, compute=_device_name(self.device))

    @cached_property
    def features(self) -> ClipFeatures:
        c, front_end = self.corpus, ARCHITECTURES["baseline"].front_end
        return ClipFeatures(c.clips, list(c.background.values()), front_end, self.device, c.digest)

    @property
    def reported(self) -> np.ndarray:
        """Positions of the clips that results are stated on."""
        return self.parts[self.part]

    def train(self, setting: str, distil: bool = True) -> Trained:
        """Trains a setting as its recipe says, or loads it if this has been done; writes checkpoint
        and history. distil False: on labels alone, otherwise alike, as setting-labels."""
        p = self.run.parameters
        recipe = training.recipe(setting, p.profile)
        teacher = self.load("baseline") if recipe.temperature and distil else None
        if recipe.temperature and not distil:
            recipe, name = training.on_labels(recipe), setting + LABELS_ONLY
        else:
            name = setting
        result = training.train(
            models.build(ARCHITECTURES[setting], p.seed),
            self.features,
            self.labels,
            self.parts,
            recipe,
            p.seed,
            self.run.resume(name),
            teacher=teacher,
            keep="best" if self.part == "test" else "last",
            progress=lambda row: training.print_epoch(name, row, recipe.epochs),
        )
        models.save(self.run.checkpoint(name), result.model)
        self.run.write_history(name, result.history)
        return Trained(result.model, result.epoch, self.run.history(name))

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
        """A trained setting of this run; `MissingStage` says what to run first."""
        return quantization.load(self.run._needed("checkpoints", setting, "safetensors"))

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
            "clips": len(clips),
            "positives": int(labels.sum()),
            "au_fa_fr": metrics.au_fa_fr(labels, scores),
            "one_minus_auc": metrics.one_minus_auc(labels, scores),
            "miss_at_fa_1e-3": metrics.miss_rate_at(labels, scores, 1e-3),
            "threshold": threshold,
            "threshold_from": self.chosen_on,
            "confusion": metrics.confusion(labels, scores, threshold),
            "epoch": epoch,
            "interval": {
                name: metrics.bootstrap(measure, labels, scores, groups=speakers)
                for name, measure in (
                    ("au_fa_fr", metrics.au_fa_fr),
                    ("one_minus_auc", metrics.one_minus_auc),
                )
            },
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
                "device": _device_name(self.device),
            },
        }
        self.run.write_metrics(setting, values)
        return values

    def _versus_baseline(self, setting, labels, speakers, scores, costs) -> dict:
        """Ratios to the baseline of this run: errors times as many, costs times less."""
        if setting == "baseline":
            base_scores, base_costs = scores, costs
        else:
            base_scores = self.run.scores("baseline")["probabilities"]
            base_costs = self.run.metrics("baseline")["cost"]
        if len(base_scores) != len(scores):
            raise ValueError("the baseline's scores are of other clips: run 01_baseline again")

        def times(labels, scores, base_scores):
            ratio = metrics.ratio(metrics.au_fa_fr(labels, scores), metrics.au_fa_fr(labels, base_scores))
            return float("nan") if ratio is None else ratio

        ratio = times(labels, scores, base_scores)
        low, high = metrics.bootstrap(times, labels, scores, base_scores, groups=speakers)
        rates = cost.rates(costs, base_costs)
        known = np.isfinite(ratio)
        return {
            "au_fa_fr": ratio if known else None,
            "interval": {"au_fa_fr": [low, high] if known and np.isfinite(low) else None},
            "parameter_bytes": rates["size"],
            "file_bytes": rates["file"],
            "macs": rates["speed"],
        }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"
