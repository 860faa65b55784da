"""Continuous audio made of clips and talk, to train on and to judge on. NumPy only."""

import io
from dataclasses import dataclass, field

import numpy as np
import soundfile

from .audio import SAMPLE_RATE_HZ, to_int16

# Word spans. Power is compared with the noise in each band, so that rumble hides no weak syllable.
BANDS_HZ = (300, 600, 1000, 1600, 2500, 4000, 8000)
CLOSURE_S = 0.16  # the longest pause within a word
LOUDER, PEAK = 3.0, 10.0  # times the noise: sound; less than the second anywhere is no word
BELOW_PEAK = 1e-3  # of the peak's power: less is no sound
_HOP, _WINDOW = 160, 400

# Training tracks. Shares are of all pieces, or of the pieces without the keyword.
KEYWORD, FRAGMENT = 0.25, 0.1  # of all pieces: the keyword; its beginning or end alone
TALK, CUT, SILENCE = 0.5, 0.15, 0.05  # of the others: cut out of talk; a part of a word; nothing
JOINED, ROOM = 0.5, 0.4  # of the pieces follow the one before without a gap; are in a room
TALK_ALONE, CODED = 0.2, 0.1  # of the tracks are talk as it is; go through Opus, as talk may have
OVER_TALK, OVER_TALK_DB = 0.6, (0.0, 20.0)  # of the tracks lie over talk, so many dB above it
OVER_NOISE_DB = (5.0, 30.0)  # the others over noise
PACE = (0.87, 1.15)  # of a piece; changes its pitch too
FRAGMENT_LENGTH = (0.25, 0.6)  # of the keyword
ECHO_S, DECAY_S, ECHO_DB = (0.05, 0.35), (0.08, 0.4), (-15.0, -3.0)  # of a room
FADE = 80  # samples, of every cut


@dataclass(frozen=True)
class Material:
    """What tracks are made of."""

    clips: np.ndarray  # (clips, samples) int16, all of a corpus
    spans: np.ndarray  # (clips, 2) samples, where their words lie; corpora do not say it
    keyword: np.ndarray  # positions of clips
    others: np.ndarray
    noises: tuple[np.ndarray, ...] = ()  # (samples,) int16 each
    talk: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Track:
    """A track to judge on, with the keywords on it, if any."""

    samples: np.ndarray  # (samples,) int16
    words: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))  # (words, 2) seconds

    @property
    def hours(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ / 3600


def word_span(clip: np.ndarray) -> tuple[int, int]:
    """Begin and end, in samples, of the word in a clip (samples,), with 10 ms more on both sides.

    Sound is every frame `LOUDER` than the noise. Sounds with pauses of up to `CLOSURE_S` between
    them are one; the word goes from the first to the last that weighs half as much as the heaviest.
    Where nothing rises to `PEAK` times the noise, the whole clip is the word.
    """
    power = _signal_to_noise(clip)
    if power.max(initial=0) <= PEAK:
        return 0, len(clip)
    sound = np.flatnonzero(power > LOUDER)
    gaps = np.diff(sound) > CLOSURE_S * SAMPLE_RATE_HZ / _HOP
    sounds = np.split(sound, 1 + np.flatnonzero(gaps))
    weights = np.array([np.log(power[s] / LOUDER).sum() for s in sounds])
    loud = [s for s, weight in zip(sounds, weights, strict=True) if weight >= weights.max() / 2]
    first, last = int(loud[0][0]), int(loud[-1][-1])
    return max(0, (first - 1) * _HOP), min(len(clip), (last + 2) * _HOP)


def _signal_to_noise(clip: np.ndarray) -> np.ndarray:
    """(frames,) of 10 ms: power over the noise's, mean over bands; the noise of a band is what a
    fifth of its frames stay below."""
    padded = np.pad(clip.astype(np.float64), (_WINDOW - _HOP) // 2)
    if len(padded) < _WINDOW:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1)) ** 2
    edges = np.array(BANDS_HZ) * _WINDOW // SAMPLE_RATE_HZ
    power = np.add.reduceat(spectrum, edges, axis=1)[:, :-1]
    smooth = np.stack([np.convolve(band, np.ones(3) / 3, "same") for band in power.T], axis=1)
    total = smooth.sum(axis=1)
    if total.max() < 1:
        return np.zeros(len(total))
    noise = np.quantile(smooth[total > 0], 0.2, axis=0)
    least = total.max() * BELOW_PEAK / LOUDER / smooth.shape[1]
    return (smooth / np.maximum(noise, least)).mean(axis=1)


def training_track(
    material: Material, samples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces of speech, each at a level of its own, over noise or talk: a track (samples,) float32
    from -1 to 1, and the seconds (n, 2) of keywords and of fragments of keywords, which may run
    over its ends."""
    track, words, fragments = np.zeros(samples, np.float32), [], []
    at = -int(generator.integers(SAMPLE_RATE_HZ))
    if material.talk and generator.random() < TALK_ALONE:
        longest = int(samples * PACE[1]) + 2
        talk = change_pace(_stretch(material.talk, longest, generator), generator)
        track, at = talk[:samples] / np.float32(32768), samples
    while at < samples:
        if generator.random() >= JOINED:
            at += int(generator.exponential(0.3) * SAMPLE_RATE_HZ)
        kind = generator.random()
        if kind < KEYWORD + FRAGMENT:
            piece = change_pace(_keyword_piece(material, kind >= KEYWORD, generator), generator)
            (words if kind < KEYWORD else fragments).append((at, at + len(piece)))
        else:
            piece = change_pace(_other_piece(material, generator), generator)
        if generator.random() < ROOM:
            piece = add_room(piece, generator)
        overlay(track, piece * _gain(generator, -8, 4) / np.float32(32768), at)
        at += len(piece)
    track += _under(track, material, generator)
    track = np.clip(track * _gain(generator, -14, 3), -1, 1)
    if generator.random() < CODED:
        track = code_opus(track)
    return track, *(np.reshape(spans, (-1, 2)) / SAMPLE_RATE_HZ for spans in (words, fragments))


def _gain(generator, low_db: float, high_db: float) -> np.float32:
    return np.float32(10 ** (generator.uniform(low_db, high_db) / 20))


def _keyword_piece(material: Material, is_fragment: bool, generator) -> np.ndarray:
    clip = material.keyword[generator.integers(len(material.keyword))]
    begin, end = material.spans[clip]
    if is_fragment:
        length = int(generator.uniform(*FRAGMENT_LENGTH) * (end - begin))
        is_start = generator.random() < 0.5
        begin, end = (begin, begin + length) if is_start else (end - length, end)
    return material.clips[clip][begin:end]


def _other_piece(material: Material, generator) -> np.ndarray:
    """(samples,) int16 of anything but the keyword."""
    kind = generator.random()
    if kind < TALK and material.talk:
        return _stretch(material.talk, int(generator.uniform(0.4, 3) * SAMPLE_RATE_HZ), generator)
    if kind > 1 - SILENCE:
        return np.zeros(int(generator.uniform(0.5, 1.5) * SAMPLE_RATE_HZ), np.int16)
    clip = material.others[generator.integers(len(material.others))]
    begin, end = material.spans[clip]
    if kind > 1 - SILENCE - CUT:
        begin, end = np.sort(generator.integers(begin, end + 1, 2))
    return material.clips[clip][begin:end]


def _stretch(recordings, samples: int, generator) -> np.ndarray:
    """A stretch of one of the recordings, each as likely as it is long; shorter ones repeat."""
    lengths = np.array([len(recording) for recording in recordings])
    recording = recordings[generator.choice(len(recordings), p=lengths / lengths.sum())]
    start = generator.integers(max(1, len(recording) - samples))
    return np.resize(recording[start : start + samples], samples)


def _under(track: np.ndarray, material: Material, generator) -> np.ndarray:
    """(samples,) float32 to lie under a track: talk, recorded noise, or white noise."""
    is_talk = generator.random() < OVER_TALK and len(material.talk) > 0
    recordings = material.talk if is_talk else material.noises
    if recordings:
        under = _stretch(recordings, len(track), generator).astype(np.float32)
    else:
        under = generator.standard_normal(len(track), np.float32)
    under /= np.sqrt(np.mean(under**2)) + np.float32(1e-6)
    low, high = OVER_TALK_DB if is_talk else OVER_NOISE_DB
    return (np.sqrt(np.mean(track**2)) + 1e-4) * _gain(generator, -high, -low) * under


def change_pace(piece: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(samples,) float32: faster and higher, or slower and lower (Ko et al. 2015)."""
    if not len(piece):
        return piece.astype(np.float32)
    places = np.arange(0, len(piece) - 1, generator.uniform(*PACE))
    return np.interp(places, np.arange(len(piece)), piece).astype(np.float32)


def add_room(piece: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(samples,) float32: a piece with the echoes of a room, which are noise that decays (Moorer
    1979). Echoes end with the piece."""
    echo = int(generator.uniform(*ECHO_S) * SAMPLE_RATE_HZ)
    seconds = np.arange(1, echo, dtype=np.float32) / SAMPLE_RATE_HZ
    decay = -np.log(np.float32(1000)) / np.float32(generator.uniform(*DECAY_S))
    echoes = generator.standard_normal(len(seconds), np.float32) * np.exp(decay * seconds)
    echoes *= _gain(generator, *ECHO_DB) / np.linalg.norm(echoes)
    room = np.concatenate([np.ones(1, np.float32), echoes])
    size = 1 << (len(piece) + len(room)).bit_length()
    return np.fft.irfft(np.fft.rfft(piece, size) * np.fft.rfft(room, size), size)[: len(piece)]


def code_opus(track: np.ndarray) -> np.ndarray:
    """(samples,) float32 after coding and decoding by Opus."""
    coded = io.BytesIO()
    soundfile.write(coded, track, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS")
    coded.seek(0)
    decoded = soundfile.read(coded, dtype="float32")[0][: len(track)]
    return np.pad(decoded, (0, len(track) - len(decoded)))


def overlay(track: np.ndarray, piece: np.ndarray, at: int) -> None:
    """Adds a piece to a track from sample `at` on, faded in and out; what lies outside is cut."""
    piece = piece.astype(np.float32)
    if len(piece) > 2 * FADE:
        fade = np.linspace(0, 1, FADE, dtype=np.float32)
        piece[:FADE] *= fade
        piece[-FADE:] *= fade[::-1]
    first, last = max(0, -at), min(len(piece), len(track) - at)
    if first < last:
        track[at + first : at + last] += piece[first:last]


def join_words(material: Material, seed: int) -> Track:
    """Every clip of other words once, one after another: the keyword is never spoken."""
    order = np.random.default_rng([seed, 17]).permutation(material.others)
    return Track(material.clips[order].reshape(-1))


def between_words(material: Material, seed: int) -> Track:
    """Every clip of the keyword once, as it is, between two clips of other words."""
    generator, keyword = np.random.default_rng([seed, 18]), material.keyword
    pairs = generator.choice(material.others, (len(keyword), 2))
    order = np.stack([pairs[:, 0], keyword, pairs[:, 1]], axis=1).reshape(-1)
    at = np.arange(1, len(order), 3) * material.clips.shape[1]
    words = (at[:, None] + material.spans[keyword]) / SAMPLE_RATE_HZ
    return Track(material.clips[order].reshape(-1), words)


def over_speech(speech: np.ndarray, material: Material, over_db: float, seed: int) -> Track:
    """Speech (samples,) int16 with a clip of the keyword in every 5 s, its power `over_db` over the
    speech around it (2 s). The speech is lowered by 15 dB first, so that little clips."""
    generator = np.random.default_rng([seed, 19])
    track = speech.astype(np.float32) * np.float32(10 ** (-15 / 20) / 32768)
    starts_s, words = np.arange(0, len(speech) / SAMPLE_RATE_HZ - 5, 5.0), []
    for start_s, clip in zip(starts_s, generator.permutation(material.keyword), strict=False):
        begin, end = material.spans[clip]
        word = material.clips[clip][begin:end].astype(np.float32)
        at = int((start_s + generator.uniform(1, 3)) * SAMPLE_RATE_HZ)
        around = track[max(0, at - SAMPLE_RATE_HZ) : at + SAMPLE_RATE_HZ]
        level = np.sqrt(np.mean(around**2) / max(np.mean(word**2), 1e-9))
        overlay(track, word * np.float32(level * 10 ** (over_db / 20)), at)
        words.append((at / SAMPLE_RATE_HZ, (at + len(word)) / SAMPLE_RATE_HZ))
    return Track(to_int16(track), np.array(words).reshape(-1, 2))
