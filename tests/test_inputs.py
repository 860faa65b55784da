import io
import sys

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from kwslib import inputs
from kwslib.data import CorpusError


@pytest.fixture
def said():
    return []


def heard(path, said):
    pieces = list(inputs.from_file(path, said.append))
    return np.concatenate(pieces)


@pytest.fixture
def audio():
    """10 s of noise under 6 kHz, float."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 0.1, 160000))
    spectrum[60000:] = 0
    return np.fft.irfft(spectrum).astype(np.float32)


def test_a_plain_file_comes_as_it_is(tmp_path, audio, said):
    samples = np.round(audio * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    found = heard(tmp_path / "a.wav", said)
    assert found.dtype == np.int16 and np.array_equal(found, samples)
    assert said == []


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000])
def test_pieces_are_resampled_as_the_whole_would_be(rate_hz, audio, said):
    rates = {8000: (1, 2), 11025: (441, 640), 22050: (441, 320), 44100: (441, 160), 48000: (3, 1)}
    there = resample_poly(audio, *rates[rate_hz]).astype(np.float32)
    up, down = rates[rate_hz][::-1]
    whole = resample_poly(there, up, down)
    cuts = np.sort(np.random.default_rng(1).integers(0, len(there), 6))
    found = np.concatenate(list(inputs.resampled(iter(np.split(there, cuts)), rate_hz)))
    assert abs(len(found) - len(whole)) <= 1
    # float32, a filter of the same taps over the same samples
    np.testing.assert_allclose(found[: len(whole)], whole[: len(found)], atol=1e-6)


def test_other_rates_and_channels_are_changed_and_said(tmp_path, audio, said):
    there = resample_poly(audio, 3, 1)
    soundfile.write(tmp_path / "a.flac", np.stack([there, 0.5 * there], 1), 48000)
    found = heard(tmp_path / "a.flac", said)
    assert len(found) == 160000
    assert np.corrcoef(found, audio)[0, 1] > 0.999
    assert found.std() == pytest.approx(0.75 * audio.std(), rel=0.01)
    assert len(said) == 2 and "2 channels, mixed to one" in said[0]
    assert "48,000 Hz, resampled to 16,000 Hz" in said[1]


def test_floats_keep_their_fraction(tmp_path, audio, said):
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(heard(tmp_path / "a.wav", said), audio)


def test_what_cannot_be_heard_is_one_line(tmp_path, audio, said):
    with pytest.raises(CorpusError, match=r"no file 'nowhere\.wav'"):
        heard("nowhere.wav", said)
    (tmp_path / "b.wav").write_bytes(b"RIFF no audio")
    with pytest.raises(CorpusError, match="not readable as audio"):
        heard(tmp_path / "b.wav", said)
    soundfile.write(tmp_path / "c.wav", audio, 16000)
    whole = (tmp_path / "c.wav").read_bytes()
    (tmp_path / "c.wav").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match="cut off"):
        heard(tmp_path / "c.wav", said)


def test_pcm_comes_whole_however_it_is_read():
    samples = np.random.default_rng(0).integers(-30000, 30000, 5000).astype("<i2")

    class Dribble(io.BytesIO):
        """Gives odd numbers of bytes."""

        def read1(self, size):
            return self.read(min(size, 777))

    found = np.concatenate(list(inputs.from_pcm(Dribble(samples.tobytes() + b"x"))))
    assert np.array_equal(found, samples)


def test_without_sounddevice_the_microphone_says_what_to_install(monkeypatch, said):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(CorpusError, match=r"kwslib\[microphone\].*arecord"):
        next(inputs.from_microphone(said.append))


def test_the_microphone_s_blocks_come_in_order(monkeypatch, said):
    class Stream:
        def __init__(self, rate_hz, block, channels, dtype, callback):
            assert (rate_hz, block, channels, dtype) == (16000, 1280, 1, "int16")
            self.callback = callback

        def __enter__(self):
            for number in range(3):
                status = "input overflow" if number == 1 else ""
                self.callback(np.full((1280, 1), number, np.int16), 1280, None, status)

        def __exit__(self, *_):
            pass

    class Device:
        InputStream, PortAudioError = Stream, RuntimeError

    monkeypatch.setitem(sys.modules, "sounddevice", Device)
    microphone = inputs.from_microphone(said.append)
    assert [int(next(microphone)[0]) for _ in range(3)] == [0, 1, 2]
    assert said == ["microphone: input overflow"]
