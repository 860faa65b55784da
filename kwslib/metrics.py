"""What a keyword spotter is judged by. Arrays in, numbers out; no models, no files.

`labels` is (clips,) of 0 and 1, 1 being the keyword; `scores` is (clips,), the keyword's
probability. A clip is accepted when its score is at least the threshold. A *false accept* is an
accepted clip of another word, a *miss* a rejected clip of the keyword. `speakers` is (clips,) too:
who says it. In a measure, weights (..., clips) say how often each clip counts (None: once), and the
result has the shape (...). `ValueError` for other labels and scores.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy

CHUNKS, CHUNK = 40, 25  # replicates of the bootstrap; a chunk is computed at once, fits a cache


class Estimate(NamedTuple):
    """A value with its 95 % interval; low and high are None where none can be stated."""

    value: float
    low: float | None
    high: float | None


def error_curve(labels, scores, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds 0, every distinct score, 1, and the next float, at which nothing is accepted, in
    ascending order, (points,), with counts of false accepts and misses at each, (..., points)."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or set(labels) != {0, 1}:
        raise ValueError("labels must be 0 and 1, clips of both, and as many as scores")
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN fails too
        raise ValueError("scores must be probabilities from 0 to 1")
    weights = np.ones(len(scores), int) if weights is None else np.asarray(weights)
    thresholds = np.unique(np.concatenate([scores, [0.0, 1.0, np.nextafter(1, 2)]]))
    below = []
    for mine in (labels == 0, labels == 1):  # the weight of clips that score below each threshold
        order = np.flatnonzero(mine)[np.argsort(scores[mine])]
        sums = np.zeros((*weights.shape[:-1], len(order) + 1), weights.dtype)
        np.cumsum(weights[..., order], axis=-1, out=sums[..., 1:])
        below.append(sums[..., np.searchsorted(scores[order], thresholds)])
    return thresholds, below[0][..., -1:] - below[0], below[1]


def _operating_point(labels, scores, false_accept_rate, weights=None):
    """Threshold and share missed, (...), at the first point with few enough false accepts."""
    thresholds, false_accepts, misses = error_curve(labels, scores, weights)
    allowed = false_accept_rate * false_accepts[..., :1] * (1 + 1e-12)  # 0.29 * 100 is 28.999..
    point = np.argmax(false_accepts <= allowed, axis=-1, keepdims=True)
    share = np.take_along_axis(misses, point, axis=-1)[..., 0] / misses[..., -1]
    return thresholds[point[..., 0]], share


def missed(labels, scores, false_accept_rate: float = 1e-3, weights=None):
    """Lowest share, 0 to 1, of the keyword's clips missed while at most `false_accept_rate` of the
    other words' clips are accepted. It comes first: it is what a user feels."""
    return _operating_point(labels, scores, false_accept_rate, weights)[1]


def threshold_at(labels, scores, false_accept_rate: float = 1e-3) -> float:
    """The threshold of `missed`; just above 1, to reject all, if too many other clips score 1."""
    return float(_operating_point(labels, scores, false_accept_rate)[0])


def au_fa_fr(labels, scores, weights=None):
    """Area under misses over false accepts, both as shares of all n clips: the study's measure.
        sum over neighbours of the thresholds 0, every score, 1 of (FA_i - FA_j) (M_i + M_j) / 2 n^2
    But for scores of exactly 1 it is (1 - AUC) P N / n^2, so it compares within a corpus only."""
    _, false_accepts, misses = error_curve(labels, scores, weights)
    clips = false_accepts[..., 0] + misses[..., -1]
    return np.trapezoid(misses[..., :-1], -false_accepts[..., :-1]) / clips**2


def one_minus_auc(labels, scores, weights=None):
    """Chance that a random clip of another word scores above a random clip of the keyword:
    (pairs with negative > positive + half the pairs that tie) / (P N)."""
    _, false_accepts, misses = error_curve(labels, scores, weights)
    return np.trapezoid(misses, -false_accepts) / (false_accepts[..., 0] * misses[..., -1])


def estimate(measure: Callable, labels, scores, speakers) -> Estimate:
    """A measure with its 95 % interval: percentiles over resampled speakers, whose clips stay
    together (Efron 1979). No interval for one speaker, or where every replicate is the same. The
    bootstrap of no errors is 0 to 0: that of `missed` is widened to the exact one of its counts."""
    clips, misses = int(np.sum(labels)), round(missed(labels, scores) * np.sum(labels))
    exact = binomial_interval(misses, clips) if measure is missed else []
    return _bootstrap(partial(measure, labels, scores), labels, speakers, exact)


@np.errstate(divide="ignore", invalid="ignore")
def ratio(measure: Callable, labels, scores, reference_scores, speakers) -> Estimate:
    """A measure divided by that of other scores of the same clips, on the same resampled speakers:
    0.5 is half the errors. NaN without an interval where the reference makes no error. That of
    `missed` is widened to the exact one, given the clips that only one misses (McNemar 1947)."""
    pair, exact = np.asarray([scores, reference_scores], np.float64), []

    def divided(weights=None):
        return np.divide(*(measure(labels, each, weights=weights) for each in pair))

    mine, other = (each[np.equal(labels, 1)] < threshold_at(labels, each) for each in pair)
    both, only = np.sum(mine & other), int(np.sum(mine != other))
    if measure is missed and only:
        shares = np.array(binomial_interval(int(np.sum(mine & ~other)), only))
        exact = ((both + shares * only) / (both + (1 - shares) * only)).tolist()
    return _bootstrap(divided, labels, speakers, exact)


def _bootstrap(statistic: Callable, labels, speakers, exact) -> Estimate:
    """statistic(weights=None) with percentiles 2.5 and 97.5 over resampled speakers, widened to the
    exact interval if there is one. Replicates that lack a class or are 0 / 0 are left out."""
    names, speaker = np.unique(speakers, return_inverse=True)
    value, count, generator = float(statistic()), len(names), np.random.default_rng(0)
    if count < 2 or not np.isfinite(value):
        return Estimate(value if np.isfinite(value) else np.nan, None, None)
    values, ends, is_keyword = [], [*exact], np.equal(labels, 1)
    for _ in range(CHUNKS):
        weights = generator.multinomial(count, np.full(count, 1 / count), CHUNK)[:, speaker]
        keyword = weights[:, is_keyword].sum(axis=1)
        weights = weights[(keyword > 0) & (keyword < weights.sum(axis=1))]
        values.extend(statistic(weights=weights))
    values = np.sort(values)[: np.sum(~np.isnan(values))]  # NaN are sorted to the end
    if len(values) and values[0] < values[-1]:
        ends.append(float(np.quantile(values, 0.025, method="lower")))
        ends.append(float(np.quantile(values, 0.975, method="higher")))
    return Estimate(value, min(ends, default=None), max(ends, default=None))


def quality(labels, scores, speakers) -> dict:
    """What a metrics file states of scores: counts, two estimates, the study's measure."""
    return {
        "clips": len(labels),
        "positives": int(np.sum(labels)),
        "speakers": len(np.unique(speakers)),
        "missed": estimate(missed, labels, scores, speakers),
        "one_minus_auc": estimate(one_minus_auc, labels, scores, speakers),
        "au_fa_fr": au_fa_fr(labels, scores),
    }


def verdict(estimate: Estimate) -> str:
    """What the interval of a `ratio` says of the network: "better", "worse" or "cannot tell"."""
    if estimate.low is None or estimate.low <= 1 <= estimate.high:
        return "cannot tell"
    return "better" if estimate.high < 1 else "worse"


def poisson_interval(count: int, exposure: float) -> tuple[float, float]:
    """Exact 95 % interval of a rate, `count` events in `exposure` (Garwood 1936)."""
    low = scipy.stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low / exposure), float(scipy.stats.chi2.ppf(0.975, 2 * count + 2) / 2 / exposure)


def binomial_interval(count: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a share, `count` of `trials` (Clopper and Pearson 1934)."""
    return tuple(map(float, scipy.stats.binomtest(count, trials).proportion_ci(0.95, "exact")))
