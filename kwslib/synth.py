"""The embedded corpus: Speech Commands' layout, spoken by espeak-ng, so that nothing is downloaded.

A *speaker* is an accent, a voice, a rate, a pitch, a vocal tract, a room and a microphone, drawn
from a seed. Every speaker says the keyword a few times, some of the other Speech Commands words,
words that sound like the keyword, and the keyword cut off; each clip at its own pace, distance,
level and place within the second, over noise. Signals are float64 from -1 to 1 at 16 kHz, (samples,).

The same arguments give the same bytes: a clip depends on its seed, speaker and number alone, not on
what was spoken before it or on how many processes share the work.
"""

import _ctypes
import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import wave
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

VERSION = 3  # raise it with every change of code that changes the corpus
SAMPLE_RATE_HZ = 16000
CLIP_SAMPLES = 16000
BACKGROUND = "_background_noise_"
BACKGROUND_S = 30

SPEAKERS = 400
KEYWORD = "sheila"
WORDS = tuple(
    str.split("""backward bed bird cat dog down eight five follow forward four go happy house learn left
    marvin nine no off on one right seven sheila six stop three tree two up visual wow yes zero""")
)
SOUND_ALIKES = tuple(
    str.split("""celia chiller delilah eager feeler gorilla happen harvest healer lisa manila marlin peeler
    sealer shallow sheathe sheena sheep sheer sheet shelter shield shilling shyla steeler tequila vanilla
    visa""")
)
# The keyword's beginning and end alone are other words: folder -> (from, to), shares of its length.
CUT_OFF = {"shee": (0.0, 0.55), "eela": (0.4, 1.0)}
CHATTER = tuple(  # of the babble: none of the words above
    str.split("""people water money because thinking morning letter window garden music brother summer table
    picture minute country problem yesterday little answer paper mother station never between""")
)
KEYWORD_TAKES, WORDS_SAID, SOUND_ALIKES_SAID = 3, 14, 2  # clips of a speaker, beside the cut-off ones

ACCENTS = tuple(
    str.split("""en en-us en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-029 en-us-nyc""")
)
# espeak-ng's voices less robots, jokes and whispers, and two whose noise its seed does not govern.
VOICES = tuple(
    str.split("""Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Lee Mario Michael Mike
    Nguyen adam announcer antonio aunty belinda benjamin boris david ed edward f1 f2 f3 f4 f5 grandpa
    gustave ian iven3 iven4 john klatt3 klatt4 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel
    miguel norbert pablo paul pedro quincy rob robert sandro travis victor zac""")
)

# Lowest and highest of uniform draws: of a speaker, then of a clip. With the sound-alikes they set how
# hard the corpus is: clean words tell no two networks apart, at 0 dB and in halls none learns them.
RANGES = {
    "rate_wpm": (120, 205),
    "pitch": (25, 75),  # on espeak-ng's scale from 0 to 99, as
    "pitch_range": (20, 80),
    "stretch": (0.92, 1.1),  # of time and, inversely, of all frequencies: the vocal tract
    "reverberation_s": (0.1, 0.5),  # until 60 dB down
    "direct_db": (6, 20),  # direct sound to reverberation
    "tilt_db": (-3, 3),  # of the microphone, an octave
    "low_cut_hz": (40, 300),
    "high_cut_hz": (4000, 8000),
    "rate_share": (0.88, 1.14),  # of the speaker's rate
    "pitch_shift": (-8, 8),  # from the speaker's pitch
    "snr_db": (12, 40),
    "peak_db": (-24, 1),  # to full scale; above 0 it clips
}

_ESPEAK_HZ = 22050
_SPOKEN_S = 1.2  # no word is longer
_FFT = 24000  # holds a clip and half a second of room; a product of small primes


@dataclass(frozen=True)
class Speaker:
    """A voice in its room. `seed` draws all that is left to chance in its clips."""

    name: str  # 8 hexadecimal digits
    voice: str  # accent+voice, as espeak-ng names it
    rate_wpm: float
    pitch: float
    pitch_range: float
    stretch: float
    seed: tuple


def recipe() -> dict:
    """All that decides the corpus which `make` writes by default, as JSON would give it back."""
    return {
        "version": VERSION,
        "seed": 0,
        "speakers": SPEAKERS,
        "keyword": KEYWORD,
        "words": list(WORDS),
        "sound_alikes": list(SOUND_ALIKES),
        "cut_off": {folder: list(span) for folder, span in CUT_OFF.items()},
        "clips": [KEYWORD_TAKES, WORDS_SAID, SOUND_ALIKES_SAID],
        "chatter": list(CHATTER),
        "accents": list(ACCENTS),
        "voices": list(VOICES),
        "ranges": {name: list(span) for name, span in RANGES.items()},
        "background_s": BACKGROUND_S,
    }


def make(
    root: Path, *, speakers: int = SPEAKERS, seed: int = 0, progress: bool = True, workers: int | None = None
) -> None:
    """Writes the corpus below `root`, an empty folder. `workers`: processes, None for one a core.

    `ValueError` where espeak-ng cannot be loaded.
    """
    from tqdm import tqdm

    root, espeak = Path(root).resolve(), espeak_paths()
    workers = workers or min(os.cpu_count() or 1, 8)  # each makes its own noises first
    # A spawned worker would run the caller's script again, or look for a file named <stdin>. Forking is
    # safe beside torch's threads as workers never touch torch; macOS's own libraries forbid it.
    pool = ProcessPoolExecutor(workers, get_context("fork" if sys.platform == "linux" else "spawn"))
    try:
        jobs = [pool.submit(_write_background, root, espeak, seed)]
        for speaker in draw_speakers(speakers, seed):
            jobs.append(pool.submit(_write_clips, root, espeak, seed, speaker))
        quiet = None if progress else True
        for job in tqdm(as_completed(jobs), "make embedded", len(jobs), unit="speaker", disable=quiet):
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def draw_speakers(speakers: int, seed: int) -> list[Speaker]:
    """Of every eight, one in the validation part and one in test, by the choice of their names: the
    official split rule goes by a hash of the name and would leave the sizes of parts to chance. No
    voice speaks in two parts."""
    generator = np.random.default_rng([seed, 0])
    voices = generator.permutation(VOICES)
    eighth = len(voices) // 8
    voices_of = {0: voices[:eighth], 1: voices[eighth : 2 * eighth], 2: voices[2 * eighth :]}
    drawn = {}
    while len(drawn) < speakers:
        wanted = {0: 0, 1: 1}.get(len(drawn) % 8, 2)
        name = f"{generator.integers(2**32):08x}"
        if min(percentage(name) // 10, 2) == wanted and name not in drawn:
            drawn[name] = Speaker(
                name=name,
                voice=f"{generator.choice(ACCENTS)}+{generator.choice(voices_of[wanted])}",
                rate_wpm=_draw(generator, "rate_wpm"),
                pitch=_draw(generator, "pitch"),
                pitch_range=_draw(generator, "pitch_range"),
                stretch=_draw(generator, "stretch"),
                seed=(seed, 1, len(drawn)),
            )
    return list(drawn.values())


def _draw(generator: np.random.Generator, name: str) -> float:
    return generator.uniform(*RANGES[name])


def percentage(name: str) -> float:
    """Where the official split rule places a speaker: below 10 validation, below 20 test."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 2**27 * (100 / (2**27 - 1))


def clips_of(speaker: Speaker) -> list[str]:
    """The folders into which a speaker's clips go, one a clip. Words are dealt like cards, to each part
    on its own, so that every part has as many of each."""
    turn = speaker.seed[-1] // 8  # how many speakers of its part came before it
    others = np.array([word for word in WORDS if word != KEYWORD])
    words = others.take(turn * WORDS_SAID + np.arange(WORDS_SAID), mode="wrap")
    sound_alikes = np.take(SOUND_ALIKES, turn * SOUND_ALIKES_SAID + np.arange(SOUND_ALIKES_SAID), mode="wrap")
    return [KEYWORD] * KEYWORD_TAKES + words.tolist() + sound_alikes.tolist() + list(CUT_OFF)


def _write_clips(root: Path, espeak: tuple[str, str], seed: int, speaker: Speaker) -> None:
    noises = _noises(espeak, (seed, 2))
    room = room_response(np.random.default_rng([*speaker.seed, 1]))
    folders = clips_of(speaker)
    for number, folder in enumerate(folders):
        generator = np.random.default_rng([*speaker.seed, 2, number])
        clip = record(say(espeak, speaker, folder, generator), room, noises, generator)
        take = folders[:number].count(folder)
        _write(root / folder / f"{speaker.name}_nohash_{take}.wav", clip)


def _write_background(root: Path, espeak: tuple[str, str], seed: int) -> None:
    # Drawn anew: augmentation must not offer the very noise that lies under the test's clips.
    for name, noise in _noises(espeak, (seed, 3)).items():
        _write(root / BACKGROUND / f"{name}.wav", 0.5 * noise / np.abs(noise).max())


def _write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    rounded = np.clip(np.round(samples * 32767), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:  # soundfile waits for the disk, 4 ms a clip
        file.setparams((1, 2, SAMPLE_RATE_HZ, len(rounded), "NONE", ""))
        file.writeframes(rounded.tobytes())


def say(espeak: tuple[str, str], speaker: Speaker, folder: str, generator: np.random.Generator) -> np.ndarray:
    """(samples,) a word, or the cut-off keyword, as this speaker says it once; dry, a second at most."""
    rate_wpm = speaker.rate_wpm * _draw(generator, "rate_share")
    pitch = speaker.pitch + _draw(generator, "pitch_shift")
    text = (KEYWORD if folder in CUT_OFF else folder) + generator.choice(["", "?", "!"])
    spoken = speak(espeak, text, speaker.voice, rate_wpm, pitch, speaker.pitch_range)
    loud = np.flatnonzero(np.abs(spoken) > 0.02 * np.abs(spoken).max())
    spoken = spoken[loud[0] : loud[-1] + 1]
    if folder in CUT_OFF:
        start, stop = (round(share * len(spoken)) for share in CUT_OFF[folder])
        spoken = spoken[start:stop]
        fade = np.minimum(1, np.arange(len(spoken)) / 200)
        spoken = spoken * fade * fade[::-1]
    return resample(spoken, min(speaker.stretch, 0.95 * _ESPEAK_HZ / len(spoken)))


def resample(spoken: np.ndarray, stretch: float = 1.0) -> np.ndarray:
    """From espeak-ng's 22,050 Hz to 16 kHz, lasting `stretch` times as long; by Fourier series, so that
    nothing above 8 kHz folds down."""
    spoken = spoken[: round(_SPOKEN_S * _ESPEAK_HZ)]
    padded = np.zeros(round(_SPOKEN_S * _ESPEAK_HZ))
    padded[: len(spoken)] = spoken
    size = 64 * round(_SPOKEN_S * SAMPLE_RATE_HZ * stretch / 64)  # many twos: a fast transform
    spectrum = np.fft.rfft(padded)[: size // 2 + 1]
    resampled = np.fft.irfft(spectrum, size) * (size / len(padded))
    return resampled[: round(len(spoken) * size / len(padded))]


def record(
    word: np.ndarray, room: np.ndarray, noises: dict[str, np.ndarray], generator: np.random.Generator
) -> np.ndarray:
    """(samples,) the clip: the word somewhere within its second, in the room, over one of the noises."""
    word = word[:CLIP_SAMPLES]
    start = generator.integers(CLIP_SAMPLES - len(word) + 1)
    dry = np.zeros(CLIP_SAMPLES)
    dry[start : start + len(word)] = word
    wet = np.fft.irfft(np.fft.rfft(dry, _FFT) * room, _FFT)[:CLIP_SAMPLES]
    noise = noises[list(noises)[generator.integers(len(noises))]]
    place = generator.integers(len(noise) - CLIP_SAMPLES)
    speech_power = np.mean(wet[start : start + len(word)] ** 2)
    snr = 10 ** (_draw(generator, "snr_db") / 10)
    mixed = wet + np.sqrt(speech_power / snr) * noise[place : place + CLIP_SAMPLES]
    return mixed * (10 ** (_draw(generator, "peak_db") / 20) / np.abs(mixed).max())


def room_response(generator: np.random.Generator) -> np.ndarray:
    """(bins,) complex, of an `_FFT`-point transform: an impulse and decaying noise (Moorer 1979), seen
    through a microphone that tilts the spectrum and cuts it off at both ends."""
    seconds = np.arange(_FFT - CLIP_SAMPLES) / SAMPLE_RATE_HZ
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


@functools.lru_cache(maxsize=2)
def _noises(espeak: tuple[str, str], seed: tuple) -> dict[str, np.ndarray]:
    """The six noises, (samples,) each, of mean power 1; a process makes them once."""
    made = {}
    for number, noise in enumerate((white, pink, hum, rain, dishes)):
        made[noise.__name__] = noise(np.random.default_rng([*seed, number]))
    made["babble"] = babble(espeak, np.random.default_rng([*seed, len(made)]))
    return {name: noise / np.sqrt(np.mean(noise**2)) for name, noise in made.items()}


def white(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(BACKGROUND_S * SAMPLE_RATE_HZ)


def pink(generator: np.random.Generator) -> np.ndarray:
    """As much power in every octave from 20 Hz; mean power 1."""
    spectrum = np.fft.rfft(white(generator))
    hz = np.arange(len(spectrum)) / BACKGROUND_S
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(hz, 20)))
    return noise / np.std(noise)


def hum(generator: np.random.Generator) -> np.ndarray:
    """A motor: three groups of harmonics of 50-60 Hz that swell and fade apart, and some air."""
    seconds = np.arange(BACKGROUND_S * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    period = generator.integers(SAMPLE_RATE_HZ // 60, SAMPLE_RATE_HZ // 50)
    turn = 2 * np.pi * np.arange(period) / period
    noise = 0.5 * pink(generator)
    for first in (1, 6, 14):
        harmonics = np.arange(first, 2 * first + 5)[:, None]
        phases = generator.uniform(0, 2 * np.pi, harmonics.shape)
        wave_of_turn = np.sum(np.sin(harmonics * turn + phases) / harmonics**0.7, axis=0)
        swell = 1 + 0.6 * np.sin(2 * np.pi * generator.uniform(0.05, 2) * seconds)
        noise += swell * np.resize(wave_of_turn, len(seconds))
    return noise


def _struck(generator, per_second: float, hz: tuple, ring_s: tuple, level_db: tuple) -> np.ndarray:
    """Decaying tones at random times."""
    struck = np.zeros(BACKGROUND_S * SAMPLE_RATE_HZ)
    for start in generator.integers(len(struck), size=round(per_second * BACKGROUND_S)):
        ring = generator.uniform(*ring_s)
        seconds = np.arange(min(round(5 * ring * SAMPLE_RATE_HZ), len(struck) - start)) / SAMPLE_RATE_HZ
        tone = np.sin(2 * np.pi * generator.uniform(*hz) * seconds) * np.exp(-seconds / ring)
        struck[start : start + len(seconds)] += 10 ** (generator.uniform(*level_db) / 20) * tone
    return struck


def rain(generator: np.random.Generator) -> np.ndarray:
    """Drops on a sill over a steady rush."""
    drops = _struck(generator, 120, (600, 5000), (0.001, 0.008), (-30, 0))
    return drops + 0.02 * np.diff(white(generator), prepend=0)


def dishes(generator: np.random.Generator) -> np.ndarray:
    """Plates and cutlery in a kitchen."""
    clinks = _struck(generator, 12, (900, 6500), (0.01, 0.12), (-30, 0))
    return clinks + 0.02 * pink(generator)


def babble(espeak: tuple[str, str], generator: np.random.Generator) -> np.ndarray:
    """Six people talking at once, in none of the corpus's words."""
    mixed = np.zeros(BACKGROUND_S * SAMPLE_RATE_HZ)
    for _ in range(6):
        voice = f"{generator.choice(ACCENTS)}+{generator.choice(VOICES)}"
        text = " ".join(generator.choice(CHATTER, 2 * BACKGROUND_S))
        spoken = speak(espeak, text, voice, generator.uniform(130, 200), generator.uniform(25, 75), 50)
        step = round(_SPOKEN_S * _ESPEAK_HZ)
        pieces = [resample(spoken[at : at + step]) for at in range(0, len(spoken) - step, step)]
        talk = np.resize(np.concatenate(pieces), len(mixed))
        mixed += talk / np.std(talk)
    return mixed


def espeak_paths() -> tuple[str, str]:
    """Paths of espeak-ng's library and of its data."""
    try:
        import espeakng_loader

        return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"espeak-ng is not there ({error}); install espeakng-loader") from None


def speak(
    espeak: tuple[str, str], text: str, voice: str, rate_wpm: float, pitch: float, pitch_range: float
) -> np.ndarray:
    """(samples,) from -1 to 1 at 22,050 Hz.

    The library is loaded for each utterance and dropped after it (2 ms): phases, flutter and noise are
    kept in its static variables, so that otherwise an utterance would depend on those before it. While
    it speaks its data folder is the working directory, as it keeps that path in 160 bytes.
    """
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, _):
        if samples and count:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    library, data = espeak
    try:
        engine = ctypes.CDLL(library)
    except OSError as error:
        raise ValueError(f"espeak-ng cannot be loaded ({error}); install espeakng-loader again") from None
    try:
        with contextlib.chdir(data):
            if engine.espeak_Initialize(2, 0, b".", 0x8000) != _ESPEAK_HZ:  # synchronous; no exit() on error
                raise ValueError(f"espeak-ng cannot read its data in {data}; install espeakng-loader again")
            engine.espeak_SetSynthCallback(keep)
            if engine.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            for parameter, value in ((1, rate_wpm), (3, pitch), (4, pitch_range)):
                engine.espeak_SetParameter(parameter, round(value), 0)
            engine.espeak_ng_SetRandSeed(ctypes.c_long(1))
            said = text.encode()
            engine.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, 1, None, None)
            engine.espeak_Synchronize()
            engine.espeak_Terminate()
    finally:
        _ctypes.dlclose(engine._handle)
    return np.frombuffer(b"".join(pieces), np.int16) / 32768
