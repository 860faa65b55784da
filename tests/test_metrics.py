import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwslib import metrics

MEASURES = (metrics.missed, metrics.au_fa_fr, metrics.one_minus_auc)


def clips(lowest=0, highest=16):
    """Labels, scores, weights of a few clips, both classes there; scores tie often."""
    score = st.integers(lowest, highest).map(lambda n: n / 16)
    some = st.lists(st.tuples(st.integers(0, 1), score, st.integers(0, 3)), max_size=20)
    ends = st.tuples(score, score).map(lambda pair: [(0, pair[0], 1), (1, pair[1], 2)])
    return st.tuples(ends, some).map(
        lambda two: tuple(np.array(column) for column in zip(*two[0], *two[1], strict=True))
    )


def naive_au_fa_fr(labels, scores):
    """The study's definition, word for word: thresholds 0, every score, 1; shares of all clips."""
    accepted = scores >= np.sort([0.0, *scores, 1.0])[:, None]
    accepts, rejects = (accepted & (labels == 0)).mean(1), (~accepted & (labels == 1)).mean(1)
    return np.sum((accepts[:-1] - accepts[1:]) * (rejects[:-1] + rejects[1:]) / 2)


@pytest.fixture(scope="module")
def normal():
    """Labels and scores of 200 clips, the keyword's scores drawn a little above the others'."""
    generator, labels = np.random.default_rng(0), np.arange(200) % 4 == 0
    return labels.astype(int), 1 / (1 + np.exp(-generator.normal(labels * 2.0, 1.0)))


def with_misses(*missed, clips=40):
    """Labels and scores of keyword clips, of which these are missed, and as many other clips."""
    labels, scores = np.repeat([1, 0], clips), np.repeat([0.9, 0.1], clips)
    scores[list(missed)] = 0.05
    return labels, scores


def test_measures_of_one_swapped_pair():
    """One negative (0.8) lies over one positive (0.4): one wrong pair of the four. False accepts
    fall from 1/4 to 0 while 1/4 is rejected: area 1/16."""
    labels, scores = [0, 1, 0, 1], [0.1, 0.4, 0.8, 0.9]
    assert metrics.au_fa_fr(labels, scores) == 1 / 16
    assert metrics.one_minus_auc(labels, scores) == 1 / 4
    assert metrics.missed(labels, scores) == 1 / 2
    assert metrics.threshold_at(labels, scores) == 0.9


@given(clips())
def test_areas_are_those_of_the_definitions(drawn):
    labels, scores, _ = drawn  # float64 sums of multiples of 1 / n^2: they differ by rounding alone
    gaps = scores[labels == 0] - scores[labels == 1][:, None]
    wrong = np.mean((gaps > 0) + (gaps == 0) / 2)  # pairs, ties half
    found = [metrics.au_fa_fr(labels, scores), metrics.one_minus_auc(labels, scores)]
    assert found == pytest.approx([naive_au_fa_fr(labels, scores), wrong], abs=1e-13)


@given(clips(lowest=1, highest=15))
def test_au_fa_fr_is_one_minus_auc_times_a_factor_inside_the_ends(drawn):
    labels, scores, _ = drawn
    factor = labels.mean() * (1 - labels.mean())
    expected = metrics.one_minus_auc(labels, scores) * factor
    assert metrics.au_fa_fr(labels, scores) == pytest.approx(expected, abs=1e-13)


def test_a_score_of_exactly_one_breaks_that_identity():
    """The control: at threshold 1 a negative of score 1 is accepted, so its area is left out. Where
    it would be a false accept too many, everything is rejected."""
    assert metrics.missed([0, 1], [1.0, 1.0]) == 1 < metrics.threshold_at([0, 1], [1.0, 1.0])
    labels, scores = np.array([0, 1]), np.array([1.0, 0.5])
    assert metrics.one_minus_auc(labels, scores) == 1
    assert metrics.au_fa_fr(labels, scores) == naive_au_fa_fr(labels, scores) == 0


@given(clips(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_missed_is_the_lowest_of_all_thresholds(drawn, rate):
    labels, scores, _ = drawn
    others, keywords = scores[labels == 0], scores[labels == 1]
    allowed = [t for t in (0.0, *scores, 1.0, 2.0) if np.mean(others >= t) <= rate]
    least = min(np.mean(keywords < t) for t in allowed)
    threshold = metrics.threshold_at(labels, scores, rate)
    assert np.mean(others >= threshold) <= rate
    assert metrics.missed(labels, scores, rate) == np.mean(keywords < threshold) == least


@pytest.mark.parametrize("measure", MEASURES)
@given(clips())
def test_weights_are_repeated_clips(measure, drawn):
    labels, scores, weights = drawn
    expected = measure(np.repeat(labels, weights), np.repeat(scores, weights))
    both = measure(labels, scores, weights=np.stack([weights, np.ones_like(weights)]))
    assert both == pytest.approx([expected, measure(labels, scores)], abs=1e-13)


@pytest.mark.parametrize("measure", [*MEASURES, metrics.threshold_at, metrics.error_curve])
def test_bad_input_is_refused(measure):
    for labels in ([0, 2], [1, 1], [0, 1, 1], []):
        with pytest.raises(ValueError, match="0 and 1"):
            measure(labels, [0.1, 0.2] if labels else [])
    for scores in ([0.1, np.nan], [-0.1, 0.5]):
        with pytest.raises(ValueError, match="probabilities"):
            measure([0, 1], scores)


@pytest.mark.parametrize("measure", MEASURES)
def test_an_interval_is_that_of_resampling_clip_by_clip(measure, normal):
    labels, scores = normal
    generator, slow = np.random.default_rng(1), []
    for _ in range(1000):
        drawn = generator.integers(200, size=200)
        slow.append(measure(labels[drawn], scores[drawn]))
    found = metrics.estimate(measure, labels, scores, np.arange(200))
    low, high = np.quantile(slow, [0.025, 0.975])
    # quantiles of 1,000 draws are off by a fiftieth of the width; missed moves in steps of 1 / 50
    assert found[1:] == pytest.approx((low, high), abs=0.1 * (high - low) + 0.02)
    assert found.low < found.value == measure(labels, scores) < found.high


def test_copies_of_a_speaker_s_clips_bring_no_news(normal):
    labels, scores = (np.repeat(column, 10) for column in normal)
    clips, speakers = np.arange(2000), np.repeat(np.arange(200), 10)
    _, low, high = metrics.estimate(metrics.one_minus_auc, labels, scores, speakers)
    _, control_low, control_high = metrics.estimate(metrics.one_minus_auc, labels, scores, clips)
    assert high - low > 2 * (control_high - control_low)  # sqrt(10) = 3.2 expected


def test_one_speaker_has_no_interval(normal):
    for measure in MEASURES:
        value = measure(*normal)
        assert metrics.estimate(measure, *normal, np.zeros(200)) == (value, None, None)
        assert metrics.ratio(measure, *normal, normal[1], np.zeros(200)) == (1, None, None)


def test_no_errors_are_not_0_to_0_and_nothing_is_a_ratio_to_them():
    labels, scores = with_misses()
    found = metrics.estimate(metrics.missed, labels, scores, np.arange(80))
    assert found == (0, 0, pytest.approx(1 - 0.025 ** (1 / 40)))
    found = metrics.estimate(metrics.one_minus_auc, labels, scores, np.arange(80))
    assert found == (0, None, None)
    # one clip of the keyword tells next to nothing
    found = metrics.estimate(metrics.missed, [1, 0, 0], [0.9, 0.1, 0.2], ["a", "b", "c"])
    assert found == (0, 0, pytest.approx(0.975))
    found = metrics.ratio(metrics.missed, *with_misses(1), scores, np.arange(80))
    assert np.isnan(found.value) and found[1:] == (None, None)
    assert metrics.verdict(found) == "cannot tell"


@pytest.mark.parametrize("measure", MEASURES)
def test_a_paired_ratio_tells_a_better_network(measure, normal):
    labels, scores = normal
    better = np.where(labels == 1, scores**0.5, scores**1.5)
    found = metrics.ratio(measure, labels, better, scores, np.arange(200))
    assert found.value == measure(labels, better) / measure(labels, scores)
    assert metrics.verdict(found) == "better"
    back = metrics.ratio(measure, labels, scores, better, np.arange(200))
    assert metrics.verdict(back) == "worse"
    same = metrics.ratio(measure, labels, scores, scores.copy(), np.arange(200))
    assert same.value == 1 and metrics.verdict(same) == "cannot tell"


@pytest.mark.parametrize("count, expected", [(1, "cannot tell"), (5, "cannot tell"), (6, "better")])
def test_few_misses_are_judged_exactly(count, expected):
    """Six of six discordant clips: two-sided p = 2 / 2^6 = 0.03; five of five: 0.06."""
    labels, scores = with_misses()
    reference = with_misses(*range(count))[1]
    found = metrics.ratio(metrics.missed, labels, scores, reference, np.arange(80))
    assert found.value == found.low == 0
    assert metrics.verdict(found) == expected


def test_exact_intervals_are_the_printed_ones():
    # Garwood 1936: 0 events 0 to 3.689, 10 events 4.795 to 18.39; 10 of 100 by Clopper and Pearson
    assert metrics.poisson_interval(0, 2.0) == (0, pytest.approx(3.689 / 2, abs=1e-3))
    assert metrics.poisson_interval(10, 1.0) == pytest.approx((4.795, 18.39), abs=1e-2)
    assert metrics.binomial_interval(10, 100) == pytest.approx((0.0490, 0.1762), abs=1e-4)
    assert metrics.binomial_interval(3, 3) == (pytest.approx(0.025 ** (1 / 3)), 1)
