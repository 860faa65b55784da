"""Corpora by name, and the folds in which networks are trained and tested on them.

A corpus is `embedded` (synthesised on the spot), `speech_commands_v0.01`, `speech_commands_v0.02`
(downloaded), or a folder's path. What is made goes to `data/`, or where KWS_DATA says.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path

import filelock
import numpy as np

from . import index, synth
from .index import Corpus, CorpusError

NAMES = ("embedded", "speech_commands_v0.01", "speech_commands_v0.02")
SPLITS = ("speaker", "folds", "utterance")
FOLDS = 5
ROOT = Path(os.environ.get("KWS_DATA") or Path(__file__).parent.parent / "data")
Fold = namedtuple("Fold", "train test")  # positions of clips


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


def deal(speakers, groups: int) -> dict[str, int]:
    """Speaker -> group, dealt round in the order of the SHA-1: even groups of few speakers."""
    return {name: n % groups for n, name in enumerate(sorted(set(speakers), key=_sha1))}


def split(corpus: Corpus, keyword: str, how: str = "speaker", seed: int = 0) -> list[Fold]:
    """One fold that tests on the official test part ('speaker'), `FOLDS` that test on speakers by
    `fold_of` ('folds'), or one of 80/20 at random, speakers shared ('utterance'). `CorpusError` if
    a part lacks the keyword or other words, or if speakers cannot be kept apart."""
    labels = corpus.labels(keyword)
    if how not in SPLITS:
        raise CorpusError(f"split is {how!r}; it must be one of {', '.join(SPLITS)}")
    if how == "utterance":
        order = np.random.default_rng(seed).permutation(len(corpus))
        group, tested = order >= round(0.8 * len(corpus)), [True]
    elif count := np.sum(corpus.speakers == ""):
        problem = f"{count} of {len(corpus)} names state no speaker (SPEAKER_nohash_N)"
        raise CorpusError(f"{problem} to keep apart; use --split utterance")
    else:
        rule, tested = (official_part, ["test"]) if how == "speaker" else (fold_of, range(FOLDS))
        group = np.array([rule(name) for name in corpus.speakers])
    folds = [Fold(np.flatnonzero(group != one), np.flatnonzero(group == one)) for one in tested]
    for part, clips in (pair for fold in folds for pair in fold._asdict().items()):
        if not 0 < labels[clips].sum() < len(clips):
            problem = f"the {part} part of {corpus.name} has {labels[clips].sum()} clips of"
            raise CorpusError(f"{problem} {keyword!r} among {len(clips)}; it needs both kinds")
    return folds


def name_of(corpus: str) -> str:
    """The name of a corpus: its own, or that of its folder, wherever that lies."""
    return corpus if corpus in NAMES else Path(corpus).expanduser().resolve().name


def load(corpus: str | Path) -> Corpus:
    """The corpus of this name or path, made, downloaded or indexed first if need be."""
    name, root = str(corpus), Path(corpus).expanduser()
    if name == "embedded":
        speak = partial(synth.make, fold_of=fold_of, official_part=official_part)
        root = make_folder(name, 300_000_000, speak, [synth.VERSION])
    elif root.is_dir() and name in NAMES:
        print(f"{root.resolve()} is there: nothing is downloaded", file=sys.stderr)
    elif name in NAMES:
        root = make_folder(name, 6_000_000_000, _download) / "SpeechCommands" / name
    elif not root.is_dir():
        raise CorpusError(f"no folder {name!r}; a corpus is {', '.join(NAMES)}, or a folder's path")
    root = root.resolve()
    place = f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
    with _making():
        loaded = index.open_index(root, ROOT / "index" / place)
    if loaded.rejected:
        print(f"{root.name}: {index.why(loaded.rejected)}; see kws corpus", file=sys.stderr)
    if unnamed := np.sum(loaded.speakers == ""):
        print(f"{root.name}: {unnamed} of {len(loaded)} names state no speaker", file=sys.stderr)
    return loaded


def make_folder(name: str, needed_bytes: int, write, recipe: list | None = None) -> Path:
    """A folder below `ROOT`, which `write` fills where there is none, or one of another recipe."""
    root, note = ROOT / name, ROOT / name / "recipe.json"
    with _making():
        with contextlib.suppress(OSError, ValueError):
            if root.is_dir() and (not recipe or json.loads(note.read_text("utf-8")) == recipe):
                return root
        with index.replace_folder(root, needed_bytes) as staging:
            write(staging)
            (staging / note.name).write_text(json.dumps(recipe), "utf-8")
    return root


@contextlib.contextmanager
def _making():
    """One process at a time makes, downloads or indexes; the others wait, and say for whom."""
    lock, maker = filelock.FileLock(ROOT / ".lock"), ROOT / ".maker"
    try:
        ROOT.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=2)
        except filelock.Timeout:
            print(f"waiting for process {maker.read_text()}, which fills {ROOT}", file=sys.stderr)
            lock.acquire()
        maker.write_text(str(os.getpid()))
        for left in [*ROOT.glob(".making-*"), *ROOT.glob("index/.making-*")]:  # of killed ones
            shutil.rmtree(left, ignore_errors=True)
        yield
    except OSError as error:
        problem = f"{error.filename or ROOT}: {error.strerror or error}"
        raise CorpusError(f"{problem}; KWS_DATA names another folder than {ROOT}") from None
    finally:
        lock.release()


def _download(folder: Path) -> None:
    """Speech Commands by torchaudio's downloader, which verifies a checksum."""
    from torchaudio.datasets import SPEECHCOMMANDS

    try:
        SPEECHCOMMANDS(str(folder), url=folder.name, download=True)
    except (OSError, RuntimeError) as error:  # no network; a bad checksum
        remedy = f"try again, or unpack {folder.name}.tar.gz into a folder {folder.name} here"
        raise CorpusError(f"no download ({error}); {remedy}") from None
    (folder / f"{folder.name}.tar.gz").unlink(missing_ok=True)
