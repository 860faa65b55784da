import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from kwslib import data, synth

SPEAKERS = 3  # the fewest that fill all three parts


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.wav")
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    synth.make(root, speakers=SPEAKERS, progress=False, workers=1)
    return root


@pytest.fixture(scope="module")
def espeak():
    return synth.espeak_paths()


def say(espeak, speaker, folder="sheila"):
    return synth.say(espeak, speaker, folder, np.random.default_rng(0))


def test_same_seed_gives_same_bytes_on_any_number_of_workers(corpus, tmp_path):
    synth.make(tmp_path, speakers=SPEAKERS, progress=False, workers=2)
    assert digests(tmp_path) == digests(corpus)


def test_another_seed_gives_other_bytes(corpus, tmp_path):
    synth.make(tmp_path, speakers=1, seed=1, progress=False, workers=1)
    assert not set(digests(tmp_path).values()) & set(digests(corpus).values())


def test_clips_are_one_second_of_16_khz_mono_in_speech_commands_layout(corpus):
    clips = [path for path in corpus.glob("*/*.wav") if path.parent.name != data.BACKGROUND]
    folders = {*synth.WORDS, *synth.SOUND_ALIKES, *synth.CUT_OFF}
    for path in clips:
        with wave.open(str(path)) as file:
            assert file.getparams()[:4] == (1, 2, data.SAMPLE_RATE_HZ, data.CLIP_SAMPLES)
        assert re.fullmatch(r"[0-9a-f]{8}_nohash_\d+\.wav", path.name)
        assert path.parent.name in folders
        assert np.any(data.read_clip(path))
    assert len(clips) == SPEAKERS * len(synth.clips_of(synth.draw_speakers(1, 0)[0]))
    assert len(list(corpus.glob("sheila/*.wav"))) == SPEAKERS * synth.KEYWORD_TAKES


def test_six_background_noises_last_longer_than_a_second_and_differ(corpus):
    noises = [data.read_clip(path) for path in sorted((corpus / data.BACKGROUND).glob("*.wav"))]
    assert len(noises) == 6
    assert all(len(noise) >= 20 * data.SAMPLE_RATE_HZ for noise in noises)
    shares = np.array([spectrum_shares(noise) for noise in noises])
    apart = np.abs(shares[:, None] - shares).sum(2)[~np.eye(6, dtype=bool)]
    assert apart.min() > 0.1


def spectrum_shares(noise):
    """Power of eight equal bands, of the whole."""
    _, power = signal.welch(noise.astype(float), nperseg=1024)
    bands = power[:512].reshape(8, -1).sum(1)
    return bands / bands.sum()


def test_pink_noise_has_equal_power_in_octaves():
    hz, power = signal.welch(synth.pink(np.random.default_rng(0)), synth.SAMPLE_RATE_HZ, nperseg=4096)
    octaves = [power[(low <= hz) & (hz < 2 * low)].sum() for low in (125, 500, 2000)]
    np.testing.assert_allclose(octaves, np.mean(octaves), rtol=0.1)  # the edges of octaves fall between bins


def test_recipe_survives_json():
    assert json.loads(json.dumps(synth.recipe())) == synth.recipe()


def test_recipe_holds_the_words_and_the_ranges():
    recipe = synth.recipe()
    assert len(recipe["words"]) == 35
    assert "sheila" in recipe["words"]
    assert not set(recipe["words"]) & {*recipe["sound_alikes"], *recipe["cut_off"], *recipe["chatter"]}
    assert recipe["ranges"]["snr_db"] == list(synth.RANGES["snr_db"])


@pytest.mark.parametrize("seed", [0, 1])
def test_speakers_fall_in_all_three_parts_by_the_official_rule(seed):
    names = [speaker.name for speaker in synth.draw_speakers(80, seed)]
    parts = [data.official_part(name) for name in names]
    assert len(set(names)) == 80
    assert [parts.count(part) for part in ("train", "validation", "test")] == [60, 10, 10]


def test_every_part_has_as_many_of_each_word():
    counts = {"train": Counter(), "validation": Counter(), "test": Counter()}
    for speaker in synth.draw_speakers(synth.SPEAKERS, 0):
        counts[data.official_part(speaker.name)].update(synth.clips_of(speaker))
    for part in counts.values():
        assert part["sheila"] >= 150
        others = [part[word] for word in synth.WORDS if word != "sheila"]
        assert min(others) >= 20
        assert max(others) <= 1.1 * min(others)


def test_more_speakers_leave_the_first_ones_as_they_were():
    assert synth.draw_speakers(20, 0)[:5] == synth.draw_speakers(5, 0)


def test_a_clip_does_not_depend_on_what_was_spoken_before(espeak):
    """espeak-ng itself fails this: it carries phases and noise from one utterance to the next."""
    speakers = synth.draw_speakers(8, 0)
    alone = [say(espeak, speaker) for speaker in speakers]
    for speaker, expected in reversed(list(zip(speakers, alone, strict=True))):
        say(espeak, speakers[3], "backward")
        np.testing.assert_array_equal(say(espeak, speaker), expected)


def test_speakers_and_takes_differ(espeak):
    one, other = synth.draw_speakers(2, 0)
    generator = np.random.default_rng(0)
    takes = [synth.say(espeak, speaker, "sheila", generator) for speaker in (one, one, other)]
    assert len({take.tobytes() for take in takes}) == 3


@pytest.mark.parametrize("accent", synth.ACCENTS)
def test_every_accent_says_the_keyword(espeak, accent):
    spoken = synth.speak(espeak, synth.KEYWORD, accent, 150, 50, 50)
    assert 0.2 * 22050 < len(spoken) < synth._SPOKEN_S * 22050
    assert np.abs(spoken).max() > 0.05


def test_every_voice_speaks_the_same_twice(espeak):
    """Two of espeak-ng's voices use a noise that its seed does not govern: they are left out."""
    for voice in synth.VOICES:
        first, second = (synth.speak(espeak, "six", f"en+{voice}", 200, 50, 50) for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_espeak_speaks_from_a_long_path_with_spaces(espeak, tmp_path):
    """Longer than the 160 bytes into which espeak-ng copies it."""
    library, voices = espeak
    far = tmp_path / "a folder with spaces" / ("long " * 40 + "name")
    far.mkdir(parents=True)
    (far / "espeak-ng-data").symlink_to(voices)
    shutil.copy(library, far / "libespeak-ng.so")
    moved = str(far / "libespeak-ng.so"), str(far / "espeak-ng-data")
    assert initialize(*moved) <= 0  # the control: its own way to find the data fails here
    with tempfile.TemporaryDirectory() as near:  # pytest's own folder, or the checkout, may be far
        (Path(near) / "espeak-ng-data").symlink_to(voices)
        assert initialize(library, f"{near}/espeak-ng-data") == 22050
    speaker = synth.draw_speakers(1, 0)[0]
    np.testing.assert_array_equal(say(moved, speaker), say(espeak, speaker))


def initialize(library, voices):
    """Sampling rate, or 0 or -1 where espeak-ng does not find its data."""
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).espeak_Initialize(2, 0, sys.argv[2].encode(), 0x8000))"
    return int(subprocess.run([sys.executable, "-c", code, library, voices], capture_output=True).stdout)


def test_espeak_without_library_is_a_one_line_error(tmp_path, espeak, monkeypatch):
    monkeypatch.setattr(synth, "espeak_paths", lambda: (str(tmp_path / "libespeak-ng.so"), espeak[1]))
    with pytest.raises(ValueError, match="espeak-ng cannot be loaded") as error:
        synth.make(tmp_path, speakers=1, progress=False, workers=1)
    assert "\n" not in str(error.value)


def test_espeak_without_its_data_is_a_one_line_error(tmp_path, espeak):
    with pytest.raises(ValueError, match="espeak-ng cannot read its data") as error:
        synth.speak((espeak[0], str(tmp_path)), "six", "en", 150, 50, 50)
    assert "\n" not in str(error.value)


def test_unknown_voice_is_an_error(espeak):
    with pytest.raises(ValueError, match="no voice 'xx'"):
        synth.speak(espeak, "six", "xx", 150, 50, 50)


def test_resampling_folds_nothing_down():
    """A tone of 9.5 kHz would come back as 6.5 kHz; one of 1 kHz keeps its level and pitch."""
    seconds = np.arange(11025) / 22050
    window = np.hanning(len(seconds))  # as speech, it begins and ends in silence
    above = synth.resample(np.sin(2 * np.pi * 9500 * seconds) * window)
    below = synth.resample(np.sin(2 * np.pi * 1000 * seconds) * window)
    assert len(above) == len(below) == 8000
    assert np.abs(above).max() < 1e-3
    expected = np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000) * np.hanning(8000)
    np.testing.assert_allclose(below, expected, atol=1e-3)  # the two Hann windows differ by less


def test_cut_off_keyword_is_shorter_than_the_keyword(espeak):
    speaker = synth.draw_speakers(1, 0)[0]
    whole = say(espeak, speaker)
    for folder, (start, stop) in synth.CUT_OFF.items():
        assert len(say(espeak, speaker, folder)) == pytest.approx((stop - start) * len(whole), abs=2)


def test_record_keeps_the_signal_to_noise_ratio_in_range():
    """A dry room and a word of ones: what is left outside the word is the noise."""
    generator = np.random.default_rng(0)
    noise = {"white": generator.standard_normal(10 * synth.SAMPLE_RATE_HZ)}
    room = np.ones(synth._FFT // 2 + 1)
    for _ in range(20):
        clip = synth.record(np.ones(8000), room, noise, generator)
        ordered = np.sort(clip)
        quiet, loud = ordered[:8000], ordered[8000:]
        snr_db = 20 * np.log10((loud.mean() - quiet.mean()) / quiet.std())
        low, high = synth.RANGES["snr_db"]
        assert low - 1 < snr_db < high + 1
        assert np.abs(clip).max() < 10 ** (synth.RANGES["peak_db"][1] / 20) + 1e-9


def test_no_voice_speaks_in_two_parts():
    """Test speakers are voices that training never heard, not the same ones in another room."""
    voices = {}
    for speaker in synth.draw_speakers(200, seed=0):
        voices.setdefault(data.official_part(speaker.name), set()).add(speaker.voice.split("+")[1])
    assert len(voices) == 3
    assert not voices["train"] & (voices["validation"] | voices["test"])
    assert not voices["validation"] & voices["test"]
