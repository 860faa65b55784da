"""From probabilities to detections, and from detections to what they are worth. NumPy only.

A stream is judged by events, not by steps: a *hit* is a detection between a keyword's begin and half
a second after its end, a *miss* a keyword without one, a *false accept* any other detection. Rates
come with their exposure: false accepts an hour with the hours heard and the exact Poisson interval,
misses with the keywords said and the exact binomial interval.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from . import metrics

TOLERANCE_S = 0.5  # of a hit, after the word's end; as MLPerf Tiny's streaming wake word
AGAIN_S = 1.5  # after a word's end: until then a further detection counts as that word once more
RATES_PER_H = (0.5, 1.0, 2.0, 5.0)
PLATEAU_S = 0.3  # at most so much later than offline should the probability fall after a word
LONGEST_STEP_S = 1.0  # of a stream, until two rows tell; networks here have 0.08
GAP_STEPS = 1.5  # rows further apart have a gap between them: one step is never two, whatever its rounding


@dataclass(frozen=True)
class Detector:
    """When a row of probabilities is a detection: its mean over the last `smoothing` steps rises to
    `threshold`. After that it is deaf for `refractory_s`, and until the mean has fallen under
    `release` times the threshold: one utterance gives one detection."""

    threshold: float = 0.5
    smoothing: int = 3
    release: float = 0.5
    refractory_s: float = 1.0

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be from 0 to 1")
        whole = isinstance(self.smoothing, int | np.integer) and not isinstance(self.smoothing, bool)
        if not whole or self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; it must be a whole number of steps, at least 1")
        if not 0 <= self.release <= 1:
            raise ValueError(f"release is {self.release}; it must be from 0 to 1")
        if not self.refractory_s >= 0:
            raise ValueError(f"refractory_s is {self.refractory_s}; it must be a number of seconds from 0")

    def smoothed(self, probabilities: np.ndarray) -> np.ndarray:
        """(steps,) mean of each step and those before it, of as many as there are at the start."""
        if not len(probabilities):
            return np.zeros(0)
        padded = np.concatenate([np.zeros(self.smoothing - 1), probabilities])
        sums = np.zeros(len(probabilities))
        for first in range(self.smoothing):  # the oldest first, as `Listener` adds: equal to the last bit
            sums += padded[first : first + len(sums)]
        return sums / np.minimum(np.arange(1, len(probabilities) + 1), self.smoothing)

    def find(self, times: np.ndarray, smoothed: np.ndarray) -> np.ndarray:
        """Indices of the steps at which it detects; `times` (steps,) in seconds, ascending."""
        over = np.flatnonzero(smoothed >= self.threshold)
        under = np.flatnonzero(smoothed < self.release * self.threshold)
        found, step = [], 0
        while True:
            at = np.searchsorted(over, step)
            if at == len(over):
                return np.array(found, dtype=int)
            found.append(over[at])
            deaf_until = np.searchsorted(times, times[found[-1]] + self.refractory_s)
            at = np.searchsorted(under, max(deaf_until, found[-1] + 1))
            if at == len(under):
                return np.array(found, dtype=int)
            step = under[at]


class Listener:
    """A detector that hears rows as they come: the same detections as `Detector.find` of them all. After
    a gap, rows further apart than others are, it starts afresh, but for `refractory_s`: what was said
    before `Stream.skip` is no part of a mean, nor of an utterance, after it. Where time goes back, the
    stream was reset, and so is this.

    time_s, mean: of the last row; -inf and 0 before the first.
    """

    def __init__(self, detector: Detector):
        self.detector = detector
        self.reset()

    def reset(self) -> None:
        self._recent, self._released, self._deaf_until = [], True, -np.inf
        self._step_s, self.time_s, self.mean = LONGEST_STEP_S, -np.inf, 0.0

    def hear(self, rows: np.ndarray) -> list[tuple[float, float]]:
        """rows: (steps, 2) of time and probability, as a stream gives them -> (time in seconds, mean
        probability) of each detection."""
        d, found = self.detector, []
        for time_s, probability in rows:
            if time_s < self.time_s:
                self.reset()
            passed_s, self.time_s = time_s - self.time_s, time_s
            if passed_s > GAP_STEPS * self._step_s:
                self._recent, self._released = [], True
            elif 0 < passed_s < self._step_s:
                self._step_s = passed_s
            self._recent = [*self._recent, probability][-d.smoothing :]
            self.mean = sum(self._recent) / len(self._recent)
            if time_s < self._deaf_until:
                continue
            self._released = self._released or self.mean < d.release * d.threshold
            if self._released and self.mean >= d.threshold:
                found.append((float(time_s), float(self.mean)))
                self._released, self._deaf_until = False, time_s + d.refractory_s
        return found


def detections(
    stream,
    pieces: Iterable[np.ndarray],
    listener: Listener,
    meter: Callable[[float, float], None] | None = None,
) -> Iterator[tuple[float, float]]:
    """(time in seconds, mean probability) of each detection as it happens. pieces: (samples,) arrays,
    as they come; the stream is flushed after the last. meter: told time and mean after each piece."""
    for piece in itertools.chain(pieces, [None]):
        rows = stream.flush() if piece is None else stream.feed(piece)
        yield from listener.hear(rows)
        if meter and len(rows):
            meter(float(rows[-1, 0]), listener.mean)


@dataclass(frozen=True)
class Outcome:
    """What a detector made of a stream. Add two to have them as one."""

    hit: tuple[bool, ...]  # of each keyword, whether it was detected
    false_accepts: int
    hours: float
    latencies_s: tuple[float, ...]  # from each hit word's end to its detection
    again: int = 0  # of the false accepts: those of a word that was hit, until `AGAIN_S` after it

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.hit + other.hit,
            self.false_accepts + other.false_accepts,
            self.hours + other.hours,
            self.latencies_s + other.latencies_s,
            self.again + other.again,
        )

    @property
    def words(self) -> int:
        return len(self.hit)

    @property
    def misses(self) -> int:
        return self.words - sum(self.hit)

    def to_json(self) -> dict:
        """Counts, rates and their 95 % intervals."""
        rate, miss = [], []
        if self.hours:
            rate = [
                self.false_accepts / self.hours,
                *metrics.poisson_interval(self.false_accepts, self.hours),
            ]
        if self.words:
            miss = [self.misses / self.words, *metrics.binomial_interval(self.misses, self.words)]
        latencies = np.quantile(self.latencies_s, [0.5, 0.95]).tolist() if self.latencies_s else []
        return {
            "words": self.words,
            "misses": self.misses,
            "false_accepts": self.false_accepts,
            "again": self.again,
            "hours": self.hours,
            "false_accepts_per_h": rate,  # value, low, high; likewise
            "miss_rate": miss,
            "latency_s": latencies,  # median, 95 %
        }


def hits(found_s: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(words,) which detection is the hit of each word, the first within reach that is no earlier word's;
    -1 of a word that is missed. found_s: (detections,) seconds, words: (words, 2) begin and end; both
    ascending."""
    first = np.searchsorted(found_s, words[:, 0])
    past = np.searchsorted(found_s, words[:, 1] + TOLERANCE_S, side="right")
    of_words, free = [], 0  # the first that no word has
    for low, high in zip(first.tolist(), past.tolist(), strict=True):
        at = max(low, free)
        of_words.append(at if at < high else -1)
        free = at + 1 if at < high else free
    return np.array(of_words, int)


def outcome(found_s: np.ndarray, words: np.ndarray, hours: float) -> Outcome:
    """Judges detections at `found_s` seconds, on words (words, 2), begin and end of each; both ascending. A
    detection that is no word's hit is a false accept."""
    found_s, words = np.asarray(found_s, float), np.asarray(words, float).reshape(-1, 2)
    of_words = hits(found_s, words)
    hit, false_s = of_words >= 0, np.delete(found_s, of_words[of_words >= 0])
    at_s, ends = found_s[of_words[hit]], words[hit, 1]
    # Until when a false accept counts as once more a word that was hit before it.
    until_s = np.append(-np.inf, np.maximum.accumulate(ends + AGAIN_S))[np.searchsorted(at_s, false_s)]
    again = int(np.sum(false_s <= until_s))
    return Outcome(tuple(hit.tolist()), len(false_s), hours, tuple((at_s - ends).tolist()), again)


def thresholds(smoothed: Iterable[np.ndarray], count: int = 100) -> np.ndarray:
    """(at most count + 1,) thresholds to draw a curve at, ascending: evenly over the logarithm of the
    rank among all steps of these streams, from the highest step to the highest fifth; and 1."""
    ordered = np.sort(np.concatenate(list(smoothed)))[::-1]
    ranks = np.unique(np.geomspace(1, max(1, len(ordered) // 5), count).astype(int)) - 1
    return np.unique(np.append(ordered[ranks], 1.0))


def refined(
    at: np.ndarray, near: Iterable[int | None], smoothed: Iterable[np.ndarray], count: int = 8
) -> np.ndarray:
    """`at`, thresholds, ascending, and more of them on either side of each index in `near`: `count` up to
    the next threshold there, evenly by the rank of steps. So what is reported is what was asked
    for ('at most one false accept an hour'), not the next point that a coarse curve happens to have."""
    ordered, more = np.sort(np.concatenate(list(smoothed))), [at]
    for n in {n for n in near if n is not None}:
        for low, high in itertools.pairwise(at[max(0, n - 1) : n + 2]):
            first, last = np.searchsorted(ordered, [low, high], side="right")
            if first < last:
                more.append(ordered[np.linspace(first, last - 1, count).astype(int)])
    return np.unique(np.concatenate(more))


def drawn(at: np.ndarray, outcomes: Callable, near: Callable, smoothed: Iterable[np.ndarray]) -> tuple:
    """(thresholds, curve): `at`, with more around the points that are reported (see `refined`). outcomes:
    thresholds -> curve, of any form; near: curve -> indices of those points, None for one that is not
    reached."""
    at = refined(at, near(outcomes(at)), smoothed)
    return at, outcomes(at)


def det(times, smoothed, words, hours: float, detector: Detector, at: np.ndarray) -> list[Outcome]:
    """Detection error trade-off of a stream: its outcome at each of these thresholds, the detector's
    own not used. times, smoothed: (steps,), as `Detector.smoothed` gives them; words: (words, 2)."""
    return [
        outcome(times[replace(detector, threshold=threshold).find(times, smoothed)], words, hours)
        for threshold in at
    ]


def at_rate(curve: list[Outcome], per_hour: float) -> int | None:
    """Index of the point of a DET curve with fewest misses, then fewest false accepts, among those of
    at most so many false accepts an hour; None where there is no such point."""
    allowed = [n for n, o in enumerate(curve) if o.false_accepts <= per_hour * o.hours * (1 + 1e-12)]
    return min(allowed, key=lambda n: (curve[n].misses, curve[n].false_accepts), default=None)


def at_misses(curve: list[Outcome], share: float) -> int | None:
    """Index of the point with fewest false accepts among those that miss at most this share of the
    words; None where there is no such point."""
    allowed = [n for n, o in enumerate(curve) if o.misses <= share * o.words * (1 + 1e-12)]
    return min(allowed, key=lambda n: (curve[n].false_accepts, curve[n].misses), default=None)


def at_misses_over(
    curve: list[Outcome], share: float, groups: np.ndarray, replicates: int = 1000, seed: int = 0
) -> list[float | None]:
    """False accepts an hour at `at_misses`, were other speakers heard: the 95 % percentile interval, low
    and high, over resampled groups of words, which stay together (Efron 1979). groups: (words,) of
    anything that sorts, for instance speakers. None where the share is not reached.

    The exact interval of the rate knows the hours of audio, this one how far the threshold hangs on
    who says the keyword; neither holds the other.
    """
    draws = metrics.resampled(groups, replicates, seed)
    # (replicates, words): how often each is drawn
    times = np.stack([np.bincount(words, minlength=len(groups)) for words in draws])
    missed = 1 - np.array([o.hit for o in curve], float)
    rates = np.array([o.false_accepts / o.hours for o in curve])
    reached = times @ missed.T <= share * times.sum(1, keepdims=True) * (1 + 1e-12)
    lowest = np.where(reached, rates, np.inf).min(1)
    ends = np.quantile(lowest, [0.025, 0.975], method="inverted_cdf")
    return [float(rate) if np.isfinite(rate) else None for rate in ends]


def plateau_s(times: np.ndarray, probabilities: np.ndarray, threshold: float, end_s: float) -> float:
    """Seconds for which the probability stays at or over the threshold after the keyword's end.

    times, probabilities: (steps,); end_s: where the keyword's clip ends. 0.0 when it is below at
    the first step past the end.
    """
    after = np.flatnonzero(times >= end_s)
    if not len(after):
        raise ValueError(f"the stream ends before {end_s:.2f} s")
    below = after[probabilities[after] < threshold]
    last = times[below[0]] if len(below) else times[-1]
    return float(max(0.0, last - end_s)) if not len(below) or below[0] != after[0] else 0.0
