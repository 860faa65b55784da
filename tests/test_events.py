from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwslib.events import Detector, Outcome, detections, outcome, plateau_s, threshold_at

PLAIN = Detector(threshold=0.5, smoothing=1)
WORDS = np.array([[1.0, 1.4], [5.0, 5.5]])


def find(detector, probabilities, step_s=1.0):
    times = step_s * np.arange(len(probabilities))
    return detector.find(times, detector.smoothed(np.array(probabilities, float))).tolist()


@pytest.mark.parametrize(
    "probabilities, detector, step_s, steps",
    [
        ([0.1, 0.6, 0.9, 0.8, 0.2], PLAIN, 1, [1]),  # one burst is one detection
        ([0.5, 0.2, 0.5, 0.2], PLAIN, 1, [0, 2]),  # the threshold itself counts
        ([0.9, 0.31, 0.9, 0.29, 0.9], PLAIN, 1, [0, 4]),  # 0.31 is over the release at 0.3
        ([0.9, 0, 0.9, 0, 0.9, 0, 0.9], PLAIN, 0.4, [0, 4]),  # deaf at 0.8 s; free from 1.2 s on
        ([0.9, 0, 0.9, 0.9, 0.9, 0, 0.9], PLAIN, 0.4, [0, 6]),  # the second burst outlasts it
        ([1, 0, 0, 1, 1, 0], Detector(0.7, 2), 1, [0, 4]),  # means 1, .5, 0, .5, 1, .5
    ],
)
def test_detections_by_hand(probabilities, detector, step_s, steps):
    assert find(detector, probabilities, step_s) == steps


@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]), max_size=40),
    st.sampled_from([1, 2, 3, 8, 17]),
    st.sampled_from([0.25, 0.5]),  # exact in binary: sums of steps are the times
    st.sets(st.integers(0, 40)),
)
def test_a_stream_gives_the_same_detections_however_rows_come(said, smoothing, step_s, places):
    detector = Detector(0.6, smoothing)
    rows = np.stack([step_s * np.arange(len(said)), np.array(said, float)], 1)
    *pieces, last = np.split(rows, sorted(p for p in places if p <= len(said)))
    stream = SimpleNamespace(feed=lambda piece: piece, flush=lambda: last)
    steps, smoothed = find(detector, said, step_s), detector.smoothed(rows[:, 1])
    wanted = [(step_s * step, smoothed[step]) for step in steps]  # to the last bit
    assert list(detections(stream, pieces, detector)) == wanted


@pytest.mark.parametrize("name, value", [("threshold", np.nan), ("smoothing", 0)])
def test_impossible_detectors_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Detector(**{name: value})


@pytest.mark.parametrize(
    "at, misses, false_accepts, latencies",
    [
        ([], 2, 0, ()),
        ([1.5, 5.2], 0, 0, (0.1, -0.3)),
        ([1.9, 6.0], 0, 0, (0.5, 0.5)),  # the tolerance itself counts
        ([1.91, 6.01], 2, 2, ()),
        ([0.99], 2, 1, ()),  # before the word begins
        ([1.2, 1.8], 1, 1, (-0.2,)),  # the second one of a word is a false accept
    ],
)
def test_outcomes_by_hand(at, misses, false_accepts, latencies):
    got = outcome(np.array(at), WORDS, 0.5)
    assert (got.words, got.misses, got.false_accepts, got.hours) == (2, misses, false_accepts, 0.5)
    np.testing.assert_allclose(got.latencies_s, latencies, atol=1e-12)


def test_words_close_together_have_a_detection_each():
    words = np.array([[1.0, 1.4], [1.5, 1.9]])  # both detections are within reach of the first
    assert outcome(np.array([1.6, 1.8]), words, 1.0).misses == 0
    assert outcome(np.array([1.6]), words, 1.0).misses == 1


def test_outcomes_add_up():
    both = Outcome(2, 1, 3, 0.5, (0.1,)) + Outcome(2, 0, 1, 1.5, (0.2, 0.3))
    assert both == Outcome(4, 1, 4, 2.0, (0.1, 0.2, 0.3))


@pytest.mark.parametrize("allowed, threshold", [(0, np.nextafter(0.9, 1)), (1, 0.9), (2, 0.8)])
def test_thresholds_by_hand(allowed, threshold):
    """Bursts of 0.9, 0.8 and 0.7 over a floor so even that it would be one long detection."""
    times, scores = np.arange(0, 12, 1.0), np.full(12, 0.01)
    scores[[1, 5, 6, 9]] = 0.9, 0.7, 0.8, 0.7
    streams = [(times[:4], scores[:4]), (times[4:], scores[4:])]
    assert threshold_at(streams, allowed) == threshold
    assert threshold_at([(np.arange(3.0), np.array([0, 1.0, 0]))], 0) == 1.0


@settings(max_examples=25)
@given(st.lists(st.sampled_from(np.linspace(0.1, 1, 19)), min_size=1), st.integers(0, 4))
def test_a_threshold_allows_what_is_asked_and_the_next_lower_one_does_not(scores, allowed):
    times, scores = np.arange(len(scores)) * 0.5, np.array(scores)
    at = threshold_at([(times, scores)], allowed)
    lower = scores[scores < at].max(initial=0)
    assert len(Detector(at).find(times, scores)) <= allowed or at == 1.0
    assert len(Detector(lower).find(times, scores)) > allowed or lower == 0


def test_a_threshold_of_many_values_allows_nearly_as_many_as_asked():
    times, scores = np.arange(9000) * 0.08, np.random.default_rng(0).random(9000)
    at = threshold_at([(times, scores)], 90)
    assert 87 <= len(Detector(at).find(times, scores)) <= 90
    assert threshold_at([(times, 0.9 + scores / 10)], 1) < 0.901  # one burst: down to the end


def test_plateau_by_hand():
    times, early, late = np.arange(5.0), np.array([1, 1, 1, 0.2, 1]), np.array([1, 1, 1, 1, 0.2])
    assert plateau_s(times, early, 0.5, 2.5) == 0.0  # below at once, at 3 s
    assert plateau_s(times, late, 0.5, 2.5) == 1.5
    assert plateau_s(times, np.full(5, 0.5), 0.5, 2.5) == 1.5  # never below
    with pytest.raises(ValueError, match=r"ends before 9\.00 s"):
        plateau_s(times, late, 0.5, 9.0)
