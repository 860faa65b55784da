import hashlib
import itertools
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import espeakng_loader
import filelock
import numpy as np
import pytest
from scipy.signal import welch

from kwslib import audio, data, espeak, synth

SPEAKERS = 6  # the fewest that fill all folds and the test part with one to spare


def draw(speakers):
    return synth.draw(speakers, data.fold_of, data.official_part)


def make(root):
    synth.make(root, data.fold_of, data.official_part, SPEAKERS)
    paths = sorted(root.rglob("*.wav"))
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).digest() for path in paths
    }


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
    clips = [name for name in made if not name.startswith(data.BACKGROUND)]
    assert Counter(name.split("/")[0] for name in clips)["sheila"] == 3 * SPEAKERS
    assert len(clips) == SPEAKERS * len(synth.folders(0)) == len(made) - 3 == SPEAKERS * 21
    for name in clips:
        samples = audio.read_clip(root / name)
        assert len(samples) == 16000 and np.abs(samples.astype(int)).max() > 1000
        assert re.fullmatch(r"\w+/[0-9a-f]{8}_nohash_\d\.wav", name)


def test_noises_differ_from_each_other_and_from_the_corpus_s(made, root):
    judged = synth.noises(0.5, 0)
    assert set(judged) == {"white", "pink", "babble"}
    shares = []
    for name, noise in judged.items():
        assert noise.dtype == np.int16 and len(noise) == 30 * 16000
        corpus = audio.read_clip(root / data.BACKGROUND / f"{name}.wav")
        assert abs(np.corrcoef(noise, corpus)[0, 1]) < 0.1
        power = welch(noise.astype(float), nperseg=1024)[1][:512].reshape(8, -1).sum(1)
        shares.append(power / power.sum())
    assert min(np.abs(shares[a] - shares[b]).sum() for a, b in ((0, 1), (0, 2), (1, 2))) > 0.1


def test_speakers_fill_folds_and_parts_and_no_voice_is_in_two():
    speakers = draw(100)
    assert [one.name for one in draw(5)] == [one.name for one in speakers[:5]]
    assert len({one.name for one in speakers}) == 100
    places, voices = Counter(), {}
    for one in speakers:
        place = data.fold_of(one.name), data.official_part(one.name) == "test"
        places[place] += 1
        voices.setdefault(one.voice.split("+")[1], set()).add(place)
    assert places == {(fold, is_test): 4 if is_test else 16 for fold, is_test in places}
    assert len(places) == 10
    assert all(len(found) == 1 for found in voices.values())
    assert not {one.voice.split("+")[1] for one in synth.talkers()} & set(voices)


def test_a_clip_does_not_depend_on_what_was_spoken_before():
    """espeak-ng itself fails this: it carries phases and noise from one utterance to the next."""
    first = [say(speaker) for speaker in draw(8)]
    for speaker, expected in reversed(list(zip(draw(8), first, strict=True))):
        say(draw(4)[3], "backward")
        np.testing.assert_array_equal(say(speaker), expected)


def say(speaker, word="sheila"):
    return synth.say_clip(speaker, word, np.random.default_rng(0))


def test_every_voice_speaks_the_same_twice():
    """Two of espeak-ng's voices use a noise that its seed does not govern: they are left out."""
    voices = [f"en+{voice}" for voice in synth.words()["voices"]] + synth.words()["accents"]
    for voice in voices:
        first, second = (espeak.speak("six", voice, 200, 50) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert np.abs(first).max() > 0.05


def test_a_clip_keeps_its_signal_to_noise_ratio(monkeypatch):
    """A word of ones without an echo: what is left outside the word is the noise."""
    generator, dry = np.random.default_rng(0), np.pad(np.ones(8000), 4000)
    white = generator.standard_normal(160000)
    monkeypatch.setattr(
        synth, "noises", lambda *_: dict.fromkeys(["white", "pink", "babble"], white)
    )
    monkeypatch.setitem(synth.OF_RECORDING, "echo_db", (-200, -200))
    monkeypatch.setitem(synth.OF_RECORDING, "peak_db", (-24, -1))
    for _ in range(20):
        clip = synth.record(dry, generator) / 32768
        word, noise = clip[4000:12000], np.concatenate([clip[:4000], clip[12000:]])
        snr_db = 20 * np.log10((word.mean() - noise.mean()) / noise.std())
        assert 9.5 < snr_db < 40.5 and 10 ** (-24 / 20) <= np.abs(clip).max() + 1e-4 < 10 ** (
            -1 / 20
        )


def test_espeak_speaks_from_a_long_path_and_names_a_voice_that_it_lacks(tmp_path, monkeypatch):
    """Longer than the 160 bytes into which espeak-ng copies it."""
    expected, voices = say(draw(1)[0]), espeakng_loader.get_data_path()
    far = tmp_path / "a folder with spaces" / ("long " * 40 + "name")
    far.mkdir(parents=True)
    (far / "espeak-ng-data").symlink_to(voices)
    for place, voice in ((voices, "xx"), (str(tmp_path), "en")):
        monkeypatch.setattr(espeakng_loader, "get_data_path", lambda place=place: place)
        with pytest.raises(ValueError, match=f"^espeak-ng has no voice '{voice}'; install .*$"):
            espeak.speak("six", voice, 150, 50)
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(far / "espeak-ng-data"))
    np.testing.assert_array_equal(say(draw(1)[0]), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
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
    workers = children(parent.pid)
    parent.kill()
    parent.wait()
    assert len(workers) >= 2
    with filelock.FileLock(tmp_path / "lock", timeout=5):
        end = time.monotonic() + 60
        while any(map(is_alive, workers)):
            assert time.monotonic() < end
            time.sleep(0.1)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid):
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rsplit(")", 1)[1].split()[0] != "Z"
