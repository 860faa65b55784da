"""Running speech without the keyword: what single words do not prepare a network for.

`recordings` reads a folder of recorded talk. `espeak` has sentences read by espeak-ng, of common
words and near misses of the keyword, and keeps them in `espeak/` of the data folder.
"""

import functools
import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

from . import audio, data, files, index, synth
from . import espeak as engine

VERSION = 2  # raise it with every change that changes the talk
PAUSE_S = (0.1, 0.8)  # between sentences


@dataclass(frozen=True)
class Talk:
    """speakers: name -> (samples,) int16, all recordings joined; rejected: (path, reason);
    without_transcript: recordings taken to be free of the keyword; digest: SHA-256 of all."""

    speakers: dict[str, np.ndarray]
    rejected: list[tuple[str, str]]
    without_transcript: int
    digest: str


def find(corpus_root: Path, folder: str) -> Path | None:
    """The folder of that name beside a corpus, such as `talk` or `continuous_speech`."""
    path = Path(corpus_root).parent / folder
    return path if path.is_dir() else None


def holds(text: str, keyword: str) -> bool:
    """Whether words of a text are the keyword or made from it: its plural, or with an ending or a
    beginning where it has more than three letters. Words are compared, not letters within them."""
    wanted, said = (re.findall(r"\w+", normalize("NFC", t).casefold()) for t in (keyword, text))
    places = range(len(said) - len(wanted) + 1) if wanted else ()
    return any(all(map(_is_made_from, said[at:], wanted)) for at in places)


def _is_made_from(word: str, root: str) -> bool:
    stem = re.sub("y$", "i", root)
    is_longer = len(root) > 3 and (word.startswith((root, stem)) or word.endswith(root))
    return word == root or is_longer or (len(root) > 2 and word == root + "s")


def deal_groups(speakers: dict[str, np.ndarray], groups: int) -> list[dict]:
    """Talk dealt by speaker: name -> samples for each group. Of fewer speakers than groups each
    one's talk is cut into as many stretches, and the groups share voices."""
    if len(speakers) >= groups:
        group_of = data.deal(speakers, groups)
    else:
        cut = {name: np.array_split(samples, groups) for name, samples in speakers.items()}
        group_of = {(name, n): n for name in cut for n in range(groups)}
        speakers = {(name, n): cut[name][n] for name, n in group_of}
    return [{k: v for k, v in speakers.items() if group_of[k] == n} for n in range(groups)]


def recordings(folder: Path, keyword: str) -> Talk:
    """Talk in `SPEAKER/NAME.flac` (or .wav, .ogg..), or as LibriSpeech is unpacked. A recording is
    left out if its line of `transcripts.txt` or `*.trans.txt`, `NAME WORDS..`, holds the keyword.
    `AudioError` if nothing is left."""
    folder, pieces, rejected, unknown = Path(folder), {}, [], 0
    said, digest = _transcripts(folder), hashlib.sha256(str(VERSION).encode())
    for path in sorted(filter(index.is_recording, folder.rglob("*"))):
        keys = [(place, key.casefold()) for place in path.parents for key in (path.name, path.stem)]
        words = next((said[key] for key in keys if key in said), None)
        if words is not None and holds(words, keyword):
            continue
        unknown += words is None
        name, speaker = path.relative_to(folder).as_posix(), _speaker(folder, path)
        digest.update(f"{name} {speaker}\n".encode() + path.read_bytes())
        try:
            if not speaker:
                raise audio.AudioError("lies in no speaker's folder")
            pieces.setdefault(speaker, []).append(audio.read_clip(path))
        except audio.AudioError as error:
            rejected.append((name, str(error)))
    speakers = {speaker: np.concatenate(some) for speaker, some in pieces.items() if some}
    if not speakers:
        why = f"; {index.why(rejected)}" if rejected else ""
        raise audio.AudioError(f"no recording in {folder} is usable talk without {keyword!r}{why}")
    return Talk(speakers, rejected, unknown, digest.hexdigest())


def _speaker(folder: Path, path: Path) -> str:
    """The outermost folder; of LibriSpeech's SPEAKER/CHAPTER/NAME, the inner but one."""
    if any(path.parent.glob("*.trans.txt")):
        return path.parent.parent.name
    speaker, *inside = path.relative_to(folder).parts
    return speaker if inside else ""


def _transcripts(folder: Path) -> dict[tuple[Path, str], str]:
    """(folder of the transcript, name of the recording) -> what is said."""
    said = {}
    for path in [*folder.rglob("transcripts.txt"), *folder.rglob("*.trans.txt")]:
        for line in path.read_text("utf-8-sig", errors="replace").splitlines():
            name, _, words = line.strip().partition(" ")
            said[path.parent, name.casefold()] = words
    return said


def espeak(keyword: str, minutes: float, speakers: int = 10) -> Talk:
    """So many minutes in all, read by speakers whose voices say no clip of the embedded corpus.
    `ValueError` if espeak-ng cannot do without the keyword."""
    recipe = [VERSION, synth.recipe(), keyword, minutes, speakers]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    path, talkers = data.ROOT / "espeak" / f"{digest[:16]}.npz", synth.talkers(speakers)
    try:
        with np.load(path) as kept:
            spoken = {speaker.name: kept[f"of {speaker.name}"] for speaker in talkers}
    except (
        OSError,
        ValueError,
        LookupError,
        EOFError,
        zipfile.BadZipFile,
    ):  # not there, or damaged
        samples = round(minutes * 60 * audio.SAMPLE_RATE_HZ / speakers)
        read = engine.run(_read_aloud, [(keyword, speaker, samples) for speaker in talkers])
        spoken = dict(zip([speaker.name for speaker in talkers], read, strict=True))
        np.savez(file := io.BytesIO(), **{f"of {name}": voice for name, voice in spoken.items()})
        files.write_atomic(path, file.getvalue())
    return Talk(spoken, [], 0, digest)


def _read_aloud(keyword: str, speaker: synth.Speaker, samples: int) -> np.ndarray:
    """(samples,) int16, sentence after sentence, each in a room of its own."""
    from scipy.signal import fftconvolve

    generator, pieces = np.random.default_rng([*speaker.seed, 23]), []
    while sum(map(len, pieces)) < samples:
        spoken = speaker.say(sentence(keyword, generator), generator)
        wet = fftconvolve(spoken, np.fft.irfft(synth.room_response(generator)))
        level = 10 ** (generator.uniform(-12, -1) / 20) / max(np.abs(wet).max(), 1e-6)
        pause = np.zeros(round(generator.uniform(*PAUSE_S) * audio.SAMPLE_RATE_HZ))
        pieces += [audio.to_int16(wet * level), audio.to_int16(pause)]
    return np.concatenate(pieces)[:samples]


def sentence(keyword: str, generator: np.random.Generator) -> str:
    """8 to 16 words, none of which is the keyword, is made from it, or sounds like it."""
    for _ in range(30):
        words = generator.choice(synth.words()["common"], generator.integers(8, 17)).tolist()
        near = [near_miss(keyword, generator) if generator.random() < 0.3 else w for w in words]
        said = " ".join(near)
        if not holds(said, keyword) and not _sounds(keyword) & set(engine.phonemes(said)):
            return said + str(generator.choice([".", "?", "!"]))
    raise ValueError(f"espeak-ng says no sentence without {keyword!r}; record talk, and see --talk")


@functools.cache
def _sounds(keyword: str) -> set[str]:
    return set(engine.phonemes(keyword)) - {""}


def near_miss(keyword: str, generator: np.random.Generator) -> str:
    """The keyword with one or two letters replaced, dropped or followed by another."""
    letters = list(keyword)
    for _ in range(generator.integers(1, 3)):
        at, new = generator.integers(len(letters)), str(generator.choice([*"abdefghiklmnoprstuvy"]))
        letters[at] = (new, "", letters[at] + new)[generator.integers(3)]
        letters = list("".join(letters)) or [new]
    return "".join(letters)
