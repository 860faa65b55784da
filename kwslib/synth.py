"""The embedded corpus: Speech Commands' layout, spoken by espeak-ng, so that nothing is downloaded.

A speaker is an accent, a voice, a pace, a pitch, a vocal tract, a room and a microphone. Every one
says the keyword, other Speech Commands words, words that sound like the keyword, and the keyword
cut off, each over noise. Signals are float64 from -1 to 1 at 16 kHz, (samples,). A clip depends on
its seed, speaker and number alone: the same seed gives the same bytes.
"""

import functools
import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import espeak
from .audio import SAMPLE_RATE_HZ, to_int16

VERSION = 4  # raise it with every change that changes the corpus
KEYWORD = "sheila"
SPEAKERS = 300
TAKES, WORDS_SAID, ALIKE_SAID = 3, 14, 2  # clips of a speaker, beside the cut-off
CUT_OFF = {"shee": (0.0, 0.55), "eela": (0.4, 1.0)}  # folder -> part of the keyword's length
SIZE_BYTES = 21 * SPEAKERS * 32044
TALK_VOICES = 10  # voices that say no clip, but talk and babble
GROUPS = 25  # of voices; no group speaks in two folds, nor in the official test part and outside it
NOISE_S = 30
# Lowest and highest of uniform draws. With the sound-alikes they set how hard the corpus is: clean
# words tell no two networks apart, at 0 dB none learns them. Pitch is on espeak-ng's scale of 0 to
# 99, `stretch` is of time and (inversely) of frequencies, `tilt_db` of an octave.
OF_SPEAKER = {"rate_wpm": (120, 205), "pitch": (25, 75), "pitch_range": (20, 80)}
OF_SPEAKER |= {"stretch": (0.92, 1.1)}
OF_ROOM = {"reverberation_s": (0.1, 0.5), "direct_db": (6, 20), "tilt_db": (-3, 3)}
OF_ROOM |= {"low_cut_hz": (40, 300), "high_cut_hz": (4000, 8000)}
OF_CLIP = {"rate_share": (0.88, 1.14), "pitch_shift": (-8, 8), "snr_db": (12, 40)}
OF_CLIP |= {"peak_db": (-24, 1)}  # to full scale; above 0 it clips
RANGES = OF_SPEAKER | OF_ROOM | OF_CLIP
_FFT = 24000  # holds a clip and half a second of room; a product of small primes


@dataclass(frozen=True)
class Speaker:
    """Someone with a voice, in a room. `seed` draws what is left to chance."""

    name: str  # 8 hexadecimal digits
    voice: str  # accent+voice, as espeak-ng names it
    rate_wpm: float
    pitch: float
    pitch_range: float
    stretch: float
    seed: tuple[int, ...]

    def say(self, text: str, generator: np.random.Generator) -> np.ndarray:
        """(samples,) the text as this speaker says it once, dry."""
        import soxr

        rate_wpm = self.rate_wpm * _draw(generator, "rate_share")
        pitch = self.pitch + _draw(generator, "pitch_shift")
        spoken = espeak.speak(text, self.voice, rate_wpm, pitch, self.pitch_range)
        return soxr.resample(spoken, espeak.RATE_HZ, SAMPLE_RATE_HZ * self.stretch)


@functools.cache
def words() -> dict[str, list[str]]:
    """The lists of words.json: words, sound_alikes, chatter, accents, voices, and talk's."""
    return json.loads(Path(__file__).with_name("words.json").read_text("utf-8"))


def recipe() -> list:
    """All that decides the corpus which `make` writes by default, as JSON gives it back."""
    return json.loads(json.dumps([VERSION, SPEAKERS, CUT_OFF, RANGES, words()]))


def make(root: Path, fold_of, official_part, speakers=SPEAKERS, seed=0, progress=True) -> None:
    """Writes the corpus below `root`, an empty folder. The rules give a name's fold and part."""
    from tqdm import tqdm

    for folder in [*words()["words"], *words()["sound_alikes"], *CUT_OFF, "_background_noise_"]:
        (root / folder).mkdir()
    for name, noise in noises(NOISE_S / 60, seed, 3).items():  # not the noise that lies under clips
        _write(root / "_background_noise_" / f"{name}.wav", noise)
    jobs = [(root, seed, *one) for one in enumerate(draw(speakers, seed, fold_of, official_part))]
    done = espeak.run(_write_clips, jobs)
    list(tqdm(done, "make embedded", speakers, unit="speaker", disable=None if progress else True))


def draw(speakers: int, seed: int, fold_of, official_part) -> list[Speaker]:
    """Speakers who fill the folds evenly, and the official test part with a fifth of them: the
    rules go by a hash of the name, so names are drawn until one has the wanted place."""
    generator, drawn = np.random.default_rng([seed, 0]), {}
    while (number := len(drawn)) < speakers:
        group, name = number % GROUPS, f"{generator.integers(2**32):08x}"
        if fold_of(name) == group % 5 and (official_part(name) == "test") == (group < 5):
            voices = slice(TALK_VOICES + group, None, GROUPS)
            drawn[name] = _speaker(name, voices, (seed, 1, number), generator)
    return list(drawn.values())


def talkers(speakers: int) -> list[Speaker]:
    """Speakers of talk, whose voices say no clip of the corpus."""
    generator = np.random.default_rng(4)
    voices = [slice(n % TALK_VOICES, n % TALK_VOICES + 1) for n in range(speakers)]
    return [_speaker(f"talker{n:02d}", v, (0, 4, n), generator) for n, v in enumerate(voices)]


def _speaker(name: str, places: slice, seed: tuple, generator: np.random.Generator) -> Speaker:
    voices = np.random.default_rng(0).permutation(words()["voices"])[places]
    voice = f"{generator.choice(words()['accents'])}+{generator.choice(voices)}"
    return Speaker(name, voice, *(_draw(generator, key) for key in OF_SPEAKER), seed)


def _draw(generator: np.random.Generator, name: str) -> float:
    return generator.uniform(*RANGES[name])


def folders(number: int) -> list[str]:
    """The folders of speaker `number`'s clips, one a clip. Words are dealt like cards."""
    others = [word for word in words()["words"] if word != KEYWORD]
    said = np.resize(np.roll(others, -number * WORDS_SAID), WORDS_SAID)
    alike = np.roll(words()["sound_alikes"], -number * ALIKE_SAID)[:ALIKE_SAID]
    return [*[KEYWORD] * TAKES, *said.tolist(), *alike.tolist(), *CUT_OFF]


def _write_clips(root: Path, seed: int, number: int, speaker: Speaker) -> None:
    room = room_response(np.random.default_rng([*speaker.seed, 1]))
    under = _noises((seed, 2), NOISE_S)
    for clip, folder in enumerate(folders(number)):
        generator = np.random.default_rng([*speaker.seed, 2, clip])
        samples = record(say_word(speaker, folder, generator), room, under, generator)
        take = clip if folder == KEYWORD else 0
        _write(root / folder / f"{speaker.name}_nohash_{take}.wav", to_int16(samples))


def _write(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:  # soundfile waits for the disk, 4 ms a clip
        file.setparams((1, 2, SAMPLE_RATE_HZ, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def say_word(speaker: Speaker, folder: str, generator: np.random.Generator) -> np.ndarray:
    """(samples,) a word, or the cut-off keyword, without silence around it; under a second."""
    text = KEYWORD if folder in CUT_OFF else folder
    spoken = speaker.say(text + generator.choice(["", "?", "!"]), generator)
    loud = np.flatnonzero(np.abs(spoken) > 0.02 * np.abs(spoken).max())
    spoken = spoken[loud[0] : loud[-1] + 1]
    if folder in CUT_OFF:
        start, stop = (round(share * len(spoken)) for share in CUT_OFF[folder])
        fade = np.minimum(1, np.arange(stop - start) / 150)
        spoken = spoken[start:stop] * fade * fade[::-1]
    return spoken[: round(0.95 * SAMPLE_RATE_HZ)]


def record(word: np.ndarray, room: np.ndarray, noises: dict, generator) -> np.ndarray:
    """(samples,) a clip: the word somewhere within its second, in the room, over one noise."""
    start = generator.integers(SAMPLE_RATE_HZ - len(word) + 1)
    dry = np.pad(word, (start, SAMPLE_RATE_HZ - start - len(word)))
    wet = np.fft.irfft(np.fft.rfft(dry, _FFT) * room, _FFT)[:SAMPLE_RATE_HZ]
    noise = noises[list(noises)[generator.integers(len(noises))]]
    place = generator.integers(len(noise) - SAMPLE_RATE_HZ)
    speech_power = np.mean(wet[start : start + len(word)] ** 2)
    level = np.sqrt(speech_power / 10 ** (_draw(generator, "snr_db") / 10))
    mixed = wet + level * noise[place : place + SAMPLE_RATE_HZ]
    return mixed * (10 ** (_draw(generator, "peak_db") / 20) / np.abs(mixed).max())


def room_response(generator: np.random.Generator) -> np.ndarray:
    """(bins,) complex, of an `_FFT`-point transform: an impulse and decaying noise (Moorer 1979),
    through a microphone that tilts the spectrum and cuts it off at both ends."""
    seconds = np.arange(_FFT - SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    decay = 10 ** (-3 * seconds / _draw(generator, "reverberation_s"))
    tail = generator.standard_normal(len(seconds)) * decay
    tail[: generator.integers(30, 200)] = 0  # until the first reflection
    tail *= 10 ** (-_draw(generator, "direct_db") / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    hz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ) + 1
    gain_db = _draw(generator, "tilt_db") * np.log2(hz / 1000)
    low, high = _draw(generator, "low_cut_hz"), _draw(generator, "high_cut_hz")
    cut = 1 / np.sqrt((1 + (low / hz) ** 4) * (1 + (hz / high) ** 12))
    return np.fft.rfft(tail, _FFT) * cut * 10 ** (np.clip(gain_db, -20, 20) / 20)


def noises(minutes: float, seed: int, use: int = 5) -> dict[str, np.ndarray]:
    """white, pink and babble, (samples,) int16; another `use` gives others for the same seed."""
    made = _noises((seed, use), minutes * 60)
    return {name: to_int16(0.5 * noise / np.abs(noise).max()) for name, noise in made.items()}


@functools.lru_cache(maxsize=1)
def _noises(seed: tuple[int, ...], seconds: float) -> dict[str, np.ndarray]:
    """The three noises, (samples,) each, of mean power 1; a process makes them once."""
    made, samples = {}, round(seconds * SAMPLE_RATE_HZ)
    kinds = {"white": np.random.Generator.standard_normal, "pink": pink, "babble": babble}
    for number, (name, kind) in enumerate(kinds.items()):
        noise = kind(np.random.default_rng([*seed, number]), samples)
        made[name] = noise / np.sqrt(np.mean(noise**2))
    return made


def pink(generator: np.random.Generator, samples: int) -> np.ndarray:
    """As much power in every octave from 20 Hz."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 20)), samples)


def babble(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Six people talking at once, in none of the corpus's words."""
    mixed = np.zeros(samples)
    for speaker in generator.choice(talkers(TALK_VOICES), 6, replace=False):
        text = " ".join(generator.choice(words()["chatter"], samples // 6400))
        talk = speaker.say(text, generator)
        mixed += np.resize(talk / np.std(talk), samples)
    return mixed
