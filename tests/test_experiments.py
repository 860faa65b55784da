"""Errors over those of another network; ratios to one that makes no error neither divide by zero nor pass
for a number."""

import math

import numpy as np
import pytest

from kwslib import checkpoints, experiments, metrics, training

LABELS = np.array([0, 0, 1, 1])
FAULTLESS = np.array([0.1, 0.2, 0.8, 0.9])
FAULTY = np.array([0.1, 0.85, 0.8, 0.9])
WORSE = np.array([0.1, 0.95, 0.8, 0.9])


def test_errors_are_counted_in_those_of_the_baseline():
    assert experiments._times(LABELS, WORSE, FAULTY) == 2
    assert experiments._times(LABELS, FAULTY, FAULTY) == 1


def test_a_faultless_baseline_gives_infinity_or_no_number():
    assert math.isinf(experiments._times(LABELS, FAULTY, FAULTLESS))
    assert math.isnan(experiments._times(LABELS, FAULTLESS, FAULTLESS))


def test_errors_against_another_network_and_how_many_come_from_three_clips(audio):
    row = audio.experiment.against({"student3-stream": "student3"}).loc["student3-stream"]
    scores = audio.experiment.scores("student3-stream")
    labels, probabilities = scores["labels"], scores["probabilities"]
    assert row["au_fa_fr"] == metrics.au_fa_fr(labels, probabilities)
    assert row["ratio"] == row["au_fa_fr"] / row["reference au_fa_fr"] != 1
    assert row["low"] < row["high"]
    above = sorted(np.mean(probabilities[labels == 0] > p) for p in probabilities[labels == 1])
    assert row["worst three"] == pytest.approx(sum(above[-3:]) / sum(above), abs=1e-3)  # but for ties


def test_what_is_trained_is_trained_anew_only_where_something_changed(tiny_corpus, tmp_path, monkeypatch):
    """A run that was copied without what an unfinished training leaves: its checkpoint counts if code, data and
    recipe are the same, and it is the one that they made."""
    e = experiments.open_experiment(str(tiny_corpus), "sheila", "smoke", "speaker", 0, str(tmp_path / "run"))
    first, trained, train = e.train("baseline"), [], training.train

    def counted(model, task, recipe, seed, resume, **options):
        trained.append(resume.stem)
        return train(model, task, recipe, seed, resume, **options)

    def forgotten():
        for path in (tmp_path / "run" / "resume").iterdir():
            path.unlink()

    monkeypatch.setattr(training, "train", counted)
    forgotten()
    again = e.train("baseline")
    assert not trained and again.epoch == first.epoch and again.history.equals(first.history)
    assert training.weights_digest(again.model) == training.weights_digest(first.model)
    arrays, metadata = checkpoints.read(e.run.checkpoint("baseline"))
    checkpoints.write(e.run.checkpoint("baseline"), arrays, metadata | {"note": "weights are the same"})
    e.train("baseline")
    assert not trained
    arrays["classifier.bias"] = arrays["classifier.bias"] + 1
    checkpoints.write(e.run.checkpoint("baseline"), arrays, metadata)
    e.train("baseline")
    assert trained == ["baseline"]
    forgotten()
    monkeypatch.setattr(training, "recipe", lambda *_: training.Recipe(epochs=1, epoch_steps=1, batch_size=8))
    assert e.train("baseline").epoch == 1 and trained == ["baseline"] * 2
    e.run.made_of("baseline").write_text("{")
    forgotten()
    e.train("baseline")
    assert trained == ["baseline"] * 3
