"""Running speech without the keyword: what single words do not prepare a network for."""

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
from scipy.io import wavfile

from . import audio, data, index, synth
from . import espeak as engine

SENTENCES = 82  # that each of ten speakers reads: an hour in all


@dataclass(frozen=True)
class Talk:
    """All recordings of each speaker, joined; `digest` is the SHA-256 of all."""

    speakers: dict[str, np.ndarray]  # name -> (samples,) int16
    digest: str


def find(corpus_root: Path, folder: str) -> Path | None:
    """The folder of that name beside a corpus, such as `talk` or `continuous_speech`."""
    path = Path(corpus_root).parent / folder
    return path if path.is_dir() else None


def holds(text: str, keyword: str) -> bool:
    """Whether words of a text are the keyword or made from it: its plural, or with an ending or a
    beginning where it has more than three letters. Words are compared, not letters within them."""
    text, keyword = (normalize("NFC", one).casefold() for one in (text, keyword))
    forms = []
    for word in re.findall(r"\w+", keyword):
        made_from_it = rf"(?:\w*{word}|{word}\w*|{re.sub('y$', 'i', word)}\w*)"
        forms.append(made_from_it if len(word) > 3 else word + "s?" * (len(word) == 3))
    wanted = r"\W+".join(forms)
    return bool(wanted) and re.search(rf"\b{wanted}\b", text) is not None


def deal_groups(speakers: dict[str, np.ndarray], groups: int) -> list[dict]:
    """Speakers' talk in groups. Where speakers are fewer, each group has a stretch of everybody."""
    if len(speakers) < groups:
        cut = {name: np.array_split(samples, groups) for name, samples in speakers.items()}
        return [{name: pieces[n] for name, pieces in cut.items()} for n in range(groups)]
    group_of = data.deal(speakers, groups)
    return [{k: v for k, v in speakers.items() if group_of[k] == n} for n in range(groups)]


def recordings(folder: Path, keyword: str, most: int | None = None) -> Talk:
    """Talk in `SPEAKER/NAME.flac` (or .wav, .ogg..), or as LibriSpeech is unpacked. A recording is
    left out if its line of `transcripts.txt` or `*.trans.txt`, `NAME WORDS..`, holds the keyword.
    most: recordings of each speaker. `AudioError` if nothing is left."""
    folder, said, pieces, rejected, untold = Path(folder), {}, {}, [], 0
    chapters = list(folder.rglob("*.trans.txt"))  # in LibriSpeech's SPEAKER/CHAPTER
    for path in [*folder.rglob("transcripts.txt"), *chapters]:
        for line in path.read_text("utf-8-sig", errors="replace").splitlines():
            name, _, words = line.strip().partition(" ")
            said[path.parent, name.casefold()] = words
    digest, read_as_librispeech = hashlib.sha256(b"2"), {path.parent for path in chapters}
    for path in sorted(filter(index.is_recording, folder.rglob("*"))):
        name = path.relative_to(folder)
        speaker = path.parts[-3] if path.parent in read_as_librispeech else name.parts[0]
        keys = [(place, key.casefold()) for place in path.parents for key in (path.name, path.stem)]
        words = next((said[key] for key in keys if key in said), None)
        if holds(words or "", keyword) or len(pieces.get(speaker, [])) == most:
            continue
        untold += words is None
        digest.update(f"{name.as_posix()} {speaker}\n".encode() + path.read_bytes())
        try:
            if path.parent == folder:
                raise audio.AudioError("lies in no speaker's folder")
            pieces.setdefault(speaker, []).append(audio.read_clip(path))
        except audio.AudioError as error:
            rejected.append((str(name), str(error)))
    why = f"; {index.why(rejected)}" if rejected else ""
    speakers = {speaker: np.concatenate(some) for speaker, some in pieces.items() if some}
    if not speakers:
        raise audio.AudioError(f"no recording in {folder} is usable talk without {keyword!r}{why}")
    if rejected or untold:
        print(f"{folder}: {untold} recordings have no transcript{why}", file=sys.stderr)
    return Talk(speakers, digest.hexdigest())


def cut(folder: Path, corpus: Path) -> int:
    """Writes every second of recorded talk as a clip of the word `talk` into a corpus, for who has
    no recordings of other words; returns how many."""
    (corpus / "talk").mkdir(parents=True, exist_ok=True)
    speakers = recordings(folder, "").speakers
    for name, samples in speakers.items():
        for second, clip in enumerate(samples[: len(samples) // 16000 * 16000].reshape(-1, 16000)):
            path = corpus / "talk" / f"{name.replace('_nohash_', '_')}_nohash_{second}.wav"
            wavfile.write(path, audio.SAMPLE_RATE_HZ, clip)
    return sum(len(samples) // 16000 for samples in speakers.values())


def espeak(keyword: str, minutes: float) -> Talk:
    """About so many minutes, read by ten speakers whose voices say no clip of a corpus."""

    def write(folder: Path) -> None:
        list(engine.run(_read_aloud, [(folder / one.name, one) for one in synth.talkers()]))

    folder = data.make_folder("espeak", 200_000_000, write, [synth.VERSION, SENTENCES])
    return recordings(folder, keyword, max(1, round(SENTENCES * minutes / 60)))


def _read_aloud(folder: Path, talker: synth.Speaker) -> None:
    """Writes sentences of 8 to 16 words, a recording each, and what is said."""
    folder.mkdir()
    lines, generator = [], np.random.default_rng(talker.number)
    for number in range(SENTENCES):
        said = " ".join(generator.choice(synth.LISTS["talk"], generator.integers(8, 17)))
        spoken = talker.say(said + generator.choice([".", "?", "!"]), generator)
        pause = round(generator.uniform(0.1, 0.8) * audio.SAMPLE_RATE_HZ)
        recorded = synth.record(np.pad(spoken, (0, pause)), generator)
        wavfile.write(folder / f"{number:03d}.wav", audio.SAMPLE_RATE_HZ, recorded)
        lines.append(f"{number:03d} {said}\n")
    (folder / "transcripts.txt").write_text("".join(lines), "utf-8")
