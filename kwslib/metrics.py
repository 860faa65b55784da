"""What a keyword spotter is judged by. Arrays in, numbers out; no models, no files.

`labels` is (clips,) of 0 and 1, 1 being the keyword; `scores` is (clips,), the keyword's
probability. A clip is accepted when its score is at least the threshold. A *false accept* is an
accepted clip of another word, a *miss* a rejected clip of the keyword.

A measure is `measure(labels, scores, weights=None)`. weights, (..., clips), say how often each clip
counts (None: once), and the result has the shape (...): so the bootstrap needs no copies of clips.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

REPLICATES, CHUNK = 1000, 25  # of the bootstrap; a chunk is computed at once and fits a cache
ROUNDING = 1 + 1e-12  # 0.29 * 100 is 28.999..


class Estimate(NamedTuple):
    """A value with its 95 % interval; low and high are None where none can be stated."""

    value: float
    low: float | None
    high: float | None


def _validate(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be (clips,) alike")
    if not set(np.unique(labels)) == {0, 1}:
        raise ValueError("labels must be 0 and 1: clips of the keyword and of other words")
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN fails too
        raise ValueError("scores must be probabilities from 0 to 1")
    return labels.astype(bool), scores


def error_curve(labels, scores, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds 0, every distinct score, 1, and the next float, at which nothing is accepted, in
    ascending order, (points,), with counts of false accepts and misses at each, (..., points)."""
    labels, scores = _validate(labels, scores)
    weights = np.ones(len(scores), int) if weights is None else np.asarray(weights)
    thresholds = np.unique(np.concatenate([scores, [0.0, 1.0, np.nextafter(1, 2)]]))
    below = []
    for mine in (~labels, labels):  # the weight of clips that score below each threshold
        order = np.flatnonzero(mine)[np.argsort(scores[mine])]
        sums = np.zeros((*weights.shape[:-1], len(order) + 1), weights.dtype)
        np.cumsum(weights[..., order], axis=-1, out=sums[..., 1:])
        below.append(sums[..., np.searchsorted(scores[order], thresholds)])
    return thresholds, below[0][..., -1:] - below[0], below[1]


def _point(false_accepts, false_accept_rate: float) -> np.ndarray:
    """(..., 1) first point at which at most that share of the other words' clips is accepted."""
    allowed = false_accept_rate * false_accepts[..., :1] * ROUNDING
    return np.argmax(false_accepts <= allowed, axis=-1, keepdims=True)


def missed(labels, scores, false_accept_rate: float = 1e-3, weights=None):
    """Lowest share, 0 to 1, of the keyword's clips missed while at most `false_accept_rate` of the
    other words' clips are accepted. It comes first: it is what a user feels."""
    _, false_accepts, misses = error_curve(labels, scores, weights)
    point = _point(false_accepts, false_accept_rate)
    return np.take_along_axis(misses, point, axis=-1)[..., 0] / misses[..., -1]


def threshold_at(labels, scores, false_accept_rate: float = 1e-3) -> float:
    """The threshold that `missed` is at. It is just above 1, so that it rejects everything, where
    too many other clips score exactly 1."""
    thresholds, false_accepts, _ = error_curve(labels, scores)
    return float(thresholds[_point(false_accepts, false_accept_rate)[0]])


def au_fa_fr(labels, scores, weights=None):
    """Area under false rejects over false accepts, both as shares of all n clips: the study's
    measure, by trapezoids over the thresholds 0, every score, 1.

        sum over neighbouring thresholds of (FA_i - FA_j) / n * (FR_i + FR_j) / (2 n)

    But for clips that score exactly 1 it is (1 - AUC) * P N / (P + N)^2, so it scales with the
    share of positives and compares within a corpus only.
    """
    _, false_accepts, misses = error_curve(labels, scores, weights)
    clips = false_accepts[..., 0] + misses[..., -1]
    return np.trapezoid(misses[..., :-1], -false_accepts[..., :-1]) / clips**2


def one_minus_auc(labels, scores, weights=None):
    """Chance that a random clip of another word scores above a random clip of the keyword.

    (pairs with negative > positive + half the pairs that tie) / (P N)
    """
    _, false_accepts, misses = error_curve(labels, scores, weights)
    return np.trapezoid(misses, -false_accepts) / (false_accepts[..., 0] * misses[..., -1])


def estimate(measure: Callable, labels, scores, speakers) -> Estimate:
    """A measure with its 95 % interval: percentiles over resampled speakers, whose clips stay
    together (Efron 1979). No interval for one speaker, or where every replicate is the same.

    The bootstrap of no errors is 0 to 0, so the interval of `missed` is at least the exact one of
    its counts. labels, scores, speakers: (clips,).
    """
    labels, scores = _validate(labels, scores)
    exact, clips = [], int(labels.sum())
    if measure is missed:
        exact = [binomial_interval(round(missed(labels, scores) * clips), clips)]
    return _bootstrap(partial(measure, labels, scores), labels, speakers, exact)


def ratio(measure: Callable, labels, scores, reference_scores, speakers) -> Estimate:
    """A measure divided by that of other scores of the same clips, on the same resampled speakers:
    0.5 is half the errors. NaN without an interval where the reference makes no error.

    The interval of `missed` is at least the exact one, given the clips that only one of the two
    misses (McNemar 1947). labels, scores, reference_scores, speakers: (clips,).
    """
    labels, scores = _validate(labels, scores)
    _, reference_scores = _validate(labels, reference_scores)

    def divided(weights=None):
        mine, other = (measure(labels, s, weights=weights) for s in (scores, reference_scores))
        return np.divide(mine, other)

    with np.errstate(divide="ignore", invalid="ignore"):
        exact = _exact_ratio(labels, scores, reference_scores) if measure is missed else []
        return _bootstrap(divided, labels, speakers, exact)


def _exact_ratio(labels, scores, reference_scores) -> list[tuple[float, float]]:
    """The exact interval of a ratio of misses, or [] where both miss the same clips."""
    mine, other = (s[labels] < threshold_at(labels, s) for s in (scores, reference_scores))
    both, only = np.sum(mine & other), np.sum(mine != other)
    if only == 0:
        return []
    shares = np.array(binomial_interval(int(np.sum(mine & ~other)), int(only)))
    return [tuple((both + shares * only) / (both + (1 - shares) * only))]


def quality(labels, scores, speakers) -> dict:
    """What a metrics file states of scores: how many clips, keywords and speakers; `missed` and
    `one_minus_auc` as estimates; `au_fa_fr`."""
    found = {"clips": len(labels), "positives": int(np.sum(labels))}
    found["speakers"] = len(np.unique(speakers))
    found["missed"] = estimate(missed, labels, scores, speakers)
    found["one_minus_auc"] = estimate(one_minus_auc, labels, scores, speakers)
    return found | {"au_fa_fr": au_fa_fr(labels, scores)}


def verdict(estimate: Estimate) -> str:
    """What the interval of a `ratio` says of the network: "better", "worse" or "cannot tell"."""
    if estimate.low is None or estimate.low <= 1 <= estimate.high:
        return "cannot tell"
    return "better" if estimate.high < 1 else "worse"


def _bootstrap(statistic: Callable, labels, speakers, exact: list) -> Estimate:
    """statistic(weights=None) with percentiles 2.5 and 97.5 over resampled speakers, widened to the
    exact interval if there is one. Replicates that lack a class or are 0 / 0 are left out."""
    _, speaker = np.unique(speakers, return_inverse=True)
    if speaker.shape != labels.shape:
        raise ValueError(f"speakers {speaker.shape} must be (clips,) like labels {labels.shape}")
    value, count, generator = float(statistic()), speaker.max() + 1, np.random.default_rng(0)
    if not np.isfinite(value):
        return Estimate(float("nan"), None, None)
    if count < 2:
        return Estimate(value, None, None)
    values = []
    for _ in range(REPLICATES // CHUNK):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=CHUNK)
        weights = drawn[:, speaker]  # (replicates, clips)
        keyword = weights[:, labels].sum(axis=1)
        weights = weights[(keyword > 0) & (keyword < weights.sum(axis=1))]
        values.extend(statistic(weights=weights))
    values = np.sort(values)[: np.sum(~np.isnan(values))]  # NaN are sorted to the end
    if len(values) and values[0] < values[-1]:
        low = np.quantile(values, 0.025, method="lower")
        exact = [*exact, (low, np.quantile(values, 0.975, method="higher"))]
    if not exact:
        return Estimate(value, None, None)
    lows, highs = zip(*exact, strict=True)
    return Estimate(value, float(min(lows)), float(max(highs)))


def poisson_interval(count: int, exposure: float) -> tuple[float, float]:
    """Exact 95 % interval of a rate, `count` events in `exposure` (Garwood 1936). For 0 events the
    usual one-sided bound is 3.0 / exposure; the two-sided one here is 3.7 / exposure."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low / exposure), float(chi2.ppf(0.975, 2 * count + 2) / 2 / exposure)


def binomial_interval(count: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a share, `count` of `trials` (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    return tuple(map(float, binomtest(count, trials).proportion_ci(0.95, "exact")))
