"""Where the word lies within a clip. NumPy only.

Corpora of single words do not say it, so it is measured; all that is said of a word's end on a
stream, from training targets to latency, rests on it.
"""

import numpy as np

RATE_HZ = 16000
BANDS_HZ = (300, 600, 1000, 1600, 2500, 4000, 8000)  # rumble is loudest below
CLOSURE_S = 0.16  # the longest pause within a word, which a stop makes
LOUDER = 3.0  # times the noise, in power: sound
PEAK = 10.0  # times the noise, in power: less is no word
BELOW_PEAK = 1e-3  # what is weaker than so much of the peak's power is no sound, however quiet the rest
_HOP, _WINDOW = 160, 400


def over_noise(clip: np.ndarray) -> np.ndarray:
    """(frames,) of 10 ms: power over the noise's, of a clip (samples,); the mean over bands that each have
    a noise of their own, which is what a fifth of the frames with any sound stay below. A weak syllable
    stands out so although noise in another band is stronger."""
    padded = np.pad(clip.astype(np.float64), (_WINDOW - _HOP) // 2)
    if len(padded) < _WINDOW:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    edges = np.array(BANDS_HZ) * _WINDOW // RATE_HZ
    power = np.add.reduceat(np.abs(np.fft.rfft(frames, axis=1)) ** 2, edges, axis=1)[:, :-1]
    smooth = np.stack([np.convolve(band, np.ones(3) / 3, "same") for band in power.T], axis=1)
    total = smooth.sum(axis=1)
    if total.max() < 1:
        return np.zeros(len(total))
    noise = np.quantile(smooth[total > 0], 0.2, axis=0)
    least = total.max() * BELOW_PEAK / LOUDER / smooth.shape[1]
    return (smooth / np.maximum(noise, least)).mean(axis=1)


def word_span(clip: np.ndarray) -> tuple[int, int]:
    """Begin and end, in samples, of the word in a clip (samples,), with 10 ms more on both sides.

    Sound is every frame `LOUDER` than the noise. Sounds with pauses of up to `CLOSURE_S` between are one;
    each weighs the sum of its frames' log-power over that limit, so that a knock weighs little. The
    word is from the first to the last that weighs half as much as the heaviest. Where nothing rises
    to `PEAK` times the noise, all of the clip is word."""
    power = over_noise(clip)
    if power.max(initial=0) <= PEAK:
        return 0, len(clip)
    sound = np.flatnonzero(power > LOUDER)
    sounds = np.split(sound, 1 + np.flatnonzero(np.diff(sound) > CLOSURE_S * RATE_HZ / _HOP))
    weights = np.array([np.log(power[s] / LOUDER).sum() for s in sounds])
    word = np.concatenate([s for s, w in zip(sounds, weights, strict=True) if w >= weights.max() / 2])
    return max(0, int(word[0] - 1) * _HOP), min(len(clip), int(word[-1] + 2) * _HOP)


def spans(clips: np.ndarray) -> np.ndarray:
    """(clips, 2) begin and end, in samples, of the word in each of (clips, samples)."""
    return np.array([word_span(clip) for clip in clips]).reshape(-1, 2)
