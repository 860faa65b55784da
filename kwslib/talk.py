"""Running speech without the keyword: what single words do not prepare a network for.

`recordings` reads a folder of recorded talk. `espeak` has espeak-ng read sentences of common words
into such a folder, `espeak` of the data folder, once.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

from . import audio, data, index, synth
from . import espeak as engine

VERSION = 2  # raise it with every change that changes the talk
MINUTES, FILES = 60, 82  # that ten speakers read in all, recordings of each
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


def recordings(folder: Path, keyword: str, files: int | None = None) -> Talk:
    """Talk in `SPEAKER/NAME.flac` (or .wav, .ogg..), or as LibriSpeech is unpacked. A recording is
    left out if its line of `transcripts.txt` or `*.trans.txt`, `NAME WORDS..`, holds the keyword.
    files: at most so many of each speaker. `AudioError` if nothing is left."""
    folder, pieces, rejected, unknown = Path(folder), {}, [], 0
    said, digest = _transcripts(folder), hashlib.sha256(str(VERSION).encode())
    for path in sorted(filter(index.is_recording, folder.rglob("*"))):
        keys = [(place, key.casefold()) for place in path.parents for key in (path.name, path.stem)]
        words = next((said[key] for key in keys if key in said), None)
        if words is not None and holds(words, keyword):
            continue
        name, speaker = path.relative_to(folder).as_posix(), _speaker(folder, path)
        if len(pieces.get(speaker, [])) == files:
            continue
        unknown += words is None
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


def espeak(keyword: str, minutes: float) -> Talk:
    """About so many minutes in all, read by ten speakers: the whole folder is `MINUTES`."""
    recipe = [synth.VERSION, FILES, MINUTES]
    folder = data.make_folder("espeak", recipe, 3 * 10**8, _read_aloud)
    return recordings(folder, keyword, max(1, round(FILES * minutes / MINUTES)))


def _read_aloud(folder: Path) -> None:
    jobs = [(folder / talker.name, talker) for talker in synth.talkers()]
    list(engine.run(_read_sentences, jobs))


def _read_sentences(folder: Path, talker: synth.Speaker) -> None:
    """Writes `FILES` recordings of a sentence, 8 to 16 words, and what is said."""
    folder.mkdir()
    lines, generator = [], np.random.default_rng(talker.seed)
    for number in range(FILES):
        said = " ".join(generator.choice(synth.words()["talk"], generator.integers(8, 17)))
        spoken = talker.say(said + generator.choice([".", "?", "!"]), generator)
        pause = round(generator.uniform(*PAUSE_S) * audio.SAMPLE_RATE_HZ)
        synth.write(
            folder / f"{number:03d}.wav", synth.record(np.pad(spoken, (0, pause)), generator)
        )
        lines.append(f"{number:03d} {said}\n")
    (folder / "transcripts.txt").write_text("".join(lines), "utf-8")
