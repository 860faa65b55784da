"""The embedded corpus: Speech Commands' layout, spoken by espeak-ng, so that nothing is downloaded.

Every speaker says the keyword, other Speech Commands words, words that sound like it, and the
keyword cut off, each in a room and over noise. The bytes are the same every time.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from scipy.io import wavfile
from scipy.signal import fftconvolve
from tqdm import tqdm

from . import espeak
from .audio import SAMPLE_RATE_HZ, to_int16

# Lists: words, sound_alikes, talk, accents, voices
LISTS = json.loads(Path(__file__).with_name("words.json").read_text("utf-8"))
VERSION = 5  # raise it with every change that changes the corpus
KEYWORD = "sheila"
SPEAKERS, TALKERS = 300, 10  # talkers have voices of their own, for talk and babble
TAKES, WORDS_SAID, ALIKE_SAID = 3, 14, 2  # clips of a speaker, beside the cut-off
CUT_OFF = {"shee": (0.0, 0.55), "eela": (0.4, 1.0)}  # folder -> part of the keyword's length
GROUPS = 25  # of voices; no group speaks in two folds, nor in the official test part and outside it
# Ends of uniform draws. They set how hard the corpus is: clean words tell no two networks apart, at
# 0 dB none learns them. `stretch` is of time and (inversely) of frequencies.
OF_SPEAKER = {"rate_wpm": (115, 215), "pitch": (20, 80), "stretch": (0.92, 1.1)}
OF_RECORDING = {"snr_db": (10, 40), "peak_db": (-24, 1), "echo_s": (0.1, 0.5), "echo_db": (-20, -4)}


@dataclass(frozen=True)
class Speaker:
    """An accent, a voice, a pace, a pitch and a vocal tract."""

    name: str  # 8 hexadecimal digits
    number: int  # seeds what is drawn
    voice: str  # accent+voice, as espeak-ng names it
    rate_wpm: float
    pitch: float  # 0 to 99
    stretch: float

    def say(self, text: str, generator: np.random.Generator) -> np.ndarray:
        """(samples,) the text as this speaker says it once, from -1 to 1."""
        rate_wpm = self.rate_wpm * generator.uniform(0.88, 1.14)
        spoken = espeak.speak(text, self.voice, rate_wpm, self.pitch + generator.uniform(-8, 8))
        return soxr.resample(spoken, espeak.RATE_HZ, SAMPLE_RATE_HZ * self.stretch)


def make(root: Path, fold_of, official_part, speakers=SPEAKERS) -> None:
    """Writes the corpus below `root`, an empty folder. The rules give a name's fold and part."""
    for folder in [*LISTS["words"], *LISTS["sound_alikes"], *CUT_OFF, "_background_noise_"]:
        (root / folder).mkdir()
    for name, noise in noises(0.5, 2).items():
        wavfile.write(root / "_background_noise_" / f"{name}.wav", SAMPLE_RATE_HZ, noise)
    jobs = [(root, speaker) for speaker in draw(speakers, fold_of, official_part)]
    list(tqdm(espeak.run(_write_clips, jobs), "speakers of embedded", speakers, disable=None))


def draw(speakers: int, fold_of, official_part) -> list[Speaker]:
    """Names are drawn until one has the wanted place: folds are even, a fifth of each is tested."""
    generator, drawn = np.random.default_rng(0), []
    while len(drawn) < speakers:
        group, name = len(drawn) % GROUPS, f"{generator.integers(2**32):08x}"
        if fold_of(name) == group % 5 and (official_part(name) == "test") == (group < 5):
            drawn.append(_speaker(name, len(drawn), slice(TALKERS + group, None, GROUPS)))
    return drawn


def talkers() -> list[Speaker]:
    """The speakers of talk and babble, whose voices say no clip of the corpus."""
    return [_speaker(f"talker{n}", SPEAKERS + n, slice(n, n + 1)) for n in range(TALKERS)]


def _speaker(name: str, number: int, places: slice) -> Speaker:
    generator, voices = np.random.default_rng(number), LISTS["voices"][places]
    voice = f"{generator.choice(LISTS['accents'])}+{generator.choice(voices)}"
    return Speaker(name, number, voice, *(generator.uniform(*e) for e in OF_SPEAKER.values()))


def _write_clips(root: Path, speaker: Speaker) -> None:
    """Words are dealt to the speakers like cards."""
    others = [word for word in LISTS["words"] if word != KEYWORD]
    said = np.roll(others, -speaker.number * WORDS_SAID)[:WORDS_SAID]
    alike = np.roll(LISTS["sound_alikes"], -speaker.number * ALIKE_SAID)[:ALIKE_SAID]
    for clip, folder in enumerate([*[KEYWORD] * TAKES, *said, *alike, *CUT_OFF]):
        samples = say_clip(speaker, folder, np.random.default_rng([speaker.number, clip]))
        path = root / folder / f"{speaker.name}_nohash_{clip if folder == KEYWORD else 0}.wav"
        wavfile.write(path, SAMPLE_RATE_HZ, samples)


def say_clip(speaker: Speaker, folder: str, generator: np.random.Generator) -> np.ndarray:
    """(samples,) int16: a word, or the keyword cut off, somewhere within a second."""
    text = KEYWORD if folder in CUT_OFF else folder
    spoken = speaker.say(text + generator.choice(["", "?", "!"]), generator)
    loud = np.flatnonzero(np.abs(spoken) > 0.02 * np.abs(spoken).max())
    spoken = spoken[loud[0] : loud[-1] + 1]
    start, stop = (round(share * len(spoken)) for share in CUT_OFF.get(folder, (0, 1)))
    fade = np.minimum(1, np.arange(stop - start) / 150)
    word = (spoken[start:stop] * fade * fade[::-1])[: round(0.95 * SAMPLE_RATE_HZ)]
    before = generator.integers(SAMPLE_RATE_HZ - len(word) + 1)
    return record(np.pad(word, (before, SAMPLE_RATE_HZ - before - len(word))), generator)


def record(dry: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(samples,) int16: speech in a room, whose echo is noise that dies away, over other noise."""
    snr_db, peak_db, echo_s, echo_db = (generator.uniform(*e) for e in OF_RECORDING.values())
    echo = generator.standard_normal(8000) * 10 ** (-3 * np.arange(8000) / SAMPLE_RATE_HZ / echo_s)
    echo *= 10 ** (echo_db / 20) / np.linalg.norm(echo)
    wet = dry + fftconvolve(dry, echo)[: len(dry)]
    noise = noises(0.5, 3)[generator.choice(["white", "pink", "babble"])]
    under = noise[generator.integers(len(noise) - len(dry)) :][: len(dry)]
    power = np.mean(wet[dry != 0] ** 2) / 10 ** (snr_db / 10)
    mixed = wet + np.sqrt(power / np.var(under)) * under
    return to_int16(mixed * (10 ** (peak_db / 20) / np.abs(mixed).max()))


@functools.lru_cache(maxsize=1)
def noises(minutes: float, seed: int) -> dict[str, np.ndarray]:
    """(samples,) int16 each: white, pink (equal power in every octave from 20 Hz), six talkers."""
    generator, samples = np.random.default_rng([seed, 0]), round(minutes * 60 * SAMPLE_RATE_HZ)
    (white, other), babble = generator.standard_normal((2, samples)), np.zeros(samples)
    hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    pink = np.fft.irfft(np.fft.rfft(other) / np.sqrt(np.maximum(hz, 20)), samples)
    for speaker in generator.choice(talkers(), 6, replace=False):
        said = speaker.say(" ".join(generator.choice(LISTS["talk"], samples // 6400)), generator)
        babble += np.resize(said / np.std(said), samples)
    made = {"white": white, "pink": pink, "babble": babble}
    return {name: to_int16(0.5 * noise / np.abs(noise).max()) for name, noise in made.items()}
