"""Errors over those of another network; ratios to one that makes no error neither divide by zero nor pass
for a number."""

import math

import numpy as np
import pytest

from kwslib import experiments, metrics

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
