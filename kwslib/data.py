"""Corpora in Speech Commands layout: indexed once, clips in an int16 memory map, folds.

A corpus is a folder `WORD/SPEAKER_nohash_N.wav`, 16 kHz mono clips of at most a second in any
format that soundfile reads, with an optional `_background_noise_/` of longer recordings. Its name
is `embedded` (synthesised on the spot), `speech_commands_v0.01`, `speech_commands_v0.02`
(downloaded), or the folder's path. Shorter clips are padded with zeros at the end. A clip that
cannot be used is listed with its reason. What is made goes to `data/`, or to the folder that the
variable KWS_DATA names; an index is made again when a clip changes.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import filelock
import numpy as np

from . import index, synth
from .audio import SAMPLE_RATE_HZ
from .index import CorpusError

CLIP_SAMPLES, BACKGROUND = index.CLIP_SAMPLES, index.BACKGROUND
DOWNLOADS = ("speech_commands_v0.01", "speech_commands_v0.02")
NAMES = ("embedded", *DOWNLOADS)
SPLITS = ("speaker", "folds", "utterance")
FOLDS = 5
ROOT = Path(os.environ.get("KWS_DATA") or Path(__file__).parent.parent / "data")


class Fold(NamedTuple):
    """Positions of the clips that train a network, and of those that test it."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """An indexed corpus. Arrays run over clips, sorted by id."""

    name: str
    root: Path
    digest: str  # SHA-256 over ids, samples and background
    ids: np.ndarray  # (clips,) 'WORD/SPEAKER_nohash_N'
    words: np.ndarray  # (clips,)
    speakers: np.ndarray  # (clips,), '' where the name states none
    lengths: np.ndarray  # (clips,) samples before padding
    clips: np.ndarray  # (clips, samples) int16, memory-mapped
    background: dict[str, np.ndarray]  # name -> (samples,) int16
    rejected: list[tuple[str, str]]  # (path, reason)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hours(self) -> float:
        return float(self.lengths.sum()) / SAMPLE_RATE_HZ / 3600

    @property
    def without_speaker(self) -> int:
        """Clips whose names state no speaker."""
        return int((self.speakers == "").sum())

    def word_counts(self) -> dict[str, int]:
        """Clips of each word, the most frequent first."""
        return dict(Counter(self.words.tolist()).most_common())

    def labels(self, keyword: str) -> np.ndarray:
        """(clips,) int64: 1 where the clip is the keyword. `CorpusError` if no clip is."""
        keyword = normalize("NFC", keyword).strip()
        labels = (self.words == keyword).astype(np.int64)
        if not labels.any():
            bad = [row for row in self.rejected if row[0].startswith(f"{keyword}/")]
            have = f"it has: {', '.join(sorted(self.word_counts()))}"
            if bad:
                have = f"{len(bad)} recordings of it were rejected: {index.common_reason(bad)}"
            raise CorpusError(f"no clip of keyword {keyword!r} in {self.name}; {have}")
        return labels


def _sha1(name: str) -> int:
    return int(hashlib.sha1(name.encode()).hexdigest(), 16)


def official_part(speaker: str) -> str:
    """'train', 'validation' or 'test' by Speech Commands' rule: the SHA-1 of the speaker's name,
    10 % each for validation and test (Warden, arXiv 1804.03209)."""
    percentage = _sha1(speaker) % 2**27 * (100.0 / (2**27 - 1))
    return "validation" if percentage < 10 else "test" if percentage < 20 else "train"


def fold_of(speaker: str) -> int:
    """The fold that tests on a speaker: the SHA-1 of the name, modulo `FOLDS`."""
    return _sha1(speaker) % FOLDS


def deal(speakers, groups: int = FOLDS) -> dict[str, int]:
    """Speaker -> group, dealt round in the order of the SHA-1: even groups of few speakers."""
    return {name: n % groups for n, name in enumerate(sorted(set(speakers), key=_sha1))}


def split(corpus: Corpus, keyword: str, how: str = "speaker", seed: int = 0) -> list[Fold]:
    """The folds in which networks are trained and tested.

    speaker: one, tested on the official test part, trained on all other clips
    folds: `FOLDS`, fold n tested on the speakers with `fold_of` n
    utterance: one, the study's 80/20 of the clips at random, speakers shared

    `CorpusError` if a part lacks the keyword or other words, or if speakers cannot be kept apart.
    """
    labels = corpus.labels(keyword)
    if how not in SPLITS:
        raise CorpusError(f"split is {how!r}; it must be one of {', '.join(SPLITS)}")
    if how != "utterance" and (count := corpus.without_speaker):
        raise CorpusError(
            f"{count} of {len(corpus)} names in {corpus.name} state no speaker "
            "(SPEAKER_nohash_N), so speakers cannot be kept apart; use --split utterance"
        )
    if how == "utterance":
        order = np.random.default_rng(seed).permutation(len(corpus))
        group, tested = order >= round(0.8 * len(corpus)), [True]
    elif how == "speaker":
        group, tested = np.array([official_part(name) for name in corpus.speakers]), ["test"]
    else:
        group, tested = np.array([fold_of(name) for name in corpus.speakers]), range(FOLDS)
    folds = [Fold(np.flatnonzero(group != one), np.flatnonzero(group == one)) for one in tested]
    for part, clips in (pair for fold in folds for pair in fold._asdict().items()):
        if not 0 < labels[clips].sum() < len(clips):
            raise CorpusError(
                f"the {part} part of {corpus.name} has {labels[clips].sum()} clips of {keyword!r} "
                f"among {len(clips)}; every part needs both the keyword and other words"
            )
    return folds


def name_of(corpus: str) -> str:
    """The name of a corpus: its own, or that of its folder, wherever that lies."""
    return corpus if corpus in NAMES else Path(corpus).expanduser().resolve().name


def load(corpus: str | Path, progress: bool = True) -> Corpus:
    """The corpus of this name or path, made, downloaded or indexed first if need be. `progress`:
    show bars, and count on standard error what was rejected."""
    name, root = str(corpus), Path(corpus).expanduser()
    is_there = name != "embedded" and root.is_dir()
    if name not in NAMES and not is_there:
        raise CorpusError(f"no folder {name!r}; a corpus is {', '.join(NAMES)}, or a folder's path")
    try:
        with _making():
            if not is_there:
                root = _embedded(progress) if name == "embedded" else _downloaded(name)
            root, short = root.resolve(), re.sub(r"[^A-Za-z0-9._-]", "_", name_of(name))
            place = hashlib.sha256(str(root).encode()).hexdigest()[:8]
            found = index.open_index(root, ROOT / "index" / f"{short}-{place}", progress)
    except OSError as error:
        raise CorpusError(
            f"{error.filename or ROOT}: {error.strerror or error}; what is made goes to {ROOT}, "
            "the variable KWS_DATA names another folder"
        ) from None
    words, speakers = zip(*map(_word_and_speaker, found.ids), strict=True)
    arrays = map(np.array, (found.ids, words, speakers))
    loaded = Corpus(name_of(name), root, found.digest, *arrays, *found[2:])
    bad, unnamed = loaded.rejected, loaded.without_speaker
    lines = {
        f"{root} is there: nothing is downloaded": is_there and name in NAMES,
        f"{len(bad)} recordings rejected ({index.common_reason(bad)}); see kws corpus": bad,
        f"{unnamed} of {len(loaded)} names state no speaker": unnamed,
    }
    for line in (line for line, applies in lines.items() if applies and progress):
        print(f"{loaded.name}: {line}", file=sys.stderr)
    return loaded


@contextlib.contextmanager
def _making():
    """One process at a time makes, downloads or indexes; the others wait, and say for whom."""
    ROOT.mkdir(parents=True, exist_ok=True)
    lock, maker = filelock.FileLock(ROOT / ".lock"), ROOT / ".maker"
    try:
        held = lock.acquire(timeout=2)
    except filelock.Timeout:
        other = maker.read_text() if maker.exists() else "?"
        print(f"waiting for process {other}, which makes a corpus in {ROOT}", file=sys.stderr)
        held = lock.acquire()
    with held:
        maker.write_text(str(os.getpid()))
        for left in [*ROOT.glob(".making-*"), *ROOT.glob("index/.making-*")]:  # of killed processes
            shutil.rmtree(left, ignore_errors=True)
        yield


def _embedded(progress: bool) -> Path:
    root = ROOT / "embedded"
    with contextlib.suppress(OSError, ValueError):
        if json.loads((root / "recipe.json").read_text("utf-8")) == synth.recipe():
            return root
    with index.replace_folder(root, synth.SIZE_BYTES) as staging:
        synth.make(staging, fold_of, official_part, progress=progress)
        (staging / "recipe.json").write_text(json.dumps(synth.recipe()), "utf-8")
    return root


def _downloaded(name: str) -> Path:
    """Speech Commands by torchaudio's downloader, checksum verified; complete or not there."""
    from torchaudio.datasets import SPEECHCOMMANDS

    root = ROOT / name
    if not root.is_dir():
        with index.replace_folder(root, 6 * 10**9) as staging:
            try:
                SPEECHCOMMANDS(str(staging), url=name, download=True)
            except (OSError, RuntimeError) as error:  # no network; a bad checksum
                raise CorpusError(
                    f"could not download {name} ({error}); nothing was kept. Try again, or unpack "
                    f"{name}.tar.gz into a folder {name} here, which is then used"
                ) from None
            (staging / f"{name}.tar.gz").unlink(missing_ok=True)
    return root / "SpeechCommands" / name


def _word_and_speaker(clip_id: str) -> tuple[str, str]:
    """The speaker is '' if the name states none. WORD_SPEAKER_nohash_N is read as well."""
    word, stem = clip_id.split("/")
    named = re.fullmatch(r"(.+)_nohash_\d+", stem.removeprefix(f"{word}_"))
    return word, named[1] if named else ""
