"""Tracks to train on: keyword and other words laid end to end at known times, in ever new ways.

A track is (samples,) at 16 kHz with the keyword's words as (words, 2) seconds of begin and end. Where
a word lies within its clip `endpoints` measures. The same generator gives the same track.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .architecture import Architecture
from .endpoints import RATE_HZ

AROUND_S = 0.1  # see `targets`
FADE = 80  # samples, of every cut
PACE = (0.87, 1.15)  # of pieces of training tracks; time and, inversely, all frequencies
ECHO_S, DECAY_S = (0.05, 0.35), (0.08, 0.4)  # length of a room's echoes; in which time they lose 60 dB
ECHO_DB = (-15.0, -3.0)  # power of all echoes over that of the sound itself
PART = 0.2  # of a keyword: a second that holds as much is no other word; see `targets`
FRAGMENT = (0.25, 0.6)  # of a keyword: of its beginnings and ends that are laid as other speech
TILT, BEND = 1.2, 0.8  # largest change of the log-mel power by a microphone, at the ends and in the middle
_NONE = np.zeros((0, 2))


def targets(
    words: np.ndarray, architecture: Architecture, samples: int, fragments: np.ndarray = _NONE
) -> np.ndarray:
    """What a network should say at each step of a track: (steps,) int64, 1 where the last second holds
    a whole keyword, 0 where it holds less than `PART` of any, -1 between, where nothing is asked.
    words, fragments: (n, 2) seconds, of keywords and of parts of keywords.

    The last second of a step is the clip whose offline score the step gives. Corpora hold clips whose
    word is cut off, labelled as the keyword all the same: calling such seconds another word here would
    take back what those clips teach. For the same reason a fragment is another word only where
    the second goes on for `AROUND_S` before and after it.
    """
    a = architecture
    frames = samples // a.front_end.hop_samples + 1
    steps = (frames - a.kernel[1]) // a.stride[1] + 1
    hop_s = a.front_end.hop_samples / a.front_end.sample_rate_hz
    stop = (np.arange(steps) * a.stride[1] + a.kernel[1] - 1) * hop_s
    start = stop - ((a.steps - 1) * a.stride[1] + a.kernel[1] - 1) * hop_s
    wanted = np.zeros(steps, np.int64)
    for begin, end in words:
        inside = np.clip(np.minimum(stop, end) - np.maximum(start, begin), 0, None) / (end - begin)
        wanted = np.where(inside > 0.999, 1, np.where((inside >= PART) & (wanted == 0), -1, wanted))
    for begin, end in fragments:
        cut = [(edge > begin - AROUND_S) & (edge < end + AROUND_S) for edge in (start, stop)]
        wanted = np.where((cut[0] | cut[1]) & (wanted == 0), -1, wanted)
    return wanted


@dataclass(frozen=True)
class Sources:
    """What tracks and soundscapes are made of. clips: (clips, samples) int16, all of them; spans: (clips, 2)
    of their words; keyword, others: positions; background: recordings, (samples,) int16; talk: (samples,)
    int16 of running speech without the keyword, may be empty."""

    clips: np.ndarray
    spans: np.ndarray
    keyword: np.ndarray
    others: np.ndarray
    background: Sequence[np.ndarray]
    talk: np.ndarray


@dataclass(frozen=True)
class Mix:
    """How training tracks are made and heard: shares of the pieces that are no keyword, and how they are joined.
    Each share can be 0, which is how its worth is measured."""

    keyword: float = 0.25  # of all pieces
    fragment: float = 0.1  # of all pieces: the beginning or the end of a keyword, which is another word
    talk: float = 0.35  # of the other pieces: cut out of running speech at random
    cut: float = 0.2  # of the other pieces: words of the corpus cut at random places
    noise: float = 0.05  # of the other pieces: background noise alone
    joined: float = 0.5  # of the pieces follow the one before without a gap
    varied: bool = True  # every piece at another pace, a track through another microphone whenever drawn
    room: float = 0.4  # of the pieces are heard in a room


def training_track(
    sources: Sources, mix: Mix, samples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(samples,) float32 from -1 to 1, and the seconds (n, 2) of the keywords and of the fragments of
    keywords on it, which may run over the track's ends: pieces of speech at levels of their own, over
    noise 5 to 30 dB below."""
    track, words, fragments = np.zeros(samples, np.float32), [], []
    at = -int(generator.integers(RATE_HZ))
    while at < samples:
        if generator.random() >= mix.joined:
            at += int(generator.exponential(0.3) * RATE_HZ)
        kind = generator.random()
        if kind < mix.keyword + mix.fragment:
            clip = sources.keyword[generator.integers(len(sources.keyword))]
            begin, end = sources.spans[clip]
            if kind >= mix.keyword:
                length = int(generator.uniform(*FRAGMENT) * (end - begin))
                begin, end = (begin, begin + length) if generator.random() < 0.5 else (end - length, end)
            piece = paced(sources.clips[clip][begin:end], mix, generator)
            laid = fragments if kind >= mix.keyword else words
            laid.append((at / RATE_HZ, (at + len(piece)) / RATE_HZ))
        else:
            piece = paced(_other_piece(sources, mix, generator), mix, generator)
        if generator.random() < mix.room:
            piece = in_room(piece, generator)
        lay(track, piece * np.float32(10 ** (generator.uniform(-8, 4) / 20) / 32768), at)
        at += len(piece)
    level = np.sqrt(np.mean(track**2)) + 1e-4
    if len(sources.background):
        recording = sources.background[generator.integers(len(sources.background))]
        start = generator.integers(max(1, len(recording) - samples))
        noise = np.resize(recording[start : start + samples].astype(np.float32), samples)
    else:
        noise = generator.standard_normal(samples, np.float32)
    noise /= np.sqrt(np.mean(noise**2)) + 1e-6
    track += level * np.float32(10 ** (-generator.uniform(5, 30) / 20)) * noise
    track *= np.float32(10 ** (generator.uniform(-14, 3) / 20))
    return np.clip(track, -1, 1), *(np.array(laid).reshape(-1, 2) for laid in (words, fragments))


def paced(piece: np.ndarray, mix: Mix, generator: np.random.Generator) -> np.ndarray:
    """(samples,) float32: said faster and higher, or slower and lower, by interpolation (speed
    perturbation, Ko et al. 2015): a handful of speakers becomes many."""
    if not mix.varied or not len(piece):
        return piece.astype(np.float32)
    places = np.arange(0, len(piece) - 1, generator.uniform(*PACE))
    return np.interp(places, np.arange(len(piece)), piece).astype(np.float32)


def in_room(piece: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(samples,) float32, a piece (samples,) float32 with the echoes of a room: noise that decays (Moorer
    1979). Echoes end with the piece."""
    seconds = np.arange(1, int(generator.uniform(*ECHO_S) * RATE_HZ), dtype=np.float32) / RATE_HZ
    echoes = generator.standard_normal(len(seconds), np.float32)
    echoes *= np.exp(-np.log(np.float32(1000)) / np.float32(generator.uniform(*DECAY_S)) * seconds)
    echoes *= np.float32(10 ** (generator.uniform(*ECHO_DB) / 20)) / np.linalg.norm(echoes)
    room = np.concatenate([np.ones(1, np.float32), echoes])
    size = 1 << (len(piece) + len(room)).bit_length()
    return np.fft.irfft(np.fft.rfft(piece, size) * np.fft.rfft(room, size), size)[: len(piece)]


def microphone(mels: int, mix: Mix, generator: np.random.Generator) -> np.ndarray:
    """(mels,) float32 to be added to log-mels: a tilted and bent frequency response."""
    place = np.linspace(-1, 1, mels, dtype=np.float32)
    if not mix.varied:
        return np.zeros_like(place)
    tilt, bend = generator.uniform(-TILT, TILT), generator.uniform(-BEND, BEND)
    return tilt * place + bend * (1 - 2 * place**2)


def _other_piece(sources: Sources, mix: Mix, generator: np.random.Generator) -> np.ndarray:
    """(samples,) int16 of anything but the keyword."""
    kind = generator.random()
    if kind < mix.talk and len(sources.talk):
        length = int(generator.uniform(0.4, 2.5) * RATE_HZ)
        start = generator.integers(len(sources.talk) - length)
        return sources.talk[start : start + length]
    if kind > 1 - mix.noise:
        return np.zeros(int(generator.uniform(0.5, 1.5) * RATE_HZ), np.int16)  # noise is laid under all
    clip = sources.others[generator.integers(len(sources.others))]
    begin, end = sources.spans[clip]
    if kind > 1 - mix.noise - mix.cut:
        begin, end = np.sort(generator.integers(begin, end + 1, 2))
    return sources.clips[clip][begin:end]


def lay(track: np.ndarray, piece: np.ndarray, at: int) -> None:
    """Adds a piece to a track from sample `at` on, faded in and out; what lies outside is left off."""
    piece = piece.astype(np.float32)
    if len(piece) > 2 * FADE:
        fade = np.linspace(0, 1, FADE, dtype=np.float32)
        piece[:FADE] *= fade
        piece[-FADE:] *= fade[::-1]
    first, last = max(0, -at), min(len(piece), len(track) - at)
    if first < last:
        track[at + first : at + last] += piece[first:last]
