"""Corpora in Speech Commands layout: indexed once, clips in an int16 memory map, splits, batches.

A corpus is a folder `WORD/SPEAKER_nohash_N.wav` (or .flac), 16 kHz mono clips of at most a second,
with an optional `_background_noise_/` of longer recordings. Its name is `embedded` (synthesised on
the spot), `speech_commands_v0.01`, `speech_commands_v0.02` (downloaded), or the folder's path.
Shorter clips are padded with zeros at the end. What cannot be used is listed with its reason, never
silently dropped. The index lives in `data/index/`; it is made again when a file changes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import wave
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE_HZ = 16000
CLIP_SAMPLES = 16000
BACKGROUND = "_background_noise_"
DOWNLOADS = ("speech_commands_v0.01", "speech_commands_v0.02")
NAMES = ("embedded", *DOWNLOADS)
SPLITS = ("speaker", "utterance")
ROOT = Path(os.environ.get("KWS_DATA") or Path(__file__).parent.parent / "data")

_INDEX_VERSION = 3
_NOISE = "noise "  # before a background recording's name: savez has arguments of its own
_MAX_CLIPS_PER_WORD = 2**27 - 1  # of the official split rule
_CLIP_NAME = re.compile(r"(?P<speaker>.+)_nohash_(?P<number>\d+)")


class CorpusError(ValueError):
    """A corpus that cannot be used; the message is one line and says what to do."""


@dataclass(frozen=True)
class Corpus:
    """An indexed corpus. Arrays run over clips, sorted by id."""

    name: str
    root: Path
    digest: str  # SHA-256 over ids, samples and background: what a result depends on
    ids: np.ndarray  # (clips,) 'WORD/SPEAKER_nohash_N'
    words: np.ndarray  # (clips,)
    speakers: np.ndarray  # (clips,)
    lengths: np.ndarray  # (clips,) samples before padding
    clips: np.ndarray  # (clips, samples) int16, memory-mapped
    background: dict[str, np.ndarray]  # name -> (samples,) int16
    rejected: list[tuple[str, str]]  # (path, reason)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hours(self) -> float:
        return float(self.lengths.sum()) / SAMPLE_RATE_HZ / 3600

    def word_counts(self) -> dict[str, int]:
        """Clips of each word, the most frequent first."""
        return dict(Counter(self.words.tolist()).most_common())

    def labels(self, keyword: str) -> np.ndarray:
        """(clips,) int64: 1 where the clip is the keyword. An unknown keyword is a `CorpusError`."""
        labels = (self.words == keyword).astype(np.int64)
        if not labels.any():
            have = ", ".join(sorted(self.word_counts()))
            raise CorpusError(f"no clip of keyword {keyword!r} in {self.name}; it has: {have}")
        return labels

    def waveforms(self, clips: np.ndarray) -> np.ndarray:
        """(batch, samples) float32 from -1 to 1 of the clips at these positions."""
        return self.clips[clips].astype(np.float32) / 32768


def official_part(speaker: str) -> str:
    """'train', 'validation' or 'test' by Speech Commands' rule: the SHA-1 of the speaker's name,
    10 % each for validation and test, so that a speaker never moves (Warden, arXiv 1804.03209)."""
    value = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (_MAX_CLIPS_PER_WORD + 1)
    percentage = value * (100.0 / _MAX_CLIPS_PER_WORD)
    return "validation" if percentage < 10 else "test" if percentage < 20 else "train"


def split(corpus: Corpus, keyword: str, how: str = "speaker", seed: int = 0) -> dict[str, np.ndarray]:
    """Positions of the clips of each part.

    `speaker`: the official rule, parts train, validation, test, no speaker in two of them.
    `utterance`: the reference study's, 80/20 of the clips at random, parts train and validation,
    speakers shared. Every part must hold the keyword and other words, else `CorpusError`.
    """
    labels = corpus.labels(keyword)
    if how == "speaker":
        of_clip = np.array([official_part(speaker) for speaker in corpus.speakers])
        parts = {part: np.flatnonzero(of_clip == part) for part in ("train", "validation", "test")}
    elif how == "utterance":
        order = np.random.default_rng(seed).permutation(len(corpus))
        cut = round(0.8 * len(corpus))
        parts = {"train": np.sort(order[:cut]), "validation": np.sort(order[cut:])}
    else:
        raise CorpusError(f"split is {how!r}; it must be one of {', '.join(SPLITS)}")
    for part, clips in parts.items():
        positives = int(labels[clips].sum())
        if positives == 0 or positives == len(clips):
            raise CorpusError(
                f"the {part} part of {corpus.name} has {positives} clips of {keyword!r} among "
                f"{len(clips)}; both the keyword and other words are needed in every part"
            )
    return parts


def balanced_batches(
    labels: np.ndarray, batch_size: int, batches: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Positions into `labels`, (batch,) at a time: drawn with replacement, both classes as likely."""
    classes = [np.flatnonzero(labels == value) for value in (0, 1)]
    for _ in range(batches):
        positive = generator.random(batch_size) < 0.5
        place = generator.random(batch_size)
        sizes = np.where(positive, len(classes[1]), len(classes[0]))
        within = (place * sizes).astype(np.int64)
        yield np.where(
            positive,
            classes[1][np.minimum(within, len(classes[1]) - 1)],
            classes[0][np.minimum(within, len(classes[0]) - 1)],
        )


def load(corpus: str | Path, progress: bool = True) -> Corpus:
    """The corpus of this name or path: made, downloaded or indexed first where that is needed."""
    name = str(corpus)
    if name not in NAMES and not Path(name).expanduser().is_dir():
        raise CorpusError(f"no folder {name!r}; a corpus is {', '.join(NAMES)}, or the path of a folder")
    with _making():
        if name == "embedded":
            root = _embedded(progress)
        elif name in DOWNLOADS:
            root = _downloaded(name)
        else:
            root = Path(name).expanduser().resolve()
        return _open(name_of(name), root, progress)


def name_of(corpus: str) -> str:
    """The name of a corpus: its own, or that of its folder, wherever that lies."""
    return corpus if corpus in NAMES else Path(corpus).expanduser().resolve().name


@contextlib.contextmanager
def _making():
    """One process at a time makes, downloads or indexes; the others wait and find it done."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with open(ROOT / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in [*ROOT.glob(".making-*"), *ROOT.glob("index/.making-*")]:  # by a killed process
            shutil.rmtree(left, ignore_errors=True)
        yield


def read_clip(path: Path) -> np.ndarray:
    """(samples,) int16 of a 16 kHz mono recording of any length; `CorpusError` says what is wrong."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate, is_float = file.samplerate, file.subtype in ("FLOAT", "DOUBLE")
            samples = file.read(dtype="float64" if is_float else "int16", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise CorpusError(f"not readable as audio ({type(error).__name__})") from None
    if samples.shape[1] != 1:
        raise CorpusError(f"{samples.shape[1]} channels, not 1")
    if rate != SAMPLE_RATE_HZ:
        raise CorpusError(f"{rate} Hz, not {SAMPLE_RATE_HZ}")
    if len(samples) == 0:
        raise CorpusError("empty")
    if len(samples) < promised_samples(path):
        raise CorpusError("cut off: shorter than its header says")
    if is_float:  # libsndfile does not scale floats to int16
        if not np.isfinite(samples).all():
            raise CorpusError("holds samples that are no numbers")
        samples = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    return samples[:, 0]


def promised_samples(path: Path) -> int:
    """Samples that a PCM WAV's header announces; libsndfile reads a cut-off one without complaint."""
    try:
        with wave.open(str(path)) as file:
            size = file.getnframes() * file.getnchannels() * file.getsampwidth()
            return 0 if size >= 0x7FFF0000 else file.getnframes()  # such sizes stand for 'not known yet'
    except (wave.Error, EOFError):
        return 0


def _embedded(progress: bool) -> Path:
    from . import synth

    root = ROOT / "embedded"
    recipe = root / "recipe.json"
    if recipe.is_file() and json.loads(recipe.read_text()) == synth.recipe():
        return root
    with _Replaced(root) as staging:
        synth.make(staging, progress=progress)
        (staging / "recipe.json").write_text(json.dumps(synth.recipe()))
    return root


def _downloaded(name: str) -> Path:
    """Speech Commands by torchaudio's downloader, checksum verified; complete or not there."""
    root = ROOT / name
    if root.is_dir():
        return root
    from torchaudio.datasets import SPEECHCOMMANDS

    try:
        with _Replaced(root) as staging:
            SPEECHCOMMANDS(str(staging), url=name, download=True)
            unpacked = staging / "SpeechCommands" / name
            for entry in list(unpacked.iterdir()):
                entry.rename(staging / entry.name)
            shutil.rmtree(staging / "SpeechCommands")
            for archive in staging.glob("*.tar.gz"):
                archive.unlink()
    except (OSError, RuntimeError) as error:  # URLError is an OSError, a bad checksum a RuntimeError
        raise CorpusError(
            f"could not download {name} ({error}); nothing was kept. Check the network and try "
            f"again, or unpack the archive yourself and name the folder"
        ) from None
    return root


class _Replaced:
    """A folder written beside `target` that takes its place only when the block ends well."""

    def __init__(self, target: Path):
        self.target = target

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.staging = Path(tempfile.mkdtemp(prefix=".making-", dir=self.target.parent))
        self.staging.chmod(0o755)
        return self.staging

    def __exit__(self, kind, *_):
        if kind is None:
            old = self.staging.with_name(self.staging.name + "-old")
            if self.target.exists():
                self.target.rename(old)
            self.staging.rename(self.target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            shutil.rmtree(self.staging, ignore_errors=True)


def _listing(root: Path) -> list[tuple[str, int, int]]:
    """(relative path, bytes, modification time) of every recording, sorted."""
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for entry in os.scandir(folder):
            if entry.name.lower().endswith((".wav", ".flac")) and entry.is_file():
                status = entry.stat()
                found.append((f"{folder.name}/{entry.name}", status.st_size, status.st_mtime_ns))
    return sorted(found)


def _open(name: str, root: Path, progress: bool) -> Corpus:
    listing = _listing(root)
    if not listing:
        raise CorpusError(f"no recordings in {root}; expected WORD/SPEAKER_nohash_N.wav or .flac")
    stamp = hashlib.sha256(json.dumps([_INDEX_VERSION, listing]).encode()).hexdigest()
    place = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    folder = ROOT / "index" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}-{place}"
    if not _is_current(folder, stamp):
        with _Replaced(folder) as staging:
            _index(root, listing, staging, stamp, progress)
    index = json.loads((folder / "index.json").read_text())
    with np.load(folder / "background.npz", allow_pickle=False) as background:
        noises = {key.removeprefix(_NOISE): background[key] for key in background.files}
    return Corpus(
        name=name,
        root=root,
        digest=index["digest"],
        ids=np.array(index["ids"]),
        words=np.array([i.split("/")[0] for i in index["ids"]]),
        speakers=np.array([_speaker(i) for i in index["ids"]]),
        lengths=np.array(index["lengths"], dtype=np.int64),
        clips=np.load(folder / "clips.npy", mmap_mode="r", allow_pickle=False),
        background=noises,
        rejected=[tuple(row) for row in index["rejected"]],
    )


def _is_current(folder: Path, stamp: str) -> bool:
    if not all((folder / name).is_file() for name in ("clips.npy", "background.npz")):
        return False
    try:
        return json.loads((folder / "index.json").read_text())["stamp"] == stamp
    except (OSError, KeyError, json.JSONDecodeError):
        return False


def _speaker(clip_id: str) -> str:
    stem = clip_id.split("/")[1]
    named = _CLIP_NAME.fullmatch(stem)
    return named["speaker"] if named else stem


def _index(root: Path, listing: list, staging: Path, stamp: str, progress: bool) -> None:
    """Reads every recording once; clips.npy, background.npz and index.json into `staging`."""
    from tqdm import tqdm

    words = [row[0] for row in listing if not row[0].startswith("_")]
    clips = np.lib.format.open_memmap(
        staging / "clips.npy", mode="w+", dtype=np.int16, shape=(max(len(words), 1), CLIP_SAMPLES)
    )
    ids, lengths, rejected, background = [], [], [], {}
    digest, read = hashlib.sha256(), set()
    bar = tqdm(listing, desc=f"index {root.name}", unit="clip", disable=None if progress else True)
    for path, *_ in bar:
        is_noise = path.startswith(BACKGROUND + "/")
        if path.startswith("_") and not is_noise:
            continue
        stem = path.rsplit(".", 1)[0]
        try:
            samples = read_clip(root / path)
            if not is_noise and len(samples) > CLIP_SAMPLES:
                raise CorpusError(f"{len(samples) / SAMPLE_RATE_HZ:.2f} s, longer than a second")
            if is_noise and len(samples) <= CLIP_SAMPLES:
                raise CorpusError("background recording of a second or less")
            if stem in read:
                raise CorpusError("stands twice, as .flac and as .wav")
        except CorpusError as error:
            rejected.append((path, str(error)))
            continue
        read.add(stem)
        digest.update(f"{stem}:{len(samples)}:".encode())
        digest.update(np.ascontiguousarray(samples).data)
        if is_noise:
            background[Path(stem).name] = samples
        else:
            clips[len(ids), : len(samples)] = samples
            ids.append(stem)
            lengths.append(len(samples))
    if not ids:
        reason = rejected[0][1] if rejected else "there is no folder of words"
        raise CorpusError(f"none of the {len(listing)} recordings in {root} can be used: {reason}")
    clips.flush()
    if len(ids) < len(clips):
        trimmed = np.array(clips[: len(ids)])
        np.save(staging / "trimmed.npy", trimmed)
        (staging / "trimmed.npy").replace(staging / "clips.npy")
    np.savez(staging / "background.npz", **{_NOISE + name: samples for name, samples in background.items()})
    index = {
        "stamp": stamp,
        "digest": digest.hexdigest(),
        "ids": ids,
        "lengths": lengths,
        "rejected": rejected,
    }
    (staging / "index.json").write_text(json.dumps(index))
