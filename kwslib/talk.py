"""Running speech without the keyword: what single words do not prepare a network for.

Read by espeak-ng, to train on: speakers of the embedded corpus (`synth`) read sentences of three kinds
of words: common ones, made-up ones of English syllables, and near misses, the keyword with a letter or
two changed. What sounds like the keyword anywhere is left out, by espeak-ng's own phonemes. Every
utterance has a room and a microphone. The same arguments give the same samples.

Recorded, to judge on: a folder `continuous_speech` beside the corpus, with a folder of recordings for
each speaker.
"""

import ctypes
import hashlib
import io
import json
import os
import re
import sys
from _ctypes import dlclose
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from . import checkpoints, data, synth

VERSION = 1  # raise it with every change of code that changes the talk
COMMON = tuple(
    str.split("""the of and to in he was that it his her with as had for she not at but be on they have him
    which said from all this were would there their been one so what when who will more if out up into do any
    your has man could other than our some very time upon about may its only now little like then can made should
    did us such great before must two these see know over much down after first good men own never most old shall
    day where those came come himself way work life without go make well through being long say might how am too
    people again here every under same thought hand back another last think house still against found went think
    head because look young between place while himself away world began father something mother night always
    believe friend answer morning evening family happen perhaps hospital apple papa puppy habit capital half hat
    hippo hobby heavy having haven apart appear happiness perfect hurry handy candy hand heart help helper hop hope
    shape shepherd sea shell sugar silver seal leader lily ceiling feeling dealer wheel shield chief cheap sheep
    river water stone garden winter summer yellow orange purple silver music picture window table letter number
    country question problem street market money paper city station village captain soldier doctor children
    woman brother sister daughter animal horse cattle chicken kitchen bottle button pepper copper supper upper
    paddle battle cattle rattle gallop shallow follow hollow borrow sorrow narrow arrow carry marry merry cherry
    thirty forty fifty sixty twenty hundred thousand million quick quiet quarter minute second moment already
    against around become behind beneath beside beyond during except inside outside toward within along across
    strange strong straight stretch spring splash screen scratch thread throw twelve twenty sphere smooth""")
)
ONSETS = (*str.split("b d f g h j k l m n p r s t v w y sh ch th st sp tr pr br gr bl pl fl sl kw"), "")
NUCLEI = tuple(str.split("a e i o u ee oo ai ow oy ar er a e i o"))
CODAS = ("", "", "", *str.split("n m l r s t p k d st nd lk ng ft"))
PAUSE_S = (0.1, 0.8)  # between utterances


def read(keyword: str, part: str, minutes: float, workers: int | None = None) -> np.ndarray:
    """(samples,) int16 of so many minutes read by the speakers of a part ('train', 'validation',
    'test') of the embedded corpus; made once and kept in `data/talk/`. `ValueError` where espeak-ng
    cannot be loaded."""
    recipe = [VERSION, synth.recipe(), keyword, part, minutes]
    name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    path = data.ROOT / "talk" / f"{part}-{name}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError):  # not there, or damaged
        made, buffer = make(keyword, part, minutes, workers), io.BytesIO()
    np.save(buffer, made)
    checkpoints.write_atomic(path, buffer.getvalue())
    return made


def make(keyword: str, part: str, minutes: float, workers: int | None = None) -> np.ndarray:
    """What `read` keeps."""
    espeak, code = synth.espeak_paths(), {"validation": 0, "test": 1, "train": 2}[part]
    speakers = [
        speaker
        for speaker in synth.draw_speakers(synth.SPEAKERS, 0)
        if min(synth.percentage(speaker.name) // 10, 2) == code
    ]
    wanted, pieces, turn = round(minutes * 60 * synth.SAMPLE_RATE_HZ), [], 0
    # As in synth.make: workers never touch torch.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers or min(os.cpu_count() or 1, 8), context) as pool:
        while sum(map(len, pieces)) < wanted:
            jobs = [
                pool.submit(_utterance, espeak, keyword, speakers[n % len(speakers)], (code, n))
                for n in range(turn, turn + 16)
            ]
            pieces += [job.result() for job in jobs]
            turn += 16
    return np.concatenate(pieces)[:wanted]


def recordings(corpus_root: Path, keyword: str) -> dict[str, list[Path]]:
    """Speaker -> recordings of `continuous_speech/SPEAKER/` beside a corpus; {} where there is no such folder. Those
    whose line of `transcripts.txt` (`NAME WORDS..`) has the keyword are left out; one without a line is taken to be
    free of it."""
    folder = Path(corpus_root).parent / "continuous_speech"
    found = {}
    for speaker in sorted(p for p in folder.glob("*") if p.is_dir()):
        paths = sorted(p for p in speaker.iterdir() if p.suffix.lower() in (".wav", ".flac"))
        said, transcripts = {}, speaker / "transcripts.txt"
        if transcripts.is_file():
            lines = transcripts.read_text(errors="replace").casefold().splitlines()
            said = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
        free = [path for path in paths if not _holds(said.get(path.stem.casefold(), ""), keyword.casefold())]
        if free:
            found[speaker.name] = free
    return found


def _holds(said: str, keyword: str) -> bool:
    """Whether a word is the keyword, or one made from it: longer ones than three letters also within a word, short
    ones are in too many that have nothing to do with them."""
    return any(
        word == keyword or (len(keyword) > 3 and keyword in word) for word in re.split(r"[^\w]+", said)
    )


def digest(corpus_root: Path, keyword: str) -> str:
    """Of the `recordings`: names and bytes."""
    found = hashlib.sha256()
    for speaker, paths in recordings(corpus_root, keyword).items():
        for path in paths:
            found.update(f"{speaker}/{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()


def recorded(corpus_root: Path, keyword: str) -> dict[str, np.ndarray]:
    """Speaker -> (samples,) int16, all `recordings` one after another. One that cannot be used is a `CorpusError`."""

    def read_one(path: Path) -> np.ndarray:
        try:
            return data.read_clip(path)
        except data.CorpusError as error:
            raise data.CorpusError(f"{path}: {error}") from None

    of = recordings(corpus_root, keyword)
    return {speaker: np.concatenate([read_one(path) for path in paths]) for speaker, paths in of.items()}


def _utterance(espeak, keyword, speaker, seed) -> np.ndarray:
    generator = np.random.default_rng([*seed, 23])
    said = sentence(espeak, keyword, generator)
    rate_wpm = speaker.rate_wpm * generator.uniform(0.9, 1.25)
    pitch = speaker.pitch + generator.uniform(-8, 8)
    spoken = synth.speak(espeak, said, speaker.voice, rate_wpm, pitch, speaker.pitch_range)
    spoken = _resample(spoken, speaker.stretch)
    room = np.fft.irfft(synth.room_response(generator))
    size = 1 << (len(spoken) + len(room)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(spoken, size) * np.fft.rfft(room, size), size)[: len(spoken) + 4000]
    level = 10 ** (generator.uniform(-12, -1) / 20) / max(np.abs(wet).max(), 1e-6)
    pause = np.zeros(round(generator.uniform(*PAUSE_S) * synth.SAMPLE_RATE_HZ))
    return np.round(32767 * np.concatenate([wet * level, pause])).astype(np.int16)


def _resample(spoken: np.ndarray, stretch: float) -> np.ndarray:
    """As `synth.resample`, of any length."""
    blocks = -(-len(spoken) // 441)  # 441 samples of 22,050 Hz last as long as 320 of 16 kHz
    size = round(320 * blocks * stretch / 2) * 2
    spectrum = np.fft.rfft(spoken, 441 * blocks)[: size // 2 + 1]
    return np.fft.irfft(spectrum, size) * (size / (441 * blocks))


def sentence(espeak: tuple[str, str], keyword: str, generator: np.random.Generator) -> str:
    """8 to 16 words, none of which, alone or with its neighbours, holds the keyword's sound."""
    makers = (_common, _made_up, _near_miss)
    for _ in range(20):
        kinds = generator.choice(3, generator.integers(8, 17), p=[0.55, 0.25, 0.2])
        said = " ".join(makers[kind](keyword, generator) for kind in kinds) + generator.choice(
            [".", "?", "!"]
        )
        unwanted, sound = phonemes(espeak, [keyword, said])
        if keyword not in said.replace(" ", "") and unwanted not in sound:
            return said
    raise ValueError(f"no sentence without the sound of {keyword!r}")


def _common(keyword: str, generator: np.random.Generator) -> str:
    return str(generator.choice(COMMON))


def _made_up(keyword: str, generator: np.random.Generator) -> str:
    return "".join(
        str(generator.choice(ONSETS)) + str(generator.choice(NUCLEI)) + str(generator.choice(CODAS))
        for _ in range(generator.integers(1, 4))
    )


def _near_miss(keyword: str, generator: np.random.Generator) -> str:
    """The keyword with one or two letters replaced, dropped or doubled by another."""
    letters = list(keyword)
    for _ in range(generator.integers(1, 3)):
        at = generator.integers(len(letters))
        new = str(generator.choice(list("abdefghiklmnoprstuvy")))
        letters[at] = (new, "", letters[at] + new)[generator.integers(3)]
        letters = list("".join(letters)) or [new]
    return "".join(letters)


def phonemes(espeak: tuple[str, str], texts: list[str]) -> list[str]:
    """espeak-ng's phonemes of each text in American English, without stress, length and pauses."""
    library, folder = espeak
    engine = ctypes.CDLL(library)
    found = []
    try:
        with chdir(folder):
            engine.espeak_Initialize(2, 0, b".", 0x8000)
            engine.espeak_SetVoiceByName(b"en-us")
            engine.espeak_TextToPhonemes.restype = ctypes.c_char_p
            for text in texts:
                at, sound = ctypes.c_char_p(text.encode()), b""
                pointer = ctypes.pointer(at)
                while at.value:
                    sound += engine.espeak_TextToPhonemes(pointer, 1, 0) or b""
                found.append("".join(c for c in sound.decode() if c.isalpha() or c in "@#0"))
            engine.espeak_Terminate()
    finally:
        dlclose(engine._handle)
    return found
