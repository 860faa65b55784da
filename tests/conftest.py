"""A corpus of synthesised tones in Speech Commands layout; a data folder outside the checkout."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

from kwslib import data

torch.set_num_threads(1)
# The same examples every time, nothing kept in the checkout, no time limit on a busy machine.
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=60
)
settings.load_profile("repeatable")

TONES_HZ = {"sheila": (900, 1800), "cat": (300, 300), "dog": (1800, 900), "go": (500, 400)}
TONES_HZ |= {"stop": (2500, 2500)}
SPEAKERS = {"train": 16, "validation": 4, "test": 4}


@pytest.fixture(scope="session", autouse=True)
def data_root(tmp_path_factory):
    """Indexes and downloads land here, never in the checkout; also in started processes."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("data")
        patch.setattr(data, "ROOT", root)
        patch.setenv("KWS_DATA", str(root))
        yield root


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory, write_wav):
    """Five words (a rising tone is the keyword, sheila) by 24 speakers, who fall into all official
    parts and all folds. Some clips are short, some FLAC; two background recordings of 3 s."""
    root, generator = tmp_path_factory.mktemp("corpora") / "tiny", np.random.default_rng(0)
    for word, ends_hz in TONES_HZ.items():
        for number, speaker in enumerate(_speakers()):
            clip = _tone(ends_hz, 16000 if number % 6 else 14000, generator)
            suffix = "wav" if number % 8 else "flac"
            write_wav(root / word / f"{speaker}_nohash_0.{suffix}", clip)
    for name in ("rain", "fan"):
        write_wav(root / "_background_noise_" / f"{name}.wav", generator.normal(0, 0.05, 48000))
    return root


@pytest.fixture(scope="session")
def corpus(tiny_corpus, data_root):
    """The tiny corpus, indexed."""
    return data.load(tiny_corpus)


@pytest.fixture(scope="session")
def write_wav():
    """write_wav(path, samples, rate): a PCM16 recording, WAV or FLAC, its folder made."""

    def write(path, samples, rate_hz=16000):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.asarray(samples), rate_hz, subtype="PCM_16")
        return path

    return write


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data folder of this test's own."""
    monkeypatch.setattr(data, "ROOT", tmp_path / "data")
    return tmp_path / "data"


def _speakers() -> list[str]:
    """The first names of the form 0000000a that fill the three parts."""
    names = [f"{number:08x}" for number in range(1000)]
    parts = {part: [n for n in names if data.official_part(n) == part] for part in SPEAKERS}
    return sorted(name for part, count in SPEAKERS.items() for name in parts[part][:count])


def _tone(ends_hz, samples, generator):
    """(samples,) a glide between two frequencies under a Hann envelope, in a little noise."""
    frequency_hz = np.linspace(*ends_hz, samples) * generator.uniform(0.95, 1.05)
    tone = np.sin(2 * np.pi * np.cumsum(frequency_hz) / 16000) * np.hanning(samples)
    return np.clip(generator.uniform(0.1, 0.5) * tone + generator.normal(0, 0.002, samples), -1, 1)
