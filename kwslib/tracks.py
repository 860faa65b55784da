"""Continuous audio: keyword and other words laid on a track at known times, to train on and to judge on.

A track is (samples,) at 16 kHz with the keyword's words as (words, 2) seconds of begin and end. Where
a word lies within its clip `endpoints` measures. The same arguments give the same track.
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
MASKED_MELS, MASKED_FRAMES, STRETCHES = 8, 20, 3  # see `mask`
_NONE = np.zeros((0, 2))


@dataclass(frozen=True)
class Track:
    """samples: (samples,) int16; words: (words, 2) seconds at which the keyword begins and ends; clips:
    (clips,) samples at which whole clips begin, and labels: (clips,) 1 for the keyword's."""

    samples: np.ndarray
    words: np.ndarray
    clips: np.ndarray
    labels: np.ndarray

    @property
    def hours(self) -> float:
        return len(self.samples) / RATE_HZ / 3600


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
    """What tracks are made of. clips: (clips, samples) int16, all of them; spans: (clips, 2) of their
    words; keyword, others: positions; background: recordings, (samples,) int16; talk: (samples,)
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
    masked: bool = True  # parts of a track are taken away whenever it is drawn, but for the last steps


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


def mask(power, mix: Mix, generator: np.random.Generator) -> None:
    """Zeroes a band of fewer than `MASKED_MELS` mels and `STRETCHES` stretches of fewer than `MASKED_FRAMES`
    frames, any of them possibly empty, of mel power (mels, frames), array or tensor, in place (SpecAugment,
    arXiv 1904.08779): what is said must be known by its other parts."""
    if not mix.masked:
        return
    for axis, longest in ((0, MASKED_MELS), *[(1, MASKED_FRAMES)] * STRETCHES):
        width, size = int(generator.uniform(0, longest)), power.shape[axis]
        start = int(generator.integers(size - width + 1))
        part = [slice(None), slice(None)]
        part[axis] = slice(start, start + width)
        power[tuple(part)] = 0


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


def clip_stream(
    sources: Sources,
    hours: float,
    seed: int,
    keyword_every_s: float = 30.0,
    snr_db: tuple[float, float] = (10.0, 30.0),
    level_db: tuple[float, float] = (-6.0, 3.0),
) -> Track:
    """A long track of whole clips: other words with gaps of 0 to 1 s between them, each at its own level,
    the keyword about every `keyword_every_s`, over background noise that changes every 20 s and lies
    `snr_db` under the mean power of the clips' words."""
    generator = np.random.default_rng([seed, 17])
    samples = round(hours * 3600 * RATE_HZ)
    track, words, laid = np.zeros(samples, np.float32), [], []
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
        laid.append((at, int(is_keyword)))
        if is_keyword:
            words.append(((at + begin) / RATE_HZ, (at + end) / RATE_HZ))
            next_keyword += keyword_every_s * RATE_HZ
        at += sources.clips.shape[1] + int(generator.uniform(0, 1) * RATE_HZ)
    if not powers:
        raise ValueError(f"a stream of {hours} hours is too short for a clip")
    _lay_noise(track, sources.background, np.sqrt(np.mean(powers)), snr_db, generator)
    return _track(track, words, laid)


def between_words(sources: Sources, seed: int) -> Track:
    """Every clip of the keyword as it is, between two clips of other words."""
    generator = np.random.default_rng([seed, 18])
    others, order = _deck(sources.others, generator), []
    for clip in sources.keyword:
        order += [next(others), clip, next(others)]
    at = np.arange(1, len(order), 3) * sources.clips.shape[1]
    words = (at[:, None] + sources.spans[sources.keyword]) / RATE_HZ
    laid = [(n * sources.clips.shape[1], int(n % 3 == 1)) for n in range(len(order))]
    return _track(sources.clips[order].reshape(-1) / np.float32(32768), words, laid)


def mixed_stream(
    talk: np.ndarray, sources: Sources, seed: int, over_db: float, every_s: float = 10.0
) -> Track:
    """Running speech, (samples,) int16, with the keyword mixed into it about every `every_s`, its power
    `over_db` over that of the speech around it (2 s)."""
    generator = np.random.default_rng([seed, 19])
    track, words = talk.astype(np.float32) / 32768, []
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
    return _track(track, words, [])


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


def _track(track: np.ndarray, words, laid: list[tuple[int, int]]) -> Track:
    clips, labels = np.array(laid, int).reshape(-1, 2).T
    np.multiply(track, 32768, out=track)
    samples = np.clip(np.round(track, out=track), -32768, 32767, out=track).astype(np.int16)
    return Track(samples, np.array(words).reshape(-1, 2), clips, labels)
