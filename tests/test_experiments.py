"""Ratios to a baseline that makes no error neither divide by zero nor pass for a number."""

import math

import numpy as np

from kwslib import experiments

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
