from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kwslib import events, metrics
from kwslib.events import Detector, Listener, Outcome, at_misses, at_rate, det, detections, outcome, plateau_s

PLAIN = Detector(threshold=0.5, smoothing=1, release=1.0, refractory_s=0.0)


def found(detector, probabilities, step_s=1.0):
    times = step_s * np.arange(len(probabilities))
    return detector.find(times, detector.smoothed(np.array(probabilities, float))).tolist()


# Detecting


@pytest.mark.parametrize(
    "probabilities, detector, steps",
    [
        ([0.1, 0.6, 0.9, 0.8, 0.2], PLAIN, [1]),  # one rise is one detection
        ([0.5, 0.4, 0.5, 0.4], PLAIN, [0, 2]),  # the threshold itself counts
        ([0.1, 0.4], PLAIN, []),
        ([], PLAIN, []),
        ([0.9, 0.45, 0.9, 0.2, 0.9], replace(PLAIN, release=0.8), [0, 4]),  # 0.45 does not release
        ([0.9, 0, 0.9, 0, 0.9, 0, 0.9], replace(PLAIN, refractory_s=2.0), [0, 4]),  # deaf at 2 s
        ([0.9, 0, 0.9, 0.9, 0.9, 0, 0.9], replace(PLAIN, refractory_s=2.0), [0, 6]),  # still the same burst
        ([1, 0, 1, 1, 0], replace(PLAIN, smoothing=2, threshold=0.7), [0, 3]),  # means 1, .5, .5, 1, .5
    ],
)
def test_detections_by_hand(probabilities, detector, steps):
    assert found(detector, probabilities) == steps


def test_smoothing_is_the_mean_of_what_there_is():
    smoothed = replace(PLAIN, smoothing=3).smoothed(np.array([0.3, 0.9, 0.0, 0.6]))
    np.testing.assert_allclose(smoothed, [0.3, 0.6, 0.4, 0.5], atol=1e-12)


@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]), max_size=40),
    st.sampled_from([1, 2, 3, 8, 17]),
    st.sampled_from([0.3, 0.6, 1.0]),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.sets(st.integers(0, 40)),
)
def test_a_listener_finds_the_same_however_rows_come(said, smoothing, release, refractory_s, places):
    detector = Detector(0.6, smoothing, release, refractory_s)
    rows = np.stack([np.arange(len(said), dtype=float), np.array(said, float)], 1)
    listener, heard = Listener(detector), []
    for part in np.split(rows, sorted(p for p in places if p <= len(said))):
        heard += listener.hear(part)
    assert [time_s for time_s, _ in heard] == found(detector, said)


@pytest.mark.parametrize("smoothing", [2, 5, 8, 16, np.int64(9)])
def test_a_listener_s_means_are_the_detector_s_to_the_last_bit(smoothing):
    detector, said = Detector(1.0, smoothing), np.random.default_rng(0).random(300)
    listener, means = Listener(detector), []
    for row in enumerate(said):
        listener.hear(np.array([row]))
        means.append(listener.mean)
    assert means == detector.smoothed(said).tolist()


def heard(detector, *stretches, step_s=0.08):
    """Times of detections in stretches of (time of its first row, probabilities), a row at a time."""
    listener, times = Listener(detector), []
    for begin_s, probabilities in stretches:
        for n, probability in enumerate(probabilities):
            times += [time_s for time_s, _ in listener.hear(np.array([[begin_s + n * step_s, probability]]))]
    return times


@pytest.mark.parametrize("gap_s", [0.2, 1.0, 3600.0])
def test_after_a_gap_a_mean_is_of_what_came_after_it(gap_s):
    detector, before, after_s = Detector(0.7, 2), [0.1, 0.1, 1.0], 0.16 + gap_s
    assert heard(detector, (0.0, [*before, 0.6, 0.6])) == [3 * 0.08]  # the control
    assert heard(detector, (0.0, before), (after_s, [0.6, 0.6])) == []
    assert heard(detector, (0.0, [0.1] * 3), (after_s, [0.8])) == [after_s]


def test_after_a_gap_a_word_need_not_wait_for_the_one_before_it_to_end():
    detector = Detector(0.5, 1, 0.5, refractory_s=1.0)
    assert heard(detector, (0.0, [0.9] * 20)) == [0.0]  # the control: one utterance
    assert heard(detector, (0.0, [0.9] * 5), (3600.0, [0.9] * 5)) == [0.0, 3600.0]
    within = heard(detector, (0.0, [0.9] * 5), (0.6, [0.9] * 10))
    assert within == pytest.approx([0.0, 1.0])  # as soon as the refractory time has passed


@pytest.mark.parametrize("step_s", [0.01, 0.08, 0.4, 1.0])
@pytest.mark.parametrize("begin_s", [0.0, 0.19, 1e6])
def test_no_step_of_a_stream_is_a_gap(step_s, begin_s):
    said = np.random.default_rng(0).random(300)
    detector = Detector(0.6, 3, 0.8, 0.0)
    times = begin_s + step_s * np.arange(len(said))
    whole = times[detector.find(times, detector.smoothed(said))]
    assert len(whole) > 5 and heard(detector, (begin_s, said), step_s=step_s) == whole.tolist()


def test_a_stream_that_was_reset_is_heard_afresh():
    assert heard(PLAIN, (100.0, [0.9] * 3), (0.0, [0.9] * 3)) == [100.0, 0.0]


@given(st.lists(st.floats(0, 1), max_size=60), st.floats(0, 3))
def test_detections_are_at_least_the_refractory_time_apart(said, refractory_s):
    steps = found(Detector(0.5, 1, 0.9, refractory_s), said)
    assert all(np.diff(steps) >= refractory_s)


class Said:
    """A stream that says what it is told to: a probability for each sample, a last one at the end."""

    def __init__(self, last):
        self.last, self.step = last, 0

    def feed(self, samples):
        steps = np.arange(self.step, self.step + len(samples))
        self.step += len(samples)
        return np.stack([steps, samples], 1).reshape(-1, 2)

    def flush(self):
        return np.array([[self.step, self.last]])


def test_detections_of_a_stream_include_its_flush():
    said = np.array([0.5, 0.4, 0.5, 0.4])
    assert list(detections(Said(0.9), [said[:1], said[1:]], Listener(PLAIN))) == [
        (0, 0.5),
        (2, 0.5),
        (4, 0.9),
    ]
    assert list(detections(Said(0.7), [], Listener(PLAIN))) == [(0, 0.7)]


@pytest.mark.parametrize(
    "name, value", [("threshold", 1.5), ("smoothing", 0), ("smoothing", 1.5), ("smoothing", True), ("release", -1), ("refractory_s", -1), ("refractory_s", np.nan)]
)  # fmt: skip
def test_impossible_detectors_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        replace(PLAIN, **{name: value})


# Judging

WORDS = np.array([[1.0, 1.4], [5.0, 5.5]])


@pytest.mark.parametrize(
    "at, misses, false_accepts, latencies",
    [
        ([], 2, 0, ()),
        ([1.5, 5.2], 0, 0, (0.1, -0.3)),
        ([1.9, 6.0], 0, 0, (0.5, 0.5)),  # the tolerance itself counts
        ([1.91, 6.01], 2, 2, ()),
        ([0.99], 2, 1, ()),  # before the word begins
        ([1.2, 1.8], 1, 1, (-0.2,)),  # the second one of a word is a false accept
        ([3.0, 3.1], 2, 2, ()),
    ],
)
def test_outcomes_by_hand(at, misses, false_accepts, latencies):
    got = outcome(np.array(at), WORDS, 0.5)
    assert (got.words, got.misses, got.false_accepts, got.hours) == (2, misses, false_accepts, 0.5)
    np.testing.assert_allclose(got.latencies_s, latencies, atol=1e-12)


def test_a_word_detected_again_is_counted_as_that():
    """Until a second and a half after its end; what comes too late for a word that was missed is not of it."""
    found = np.array([0.5, 1.2, 1.8, 5.2, 5.4, 5.9, 8.0])
    got = outcome(found, WORDS, 0.5)
    assert (got.misses, got.false_accepts, got.again) == (0, 5, 3)
    (_, end), alone = WORDS[0], WORDS[:1]
    assert [outcome(np.array([1.2, end + s]), alone, 1.0).again for s in (0.4, 1.4, 1.6)] == [1, 1, 0]
    late = outcome(np.array([end + 0.6, end + 1.2]), alone, 1.0)
    assert (late.misses, late.false_accepts, late.again) == (1, 2, 0)
    close = np.array([[1.0, 1.4], [1.5, 1.9]])
    assert outcome(np.array([1.6, 1.8]), close, 1.0).again == 0  # each has its own


def test_words_close_together_have_a_detection_each():
    words = np.array([[1.0, 1.4], [1.5, 1.9]])
    assert outcome(np.array([1.6, 1.8]), words, 1.0).misses == 0  # both within reach of the first
    assert outcome(np.array([1.6]), words, 1.0).misses == 1


def test_outcomes_add_up():
    both = Outcome((True, False), 3, 0.5, (0.1,), 2) + Outcome((True,) * 2, 1, 1.5, (0.2, 0.3), 1)
    assert both == Outcome((True, False, True, True), 4, 2.0, (0.1, 0.2, 0.3), 3)
    assert (both.words, both.misses) == (4, 1)
    written = both.to_json()
    assert written["false_accepts_per_h"] == [2.0, *metrics.poisson_interval(4, 2.0)]
    assert written["miss_rate"] == [1 / 4, *metrics.binomial_interval(1, 4)]
    assert written["latency_s"][0] == pytest.approx(0.2) and written["again"] == 3


def test_an_outcome_without_exposure_states_no_rate():
    assert Outcome((), 3, 0.0, ()).to_json()["false_accepts_per_h"] == []
    assert Outcome((), 3, 1.0, ()).to_json()["miss_rate"] == []


def test_det_by_hand():
    """A word at 1 s scored 0.9, a false alarm of 0.7 at 3 s."""
    times, scores = np.arange(6.0), np.array([0, 0.9, 0, 0.7, 0, 0.1])
    at = events.thresholds([scores], 60)
    curve = det(times, scores, WORDS[:1], 0.5, PLAIN, at)
    assert (at[0], at[-1]) == (0.9, 1.0)  # the highest fifth of six steps is one
    curve = det(times, scores, WORDS[:1], 0.5, PLAIN, np.array([0.5, 0.8, 1.0]))
    assert [(o.misses, o.false_accepts) for o in curve] == [(0, 1), (0, 0), (1, 0)]
    assert at_rate(curve, 2.0) == 1  # of two without a miss, the one with fewer false accepts
    assert at_rate(curve, 0.0) == 1
    assert at_misses(curve, 0.5) == 1
    assert at_rate(curve[:1], 1.0) is None
    assert at_misses(curve[2:], 0.5) is None


def test_other_speakers_by_hand():
    """Two speakers of two words each: of a quarter of the draws both are the one who is always heard, of
    another quarter the one who is missed unless ten false accepts an hour are let in."""
    hear_all, miss_second = Outcome((True,) * 4, 5, 0.5, ()), Outcome((True, True, False, False), 1, 0.5, ())
    curve, speakers = [hear_all, miss_second], np.array(["a", "a", "b", "b"])
    assert events.at_misses_over(curve, 0.5, speakers) == [2.0, 10.0]
    assert events.at_misses_over(curve, 0.5, np.zeros(4)) == [2.0, 2.0]  # one speaker is every draw
    assert events.at_misses_over(curve, 0.0, np.zeros(4)) == [10.0, 10.0]
    assert events.at_misses_over(curve[1:], 0.0, speakers) == [2.0, None]


def test_thresholds_ascend_and_reach_one():
    scores = np.random.default_rng(0).random(5000)
    at = events.thresholds([scores[:2000], scores[2000:]], 100)
    assert len(at) <= 101 and at[-1] == 1.0 and at[-2] == scores.max()
    assert np.all(np.diff(at) > 0)
    assert np.mean(scores >= at[0]) == pytest.approx(0.2, abs=1e-3)


# Intervals


@pytest.mark.parametrize("count", [0, 1, 3, 17, 400])
def test_poisson_interval_is_scipy_s(count):
    low, high = metrics.poisson_interval(count, 2.5)
    assert low == pytest.approx(scipy.stats.chi2.ppf(0.025, 2 * count) / 5 if count else 0, rel=1e-9)
    assert high == pytest.approx(scipy.stats.chi2.ppf(0.975, 2 * count + 2) / 5, rel=1e-9)


@pytest.mark.parametrize("count, trials", [(0, 10), (3, 10), (10, 10), (7, 1000)])
def test_binomial_interval_is_scipy_s(count, trials):
    theirs = scipy.stats.binomtest(count, trials).proportion_ci(0.95, "exact")
    assert metrics.binomial_interval(count, trials) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


# The plateau


@pytest.mark.parametrize(
    "probabilities, plateau",
    [
        ([0.9, 0.9, 0.9, 0.9, 0.2], 2.0),  # ends at 2 s; below from 4 s on
        ([0.9, 0.9, 0.2, 0.9, 0.9], 0.0),  # below at once; a later rise is no plateau
        ([0.1, 0.1, 0.9, 0.1, 0.1], 1.0),
        ([0.9, 0.9, 0.9, 0.9, 0.9], 2.0),  # never below: as long as the stream
        ([0.1, 0.1, 0.5, 0.4, 0.1], 1.0),  # the threshold itself is over
    ],
)
def test_plateau_by_hand(probabilities, plateau):
    assert plateau_s(np.arange(5.0), np.array(probabilities), 0.5, 2.0) == plateau


def test_plateau_is_counted_from_the_end_of_the_keyword():
    assert plateau_s(np.arange(5.0), np.array([0.9, 0.9, 0.9, 0.2, 0.2]), 0.5, 1.5) == 1.5


def test_plateau_of_a_stream_that_ends_too_early_is_an_error():
    with pytest.raises(ValueError, match=r"ends before 9\.00 s"):
        plateau_s(np.arange(5.0), np.zeros(5), 0.5, 9.0)


def test_refined_thresholds_meet_what_was_asked_for():
    """Peaks of distinct height every 100 s of ten hours, each sixth a keyword: a coarse curve has no point
    as good as the best of all thresholds at two false accepts an hour, the refined one has."""
    times = np.arange(450_000) * 0.08
    smoothed = np.zeros(len(times))
    places = np.arange(1, 361) * 1200
    smoothed[places] = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, 360))
    words = np.stack([times[places[::6]] - 0.3, times[places[::6]]], axis=1)

    def misses(at: np.ndarray) -> int:
        curve = events.det(times, smoothed, words, 10.0, Detector(smoothing=1), at)
        return curve[events.at_rate(curve, 2.0)].misses

    at = events.thresholds([smoothed], 12)
    curve = events.det(times, smoothed, words, 10.0, Detector(smoothing=1), at)
    finer = events.refined(at, [events.at_rate(curve, 2.0), None], [smoothed], 400)
    assert set(at) <= set(finer) and np.all(np.diff(finer) > 0)
    assert misses(finer) == misses(np.unique(smoothed[places])) < misses(at)
    assert np.array_equal(events.refined(at, [None], [smoothed]), at)
    assert len(events.refined(at, [0], [smoothed], 8)) <= len(at) + 8  # nothing lies before the first


def test_a_curve_is_drawn_again_with_more_thresholds_around_what_is_reported():
    smoothed, asked = np.linspace(0, 1, 101), []

    def outcomes(at: np.ndarray) -> list[float]:
        asked.append(at)
        return list(at)

    coarse = np.array([0.0, 0.5, 1.0])
    at, curve = events.drawn(coarse, outcomes, lambda curve: [curve.index(0.5), None], [smoothed])
    assert np.array_equal(asked[0], coarse) and np.array_equal(asked[1], at) and len(asked) == 2
    assert curve == list(at) and np.array_equal(at, events.refined(coarse, [1], [smoothed]))
    assert len(at) > len(coarse)
