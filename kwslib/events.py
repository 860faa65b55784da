"""From probabilities to detections, and from detections to what they are worth. NumPy alone.

A stream is judged by events. A *hit* is a detection between a keyword's begin and `TOLERANCE_S`
after its end, a *miss* a keyword without one, a *false accept* any other detection.
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

import numpy as np

RELEASE = 0.6  # times the threshold: the mean has to fall below it before the next detection
REFRACTORY_S = 1.0  # from one detection to the next, at least
TOLERANCE_S = 0.5  # of a hit after the word's end, as in MLPerf Tiny's streaming wake word


@dataclass(frozen=True)
class Detector:
    """Detects where the mean over the last `smoothing` steps reaches `threshold`. Then it is deaf
    for `REFRACTORY_S`, and until the mean is below `RELEASE` times the threshold."""

    threshold: float = 0.5
    smoothing: int = 3

    def __post_init__(self):
        if not (0 <= self.threshold <= 1 and self.smoothing >= 1):
            raise ValueError(f"{self}: the threshold must be from 0 to 1, the smoothing from 1 on")

    def smoothed(self, probabilities: np.ndarray) -> np.ndarray:
        """(steps,) mean of each step and up to `smoothing` - 1 before it."""
        padded = np.concatenate([np.zeros(self.smoothing - 1), probabilities])
        count = len(probabilities)  # the oldest is added first, as in `detections`: the same bits
        sums = sum(padded[first : first + count] for first in range(self.smoothing))
        return sums / np.minimum(np.arange(1, count + 1), self.smoothing)

    def find(self, times: np.ndarray, smoothed: np.ndarray) -> np.ndarray:
        """Indices of the steps at which it detects. times: (steps,) seconds, ascending."""
        over = np.flatnonzero(smoothed >= self.threshold)
        under = np.flatnonzero(smoothed < RELEASE * self.threshold)
        found, step = [], 0
        while (at := np.searchsorted(over, step)) < len(over):
            found.append(over[at])
            ready = np.searchsorted(times, times[found[-1]] + REFRACTORY_S)
            at = np.searchsorted(under, max(ready, found[-1] + 1))
            if at == len(under):
                break
            step = under[at]
        return np.array(found, dtype=int)


def detections(stream, pieces: Iterable[np.ndarray], detector: Detector) -> Iterator[tuple]:
    """Yields (time in seconds, mean probability) of each detection as it happens, the same ones as
    `Detector.find`. pieces: arrays (samples,) to feed; the stream is flushed after the last."""
    recent, released, deaf_until_s = [], True, -np.inf
    for piece in itertools.chain(pieces, [None]):
        for time_s, probability in stream.flush() if piece is None else stream.feed(piece):
            recent = [*recent, probability][-detector.smoothing :]
            mean = sum(recent) / len(recent)
            if time_s >= deaf_until_s:
                released = released or mean < RELEASE * detector.threshold
                if released and mean >= detector.threshold:
                    yield float(time_s), float(mean)
                    released, deaf_until_s = False, time_s + REFRACTORY_S


@dataclass(frozen=True)
class Outcome:
    """What a detector made of a stream. The sum of two is their outcome as one."""

    words: int
    misses: int
    false_accepts: int
    hours: float
    latencies_s: tuple[float, ...]  # from the end of each hit word to its detection

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def outcome(found_s: np.ndarray, words: np.ndarray, hours: float) -> Outcome:
    """Judges detections by words: the first one within reach that no earlier word has hits a word,
    any other is a false accept. found_s: (detections,), words: (words, 2) begin, end; ascending."""
    found, latencies = np.asarray(found_s, float).tolist(), []
    free = 0  # the first detection that no word has
    for begin_s, end_s in np.asarray(words, float).reshape(-1, 2).tolist():
        at = max(free, bisect.bisect_left(found, begin_s))
        if at < bisect.bisect_right(found, end_s + TOLERANCE_S):
            latencies.append(found[at] - end_s)
            free = at + 1
    misses, false_accepts = (len(each) - len(latencies) for each in (words, found))
    return Outcome(len(words), misses, false_accepts, hours, tuple(latencies))


def threshold_at(streams: list[tuple[np.ndarray, np.ndarray]], allowed: int) -> float:
    """The threshold at which streams without keyword give at most `allowed` detections in all, the
    last on the way down, by at most 1,000 values of `smoothed`, before there are more; 1.0 if none
    does. streams: (times, smoothed) each."""
    values = np.unique(np.concatenate([smoothed for _, smoothed in streams]))[::-1]
    ranks = np.unique(np.geomspace(1, len(values), 1000).astype(int)) - 1
    good = 1.0
    for threshold in [min(1.0, np.nextafter(values[0], 2)), *values[ranks]]:
        if sum(len(Detector(threshold).find(*stream)) for stream in streams) > allowed:
            break
        good = float(threshold)
    return good


def plateau_s(times, probabilities, threshold: float, end_s: float) -> float:
    """Seconds from `end_s` for which the (steps,) probabilities stay at or over the threshold."""
    after = times >= end_s
    if not after.any():
        raise ValueError(f"the stream ends before {end_s:.2f} s")
    last = np.append(np.flatnonzero(probabilities[after] < threshold), -1)[0]
    return float(times[after][last] - end_s) if last else 0.0
