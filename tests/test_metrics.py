import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwslib import metrics

ALL_MEASURES = (
    metrics.au_fa_fr,
    metrics.one_minus_auc,
    metrics.miss_rate_at,
    metrics.fewest_errors_threshold,
)


def scored(lowest=0, highest=16):
    """Labels and scores of a few clips, both classes there, scores in sixteenths so that many tie."""
    score = st.integers(lowest, highest).map(lambda n: n / 16)
    clips = st.lists(st.tuples(st.integers(0, 1), score), max_size=20)
    ends = st.tuples(score, score).map(lambda pair: [(0, pair[0]), (1, pair[1])])
    return st.tuples(ends, clips).map(
        lambda two: tuple(np.array(c) for c in zip(*two[0], *two[1], strict=True))
    )


def naive_au_fa_fr(labels, scores):
    """The study's definition, word for word: thresholds 0, every score, 1; shares of all clips."""
    points = []
    for threshold in sorted([0.0, *scores, 1.0]):
        false_accepts = sum(1 for y, s in zip(labels, scores, strict=True) if y == 0 and s >= threshold)
        false_rejects = sum(1 for y, s in zip(labels, scores, strict=True) if y == 1 and s < threshold)
        points.append((false_accepts / len(labels), false_rejects / len(labels)))
    pairs = itertools.pairwise(points)
    return sum((fa - next_fa) * (fr + next_fr) / 2 for (fa, fr), (next_fa, next_fr) in pairs)


def naive_one_minus_auc(labels, scores):
    """Pairs in the wrong order, ties half."""
    positives = [s for y, s in zip(labels, scores, strict=True) if y == 1]
    negatives = [s for y, s in zip(labels, scores, strict=True) if y == 0]
    wrong = sum((n > p) + (n == p) / 2 for p in positives for n in negatives)
    return wrong / (len(positives) * len(negatives))


def errors_at(labels, scores, threshold):
    return int(np.sum((scores >= threshold) != labels))


def test_au_fa_fr_of_one_swapped_pair():
    # Four clips; one negative (0.8) lies over one positive (0.4): one wrong pair of the four.
    # FA falls from 1/4 to 0 while FR is 1/4: area 1/16.
    assert metrics.au_fa_fr([0, 1, 0, 1], [0.1, 0.4, 0.8, 0.9]) == 1 / 16
    assert metrics.one_minus_auc([0, 1, 0, 1], [0.1, 0.4, 0.8, 0.9]) == 1 / 4


def test_a_tie_counts_half():
    assert metrics.one_minus_auc([0, 1], [0.5, 0.5]) == 0.5
    assert metrics.au_fa_fr([0, 1], [0.5, 0.5]) == 1 / 8  # a triangle of 1/2 by 1/2


def test_perfect_scores_make_no_error():
    labels, scores = [0, 0, 1], [0.1, 0.2, 0.3]
    assert metrics.au_fa_fr(labels, scores) == metrics.one_minus_auc(labels, scores) == 0
    assert metrics.miss_rate_at(labels, scores, 0.0) == 0


@given(scored())
def test_au_fa_fr_equals_the_study_s_definition(clips):
    # both sum multiples of 1 / n^2 in float64; they differ by rounding alone
    assert metrics.au_fa_fr(*clips) == pytest.approx(naive_au_fa_fr(*clips), abs=1e-13)


@given(scored())
def test_one_minus_auc_equals_counting_pairs(clips):
    assert metrics.one_minus_auc(*clips) == pytest.approx(naive_one_minus_auc(*clips), abs=1e-13)


def test_outranked_by_hand():
    """Of four other words one scores above the first keyword, one ties with it; none does with the second."""
    labels, scores = [0, 0, 0, 0, 1, 1], [0.1, 0.5, 0.9, 0.2, 0.5, 1.0]
    assert metrics.outranked(labels, scores).tolist() == [1.5 / 4, 0]


@given(scored(lowest=1, highest=15))
def test_au_fa_fr_is_one_minus_auc_times_the_share_factor_inside_the_ends(clips):
    positives = int(clips[0].sum())
    factor = metrics.share_factor(positives, len(clips[0]) - positives)
    assert metrics.au_fa_fr(*clips) == pytest.approx(metrics.one_minus_auc(*clips) * factor, abs=1e-13)


def test_a_score_of_exactly_one_breaks_that_identity():
    """The control: at threshold 1 a negative of score 1 is still accepted, so its area is not counted."""
    labels, scores = [0, 1], [1.0, 0.5]
    assert metrics.one_minus_auc(labels, scores) == 1
    assert metrics.au_fa_fr(labels, scores) == naive_au_fa_fr(labels, scores) == 0


@given(scored(), st.permutations(range(5)))
def test_order_of_clips_does_not_matter(clips, order):
    labels, scores = (np.resize(c, len(c) // 5 * 5 + 5) for c in clips)
    shuffled = np.concatenate([np.array(order) * (len(labels) // 5) + k for k in range(len(labels) // 5)])
    assert metrics.au_fa_fr(labels[shuffled], scores[shuffled]) == metrics.au_fa_fr(labels, scores)


def test_miss_rate_at_by_hand():
    labels, scores = [0, 0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.6, 0.9]
    assert metrics.miss_rate_at(labels, scores, 0.0) == 0.5  # over 0.7 only 0.9 is left
    assert metrics.miss_rate_at(labels, scores, 0.25) == 0.0  # one of four accepted: threshold 0.6
    assert metrics.miss_rate_at([0, 1], [1.0, 1.0], 0.0) == 1.0  # nothing can be accepted


@given(scored(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_miss_rate_at_is_the_lowest_of_all_thresholds(clips, allowed):
    labels, scores = clips
    misses = [1.0]
    for threshold in [0.0, *scores, 1.0]:
        if np.mean(scores[labels == 0] >= threshold) <= allowed:
            misses.append(np.mean(scores[labels == 1] < threshold))
    assert metrics.miss_rate_at(labels, scores, allowed) == min(misses)


@given(scored())
def test_no_threshold_makes_fewer_errors(clips):
    labels, scores = clips
    found = errors_at(labels, scores, metrics.fewest_errors_threshold(labels, scores))
    assert found == min(errors_at(labels, scores, threshold) for threshold in np.arange(129) / 128)


def test_threshold_lies_halfway_between_the_scores_it_separates():
    assert metrics.fewest_errors_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)


@given(scored(), st.integers(0, 16).map(lambda n: n / 16))
def test_confusion_counts_every_clip_once(clips, threshold):
    labels, scores = clips
    counts = metrics.confusion(labels, scores, threshold)
    assert counts["hits"] + counts["misses"] == labels.sum()
    assert sum(counts.values()) == len(labels)
    assert counts["misses"] + counts["false_accepts"] == errors_at(labels, scores, threshold)


def test_confusion_by_hand():
    counts = metrics.confusion([1, 1, 0, 0, 0], [0.9, 0.4, 0.5, 0.1, 0.2], 0.5)
    assert counts == {"hits": 1, "misses": 1, "false_accepts": 1, "correct_rejects": 2}


@pytest.mark.parametrize("measure", ALL_MEASURES)
@pytest.mark.parametrize(
    "labels, scores, complaint",
    [
        ([[0, 1]], [[0.1, 0.2]], "alike"),
        ([0, 1, 1], [0.1, 0.2], "alike"),
        ([0, 2], [0.1, 0.2], "0 or 1"),
        ([0, 1], [0.1, float("nan")], "probabilities"),
        ([0, 1], [0.1, 1.5], "probabilities"),
        ([0, 1], [-0.1, 0.5], "probabilities"),
        ([1, 1], [0.1, 0.5], "both"),
        ([0, 0], [0.1, 0.5], "both"),
        ([], [], "both"),
    ],
)
def test_bad_input_is_refused(measure, labels, scores, complaint):
    with pytest.raises(ValueError, match=complaint):
        measure(labels, scores)


@pytest.fixture(scope="module")
def normal_scores():
    """200 clips, scores of the keyword drawn a little above the others'."""
    generator, labels = np.random.default_rng(0), np.arange(200) % 4 == 0
    return labels.astype(int), 1 / (1 + np.exp(-generator.normal(labels * 2.0, 1.0)))


def test_bootstrap_repeats_for_a_seed_and_differs_for_another(normal_scores):
    first, again, other = (
        metrics.bootstrap(metrics.one_minus_auc, *normal_scores, replicates=200, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_bootstrap_interval_holds_the_value(normal_scores):
    low, high = metrics.bootstrap(metrics.one_minus_auc, *normal_scores, replicates=300)
    assert low < metrics.one_minus_auc(*normal_scores) < high


def test_bootstrap_agrees_with_scipy(normal_scores):
    from scipy import stats

    labels, scores = normal_scores

    def measure(picked):
        return metrics.one_minus_auc(labels[picked], scores[picked])

    theirs = stats.bootstrap(
        (np.arange(len(labels)),), measure, method="percentile", n_resamples=500,
        vectorized=False, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    ours = metrics.bootstrap(metrics.one_minus_auc, labels, scores, replicates=500)
    width = theirs.high - theirs.low
    # a 2.5 % quantile of 500 draws is off by a thirtieth of the interval's width (one deviation)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.15 * width)


def test_bootstrap_keeps_groups_together():
    groups = np.repeat(np.arange(6), [1, 2, 3, 1, 2, 3])
    drawn_together = []

    def measure(labels, scores):
        clips, counts = np.unique(scores, return_counts=True)
        by_group = {g: set(counts[groups[clips.astype(int)] == g]) for g in groups[clips.astype(int)]}
        drawn_together.append(all(len(times) == 1 for times in by_group.values()))
        return float(len(labels))

    labels, clip_numbers = np.arange(12) % 2, np.arange(12)
    metrics.bootstrap(measure, labels, clip_numbers, groups=groups, replicates=50)
    assert all(drawn_together)
    drawn_together.clear()
    metrics.bootstrap(measure, labels, clip_numbers, replicates=50)
    assert not all(drawn_together)  # the control: single clips are not


def test_bootstrap_of_one_group_is_the_value(normal_scores):
    labels, scores = normal_scores
    value = metrics.au_fa_fr(labels, scores)
    found = metrics.bootstrap(metrics.au_fa_fr, labels, scores, groups=np.zeros(200), replicates=5)
    assert found == (value, value)


def test_bootstrap_of_repeated_clips_is_wider_by_group(normal_scores):
    """Ten copies of every clip bring no news; taken for clips of their own they would."""
    labels, scores = (np.repeat(c, 10) for c in normal_scores)
    together = metrics.bootstrap(
        metrics.one_minus_auc, labels, scores, groups=np.repeat(np.arange(200), 10), replicates=200
    )
    apart = metrics.bootstrap(metrics.one_minus_auc, labels, scores, replicates=200)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])  # sqrt(10) = 3.2 expected


def test_paired_ratio_of_identical_scores_is_exactly_one(normal_scores):
    labels, scores = normal_scores

    def ratio(labels, ours, theirs):
        return metrics.au_fa_fr(labels, ours) / metrics.au_fa_fr(labels, theirs)

    assert metrics.bootstrap(ratio, labels, scores, scores, replicates=100) == (1, 1)


def test_bootstrap_leaves_out_replicates_that_are_no_number(normal_scores):
    values = itertools.cycle([1.0, float("nan")])
    assert metrics.bootstrap(lambda *_: next(values), *normal_scores, replicates=10) == (1, 1)
    assert np.isnan(metrics.bootstrap(lambda *_: float("nan"), *normal_scores, replicates=5)).all()


def test_bootstrap_takes_an_infinite_ratio_for_the_largest(normal_scores):
    values = itertools.cycle([1.0, 2.0, float("inf")])
    assert metrics.bootstrap(lambda *_: next(values), *normal_scores, replicates=9) == (1, float("inf"))


def test_a_mean_s_interval_is_over_groups():
    values = np.repeat([0.0, 1.0], 50)
    assert metrics.mean_interval(values, values) == (0, 1)  # two speakers: any draw may be all of one
    low, high = metrics.mean_interval(values, np.arange(100))
    assert 0.38 < low < 0.42 and 0.58 < high < 0.62  # 0.5 -+ 1.96 * 0.05
    assert metrics.mean_interval(values, np.arange(100)) == (low, high)
    with pytest.raises(ValueError, match="same length"):
        metrics.mean_interval(values, np.arange(50))
