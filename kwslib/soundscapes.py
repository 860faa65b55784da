"""Soundscapes to judge on: hours of whole clips over noise, keywords between words, keywords in running speech.

Each is made of clips at known times by a recipe and a seed (as Scaper does, Salamon et al. 2017), so that
nothing need be kept; the same arguments give the same one.
"""

from dataclasses import dataclass

import numpy as np

from .endpoints import RATE_HZ
from .tracks import Sources, lay


@dataclass(frozen=True)
class Soundscape:
    """samples: (samples,) int16; words: (words, 2) seconds at which the keyword begins and ends, word_clips:
    (words,) positions in `Sources.clips` of the clips it is from; clips: (clips,) samples at which whole clips
    begin, which: (clips,) their positions in `Sources.clips`, and labels: (clips,) 1 for the keyword's."""

    samples: np.ndarray
    words: np.ndarray
    word_clips: np.ndarray
    clips: np.ndarray
    which: np.ndarray
    labels: np.ndarray

    @property
    def hours(self) -> float:
        return len(self.samples) / RATE_HZ / 3600


def clip_stream(
    sources: Sources,
    hours: float,
    seed: int,
    keyword_every_s: float = 30.0,
    snr_db: tuple[float, float] = (10.0, 30.0),
    level_db: tuple[float, float] = (-6.0, 3.0),
) -> Soundscape:
    """A long track of whole clips: other words with gaps of 0 to 1 s between them, each at its own level,
    the keyword about every `keyword_every_s`, over background noise that changes every 20 s and lies
    `snr_db` under the mean power of the clips' words."""
    generator = np.random.default_rng([seed, 17])
    samples = round(hours * 3600 * RATE_HZ)
    track, words, word_clips, laid = np.zeros(samples, np.float32), [], [], []
    at, next_keyword = 0, keyword_every_s * RATE_HZ / 2
    decks = {True: _deck(sources.keyword, generator), False: _deck(sources.others, generator)}
    powers = []
    while True:
        is_keyword = at >= next_keyword
        clip = next(decks[is_keyword])
        if at + sources.clips.shape[1] > samples:
            break
        gain = 10 ** (generator.uniform(*level_db) / 20)
        begin, end = sources.spans[clip]
        lay(track, sources.clips[clip] * np.float32(gain / 32768), at)
        powers.append(np.mean((track[at + begin : at + end]) ** 2))
        laid.append((at, clip, int(is_keyword)))
        if is_keyword:
            words.append(((at + begin) / RATE_HZ, (at + end) / RATE_HZ))
            word_clips.append(clip)
            next_keyword += keyword_every_s * RATE_HZ
        at += sources.clips.shape[1] + int(generator.uniform(0, 1) * RATE_HZ)
    if not powers:
        raise ValueError(f"a stream of {hours} hours is too short for a clip")
    _lay_noise(track, sources.background, np.sqrt(np.mean(powers)), snr_db, generator)
    return _soundscape(track, words, word_clips, laid)


def between_words(sources: Sources, seed: int) -> Soundscape:
    """Every clip of the keyword as it is, between two clips of other words."""
    generator = np.random.default_rng([seed, 18])
    others, order = _deck(sources.others, generator), []
    for clip in sources.keyword:
        order += [next(others), clip, next(others)]
    at = np.arange(1, len(order), 3) * sources.clips.shape[1]
    words = (at[:, None] + sources.spans[sources.keyword]) / RATE_HZ
    laid = [(n * sources.clips.shape[1], clip, int(n % 3 == 1)) for n, clip in enumerate(order)]
    track = sources.clips[order].reshape(-1) / np.float32(32768)
    return _soundscape(track, words, sources.keyword, laid)


def mixed_stream(
    talk: np.ndarray, sources: Sources, seed: int, over_db: float, every_s: float = 10.0
) -> Soundscape:
    """Running speech, (samples,) int16, with the keyword mixed into it about every `every_s`, its power
    `over_db` over that of the speech around it (2 s)."""
    generator = np.random.default_rng([seed, 19])
    track, words, word_clips = talk.astype(np.float32) / 32768, [], []
    deck = _deck(sources.keyword, generator)
    for start in np.arange(0, len(talk) / RATE_HZ - every_s, every_s):
        clip = next(deck)
        begin, end = sources.spans[clip]
        word = sources.clips[clip][begin:end].astype(np.float32)
        at = int((start + generator.uniform(1, every_s - 2)) * RATE_HZ)
        around = talk[max(0, at - RATE_HZ) : at + RATE_HZ].astype(np.float32) / 32768
        level = np.sqrt(np.mean(around**2) / max(np.mean(word**2), 1e-9)) * 10 ** (over_db / 20)
        lay(track, word * np.float32(level), at)
        words.append((at / RATE_HZ, (at + len(word)) / RATE_HZ))
        word_clips.append(clip)
    return _soundscape(track, words, word_clips, [])


def _deck(clips: np.ndarray, generator: np.random.Generator):
    """Positions in random order, all of them before one comes again."""
    while True:
        yield from generator.permutation(clips)


def _lay_noise(track, background, level, snr_db, generator) -> None:
    stretch = 20 * RATE_HZ
    for start in range(0, len(track), stretch):
        under = track[start : start + stretch]
        snr = generator.uniform(*snr_db)
        if not len(background):
            noise = generator.standard_normal(len(under), np.float32)
        else:
            recording = background[generator.integers(len(background))]
            place = generator.integers(len(recording))
            noise = np.take(recording, np.arange(place, place + len(under)), mode="wrap").astype(np.float32)
        noise /= np.sqrt(np.mean(noise**2)) + 1e-6
        under += np.float32(level * 10 ** (-snr / 20)) * noise


def _soundscape(track: np.ndarray, words, word_clips, laid: list[tuple[int, int, int]]) -> Soundscape:
    of_clips = np.array(laid, int).reshape(-1, 3).T
    np.multiply(track, 32768, out=track)
    samples = np.clip(np.round(track, out=track), -32768, 32767, out=track).astype(np.int16)
    return Soundscape(samples, np.array(words).reshape(-1, 2), np.array(word_clips, int), *of_clips)
