"""Errors over those of another network; ratios to one that makes no error neither divide by zero nor pass
for a number."""

import math
import os

import numpy as np
import pytest

from kwslib import checkpoints, experiments, metrics, training

LABELS = np.array([0, 0, 1, 1])
FAULTLESS = np.array([0.1, 0.2, 0.8, 0.9])
FAULTY = np.array([0.1, 0.85, 0.8, 0.9])
WORSE = np.array([0.1, 0.95, 0.8, 0.9])


def test_errors_are_counted_in_those_of_the_baseline():
    assert metrics.error_ratio(LABELS, WORSE, FAULTY) == 2
    assert metrics.error_ratio(LABELS, FAULTY, FAULTY) == 1


def test_a_faultless_baseline_gives_infinity_or_no_number():
    assert math.isinf(metrics.error_ratio(LABELS, FAULTY, FAULTLESS))
    assert math.isnan(metrics.error_ratio(LABELS, FAULTLESS, FAULTLESS))


def test_errors_against_another_network_and_how_many_come_from_three_clips(audio):
    row = audio.experiment.against({"student3-stream": "student3"}).loc["student3-stream"]
    scores = audio.experiment.scores("student3-stream")
    labels, probabilities = scores["labels"], scores["probabilities"]
    assert row["au_fa_fr"] == metrics.au_fa_fr(labels, probabilities)
    assert row["ratio"] == row["au_fa_fr"] / row["reference au_fa_fr"] != 1
    assert row["low"] < row["high"]
    before = audio.experiment.scores("student3")["probabilities"]
    of_speakers = audio.experiment.corpus.speakers[audio.experiment.reported]
    interval = metrics.bootstrap(metrics.error_ratio, labels, probabilities, before, groups=of_speakers)
    assert (row["low"], row["high"]) == interval
    above = sorted(np.mean(probabilities[labels == 0] > p) for p in probabilities[labels == 1])
    assert row["worst three"] == pytest.approx(sum(above[-3:]) / sum(above), abs=1e-3)  # but for ties


@pytest.fixture
def trained(tiny_corpus, tmp_path, monkeypatch):
    """A smoke run with a trained baseline, without what an unfinished training leaves, as in a copy; and the names
    of what is trained from then on."""
    e = experiments.open_experiment(str(tiny_corpus), "sheila", "smoke", "speaker", 0, str(tmp_path / "run"))
    first, names, train = e.train("baseline"), [], training.train

    def counted(model, task, recipe, seed, resume, **options):
        names.append(resume.stem)
        return train(model, task, recipe, seed, resume, **options)

    monkeypatch.setattr(training, "train", counted)
    e.run.resume("baseline").unlink()
    return e, first, names


def test_what_is_trained_is_not_trained_anew(trained):
    e, first, names = trained
    path = e.run.checkpoint("baseline")
    arrays, metadata = checkpoints.read(path)
    checkpoints.write(path, arrays, metadata | {"detectors": "{}"})  # weights are the same
    os.utime(path, (0, 0))
    again = e.train("baseline")
    assert not names and again.epoch == first.epoch and again.history.equals(first.history)
    assert training.weights_digest(again.model) == training.weights_digest(first.model)
    assert path.stat().st_mtime > 0  # a file of the stage that asked for it


CHANGES = {
    "weights": lambda e: shift_bias(e.run.checkpoint("baseline")),
    "no checkpoint": lambda e: e.run.checkpoint("baseline").unlink(),
    "no network": lambda e: e.run.checkpoint("baseline").write_bytes(b"x"),
    "no digests": lambda e: e.run.made_of("baseline").unlink(),
    "no JSON": lambda e: e.run.made_of("baseline").write_text("{"),
    "a list": lambda e: e.run.made_of("baseline").write_text("[]"),
    "no history": lambda e: e.run.needed("history", "baseline", "csv").unlink(),
    "no table": lambda e: e.run.needed("history", "baseline", "csv").write_text("<<<<<<< HEAD"),
    "no epochs": lambda e: e.run.needed("history", "baseline", "csv").write_text("epoch,au_fa_fr"),
    "labels": lambda e: e.labels.__setitem__(
        e.parts["validation"][0], 1 - e.labels[e.parts["validation"][0]]
    ),
}


def shift_bias(path):
    arrays, metadata = checkpoints.read(path)
    arrays["classifier.bias"] = arrays["classifier.bias"] + 1
    checkpoints.write(path, arrays, metadata)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_or_broken_is_trained_anew(trained, change):
    e, first, names = trained
    CHANGES[change](e)
    again = e.train("baseline")
    assert names == ["baseline"] and len(again.history) == len(first.history)
    assert training.weights_digest(again.model) == training.weights_digest(
        first.model
    )  # labels: of validation


def test_another_recipe_or_another_epoch_to_keep_is_trained_anew(trained, monkeypatch):
    e, first, names = trained
    e.part = "validation"  # as of a run with two parts: the last epoch is kept
    assert e.train("baseline").epoch == len(first.history) and names == ["baseline"]
    monkeypatch.setattr(training, "recipe", lambda *_: training.Recipe(epochs=1, epoch_steps=1, batch_size=8))
    assert e.train("baseline").epoch == 1 and names == ["baseline"] * 2
