"""What a keyword spotter is judged by. Arrays in, numbers out; no models, no files.

Conventions. `labels` is (clips,) of 0 and 1, 1 being the keyword; `scores` is (clips,), the
keyword's probability, from 0 to 1. A clip is accepted when its score is at least the threshold.
A *false accept* is an accepted clip of another word, a *false reject* (a *miss*) a rejected clip of
the keyword. Two kinds of rate occur and are never mixed: *shares* divide by all clips, as the
reference study does; *rates* divide by the clips of the class that can go wrong.

`au_fa_fr` scales with the share of positives, so it compares within a corpus only; `one_minus_auc`
compares across corpora. `share_factor` is the exchange rate.
"""

from collections.abc import Callable, Iterator

import numpy as np


def validate(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as float64, or `ValueError` saying what is wrong with them."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be (clips,) alike")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        raise ValueError("scores must be probabilities from 0 to 1")
    labels = labels.astype(bool)
    if not labels.any() or labels.all():
        raise ValueError("both clips of the keyword and clips of other words are needed")
    return labels, scores


def share_factor(positives: int, negatives: int) -> float:
    """P N / (P + N)^2: what turns 1 - AUC into au_fa_fr."""
    return positives * negatives / (positives + negatives) ** 2


def error_curve(labels, scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds 0, every distinct score, 1, ascending; at each the false accepts and false rejects.

    Returns thresholds, false_accepts, false_rejects: (points,) each, the latter two counts.
    """
    labels, scores = validate(labels, scores)
    thresholds = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    positive, negative = np.sort(scores[labels]), np.sort(scores[~labels])
    false_accepts = len(negative) - np.searchsorted(negative, thresholds, side="left")
    false_rejects = np.searchsorted(positive, thresholds, side="left")
    return thresholds, false_accepts, false_rejects


def au_fa_fr(labels, scores) -> float:
    """Area under false rejects over false accepts, both as shares of all clips. O(N log N).

        sum over neighbouring thresholds of (FA_i - FA_j) / n * (FR_i + FR_j) / (2 n)

    The reference study's measure, by trapezoids over the thresholds 0, every score, 1. Save at the
    ends it is (1 - AUC) * P N / (P + N)^2 with ties split.
    """
    _, false_accepts, false_rejects = error_curve(labels, scores)
    widths = -np.diff(false_accepts)
    heights = (false_rejects[1:] + false_rejects[:-1]) / 2
    return float(np.sum(widths * heights)) / len(np.asarray(labels)) ** 2


def outranked(labels, scores) -> np.ndarray:
    """(positives,) share of the other words' clips that score above each clip of the keyword; ties half."""
    labels, scores = validate(labels, scores)
    positive, negative = scores[labels], np.sort(scores[~labels])
    below = np.searchsorted(negative, positive, side="left")
    at_most = np.searchsorted(negative, positive, side="right")
    return (len(negative) - (below + at_most) / 2) / len(negative)


def one_minus_auc(labels, scores) -> float:
    """Chance that a random clip of another word scores above a random clip of the keyword.

    (pairs with negative > positive + half the pairs that tie) / (P N)
    """
    return float(outranked(labels, scores).mean())


def error_ratio(labels, scores, other_scores) -> float:
    """au_fa_fr over that of other scores of the same clips, which is the ratio of 1 - AUC too; where those make no
    error, infinite, or NaN if these make none either."""
    mine, theirs = au_fa_fr(labels, scores), au_fa_fr(labels, other_scores)
    if theirs:
        return mine / theirs
    return float("inf") if mine else float("nan")


def miss_rate_at(labels, scores, false_accept_rate: float = 1e-3) -> float:
    """Lowest share of the keyword's clips missed while at most `false_accept_rate` of the other
    words' clips are accepted."""
    _, false_accepts, false_rejects = error_curve(labels, scores)
    positives = int(np.sum(labels))
    negatives = len(np.asarray(labels)) - positives
    allowed = false_accepts <= false_accept_rate * negatives * (1 + 1e-12)  # 0.29 * 100 is 28.999..
    if not allowed.any():  # a negative scores exactly 1: only rejecting everything is left
        return 1.0
    return float(false_rejects[allowed].min()) / positives


def fewest_errors_threshold(labels, scores) -> float:
    """Threshold with the fewest false accepts and false rejects together; halfway between the two
    scores that it separates, so that clips beside them fall on the right side."""
    thresholds, false_accepts, false_rejects = error_curve(labels, scores)
    best = int(np.argmin(false_accepts + false_rejects))
    below = thresholds[best - 1] if best > 0 else 0.0
    middle = (below + thresholds[best]) / 2
    return float(middle if middle > below else thresholds[best])  # neighbouring floats have no middle


def confusion(labels, scores, threshold: float) -> dict[str, int]:
    """Counts of hits, misses, false accepts and correct rejects at a threshold."""
    labels, scores = validate(labels, scores)
    accepted = scores >= threshold
    return {
        "hits": int(np.sum(labels & accepted)),
        "misses": int(np.sum(labels & ~accepted)),
        "false_accepts": int(np.sum(~labels & accepted)),
        "correct_rejects": int(np.sum(~labels & ~accepted)),
    }


def bootstrap(
    measure: Callable[..., float],
    labels,
    *scores,
    groups=None,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of `measure(labels, *scores)` over resampled groups of clips.

    labels, each of scores: (clips,); groups: (clips,) of anything that sorts, for instance
    speakers, whose clips stay together (None: every clip by itself). Several scores of the same
    clips are resampled as pairs, which is what a ratio of two models needs. Replicates without a
    clip of either class, and those where the measure is not a number, are left out; an infinite one
    (a ratio to no error) counts as the largest. Efron 1979.
    """
    labels, scores = np.asarray(labels), [np.asarray(s) for s in scores]
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if any(len(values) != len(labels) for values in (groups, *scores)):
        raise ValueError("labels, scores and groups must have the same length")
    values = []
    for clips in resampled(groups, replicates, seed):
        if 0 < labels[clips].sum() < len(clips):
            values.append(measure(labels[clips], *(s[clips] for s in scores)))
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low = np.quantile(values, 0.025, method="lower")
    return float(low), float(np.quantile(values, 0.975, method="higher"))


def mean_interval(values, groups, replicates: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of values (n,) over resampled groups, (n,) of anything that sorts,
    for instance speakers, whose values stay together. Efron 1979."""
    values, groups = np.asarray(values, float), np.asarray(groups)
    if len(values) != len(groups):
        raise ValueError("values and groups must have the same length")
    means = [values[drawn].mean() for drawn in resampled(groups, replicates, seed)]
    low = np.quantile(means, 0.025, method="lower")
    return float(low), float(np.quantile(means, 0.975, method="higher"))


def resampled(groups: np.ndarray, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Positions in `groups` for each replicate: as many groups as there are, drawn with replacement, each with
    all that is in it."""
    _, index = np.unique(groups, return_inverse=True)
    order = np.argsort(index, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(index))[:-1])
    generator = np.random.default_rng(seed)
    for _ in range(replicates):
        drawn = generator.integers(len(members), size=len(members))
        yield np.concatenate([members[g] for g in drawn])


def poisson_interval(count: int, exposure: float) -> tuple[float, float]:
    """Exact 95 % interval of a rate of which `count` events were seen in `exposure` (Garwood 1936)."""
    from scipy.special import gammaincinv

    low = gammaincinv(count, 0.025) if count else 0.0
    return float(low / exposure), float(gammaincinv(count + 1, 0.975) / exposure)


def binomial_interval(count: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a share of which `count` of `trials` were seen (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    low = betaincinv(count, trials - count + 1, 0.025) if count else 0.0
    high = betaincinv(count + 1, trials - count, 0.975) if count < trials else 1.0
    return float(low), float(high)
