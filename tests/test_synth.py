import hashlib
import itertools
import re
import subprocess
import sys
from collections import Counter

import espeakng_loader
import filelock
import numpy as np
import pytest
from scipy.signal import welch

from kwslib import audio, data, espeak, synth

SPEAKERS = 6  # the fewest that fill all folds and the test part with one to spare


def make(root):
    synth.make(root, data.fold_of, data.official_part, SPEAKERS)
    paths = sorted(root.rglob("*.wav"))
    return {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).digest() for p in paths}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def made(root):
    return make(root)


def test_bytes_are_the_same_in_one_process_as_in_several(made, tmp_path, monkeypatch):
    monkeypatch.setattr(espeak, "run", itertools.starmap)
    assert make(tmp_path) == made and len(set(made.values())) == len(made)


def test_clips_are_a_second_in_speech_commands_layout(made, root):
    clips = [name for name in made if not name.startswith("_background_noise_")]
    assert len(clips) == len(made) - 3 == SPEAKERS * 21
    assert sum(name.startswith("sheila/") for name in clips) == SPEAKERS * 3
    for name in clips:
        samples = audio.read_clip(root / name)
        assert len(samples) == 16000 and np.abs(samples.astype(int)).max() > 1000
        assert re.fullmatch(r"\w+/[0-9a-f]{8}_nohash_\d\.wav", name)


def test_noises_differ_from_each_other_and_from_the_corpus_s(made, root):
    shares = []
    for name, noise in synth.noises(0.5, 0).items():
        corpus = audio.read_clip(root / "_background_noise_" / f"{name}.wav")
        assert noise.dtype == corpus.dtype and len(noise) == len(corpus) == 30 * 16000
        assert abs(np.corrcoef(noise, corpus)[0, 1]) < 0.1
        power = welch(noise.astype(float), nperseg=1024)[1][:512].reshape(8, -1).sum(1)
        shares.append(power / power.sum())
    assert len(shares) == 3
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(shares, 2)) > 0.1


def test_speakers_fill_folds_and_parts_and_no_voice_is_in_two():
    few, speakers = (synth.draw(n, data.fold_of, data.official_part) for n in (5, 100))
    places, voices = Counter(), {}
    assert few == speakers[:5] and len({one.name for one in speakers}) == 100
    for one in speakers:
        place = data.fold_of(one.name), data.official_part(one.name) == "test"
        places[place] += 1
        voices.setdefault(one.voice.split("+")[1], set()).add(place)
    assert places == {(fold, test): 4 if test else 16 for fold in range(5) for test in (0, 1)}
    assert all(len(found) == 1 for found in voices.values())
    assert not {one.voice.split("+")[1] for one in synth.talkers()} & set(voices)


def test_every_voice_speaks_the_same_whatever_was_spoken_before():
    """espeak-ng carries phases and noise from one utterance to the next. Two of its voices use a
    noise that its seed does not govern: they are left out."""
    voices = [f"en+{voice}" for voice in synth.LISTS["voices"]] + synth.LISTS["accents"]
    first = [espeak.speak("six", voice, 200, 50) for voice in voices]
    for voice, expected in reversed(list(zip(voices, first, strict=True))):
        np.testing.assert_array_equal(espeak.speak("six", voice, 200, 50), expected)
        assert np.abs(expected).max() > 0.05


def test_a_clip_keeps_its_signal_to_noise_ratio(monkeypatch):
    """A word of ones without an echo: what is left outside the word is the noise."""
    generator, dry = np.random.default_rng(0), np.pad(np.ones(8000), 4000)
    noises = dict.fromkeys(["white", "pink", "babble"], generator.standard_normal(160000))
    ends = {"echo_db": (-200, -200), "peak_db": (-24, -1)}
    monkeypatch.setattr(synth, "noises", lambda *_: noises)
    monkeypatch.setattr(synth, "OF_RECORDING", synth.OF_RECORDING | ends)
    for _ in range(20):
        clip = synth.record(dry, generator) / 32768
        word, noise = clip[4000:12000], np.concatenate([clip[:4000], clip[12000:]])
        assert 9.5 < 20 * np.log10((word.mean() - noise.mean()) / noise.std()) < 40.5
        assert 10 ** (-24 / 20) - 1e-4 <= np.abs(clip).max() < 10 ** (-1 / 20)


def test_espeak_speaks_from_a_long_path_and_names_a_voice_that_it_lacks(tmp_path, monkeypatch):
    """Longer than the 160 bytes into which espeak-ng copies it."""
    expected, voices = espeak.speak("six", "en", 150, 50), espeakng_loader.get_data_path()
    far = tmp_path / "a folder with spaces" / ("long " * 40 + "name")
    far.parent.mkdir()
    far.symlink_to(voices)
    for place, voice in ((voices, "xx"), (str(tmp_path), "en")):
        monkeypatch.setattr(espeakng_loader, "get_data_path", lambda place=place: place)
        with pytest.raises(ValueError, match=f"^espeak-ng has no voice '{voice}'; install .*$"):
            espeak.speak("six", voice, 150, 50)
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(far))
    np.testing.assert_array_equal(espeak.speak("six", "en", 150, 50), expected)


def test_workers_of_a_killed_process_end_and_hold_no_lock(tmp_path):
    code = """
import filelock, sys, time
from kwslib import espeak
with filelock.FileLock(sys.argv[1]):
    for _ in espeak.run(time.sleep, [(0,), (600,), (600,)]): print(flush=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    parent.stdout.readline()  # the first job is done: a worker works
    parent.kill()
    with filelock.FileLock(tmp_path / "lock", timeout=5):
        parent.communicate(
            timeout=60
        )  # until the last worker closes what it shares with the parent
