"""An indexed corpus: all recordings of a folder, read once into one file.

The folder holds clips, `WORD/SPEAKER_nohash_N.wav`, and maybe longer `_background_noise_/NAME.wav`.
The index is `index.json` and `samples.int16`, all clips padded to a second, then the background.
"""

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
from tqdm import tqdm

from . import audio

CLIP_SAMPLES = 16000
BACKGROUND = "_background_noise_"
NO_SOUND = ("", ".txt", ".md", ".json", ".csv", ".tsv", ".html", ".pdf", ".yaml", ".yml", ".py")
VERSION = 6


class CorpusError(ValueError):
    """A corpus that cannot be used; the message is one line and says what to do."""


@dataclass(frozen=True)
class Corpus:
    """Arrays run over clips, sorted by id. Names are in Unicode's form C."""

    name: str
    root: Path
    digest: str  # SHA-256 over ids, samples and background
    ids: np.ndarray  # (clips,) 'WORD/SPEAKER_nohash_N'
    words: np.ndarray  # (clips,)
    speakers: np.ndarray  # (clips,), '' where the name states none
    clips: np.ndarray  # (clips, samples) int16, memory-mapped
    background: dict[str, np.ndarray]  # name -> (samples,) int16
    rejected: list[tuple[str, str]]  # (path, reason)

    def __len__(self) -> int:
        return len(self.ids)

    def word_counts(self) -> dict[str, int]:
        """Clips of each word, the most frequent first."""
        return dict(Counter(self.words.tolist()).most_common())

    def labels(self, keyword: str) -> np.ndarray:
        """(clips,) int64: 1 where the clip is the keyword. `CorpusError` if no clip is."""
        keyword = normalize("NFC", keyword).strip()
        labels = (self.words == keyword).astype(np.int64)
        if not labels.any():
            bad = [row for row in self.rejected if row[0].startswith(f"{keyword}/")]
            have = why(bad) if bad else f"it has: {', '.join(sorted(self.word_counts()))}"
            raise CorpusError(f"no clip of keyword {keyword!r} in {self.name}; {have}")
        return labels


def is_recording(path: Path) -> bool:
    """Whether a file is to be read as sound: all are, save hidden ones, notes and the like."""
    return path.name[0] != "." and path.suffix.lower() not in NO_SOUND and path.is_file()


def why(rejected: list[tuple[str, str]]) -> str:
    """How many recordings were rejected, with the most common reason."""
    ((reason, count),) = Counter(reason for _, reason in rejected).most_common(1)
    first = next(path for path, given in rejected if given == reason)
    return f"recordings rejected: {len(rejected)} ({count} of them: {reason}; the first is {first})"


@contextlib.contextmanager
def replace_folder(target: Path, needed_bytes: int):
    """A folder to write in, which takes the place of `target` only if the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as temporary:
        if shutil.disk_usage(temporary).free < needed_bytes:
            raise OSError(28, f"no room for {needed_bytes / 1e6:,.1f} MB", str(target))
        staging = Path(temporary, target.name)
        staging.mkdir()
        yield staging
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)


def open_index(root: Path, folder: Path) -> Corpus:
    """The corpus below `root`, whose index is in `folder`, made if need be."""
    listing = []
    for path in filter(is_recording, [*root.glob("[!._]*/*"), *root.glob(f"{BACKGROUND}/*")]):
        word, name = (normalize("NFC", part) for part in path.parts[-2:])
        status, place = path.stat(), path.relative_to(root).as_posix()
        listing.append((f"{word.strip()}/{name}", place, status.st_size, status.st_mtime_ns))
    listing.sort()
    stamp = hashlib.sha256(json.dumps([VERSION, str(root), listing]).encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        return _read(root, folder, stamp)
    needed_bytes = sum(max(2 * CLIP_SAMPLES, row[2]) for row in listing)
    with replace_folder(folder, needed_bytes) as staging:
        _write(root, listing, staging, stamp)
    return _read(root, folder, stamp)


def _read(root: Path, folder: Path, stamp: str) -> Corpus:
    found = json.loads((folder / "index.json").read_text("utf-8"))
    ids, noises = found["ids"], found["background"]
    ends = np.cumsum([len(ids) * CLIP_SAMPLES, *noises.values()])
    samples = np.memmap(folder / "samples.int16", np.int16, "r")
    if found["stamp"] != stamp or len(samples) != ends[-1]:
        raise ValueError(f"the index {folder} is of other recordings, or damaged")
    clips, *pieces = np.split(samples, ends[:-1])
    words = [one.split("/")[0] for one in ids]
    named = [re.fullmatch(r"(.+)/(?:\1_)?(.+)_nohash_\d+", one) for one in ids]
    names = map(np.array, (ids, words, [match[2] if match else "" for match in named]))
    background = {n.split("/")[1]: piece for n, piece in zip(noises, pieces, strict=True)}
    arrays = *names, clips.reshape(-1, CLIP_SAMPLES), background
    return Corpus(root.name, root, found["digest"], *arrays, found["rejected"])


def _write(root: Path, listing: list, staging: Path, stamp: str) -> None:
    """Reads every recording once. Writes without a memory map: on a full disk that is killed."""
    ids, noises, rejected, digest = {}, {}, [], hashlib.sha256()
    with open(staging / "samples.int16", "wb") as file:
        for name, path, *_ in tqdm(listing, f"index {root.name}", unit="clip", disable=None):
            stem, is_noise = name.rsplit(".", 1)[0], name.startswith(BACKGROUND)
            try:
                samples = audio.read_clip(root / path, None if is_noise else CLIP_SAMPLES)
                if is_noise and len(samples) <= CLIP_SAMPLES:
                    raise audio.AudioError("background recording of a second or less")
                if stem in ids or stem in noises:
                    raise audio.AudioError("stands twice, in two formats")
            except audio.AudioError as error:
                rejected.append((name, str(error)))
                continue
            digest.update(f"{stem}:{len(samples)}:".encode() + samples.tobytes())
            if is_noise:
                noises[stem] = samples
            else:
                ids[stem] = None
                file.write(np.pad(samples, (0, CLIP_SAMPLES - len(samples))).tobytes())
        file.writelines(noises.values())
    if not ids:
        problem = why(rejected) if rejected else "no recordings"
        raise CorpusError(f"{root}: {problem}; a corpus has WORD/SPEAKER_nohash_N.wav or .flac")
    found = {"stamp": stamp, "digest": digest.hexdigest(), "ids": [*ids], "rejected": rejected}
    found["background"] = {stem: len(noise) for stem, noise in noises.items()}
    (staging / "index.json").write_text(json.dumps(found), "utf-8")
